//! Generates the wire types and the clients of `src/agent/proto/cri.proto`.
//!
//! protox compiles the file in this process: no protoc is needed on any machine.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("src/agent/proto");
    let file = folder.join("cri.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [folder])?;
    tonic_prost_build::configure()
        .build_server(false)
        // The channel is made by the caller, over a unix socket.
        .build_transport(false)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
