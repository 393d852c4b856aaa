//! Images of a registry that wants to know who asks.

use kontiki::agent::images::own;
use serde_json::{Value, json};

use super::{demo, once, said, says};
use crate::kubectl::is_ready;
use crate::{Machine, registry};

fn waits(pod: &Value, reason: &str) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
}

#[tokio::test]
async fn a_registry_gives_images_to_those_whose_secret_it_knows_and_others_are_told() {
    let mut machine = Machine::start().await;
    machine.until(&["node", "machine"], is_ready).await;
    let program = own::Content::Program(demo().into());
    let files = [own::File { path: "bin/demo".into(), content: program }];
    let command = json!({"Cmd": ["/bin/demo", "echo", "of the registry"]});
    let image = own::archive("private", &files, &command).unwrap();
    let port = registry::serve(machine.inside, &image).await;
    let host = format!("127.0.0.1:{port}");
    // The runtime is told that it is plain HTTP.
    let folder = machine.folder.path().join("data/containerd/certs.d").join(&host);
    std::fs::create_dir_all(&folder).unwrap();
    let hosts = format!(
        "server = \"http://{host}\"\n[host.\"http://{host}\"]\n\
                         capabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();

    let server = format!("--docker-server={host}");
    let user = format!("--docker-username={}", registry::USER);
    for (name, word) in [("right", registry::WORD), ("wrong", "guess")] {
        let word = format!("--docker-password={word}");
        machine.does(&["create", "secret", "docker-registry", name, &server, &user, &word]).await;
    }
    let container = json!({"name": "main", "image": format!("{host}/test/private:1"),
        "imagePullPolicy": "Always"});
    let with = |secrets: &[&str]| {
        let secrets: Vec<Value> = secrets.iter().map(|it| json!({"name": it})).collect();
        json!({"imagePullSecrets": secrets})
    };
    for (name, secrets) in [("none", &[][..]), ("wrong", &["wrong"]), ("missing", &["missing"])] {
        machine.apply(&once(name, container.clone(), with(secrets))).await;
    }
    // Said in upstream's words, and tried again.
    for name in ["none", "wrong", "missing"] {
        let pod = machine.until(&["pod", name], |pod| waits(pod, "ImagePullBackOff")).await;
        let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
        let message = message.as_str().unwrap();
        assert!(message.starts_with("Back-off pulling image"), "{name}: {message}");
        assert_eq!(pod["status"]["phase"], "Pending");
        let events = machine.does(&["describe", "pod", name]).await;
        for words in ["Failed to pull image", "Error: ErrImagePull", "Back-off pulling image"] {
            assert!(events.contains(words), "{name}: {words}: {events}");
        }
    }
    let events = machine.does(&["describe", "pod", "missing"]).await;
    assert!(events.contains("FailedToRetrieveImagePullSecret"), "{events}");

    // Of several secrets the one that fits is found; an account's are its pods'.
    machine.apply(&once("two", container.clone(), with(&["wrong", "right"]))).await;
    says(&said(&machine, "two").await, &["of the registry"]);
    let patch = r#"{"imagePullSecrets": [{"name": "right"}]}"#;
    machine.does(&["patch", "serviceaccount", "default", "-p", patch]).await;
    machine.apply(&once("account", container, json!({}))).await;
    says(&said(&machine, "account").await, &["of the registry"]);
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
