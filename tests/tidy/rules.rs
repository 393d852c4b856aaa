//! The rules. `docs/ARCHITECTURE.md` draws the same arrows for people.

use crate::tree::File;

/// Longest line of a source file, in characters.
const COLUMNS_MAX: usize = 100;
/// Longest source file, in lines. Past it a second noun is hiding.
const LINES_MAX: usize = 800;

/// Room, and the words that its code may not contain.
const ARROWS: &[(&str, &[&str])] = &[
    ("storage/", &["kontiki_raft", "kontiki_api", "openraft", "tonic", "SystemTime", "Instant::"]),
    // Where the order of a map could be seen in the result, there is no unordered map.
    ("storage/apply", &["HashMap", "HashSet", "rand::"]),
    ("storage/store", &["HashMap", "HashSet", "rand::"]),
    ("storage/view", &["HashMap", "HashSet", "rand::"]),
    ("storage/codec", &["HashMap", "HashSet", "rand::"]),
    ("storage/keys", &["HashMap", "HashSet", "rand::"]),
    ("storage/lease", &["HashMap", "HashSet", "rand::"]),
    ("storage/compaction", &["HashMap", "HashSet", "rand::"]),
    ("raft/", &["kontiki_api"]),
    // The log keeps bytes: what they mean is the affair of others.
    ("raft/log/", &["kontiki_storage", "openraft", "crate::network", "crate::replica"]),
    ("raft/network/", &["crate::replica", "crate::log", "crate::state_machine"]),
    ("api/", &["crate::roles", "crate::cli::"]),
    ("api/etcd/", &["crate::object", "crate::http", "crate::node", "crate::pipeline"]),
    ("api/http/", &["crate::etcd", "crate::node"]),
    ("api/node/", &["crate::etcd", "crate::http"]),
    ("api/pipeline/", &["crate::http", "crate::etcd", "crate::node"]),
    ("src/reconcile/", &["kontiki_raft", "kontiki_storage", "crate::roles"]),
    ("src/controllers/", &["kontiki_raft", "kontiki_storage", "crate::scheduler", "crate::agent"]),
    ("src/scheduler/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::agent"]),
    ("src/hollow/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::scheduler"]),
    ("src/agent/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::scheduler"]),
    ("src/session/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::hollow"]),
    ("src/proxy/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::agent"]),
    ("src/proxy/", &["crate::scheduler", "crate::dns"]),
    ("src/dns/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::agent"]),
    ("src/dns/", &["crate::scheduler", "crate::proxy"]),
    ("src/routes/", &["kontiki_raft", "kontiki_storage", "crate::controllers", "crate::agent"]),
    ("src/routes/", &["crate::scheduler", "crate::proxy", "crate::dns"]),
];

/// A word, and the only places whose code may contain it.
const PLACES: &[(&str, &[&str])] = &[
    ("rocksdb::", &["storage/engine/rocks"]),
    ("openraft", &["raft/"]),
    ("bincode::", &["raft/network/convert"]),
    ("SystemTime", &["api/object/time.rs", "src/pki", "tests/"]),
    ("crate::roles", &["src/main.rs", "src/cli/"]),
    ("hickory_proto", &["src/dns/"]),
    ("object_store::", &["src/snapshots/"]),
];

/// Names that say nothing: whatever is put there belongs somewhere else.
const DRAWERS: &[&str] = &["common", "util", "utils", "helpers", "misc", "shared", "stuff"];

pub fn arrows(file: &File) -> Vec<String> {
    if !file.is_rust() {
        return Vec::new();
    }
    ARROWS
        .iter()
        .filter(|(room, _)| file.path.starts_with(room))
        .flat_map(|(room, words)| words.iter().map(move |word| (room, word)))
        .flat_map(|(room, word)| {
            lines_with(file, word)
                .map(move |line| format!("{}:{line}: {room} must not know `{word}`", file.path))
        })
        .collect()
}

pub fn named_in_one_place(file: &File) -> Vec<String> {
    if !file.is_rust() || file.path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    PLACES
        .iter()
        .filter(|(_, places)| !places.iter().any(|place| file.path.starts_with(place)))
        .flat_map(|(word, places)| {
            lines_with(file, word).map(move |line| {
                format!("{}:{line}: `{word}` belongs in {} alone", file.path, places.join(", "))
            })
        })
        .collect()
}

