//! The routes in the kernel that are ours, and the steps to those that are wanted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use super::Routes;

/// Marks a route as ours. Routing daemons have theirs; `ip route show proto 107` shows ours.
pub const OURS: u8 = 107;

/// The kernel's numbers for errors.
const NO_SUCH: i32 = 3;
const EXISTS: i32 = 17;
const UNREACHABLE: [i32; 2] = [101, 113];

/// Makes our routes those that are wanted. Says which could not be had.
pub async fn apply(wanted: &Routes) -> Result<Vec<String>, String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
    let work = async {
        let (there, stray) = ours(&handle).await?;
        let gone = there.iter().filter(|(range, (gateway, _))| {
            wanted.get(*range).is_none_or(|it| Some(*it) != *gateway)
        });
        for message in gone.map(|(_, (_, message))| message).chain(&stray) {
            remove(&handle, message.clone()).await?;
        }
        let mut refused = Vec::new();
        for (range, gateway) in wanted {
            let is_there = there.get(range).is_some_and(|(it, _)| *it == Some(*gateway));
            if !is_there && let Err(why) = add(&handle, *range, *gateway).await {
                refused.push(why);
            }
        }
        Ok(refused)
    };
    // The connection has to be driven while it is used, and ends with us.
    tokio::select! {
        result = work => {
            result.map_err(|error: Error| format!("the routes to other nodes: {error}"))
        }
        () = connection => Err("netlink: the connection has ended".into()),
    }
}

type There = BTreeMap<IpNet, (Option<IpAddr>, RouteMessage)>;

/// Our routes by range, and those that make no sense.
async fn ours(handle: &Handle) -> Result<(There, Vec<RouteMessage>), Error> {
    let (mut there, mut stray) = (There::new(), Vec::new());
    for version in [IpVersion::V4, IpVersion::V6] {
        let every = match version {
            IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let mut routes = std::pin::pin!(handle.route().get(every).execute());
        while let Some(route) = routes.try_next().await? {
            if route.header.protocol != RouteProtocol::Other(OURS) {
                continue;
            }
            match range(&route) {
                Some(range) => drop(there.insert(range, (gateway(&route), route))),
                None => stray.push(route),
            }
        }
    }
    Ok((there, stray))
}

fn range(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|it| match it {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|it| match it {
        RouteAttribute::Gateway(by) => address(by),
        _ => None,
    })
}

fn address(of: &RouteAddress) -> Option<IpAddr> {
    match of {
        RouteAddress::Inet(it) => Some((*it).into()),
        RouteAddress::Inet6(it) => Some((*it).into()),
        _ => None,
    }
}

async fn remove(handle: &Handle, route: RouteMessage) -> Result<(), Error> {
    match handle.route().del(route).execute().await {
        // Its link went, and it with it.
        Err(error) if code(&error) == Some(NO_SUCH) => Ok(()),
        other => other,
    }
}

async fn add(handle: &Handle, range: IpNet, gateway: IpAddr) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("a route to {range} by {gateway}: {why}");
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.addr(), range.prefix_len())
        .and_then(|it| it.gateway(gateway))
        .map_err(|error| failed(&error))?
        .protocol(RouteProtocol::Other(OURS))
        .build();
    match handle.route().add(route).execute().await {
        Ok(()) => Ok(()),
        // Somebody else leads there, and is left to.
        Err(error) if code(&error) == Some(EXISTS) => Ok(()),
        Err(error) if code(&error).is_some_and(|it| UNREACHABLE.contains(&it)) => Err(failed(
            &"that node is on no network of this machine; let the routers between them know the \
              range",
        )),
        Err(error) => Err(failed(&error)),
    }
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}
