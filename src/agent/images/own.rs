//! Images of our own, made here: so that a first pod runs without any registry.
//!
//! `demo` is a web server and a few commands (`demo/main.rs`).
//! `pause` holds a pod's namespaces open. It is a static program of a few instructions, which
//! ignores that its children end (the kernel then clears them away) and waits for ever. Each image
//! is one archive in the OCI layout, with one layer.
//!
//! Never: holds an archive in memory. It is made at a node's first start, and what it took would stay taken.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::agent::node::architecture;

pub const PAUSE: &str = "kontiki.local/pause:1";
pub const DEMO: &str = "kontiki.local/demo:1";
/// The names that the demo program is called by.
const DEMO_COMMANDS: [&str; 12] =
    ["ask", "cat", "echo", "env", "exit", "fill", "get", "send", "serve", "sleep", "tick", "write"];
/// Compiled by `build.rs`.
const DEMO_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo"));

type Build = fn(&mut dyn Write) -> io::Result<()>;

/// The images and how each is made.
#[must_use]
pub fn all() -> [(&'static str, Build); 2] {
    [(PAUSE, pause), (DEMO, demo)]
}

/// A file in an image.
pub struct File {
    /// Without a leading slash.
    pub path: String,
    pub content: Content,
}

pub enum Content {
    Program(Cow<'static, [u8]>),
    /// Another name of a file in the same folder.
    Link(&'static str),
}

fn pause(into: &mut dyn Write) -> io::Result<()> {
    let program = pause_program(std::env::consts::ARCH)?;
    let file = File { path: "pause".into(), content: Content::Program(program.into()) };
    write(PAUSE, &[file], &json!({"Entrypoint": ["/pause"], "User": "65535:65535"}), into)
}

fn demo(into: &mut dyn Write) -> io::Result<()> {
    let program = Content::Program(DEMO_PROGRAM.into());
    let mut files = vec![File { path: "bin/demo".into(), content: program }];
    files.extend(
        DEMO_COMMANDS
            .map(|command| File { path: format!("bin/{command}"), content: Content::Link("demo") }),
    );
    // The first process of a container hears no signal that it has no handler for, and the standard
    // library knows no handlers. It has nothing to put in order before it ends.
    let config = json!({
        "Cmd": ["/bin/demo", "serve"],
        "Env": ["PATH=/bin"],
        "StopSignal": "SIGKILL",
        "User": "65535:65535",
        "ExposedPorts": {"8080/tcp": {}},
    });
    write(DEMO, &files, &config, into)
}

/// An image of one layer, as an archive that container runtimes import.
pub fn archive(name: &str, files: &[File], config: &Value) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(name, files, config, &mut bytes)?;
    Ok(bytes)
}

/// The same, to where it is wanted.
fn write(name: &str, files: &[File], config: &Value, into: &mut dyn Write) -> io::Result<()> {
    let mut sum = Sum::default();
    write_layer(files, &mut sum)?;
    let layer = sum.blob();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    })
    .to_string();
    let of_config = blob(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": of_config.described("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.described("application/vnd.oci.image.layer.v1.tar")],
    })
    .to_string();
    let of_manifest = blob(manifest.as_bytes());
    let mut entry = of_manifest.described("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut archive = tar::Builder::new(into);
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    // An entry that is written as it is made: its length is a multiple of the archive's blocks.
    let mut header = tar::Header::new_gnu();
    header.set_path(layer.path())?;
    header.set_size(layer.size);
    header.set_mode(0o644);
    header.set_cksum();
    archive.get_mut().write_all(header.as_bytes())?;
    write_layer(files, archive.get_mut())?;
    for (of, bytes) in [(of_config, &config), (of_manifest, &manifest)] {
        add(&mut archive, &of.path(), bytes.as_bytes(), 0o644)?;
    }
    add(&mut archive, "index.json", index.as_bytes(), 0o644)?;
    archive.finish()
}

fn write_layer(files: &[File], into: &mut dyn Write) -> io::Result<()> {
    let mut layer = tar::Builder::new(into);
    for file in files {
        match &file.content {
            Content::Program(bytes) => add(&mut layer, &file.path, bytes, 0o755)?,
            Content::Link(to) => {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                layer.append_link(&mut header, &file.path, to)?;
            }
        }
    }
    layer.finish()
}

fn add(
    into: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    into.append_data(&mut header, path, bytes)
}

/// What an image says of a part of it.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn described(&self, media: &str) -> Value {
        json!({"mediaType": media, "digest": self.digest, "size": self.size})
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

/// Takes what is written and keeps its sum.
#[derive(Default)]
struct Sum {
    hash: Sha256,
    size: u64,
}

