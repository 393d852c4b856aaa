//! `kontiki version`.

use clap::Args;
use kontiki_api::http::KUBERNETES;
use serde::Serialize;

use super::output::Output;
use crate::failure::Failure;

#[derive(Args)]
pub struct Print {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Version {
    kontiki: &'static str,
    kubernetes: String,
    platform: String,
}

impl Print {
    pub fn run(self) -> Result<(), Failure> {
        let (major, minor, patch) = KUBERNETES;
        let version = Version {
            kontiki: env!("CARGO_PKG_VERSION"),
            kubernetes: format!("v{major}.{minor}.{patch}"),
            platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        };
        self.output.show(&version, |version| {
            format!(
                "kontiki {} (Kubernetes {}, {})",
                version.kontiki, version.kubernetes, version.platform
            )
        })
    }
}
