//! Objects that go: at once, when nothing holds them any more, with what they own or without.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn what_is_deleted_is_gone_when_kubectl_says_so() {
    tour(|kubectl| {
        for name in ["a", "b", "c"] {
            kubectl.run(&["create", "secret", "generic", name]).good();
        }
        kubectl.run(&["label", "secret", "b", "x=y"]).good();
        kubectl.says(&["delete", "secret", "a"], &kubectl.deleted("secret \"a\""));
        kubectl.fails(&["delete", "secret", "a"], &["secrets \"a\" not found"]);
        kubectl.says(&["delete", "secret", "a", "--ignore-not-found"], "");
        kubectl.says(&["delete", "secrets", "-l", "x=y"], &kubectl.deleted("secret \"b\""));
        kubectl.says(&["delete", "secrets", "--all"], &kubectl.deleted("secret \"c\""));
        kubectl.run(&["run", "p", "--image=i"]).good();
        kubectl.shows(&["delete", "pod", "p", "--grace-period=0", "--force"], &["\"p\" force del"]);
        kubectl.run(&["wait", "--for=delete", "pod/p", "--timeout=20s"]).good();
    })
    .await;
}

#[tokio::test]
async fn a_finalizer_holds_what_is_being_deleted() {
    tour(|kubectl| {
        let held = "apiVersion: v1\nkind: ConfigMap\n\
            metadata: {name: held, finalizers: [example.com/hold]}\n";
        kubectl.feed(&["create", "-f", "-"], held).good();
        kubectl.run(&["delete", "cm", "held", "--wait=false"]).good();
        let when = ["get", "cm", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"];
        assert!(!kubectl.run(&when).good().out.is_empty());
        let more = r#"{"metadata":{"finalizers":["example.com/hold","example.com/late"]}}"#;
        kubectl.fails(
            &["patch", "cm", "held", "--type=merge", "-p", more],
            &["metadata.finalizers: Forbidden: no new finalizers can be added"],
        );
        let none = r#"{"metadata":{"finalizers":null}}"#;
        kubectl.run(&["patch", "cm", "held", "--type=merge", "-p", none]).good();
        kubectl.fails(&["get", "cm", "held"], &["not found"]);
    })
    .await;
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner_or_stays_alone() {
    tour(|kubectl| {
        let file = kubectl.file("one.yaml", &deployment(1));
        let sets = ["get", "replicasets", "-o", "jsonpath={.items[*].metadata.ownerReferences}"];
        for cascade in ["background", "foreground", "orphan"] {
            kubectl.run(&["apply", "-f", &file]).good();
            kubectl.until(&["get", "replicasets", "-o", "name"], |said| !said.out.is_empty());
            kubectl.run(&["delete", "deployment", "web", &format!("--cascade={cascade}")]).good();
            if cascade == "orphan" {
                kubectl.until(&sets, |said| said.good && said.out.is_empty());
                assert!(!kubectl.run(&["get", "replicasets", "-o", "name"]).out.is_empty());
            } else {
                kubectl.until(&["get", "replicasets", "-o", "name"], |said| said.out.is_empty());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() {
    tour(|kubectl| {
        let name = format!("going-{}", kubectl.minor);
        kubectl.run(&["create", "namespace", &name]).good();
        kubectl.run(&["create", "configmap", "m", "-n", &name]).good();
        kubectl.shows(&["delete", "namespace", &name], &["deleted"]);
        kubectl.fails(&["get", "namespace", &name], &["not found"]);
        kubectl.fails(&["get", "cm", "m", "-n", &name], &["not found"]);
        kubectl.fails(
            &["delete", "namespace", "kube-system"],
            &["namespaces \"kube-system\" is forbidden: this namespace may not be deleted"],
        );
    })
    .await;
}
