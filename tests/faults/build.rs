//! Compiles what stands between a process and its disk (`preload.c`), and what cuts the power of one
//! (`powercut.c`).

use std::path::{Path, PathBuf};

fn compile(source: &str, made: &Path, flags: &[&str]) {
    println!("cargo::rerun-if-changed={source}");
    let compiler = cc::Build::new().opt_level(1).warnings(false).get_compiler();
    let mut command = compiler.to_command();
    let done = command.args(flags).args([source, "-o"]).arg(made).arg("-ldl").status();
    assert!(done.is_ok_and(|done| done.success()), "{source} is not compiled");
}

fn main() {
    let folder = PathBuf::from(std::env::var("OUT_DIR").expect("cargo says where to"));
    let (preload, cut) = (folder.join("preload.so"), folder.join("powercut"));
    compile("preload.c", &preload, &["-shared", "-fPIC"]);
    compile("powercut.c", &cut, &[]);
    println!("cargo::rustc-env=KONTIKI_PRELOAD={}", preload.display());
    println!("cargo::rustc-env=KONTIKI_POWERCUT={}", cut.display());
}