impl Sum {
    fn blob(self) -> Blob {
        let hash = self.hash.finalize();
        let digest =
            hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"));
        Blob { digest, size: self.size }
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blob(bytes: &[u8]) -> Blob {
    Blob {
        size: bytes.len() as u64,
        ..Sum { hash: Sha256::new_with_prefix(bytes), size: 0 }.blob()
    }
}

/// Where the program is loaded, header and all.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// A static program for one processor: `rt_sigaction(SIGCHLD, ignore)`, then waiting.
fn pause_program(processor: &str) -> io::Result<Vec<u8>> {
    let (machine, code): (u16, Vec<u8>) = match processor {
        "x86_64" => (62, pause_x86_64()),
        "aarch64" => (183, pause_aarch64()),
        other => {
            let why = format!("no pause program is known for {other}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
    };
    let size = HEADERS + code.len() as u64;
    let mut file = Vec::new();
    // The file's header: 64 bits, little endian, executable.
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for number in [64u16, 56, 1, 64, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    // One segment: loaded, readable and executable, the whole file.
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for number in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    Ok(file)
}

/// What `rt_sigaction` is given: the handler that ignores, no flags, no restorer, no mask.
const IGNORE: [u64; 4] = [1, 0, 0, 0];

fn pause_x86_64() -> Vec<u8> {
    let mut code: Vec<u8> = vec![
        0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
        0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
        0x48, 0x8d, 0x35, 23, 0, 0, 0, // lea rsi, [rip + ignore]
        0x31, 0xd2, // xor edx, edx
        0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
        0x0f, 0x05, // syscall
        0xb8, 34, 0, 0, 0, // again: mov eax, pause
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jmp again
        0x90, 0x90, 0x90, 0x90, // nops: the data stands at a multiple of eight
    ];
    code.extend(IGNORE.iter().flat_map(|it| it.to_le_bytes()));
    code
}

fn pause_aarch64() -> Vec<u8> {
    let set = |register: u32, value: u32| 0xd280_0000 | (value << 5) | register;
    const CALL: u32 = 0xd400_0001;
    // adr x1, +52: the data stands thirteen instructions after this one.
    let address: u32 = 0x1000_0000 | ((52 >> 2) << 5) | 1;
    let code: [u32; 14] = [
        set(0, 17), // SIGCHLD
        address,
        set(2, 0),
        set(3, 8),
        set(8, 134), // rt_sigaction
        CALL,
        set(0, 0), // again:
        set(1, 0),
        set(2, 0),
        set(3, 0),
        set(8, 73), // ppoll of nothing, without an end
        CALL,
        0x1400_0000 | (0x03ff_ffff & (-6i32).cast_unsigned()), // b again
        0xd503_201f, // nop: the data stands at a multiple of eight
    ];
    let mut bytes: Vec<u8> = code.iter().flat_map(|it| it.to_le_bytes()).collect();
    bytes.extend(IGNORE.iter().flat_map(|it| it.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_pause_program_runs_waits_and_ends_by_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, pause_program(std::env::consts::ARCH).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        // It ignores SIGCHLD: bit 16 of the mask that the kernel shows.
        let ignores = || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let mask = text.lines().find_map(|it| it.strip_prefix("SigIgn:")).unwrap().trim();
            u64::from_str_radix(mask, 16).unwrap() & (1 << 16) != 0
        };
        for _ in 0..3000 {
            if ignores() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(ignores());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn there_is_a_program_for_each_processor_we_build_for() {
        for processor in ["x86_64", "aarch64"] {
            let program = pause_program(processor).unwrap();
            assert_eq!(&program[..4], b"\x7fELF");
        }
        assert!(pause_program("riscv64").unwrap_err().to_string().contains("riscv64"));
    }

    #[test]
    fn every_archive_names_its_image_and_holds_every_blob_it_speaks_of() {
        for (name, build) in all() {
            let mut archive = Vec::new();
            build(&mut archive).unwrap();
            complete(name, &archive);
        }
    }

    fn complete(name: &str, archive: &[u8]) {
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            found.insert(path, bytes);
        }
        let blob = |of: &Value| {
            let digest = of["digest"].as_str().unwrap();
            let bytes = &found[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(super::blob(bytes).digest, digest);
            assert_eq!(of["size"], bytes.len());
            bytes
        };
        let index: Value = serde_json::from_slice(&found["index.json"]).unwrap();
        let manifest = &index["manifests"][0];
        assert_eq!(manifest["annotations"]["io.containerd.image.name"], name);
        let manifest: Value = serde_json::from_slice(blob(manifest)).unwrap();
        blob(&manifest["config"]);
        blob(&manifest["layers"][0]);
    }
}
