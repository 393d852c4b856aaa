//! What is applied, by the client and by the server, and who owns which field.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn what_is_applied_is_there_and_stays_as_it_is() {
    tour(|kubectl| {
        let two = kubectl.file("two.yaml", &deployment(2));
        let three = kubectl.file("three.yaml", &deployment(3));
        kubectl.says(&["apply", "-f", &two], "deployment.apps/web created");
        kubectl.says(&["apply", "-f", &two], "deployment.apps/web unchanged");
        let diff = kubectl.run(&["diff", "-f", &three]);
        assert!(!diff.good, "there is a difference: {}", diff.told());
        diff.has(&["-  replicas: 2", "+  replicas: 3"]);
        kubectl.says(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "2");
        kubectl.says(&["apply", "-f", &three], "deployment.apps/web configured");
        kubectl.run(&["diff", "-f", &three]).good();
        kubectl.says(
            &["apply", "-f", &two, "--dry-run=server"],
            "deployment.apps/web configured (server dry run)",
        );
        kubectl.says(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "3");
        kubectl.shows(&["apply", "view-last-applied", "deploy", "web"], &["replicas: 3"]);
        kubectl.says(&["get", "-f", &two, "-o", "name"], "deployment.apps/web");
        // What goes from the file goes from the object.
        let without = deployment(3).replace("  replicas: 3\n", "");
        let without = kubectl.file("without.yaml", &without);
        kubectl.says(&["apply", "-f", &without], "deployment.apps/web configured");
        kubectl.says(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "1");
        kubectl
            .says(&["apply", "set-last-applied", "-f", &three], "deployment.apps/web configured");
        let wrong = deployment(2).replace("replicas: 2", "replicaz: 2");
        let wrong = kubectl.file("wrong.yaml", &wrong);
        kubectl.fails(
            &["apply", "-f", &wrong],
            &["strict decoding error: unknown field \"spec.replicaz\""],
        );
    })
    .await;
}

#[tokio::test]
async fn a_field_has_an_owner_and_others_are_told() {
    tour(|kubectl| {
        let two = kubectl.file("two.yaml", &deployment(2));
        let three = kubectl.file("three.yaml", &deployment(3));
        let apply = |file: &str, more: &[&str]| {
            let mut command = vec!["apply", "--server-side", "-f", file];
            command.extend(more);
            kubectl.run(&command)
        };
        assert_eq!(apply(&two, &[]).good().out, "deployment.apps/web serverside-applied\n");
        apply(&two, &["--field-manager=other"]).good();
        let refused = apply(&three, &["--field-manager=other"]);
        assert!(!refused.good);
        refused.has(&["Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas"]);
        apply(&three, &["--field-manager=other", "--force-conflicts"]).good();
        let owners =
            "jsonpath={range .metadata.managedFields[*]}{.manager} {.operation}{\"\\n\"}{end}";
        let command = ["get", "deploy", "web", "--show-managed-fields", "-o", owners];
        let owners = kubectl.run(&command).good();
        let own: Vec<_> = owners.rows().into_iter().filter(|row| row[1] == "Apply").collect();
        assert_eq!(own, [["kubectl", "Apply"], ["other", "Apply"]], "{}", owners.told());
        // From the client's apply to the server's: the annotation goes on.
        kubectl.run(&["delete", "deploy", "web"]).good();
        kubectl.run(&["apply", "-f", &two]).good();
        apply(&three, &[]).good();
        kubectl.says(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "3");
    })
    .await;
}

#[tokio::test]
async fn what_is_no_more_in_a_set_is_pruned() {
    tour(|kubectl| {
        let map = |name: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: s}}}}\n"
            )
        };
        let both = kubectl.file("both.yaml", &format!("{}---\n{}", map("a"), map("b")));
        let one = kubectl.file("one.yaml", &map("a"));
        kubectl.says(&["apply", "-f", &both], "configmap/a created\nconfigmap/b created");
        let prune = ["--prune", "-l", "set=s", "--prune-allowlist=core/v1/ConfigMap"];
        let mut command = vec!["apply", "-f", &one];
        command.extend(prune);
        kubectl.says(&command, "configmap/a unchanged\nconfigmap/b pruned");
    })
    .await;
}

#[tokio::test]
async fn a_kustomization_is_applied_as_a_whole() {
    tour(|kubectl| {
        kubectl.file(
            "k/kustomization.yaml",
            "namePrefix: pre-\nconfigMapGenerator: [{name: made, literals: [a=b]}]\n\
             resources: [own.yaml]\n",
        );
        kubectl.file(
            "k/own.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\ndata: {x: y}\n",
        );
        kubectl.shows(&["kustomize", "k"], &["name: pre-own", "name: pre-made-"]);
        kubectl.shows(&["apply", "-k", "k"], &["configmap/pre-own created", "configmap/pre-made-"]);
        let there = kubectl.run(&["get", "-k", "k"]).good();
        assert_eq!(there.rows().len(), 3, "{}", there.told());
        kubectl.run(&["delete", "-k", "k"]).good();
    })
    .await;
}
