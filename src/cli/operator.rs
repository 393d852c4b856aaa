//! How operators' commands find a master and prove that they may ask.
//!
//! Keeps: on the master's own machine nothing has to be said: where it listens is in `DIR/run`, whatever
//! addresses it was told to bind, and the certificate in `DIR/pki/store`. From elsewhere, all of it is said.

use std::path::{Path, PathBuf};

use clap::Args;

use super::config;
use crate::failure::Failure;
use crate::pki::{self, Credentials, Trust};
use crate::remote::Remote;
use crate::roles::ports;

#[derive(Args, Clone, Debug)]
pub struct Operator {
    /// The data directory of a master on this machine [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR", help_heading = "Which master")]
    pub data_dir: Option<PathBuf>,
    /// A master elsewhere, as https://HOST:PORT of its API or store port
    #[arg(
        long,
        value_name = "URL",
        requires_all = ["cacert", "cert", "key"],
        help_heading = "Which master"
    )]
    endpoint: Option<String>,
    /// The CA that the endpoint's certificate leads to
    #[arg(long, value_name = "FILE", help_heading = "Which master")]
    cacert: Option<PathBuf>,
    /// An administrator's certificate
    #[arg(long, value_name = "FILE", help_heading = "Which master")]
    cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", help_heading = "Which master")]
    key: Option<PathBuf>,
}

impl Operator {
    /// For the master of a directory on this machine.
    pub fn of(directory: &Path) -> Operator {
        Operator {
            data_dir: Some(directory.to_owned()),
            endpoint: None,
            cacert: None,
            cert: None,
            key: None,
        }
    }

    pub fn directory(&self) -> Result<PathBuf, Failure> {
        self.data_dir.clone().map_or_else(config::data_dir, Ok)
    }

    /// The master to ask.
    pub fn master(&self) -> Result<Remote, Failure> {
        match (&self.endpoint, &self.cacert, &self.cert, &self.key) {
            (Some(endpoint), Some(cacert), Some(cert), Some(key)) => {
                let material = read(cacert, cert, key)?;
                remote(endpoint, material)
            }
            _ => local(&self.directory()?),
        }
    }

    /// The other masters' API ports, with this machine's administrator certificate or the one given.
    pub fn others(&self) -> Option<impl Fn(&str) -> Option<Remote> + use<>> {
        let (cacert, cert, key) = match (&self.cacert, &self.cert, &self.key) {
            (Some(cacert), Some(cert), Some(key)) => (cacert.clone(), cert.clone(), key.clone()),
            _ => {
                let folder = self.directory().ok()?.join("pki/cluster");
                (folder.join("ca.crt"), folder.join("admin.crt"), folder.join("admin.key"))
            }
        };
        let material = read(&cacert, &cert, &key).ok()?;
        Some(move |endpoint: &str| {
            let (ca, me) = &material;
            let tls = pki::client_config(Trust::Bundle(ca.clone()), Some(me)).ok()?;
            Remote::new(endpoint, tls).ok()
        })
    }
}

/// The master that runs from this directory.
fn local(directory: &Path) -> Result<Remote, Failure> {
    let Some(addresses) = ports::addresses(&directory.join("run")) else {
        return Err(Failure::Run(format!(
            "no master runs from {}; start one, or say which one is meant (--data-dir, or \
             --endpoint with --cacert, --cert and --key)",
            directory.display()
        )));
    };
    let folder = directory.join("pki/store");
    let material =
        read(&folder.join("ca.crt"), &folder.join("client.crt"), &folder.join("client.key"))?;
    remote(&format!("https://{}", ports::from_here(addresses.store)), material)
}

fn remote(endpoint: &str, (ca, me): (String, Credentials)) -> Result<Remote, Failure> {
    let tls = pki::client_config(Trust::Bundle(ca), Some(&me))?;
    Remote::new(endpoint, tls).map_err(|reason| Failure::Usage(format!("--endpoint: {reason}")))
}

fn read(cacert: &Path, cert: &Path, key: &Path) -> Result<(String, Credentials), Failure> {
    let credentials = Credentials { certificate: pki::read(cert)?, key: pki::read(key)? };
    Ok((pki::read(cacert)?, credentials))
}
