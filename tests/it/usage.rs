//! Wrong usage: one line that names the thing and says what to do, the right exit code, nothing written.

use std::fs;
use std::path::Path;

use crate::support::{Master, kontiki, refused, text};

fn is_one_line(said: &str) -> bool {
    said.starts_with("kontiki: ") && said.trim_end().lines().count() == 1
}

/// Runs something that can't go well, and says how it was refused.
async fn check(arguments: &[&str], code: i32, parts: &[&str]) {
    let (found, said) = refused(arguments).await;
    assert_eq!(found, Some(code), "{arguments:?}: {said}");
    assert!(is_one_line(&said), "{arguments:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: {part:?} is missing in: {said}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_wrong_flag_is_named_with_what_may_have_been_meant() {
    check(&["start", "master", "--api-prot", "1"], 2, &["--api-prot", "--api-port", "--help"])
        .await;
    check(&["start", "master", "--api-port", "70000"], 2, &["--api-port", "70000"]).await;
    check(&["start", "node", "--peer-port", "1"], 2, &["--peer-port", "start master"]).await;
    let controllers = ["start", "master", "controllers"];
    check(&controllers, 2, &["--kubeconfig"]).await;
    let nowhere = ["--kubeconfig", "none", "--metrics-bind-address", "here"];
    let nowhere: Vec<&str> = controllers.into_iter().chain(nowhere).collect();
    check(&nowhere, 2, &["--metrics-bind-address", "here", "127.0.0.1:10257"]).await;
    check(&["frobnicate"], 2, &["frobnicate"]).await;
}

#[tokio::test]
async fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), "important").unwrap();
    let arguments = ["start", "master", "--data-dir", path(root.path())];
    check(&arguments, 2, &["thesis.tex", "--data-dir"]).await;
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test]
async fn a_directory_of_a_newer_release_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut master = Master::new(root.path(), "m1");
    master.start_ready().await;
    assert_eq!(master.stop().await, Some(0), "{}", master.log());
    let identity = master.directory.join("identity");
    let text = fs::read_to_string(&identity).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let (title, _) = first.rsplit_once(' ').unwrap();
    fs::write(&identity, format!("{title} 99\n{rest}")).unwrap();
    let (code, said) = refused(master.arguments()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(is_one_line(&said) && said.contains("identity"), "{said}");
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_is_written() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    for flag in ["--api-port", "--peer-port", "--store-port"] {
        let mut arguments =
            vec!["start", "master", "--bind-address", "127.0.0.1", "--data-dir", path(&directory)];
        for other in ["--api-port", "--peer-port", "--store-port"] {
            arguments.extend([other, if other == flag { &port } else { "0" }]);
        }
        check(&arguments, 1, &[&port, flag]).await;
        assert!(!directory.exists(), "{flag}");
    }
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut master = Master::new(root.path(), "m1");
    master.start_ready().await;
    let (code, said) = refused(master.arguments()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(is_one_line(&said) && said.contains("in use"), "{said}");
    master.until_ready().await;
}

#[tokio::test]
async fn a_config_file_with_an_unknown_name_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("kontiki.yaml");
    fs::write(&file, "api-prot: 6443\n").unwrap();
    check(&["start", "master", "--config", path(&file)], 2, &["api-prot", "--config"]).await;
    check(&["start", "--config", "/not/there.yaml"], 2, &["/not/there.yaml"]).await;
}

#[tokio::test]
async fn controllers_are_listed_and_one_that_is_not_known_is_refused_with_the_list() {
    let output = kontiki(["start", "master", "controllers", "--help"]).await;
    let help = text(&output.stdout);
    for name in ["--controllers", "replicaset-controller", "garbage-collector-controller"] {
        assert!(help.contains(name), "{name} is missing in\n{help}");
    }
    for start in [&["start"][..], &["start", "master"], &["start", "master", "controllers"]] {
        let arguments: Vec<&str> =
            start.iter().copied().chain(["--controllers", "*,-nobody"]).collect();
        check(&arguments, 2, &["nobody", "--controllers", "ttl-controller"]).await;
    }
    check(&["start", "master", "controllers"], 2, &["--kubeconfig"]).await;
    let missing = ["start", "master", "controllers", "--kubeconfig", "/not/there"];
    check(&missing, 2, &["/not/there"]).await;
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let root = tempfile::tempdir().unwrap();
    let (file, out) = (root.path().join("in.yaml"), root.path().join("out.yaml"));
    fs::write(&file, "api-port: 1001\npeer-port: 1002\nstore-port: 1003\n").unwrap();
    let arguments = ["start", "--config", path(&file), "--write-config", path(&out)];
    let output = crate::support::command(arguments.iter().chain(&["--api-port", "3001"]))
        .env("HOME", root.path())
        .env("KONTIKI_API_PORT", "2001")
        .env("KONTIKI_PEER_PORT", "2002")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let written = fs::read_to_string(&out).unwrap();
    for line in ["api-port: 3001", "peer-port: 2002", "store-port: 1003"] {
        assert!(written.contains(line), "{line} is missing in\n{written}");
    }
    assert!(!root.path().join(".local").exists(), "something was started");
}

#[tokio::test]
async fn help_version_and_completion_are_printed() {
    for (arguments, part) in [
        (&["--help"][..], "kontiki start"),
        (&["start", "master", "--help"], "--join"),
        (&["version"], "Kubernetes v1.37"),
        (&["version", "--output", "json"], "\"kubernetes\""),
        (&["completion", "bash"], "_kontiki"),
        (&["completion", "zsh"], "#compdef kontiki"),
        (&["completion", "fish"], "complete -c kontiki"),
    ] {
        let output = kontiki(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part), "{arguments:?}: {}", text(&output.stdout));
    }
}

#[tokio::test]
async fn commands_for_operators_say_so_where_no_master_runs() {
    let root = tempfile::tempdir().unwrap();
    let directory = path(root.path());
    for command in [&["status"][..], &["member", "list"], &["token", "list"]] {
        let arguments: Vec<&str> =
            command.iter().copied().chain(["--data-dir", directory]).collect();
        check(&arguments, 1, &["no master runs", directory]).await;
    }
    check(&["kubeconfig", "--data-dir", directory], 1, &["kubeconfig", "--data-dir"]).await;
}