pub fn no_drawers(file: &File) -> Vec<String> {
    file.path
        .split('/')
        .map(|part| part.split('.').next().unwrap_or_default())
        .filter(|name| DRAWERS.contains(name))
        .map(|name| format!("{}: `{name}` is a drawer; name the thing", file.path))
        .collect()
}

pub fn readable(file: &File) -> Vec<String> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if !file.text.starts_with("//!") {
        found.push(format!("{}: opens without saying what it is (`//! …`)", file.path));
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{}: {lines} lines; which second noun is hiding?", file.path));
    }
    for (number, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        // A comment's long line is a link or a table; the formatter leaves those.
        if columns > COLUMNS_MAX + if line.trim_start().starts_with("//") { 12 } else { 0 } {
            found.push(format!("{}:{}: {columns} columns", file.path, number + 1));
        }
    }
    found
}

pub fn finished(file: &File) -> Vec<String> {
    if !file.is_rust() {
        return Vec::new();
    }
    // Spelt in pieces, so that this file does not name what it looks for.
    let leftovers = [
        concat!("to", "do!"),
        concat!("unimplem", "ented!"),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
    ];
    file.text
        .lines()
        .enumerate()
        .filter_map(|(number, line)| {
            let word = leftovers.iter().find(|word| line.contains(**word))?;
            Some(format!("{}:{}: `{word}` is left over", file.path, number + 1))
        })
        .collect()
}

/// Source files that no `mod` line and no `[[bench]]` names: cargo would never compile them.
pub fn dead(files: &[File]) -> Vec<String> {
    let named = |file: &&File| {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let (folder, module) = match name {
            "main.rs" | "lib.rs" | "build.rs" => return true,
            "mod.rs" => folder.rsplit_once('/').unwrap_or(("", folder)),
            _ => (folder, name.trim_end_matches(".rs")),
        };
        if folder.ends_with("benches") || folder.ends_with("examples") || folder == "tests" {
            return true;
        }
        // The parent is the folder's own file (`mod.rs`, `lib.rs`, `main.rs`) or its namesake beside it.
        let parents = [
            format!("{folder}/mod.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}.rs"),
        ];
        files.iter().filter(|other| parents.contains(&other.path)).any(|parent| {
            parent.code().any(|(_, line)| {
                let line = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
                line == format!("mod {module};")
            })
        })
    };
    files
        .iter()
        .filter(|file| file.is_rust() && !file.path.starts_with("fuzz/"))
        .filter(|file| !named(file))
        .map(|file| format!("{}: nothing builds it", file.path))
        .collect()
}

/// Links of a document to files that are not there.
pub fn broken_links(file: &File, files: &[File]) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    file.text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| target.ends_with(".md") && !target.contains("://"))
        .filter(|target| {
            let path = resolve(folder, target);
            !files.iter().any(|other| other.path == path)
        })
        .map(|target| format!("{}: the link to {target} leads nowhere", file.path))
        .collect()
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn lines_with<'f>(file: &'f File, word: &'f str) -> impl Iterator<Item = usize> + 'f {
    // At the start of a word only: `Operand::` is not `rand::`.
    let begins = |line: &str, at: usize| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    };
    file.code()
        .filter(move |(_, line)| line.match_indices(word).any(|(at, _)| begins(line, at)))
        .map(|(number, _)| number)
}

/// Rows of a table of the conformance suite (`group, covered, its test, our file, our test, remark`) whose
/// test of ours is not there, or that say nothing.
pub fn uncovered(table: &str, files: &[File]) -> Vec<String> {
    let rows = table.lines().filter(|line| !line.is_empty() && !line.starts_with("group\t"));
    let wrong = |row: &&str| {
        let [_, covered, theirs, file, test, remark] = row.split('\t').collect::<Vec<_>>()[..]
        else {
            return true;
        };
        let there = || {
            let name = format!("fn {test}(");
            files.iter().any(|it| it.path == file && it.text.contains(&name))
        };
        let well = match covered {
            "yes" => there(),
            "part" => there() && !remark.is_empty(),
            "no" => file.is_empty() && test.is_empty(),
            _ => false,
        };
        theirs.is_empty() || !well
    };
    rows.filter(wrong).map(|row| format!("conformance: {row}")).collect()
}
