//! Generates the wire types and the clients of `src/agent/proto/cri.proto`, and compiles the program of the
//! demo image, `src/agent/images/demo/main.rs`.
//!
//! protox compiles the file in this process: no protoc is needed on any machine.
//! The program becomes a part of the binary, so it is linked statically and optimised for size whatever the
//! profile is.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const DEMO: &str = "src/agent/images/demo/main.rs";

fn main() -> Result<(), Box<dyn Error>> {
    small()?;
    runtime_interface()?;
    demo()
}

/// Only where the binary is to be small; it takes the linker time. lld is this target's linker.
fn small() -> Result<(), Box<dyn Error>> {
    if env::var("PROFILE")? != "release" || env::var("TARGET")? != "x86_64-unknown-linux-gnu" {
        return Ok(());
    }
    // Generic code leaves many functions that are the same byte for byte: one of each is kept.
    println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    // A bit for each pointer that is to be moved at the start, instead of 24 bytes. It takes a C library that
    // reads it; what is built here needs one as new as here anyway.
    if env::var("HOST")? == env::var("TARGET")? && c_library()? >= Some((2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// The version of this machine's glibc; none where it has another.
fn c_library() -> Result<Option<(u32, u32)>, Box<dyn Error>> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output()?;
    let told = String::from_utf8_lossy(&told.stdout);
    let version = told.trim().strip_prefix("glibc ").and_then(|it| it.split_once('.'));
    Ok(version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))))
}

fn runtime_interface() -> Result<(), Box<dyn Error>> {
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

fn demo() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DEMO}");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("demo");
    let mut compiler = Command::new(env::var("RUSTC")?);
    compiler.args(["--edition", "2024", "--crate-name", "demo", "--target", &env::var("TARGET")?]);
    for option in
        ["target-feature=+crt-static", "opt-level=s", "panic=abort", "strip=symbols", "lto=fat"]
    {
        compiler.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.arg("-C").arg(format!("linker={linker}"));
    }
    let status = compiler.arg("-o").arg(&out).arg(DEMO).status()?;
    if status.success() {
        return Ok(());
    }
    let why =
        "does not compile to a static program; is the C library for it there (Debian: libc6-dev)?";
    Err(format!("{DEMO} {why}").into())
}
