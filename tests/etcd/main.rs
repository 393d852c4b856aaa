//! The same `etcdctl` commands against etcd and against this front, and what they print compared: one member
//! and three, Debian's etcd (3.4) and PyPI's (3.5), each with its own `etcdctl`.
//!
//! etcd is the oracle: no output is written down here. What may differ (ids, times, ports, sizes) is
//! normalized the same way on both sides. Needs these programs; `.ci/setup` installs them.

mod printed;
mod servers;
mod transcript;

use servers::{Pair, Programs, version};
use transcript::Transcript;

fn both(programs: Programs, members: usize) -> Transcript {
    println!("{}, {members} members", version(&programs.etcdctl));
    Transcript::new(Pair::start(programs, members))
}

/// Every walk, with each etcd and as many members as it is for.
macro_rules! walks {
    (with any members: $($any:ident)*; with one member: $($one:ident)*;) => {
        walks! { in one_member, Programs::of_the_system(), 1; $($any)* $($one)* }
        walks! { in three_members, Programs::of_the_system(), 3; $($any)* }
        walks! { in release_3_5, Programs::of_3_5(), 1; $($any)* $($one)* }
    };
    (in $module:ident, $programs:expr, $members:expr; $($walk:ident)*) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $walk() {
                    super::$walk(&mut both($programs, $members));
                }
            )*
        }
    };
}

walks! {
    with any members:
    keys_are_put_read_and_deleted_alike
    transactions_are_judged_alike
    history_is_compacted_and_watched_alike
    leases_live_and_end_alike
    users_roles_and_rights_are_kept_alike
    locks_and_elections_go_alike
    etcdctl_saves_what_kontiki_can_read
    etcdctl_mirrors_in_both_directions;
    // It names the one member there is. Of three, `tests/it` asks processes of their own.
    with one member:
    the_cluster_is_described_alike;
}

#[test]
fn etcdctls_check_of_performance_comes_to_its_end() {
    let both = both(Programs::of_the_system(), 1);
    let checked = both.pair.etcdctl(servers::Side::Ours, "check perf", "");
    // What it finds is about the machine. That it finds anything is about the front.
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let found = |what: &str| said.lines().any(|line| line.contains(what));
    assert!(found("Throughput"), "{said}");
    assert!(found("Slowest request") && found("Stddev"), "{said}");
    let left = both.pair.etcdctl(servers::Side::Ours, "get /etcdctl-check-perf/ --prefix", "");
    assert!(left.status.success() && left.stdout.is_empty(), "it clears away what it wrote");
}

fn keys_are_put_read_and_deleted_alike(both: &mut Transcript) {
    both.run("put foo bar");
    both.run("put foo baz --prev-kv");
    both.run("get foo");
    both.run("get foo -w json");
    both.run("get foo -w fields");
    both.run("get foo -w simple");
    both.run("get foo --hex");
    both.run("get foo --print-value-only");
    both.run("get foo --rev 2");
    both.run("get foo --rev 99");
    both.run("get missing");
    both.run("put foo --ignore-value");
    both.run("put missing --ignore-value");
    both.run("put foo x --lease 123");
    both.run("put foo x --ignore-lease");
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        both.run(&format!("put {key} value-of-{key}"));
    }
    both.run("get b/ --prefix");
    both.run("get b/ --prefix --keys-only");
    both.run("get b/ --prefix --limit 2");
    both.run("get b/ --prefix --limit 2 -w json");
    both.run("get b/ --prefix --count-only -w fields");
    both.run("get b/ --prefix --order DESCEND --sort-by KEY");
    both.run("get b/ --prefix --order DESCEND --sort-by MODIFY");
    both.run("get b/ --prefix --sort-by VALUE");
    both.run("get a c");
    both.run("get b/2 --from-key");
    both.run("get --prefix= -w json");
    both.at_last("get foo --consistency=s");
    both.run("del b/1 --prev-kv");
    both.run("del b/ --prefix");
    both.run("del missing");
    both.run("del b --from-key --prev-kv");
    both.run("get --prefix=true \"\"");
    both.run("put \"\" x");
}

fn transactions_are_judged_alike(both: &mut Transcript) {
    both.run("put k 1");
    both.feed("txn", "value(\"k\") = \"1\"\n\nput k 2\nget k\nput other x\n\nget k\n\n");
    both.feed("txn", "value(\"k\") = \"1\"\n\nput k 3\n\nget k\ndel other\n\n");
    both.feed(
        "txn",
        "mod(\"k\") > \"2\"\ncreate(\"k\") < \"9\"\nver(\"k\") = \"2\"\n\nget k\n\n\n",
    );
    both.feed("txn", "create(\"none\") = \"0\"\nversion(\"none\") = \"0\"\n\nput none 1\n\n\n");
    both.feed("txn", "value(\"missing\") = \"\"\n\nget k\n\nget none\n\n");
    both.feed("txn", "\nput d 1\nput d 2\n\n\n");
    both.feed("txn", "\ndel d\nput d 2\n\n\n");
    both.feed("txn -w json", "\nput d 1\nget --prefix \"\"\n\n\n");
    both.feed("txn", "\nget k --rev 2\n\n\n");
    both.feed("txn", "\nget k --rev 99\n\n\n");
}

