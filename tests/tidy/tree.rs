//! The files of the repository, as git would list them: what it ignores is passed over.

use std::fs;
use std::path::Path;

/// A file with its path from the top of the repository, slashes forward.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn of(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines of code, comments and blank lines left out, numbered from 1.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
            .filter(|(_, line)| !line.trim().is_empty())
    }
}

/// Every source and document of the working tree.
pub fn files() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(top, top, &mut found);
    assert!(found.len() > 20, "found only {} files below {}", found.len(), top.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(top: &Path, folder: &Path, found: &mut Vec<File>) {
    let entries = fs::read_dir(folder).expect("the repository can be read");
    for entry in entries.map(|entry| entry.expect("a folder can be listed")) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                walk(top, &path, found);
            }
        } else if [".rs", ".md", ".proto", ".toml"].iter().any(|end| name.ends_with(end)) {
            let text = fs::read_to_string(&path).expect("sources and documents are UTF-8");
            let path = path.strip_prefix(top).expect("below the top");
            found.push(File { path: path.to_string_lossy().into_owned(), text });
        }
    }
}
