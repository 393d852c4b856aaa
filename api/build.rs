//! Generates wire types and services from the protos of the fronts.
//!
//! protox compiles them in this process: no protoc is needed on any machine. Of each set the descriptors
//! are kept too (`OUT_DIR/NAME.descriptors`), for fronts that describe themselves.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

/// A folder of protos and the files that stand for all of it.
struct Set {
    name: &'static str,
    files: &'static [&'static str],
    /// Message fields (`package.Message.field`) whose content is handed over encoded already.
    encoded: &'static [&'static str],
    /// Whether the house is its client, too.
    client: bool,
    /// What makes bytes of messages and messages of bytes.
    codec: &'static str,
}

const SETS: &[Set] = &[
    Set {
        name: "etcd",
        files: &["rpc.proto", "lock.proto", "election.proto"],
        // An event is encoded once, however many watch.
        encoded: &["etcdserverpb.WatchResponse.events"],
        client: false,
        codec: "crate::etcd::codec::Codec",
    },
    Set {
        name: "node",
        files: &["node.proto"],
        encoded: &[],
        client: true,
        codec: "tonic_prost::ProstCodec",
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for set in SETS {
        let folder = Path::new("proto").join(set.name);
        println!("cargo::rerun-if-changed={}", folder.display());
        let files: Vec<_> = set.files.iter().map(|file| folder.join(file)).collect();
        let mut compiler = protox::Compiler::new([&folder])?;
        compiler.include_imports(true).open_files(files)?;
        let described = out.join(set.name).with_extension("descriptors");
        std::fs::write(described, compiler.encode_file_descriptor_set())?;
        let mut descriptors = compiler.file_descriptor_set();
        set.encoded.iter().for_each(|field| hand_over_encoded(&mut descriptors, field));
        tonic_prost_build::configure()
            .build_client(set.client)
            // A channel is made by whoever connects.
            .build_transport(false)
            // Keys and values share the buffer they arrived in.
            .bytes(".")
            .codec_path(set.codec)
            .emit_rerun_if_changed(false)
            .compile_fds(descriptors)?;
    }
    Ok(())
}

/// Makes a field of messages one of bytes. On the wire they are the same.
fn hand_over_encoded(descriptors: &mut FileDescriptorSet, path: &str) {
    for file in &mut descriptors.file {
        let package = file.package().to_owned();
        for message in &mut file.message_type {
            let name = format!("{package}.{}", message.name());
            for field in &mut message.field {
                if path == format!("{name}.{}", field.name()) {
                    field.set_type(Type::Bytes);
                    field.type_name = None;
                }
            }
        }
    }
}
