//! Generates the wire types and the gRPC service of `proto/peer.proto`.
//!
//! protox compiles the file in this process: no protoc is needed on any machine.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("proto");
    let file = folder.join("peer.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [folder])?;
    tonic_prost_build::configure()
        // Both sides run over our own connections (grpc/client.rs, grpc/server.rs), which know what
        // was sent and what was not.
        .build_transport(false)
        // Entries, keys and values share the buffer they arrived in.
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
