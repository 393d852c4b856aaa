//! `kontiki image`: the images of this machine's node, by hand.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::config;
use super::output::{Output, bytes, print, table};
use crate::agent::containerd::Places;
use crate::agent::cri::Runtime as _;
use crate::agent::cri::client::{self, Client};
use crate::agent::images::archives;
use crate::failure::Failure;

/// Where the system's containerd answers.
const DEFAULT: &str = "unix:///run/containerd/containerd.sock";

#[derive(Subcommand)]
pub enum Command {
    /// Bring in images from archives (docker save, skopeo copy … oci-archive:, ctr images export)
    #[command(after_help = "\
Examples:
  kontiki image import app.tar
  docker save app:1 > /var/lib/kontiki/images/app.tar     brought in whenever the node starts")]
    Import(Import),
    /// List the images that the node has
    List(List),
}

#[derive(Args)]
struct Node {
    /// The node's data directory [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The container runtime [default: the node's own, or the system's containerd]
    #[arg(long, value_name = "ENDPOINT", env = "KONTIKI_CONTAINER_RUNTIME_ENDPOINT")]
    container_runtime_endpoint: Option<String>,
}

#[derive(Args)]
pub struct Import {
    /// Archives of images, not compressed
    #[arg(required = true, value_name = "FILE")]
    archives: Vec<PathBuf>,
    #[command(flatten)]
    node: Node,
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    names: Vec<String>,
    id: String,
    size_bytes: u64,
    /// It stays when the disk fills up.
    pinned: bool,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::Import(import) => import.run().await,
            Command::List(list) => list.run().await,
        }
    }
}

impl Node {
    /// The runtime's socket, and a way to ask there.
    fn runtime(self) -> Result<(PathBuf, Client), Failure> {
        let directory = self.data_dir.map_or_else(config::data_dir, Ok)?;
        let own = Places::new(&directory).socket();
        let endpoint = match self.container_runtime_endpoint {
            Some(endpoint) => endpoint,
            None if own.exists() => own.display().to_string(),
            None => DEFAULT.into(),
        };
        let wrong = |why| Failure::Usage(format!("--container-runtime-endpoint: {why}"));
        Ok((client::socket_of(&endpoint).map_err(wrong)?, Client::new(&endpoint).map_err(wrong)?))
    }
}

impl Import {
    async fn run(self) -> Result<(), Failure> {
        let (socket, client) = self.node.runtime()?;
        for archive in &self.archives {
            let brought = archives::bring_in(archive, &socket, &client).await;
            let names = brought
                .map_err(|why| Failure::Run(format!("archive {}: {why}", archive.display())))?;
            match names.is_empty() {
                true => print(&format!("{}: all of it is there", archive.display()))?,
                false => print(&names.join("\n"))?,
            }
        }
        Ok(())
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let (socket, client) = self.node.runtime()?;
        let images = client.images().await.map_err(|error| {
            Failure::Run(format!(
                "{}: {error}; start the node, or say which runtime it has \
                 (--container-runtime-endpoint)",
                socket.display()
            ))
        })?;
        let mut shown: Vec<Shown> = images
            .into_iter()
            .map(|it| Shown {
                names: if it.repo_tags.is_empty() { it.repo_digests } else { it.repo_tags },
                id: it.id,
                size_bytes: it.size,
                pinned: it.pinned,
            })
            .collect();
        shown.sort_by(|one, other| one.names.cmp(&other.names));
        self.output.show(&shown, |shown| {
            let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect();
            let rows = shown.iter().map(|it| {
                let name = it.names.first().cloned().unwrap_or_else(|| "<none>".into());
                let pinned = if it.pinned { "yes" } else { "no" };
                vec![name, short(&it.id), bytes(it.size_bytes), pinned.into()]
            });
            table(&["IMAGE", "ID", "SIZE", "PINNED"], rows)
        })
    }
}
