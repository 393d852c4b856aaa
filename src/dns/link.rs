//! Gives the machine the addresses that it is to answer at, on a link of their own.
//!
//! Keeps: what is there already stays; a second start finds it and is content.
//! A kernel without dummy links takes the addresses on its loopback.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::{Error, Handle, LinkDummy, LinkUnspec};

/// Fits into the fifteen letters that the kernel allows.
pub const LINK: &str = "kontiki-dns";
const LOOPBACK: &str = "lo";

/// The addresses are the machine's from now on.
pub async fn hold(addresses: &[IpAddr]) -> Result<(), String> {
    let failed = |error: Error| format!("the link {LINK}: {error}");
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
    let work = async {
        let index = link(&handle).await?;
        for address in addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let added = handle.address().add(index, *address, length).execute().await;
            added.or_else(|error| if is_there(&error) { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    };
    // The connection has to be driven while it is used, and ends with us.
    tokio::select! {
        result = work => result.map_err(failed),
        () = connection => Err("netlink: the connection has ended".into()),
    }
}

/// Takes our link away. Addresses on the loopback stay: they may be another's by now.
pub async fn release() -> Result<(), String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
    let work = async {
        match find(&handle, LINK).await? {
            Some(index) => handle.link().del(index).execute().await,
            None => Ok(()),
        }
    };
    tokio::select! {
        result = work => result.map_err(|error| format!("the link {LINK}: {error}")),
        () = connection => Err("netlink: the connection has ended".into()),
    }
}

async fn link(handle: &Handle) -> Result<u32, Error> {
    let name = match handle.link().add(LinkDummy::new(LINK).build()).execute().await {
        Ok(()) => LINK,
        Err(error) if is_there(&error) => LINK,
        Err(error) => {
            tracing::debug!(%error, "no dummy link; the loopback has the addresses");
            LOOPBACK
        }
    };
    let index = find(handle, name).await?.ok_or(Error::RequestFailed)?;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    Ok(index)
}

async fn find(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    let mut links = std::pin::pin!(handle.link().get().match_name(name.to_owned()).execute());
    match links.try_next().await {
        Ok(link) => Ok(link.map(|it| it.header.index)),
        Err(error) if code(&error) == Some(io::NO_DEVICE) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_there(error: &Error) -> bool {
    code(error) == Some(io::EXISTS)
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}

/// The kernel's numbers for errors.
mod io {
    pub const EXISTS: i32 = 17;
    pub const NO_DEVICE: i32 = 19;
}