fn history_is_compacted_and_watched_alike(both: &mut Transcript) {
    for value in 1..=4 {
        both.run(&format!("put k {value}"));
    }
    both.run("del k");
    both.run("put a/x 1");
    both.watch("watch k --rev 1", 15);
    both.watch("watch k --rev 3 --prev-kv", 16);
    both.watch("watch a/ --prefix --rev 1", 3);
    both.watch("watch a k --rev 1 -w json", 1);
    both.watch("watch a/x --rev 1 -- echo seen", 4);
    both.run("compaction 4");
    both.run("compaction 4");
    both.run("compaction 99");
    both.run("get k --rev 3");
    both.run("get k --rev 4");
    both.watch("watch k --rev 4", 9);
    both.fails("watch k --rev 2");
}

fn leases_live_and_end_alike(both: &mut Transcript) {
    both.run("lease grant 100");
    both.at_last("lease list");
    both.lease("put under lease --lease=LEASE");
    both.lease("lease timetolive LEASE");
    both.lease("lease timetolive LEASE --keys");
    both.lease("lease keep-alive LEASE --once");
    both.run("get under -w fields");
    both.lease("lease revoke LEASE");
    both.run("get under");
    both.lease("lease revoke LEASE");
    both.lease("lease timetolive LEASE");
    both.lease("lease keep-alive LEASE --once");
    both.run("lease grant 9999999999999");
}

fn the_cluster_is_described_alike(both: &mut Transcript) {
    both.run("put k v");
    both.run("endpoint health");
    both.fields("endpoint status -w json", &["leader"], "raftTerm");
    both.run("endpoint hashkv");
    both.run("alarm list");
    both.run("alarm disarm");
    both.run("defrag");
    both.run("member list -w fields");
    both.run("member remove 1234567890abcdef");
    both.run("member promote 1234567890abcdef");
    both.run("member add x --peer-urls=nonsense");
    both.run("move-leader 1234567890abcdef");
    both.member("member update MEMBER --peer-urls=http://127.0.0.1:9997");
    both.run("member list");
    both.run("member add x --learner --peer-urls=http://127.0.0.1:9998");
    both.run("member list");
    both.member("member promote MEMBER");
    both.member("member remove MEMBER");
    both.run("member list");
}

fn users_roles_and_rights_are_kept_alike(both: &mut Transcript) {
    both.run("auth enable");
    both.run("user add root:root");
    both.run("auth enable");
    both.run("user add root:root");
    both.run("role add root");
    both.run("user grant-role root root");
    both.run("user add alice:alice");
    both.run("user add :x");
    both.run("user get alice");
    both.run("user grant-role alice writer");
    both.run("role add writer");
    both.run("role add writer");
    both.run("role grant-permission writer readwrite a/ --prefix");
    both.run("role grant-permission writer read b");
    both.run("role grant-permission writer write c d");
    both.run("role grant-permission writer read e --from-key");
    both.run("role get writer");
    both.run("role get root");
    both.run("role get none");
    both.run("role list");
    both.run("user grant-role alice writer");
    both.run("user get alice --detail");
    both.run("user list");
    both.run("put b secret");
    both.run("auth enable");
    both.run("get a/x");
    both.run("put a/x y");
    both.run("get a/x --user alice:wrong");
    both.run("get a/x --user nobody:x");
    let alice = "--user alice:alice";
    for command in [
        "put a/x y",
        "get a/x",
        "get b",
        "put b x",
        "get a --prefix",
        "get a/ --prefix",
        "put c x",
        "get c",
        "get f --from-key",
        "del a/ --prefix",
        "del a --prefix",
        "put c x --prev-kv",
        "user list",
        "user get alice",
        "role get writer",
        "role get root",
        "auth disable",
        "compaction 2",
        "member list",
        "lease grant 99999999999",
    ] {
        both.run(&format!("{command} {alice}"));
    }
    both.feed(&format!("txn {alice}"), "value(\"b\") = \"secret\"\n\nget a/x\n\n\n");
    both.feed(&format!("txn {alice}"), "\nput a/x 1\n\nput b 1\n\n");
    both.fails(&format!("watch b c {alice}"));
    let root = "--user root:root";
    for command in [
        "user delete root",
        "user revoke-role root root",
        "role delete root",
        "role revoke-permission writer b",
        "role revoke-permission writer b",
        "role revoke-permission writer a/ --prefix",
        "role get writer",
        "user passwd alice --interactive=false",
        "user revoke-role alice writer",
        "user revoke-role alice writer",
        "role delete writer",
        "user delete alice",
        "user delete alice",
        "auth disable",
    ] {
        both.feed(&format!("{command} {root}"), "new\n");
    }
    both.run("get b");
}

fn locks_and_elections_go_alike(both: &mut Transcript) {
    both.run("lock name echo held");
    both.run("lock name echo again");
    both.watch("elect leadership me", 2);
    both.run("get leadership --prefix --print-value-only");
    both.watch("elect leadership -l", 2);
}

fn etcdctl_saves_what_kontiki_can_read(both: &mut Transcript) {
    both.run("put k v");
    let saved = both.pair.save_ours();
    let archive = kontiki_api::etcd::saved(std::fs::File::open(saved.path()).unwrap()).unwrap();
    let manifest = kontiki_storage::snapshot::archive::inspect(archive).unwrap();
    assert_eq!(manifest.facts().revision.0, 2);
}

fn etcdctl_mirrors_in_both_directions(both: &mut Transcript) {
    both.run("put before x");
    for ours_is_source in [true, false] {
        let key = format!("mirrored-{ours_is_source}");
        both.pair.mirror(ours_is_source, &key);
    }
}
