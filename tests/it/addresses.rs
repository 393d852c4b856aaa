//! Operators' commands find a master where it really listens, whatever its flags were.

use std::fs;

use crate::support::{Master, refused};

async fn is_found(root: &std::path::Path, bound: &str, dialled: &str) {
    let name = bound.replace(['.', ':'], "-");
    let mut master = Master::new(root, &format!("m{name}")).with(["--store-bind-address", bound]);
    master.start_ready().await;
    let told = fs::read_to_string(master.directory.join("run/addresses.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let store = std::net::SocketAddr::new(bound.parse().unwrap(), master.port("store"));
    assert_eq!(told["store"], store.to_string());
    assert_eq!(told["api"], format!("127.0.0.1:{}", master.port("api")));

    assert_eq!(master.status().await.unwrap()["name"], master.name.as_str());
    assert!(master.ask(&["member", "list"]).await.unwrap().contains(&master.name));
    let token = master.token("node").await;
    master.ask(&["token", "revoke", &token]).await.unwrap();
    let file = root.join(format!("{name}.kontiki"));
    master.ask(&["snapshot", "save", file.to_str().unwrap()]).await.unwrap();

    // Where nobody listens any more, the address that was dialled is named.
    master.kill().await;
    let directory = master.directory.to_str().unwrap();
    let (code, said) = refused(["status", "--data-dir", directory]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("https://{dialled}:{}", store.port())), "{said}");
}

#[tokio::test]
async fn commands_find_the_store_port_at_the_address_that_is_bound() {
    let root = tempfile::tempdir().unwrap();
    for (bound, dialled) in [("127.0.0.3", "127.0.0.3"), ("::1", "[::1]"), ("0.0.0.0", "127.0.0.1")]
    {
        is_found(root.path(), bound, dialled).await;
    }
}
