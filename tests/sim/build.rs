//! Puts `chance.c` in the kernel's place, in the programs of this package alone.

fn main() {
    println!("cargo::rerun-if-changed=chance.c");
    for object in cc::Build::new().file("chance.c").compile_intermediates() {
        println!("cargo::rustc-link-arg={}", object.display());
    }
}
