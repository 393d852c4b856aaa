//! What the tree promises about itself, as tests: who may know whom, where the clock is read, what a file
//! may look like. `cargo tidy` runs it alone.
//!
//! Each rule is a function from one file to its violations, so that each can be shown to fail.

mod rules;
mod tree;

use tree::{File, files};

/// What is wrong with one file, in words.
type Rule = fn(&File) -> Vec<String>;

#[track_caller]
fn check(rule: Rule) {
    let violations: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    check(rules::arrows);
}

#[test]
fn rocksdb_openraft_and_the_clock_are_each_named_where_they_belong() {
    check(rules::named_in_one_place);
}

#[test]
fn no_file_is_a_drawer_for_odds_and_ends() {
    check(rules::no_drawers);
}

#[test]
fn every_source_file_says_what_it_is_and_stays_readable() {
    check(rules::readable);
}

#[test]
fn nothing_unfinished_is_left_behind() {
    check(rules::finished);
}

#[test]
fn every_source_file_is_part_of_the_build() {
    let all = files();
    let lost = rules::dead(&all);
    assert!(lost.is_empty(), "\n{}\n", lost.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let all = files();
    let broken: Vec<String> = all.iter().flat_map(|file| rules::broken_links(file, &all)).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_test_that_covers_one_of_the_conformance_suite_is_there() {
    let all = files();
    let tables = [
        include_str!("../conformance/api.tsv"),
        include_str!("../conformance/controllers.tsv"),
        include_str!("../conformance/node.tsv"),
    ];
    let missing: Vec<String> =
        tables.iter().flat_map(|table| rules::uncovered(table, &all)).collect();
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

/// A check that cannot fail proves nothing: each rule is shown one file that breaks it.
#[test]
fn each_rule_catches_what_it_is_for() {
    let head = "//! A head.\n";
    let caught: [(Rule, &str, &str); 14] = [
        (rules::arrows, "storage/store.rs", "use kontiki_raft::Replica;"),
        (rules::arrows, "raft/log/mod.rs", "use kontiki_storage::Store;"),
        (rules::arrows, "raft/replica.rs", "use kontiki_api::Client;"),
        (rules::arrows, "src/scheduler/cycle.rs", "use kontiki_storage::Store;"),
        (rules::arrows, "api/etcd/kv.rs", "use crate::object::Meta;"),
        (rules::arrows, "storage/apply.rs", "use std::collections::HashMap;"),
        (rules::arrows, "storage/view.rs", "let x = rand::random();"),
        (rules::named_in_one_place, "storage/store.rs", "use rocksdb::DB;"),
        (rules::named_in_one_place, "api/lib.rs", "use openraft::Raft;"),
        (rules::named_in_one_place, "raft/replica.rs", "let now = SystemTime::now();"),
        (rules::no_drawers, "src/util.rs", ""),
        (rules::readable, "src/cli/start.rs", &format!("let x = \"{}\";", "x".repeat(120))),
        (rules::finished, "src/main.rs", concat!("to", "do!()")),
        (rules::finished, "src/main.rs", concat!("#[ign", "ore]")),
    ];
    for (rule, path, text) in caught {
        let file = File::of(path, &format!("{head}{text}\n"));
        assert!(!rule(&file).is_empty(), "{path} with {text:?} was let through");
    }
    let headless = File::of("src/main.rs", "fn main() {}\n");
    assert!(!rules::readable(&headless).is_empty());
    let long = File::of("src/main.rs", &format!("{head}{}", "fn f() {}\n".repeat(801)));
    assert!(!rules::readable(&long).is_empty());
    let orphan = [File::of("src/main.rs", head), File::of("src/lost.rs", head)];
    assert_eq!(rules::dead(&orphan).len(), 1);
    let row = "b\tyes\tsomething\tsrc/main.rs\tf\t\n";
    let table = format!("{row}b\tno\tanother\t\t\t\n{}", row.replace("\tf\t", "\tg\t"));
    let tested = [File::of("src/main.rs", &format!("{head}#[test]\nfn f() {{}}\n"))];
    assert_eq!(rules::uncovered(&table, &tested).len(), 1, "`g` is not there");
    let page = File::of("docs/a.md", "see [b](b.md)\n");
    assert_eq!(rules::broken_links(&page, std::slice::from_ref(&page)).len(), 1);
}
