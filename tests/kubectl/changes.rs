//! Objects that are changed: patched, edited, replaced, scaled, labelled, set.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn a_patch_of_each_type_is_carried_out() {
    tour(|kubectl| {
        let file = kubectl.file("two.yaml", &deployment(2));
        kubectl.run(&["create", "-f", &file]).good();
        let patch = |more: &[&str]| {
            let mut command = vec!["patch", "deployment", "web"];
            command.extend(more);
            kubectl.run(&command)
        };
        let replicas = |count: u32| {
            let path = "jsonpath={.spec.replicas}";
            kubectl.says(&["get", "deploy", "web", "-o", path], &count.to_string());
        };
        let said = patch(&["-p", r#"{"spec":{"replicas":4}}"#]).good();
        assert_eq!(said.out, "deployment.apps/web patched\n");
        replicas(4);
        let one = r#"[{"op":"replace","path":"/spec/replicas","value":5}]"#;
        patch(&["--type=json", "-p", one]).good();
        replicas(5);
        patch(&["--type=merge", "-p", r#"{"spec":{"replicas":6}}"#]).good();
        replicas(6);
        let scale = ["--subresource=scale", "--type=merge", "-p", r#"{"spec":{"replicas":3}}"#];
        assert_eq!(patch(&scale).good().out, "scale.autoscaling/web patched\n");
        replicas(3);
        let status = r#"{"status":{"observedGeneration":99},"spec":{"replicas":9}}"#;
        patch(&["--subresource=status", "--type=merge", "-p", status]).good();
        replicas(3);
        // Of two containers a strategic patch changes the one that it names.
        let more = r#"{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"i"}]}}}}"#;
        patch(&["-p", more]).good();
        let names = "jsonpath={.spec.template.spec.containers[*].name}";
        kubectl.says(&["get", "deploy", "web", "-o", names], "d c");
        let none = r#"{"spec":{"replicas":3}}"#;
        assert_eq!(patch(&["-p", none]).good().out, "deployment.apps/web patched (no change)\n");
        let unknown = patch(&["-p", r#"{"spec":{"bad":1}}"#]).good();
        unknown.has(&["Warning: unknown field \"spec.bad\""]);
        let tested = r#"[{"op":"test","path":"/spec/replicas","value":1}]"#;
        let refused = patch(&["--type=json", "-p", tested]);
        assert!(!refused.good);
        refused.has(&["The request is invalid: the server rejected our request"]);
    })
    .await;
}

#[tokio::test]
async fn an_editors_changes_are_carried_out() {
    tour(|kubectl| {
        let file = kubectl.file("two.yaml", &deployment(2));
        kubectl.run(&["create", "-f", &file]).good();
        let edit = ["edit", "deployment", "web"];
        let edited = kubectl.edit(&edit, "s/replicas: 2$/replicas: 7/").good();
        assert_eq!(edited.out, "deployment.apps/web edited\n");
        kubectl.says(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "7");
        kubectl.edit(&edit, "").good().has(&["Edit cancelled, no changes made."]);
        let refused = kubectl.edit(&edit, "s/replicas: 7$/replicas: -7/");
        assert!(!refused.good);
        refused.has(&["web", "valid"]);
    })
    .await;
}

#[tokio::test]
async fn an_object_is_replaced_and_created_anew() {
    tour(|kubectl| {
        let map = |value: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{a: {value}}}\n"
            )
        };
        let (one, two) = (kubectl.file("1.yaml", &map("x")), kubectl.file("2.yaml", &map("z")));
        kubectl.fails(&["replace", "-f", &one], &["configmaps \"m\" not found"]);
        kubectl.run(&["create", "-f", &one]).good();
        let uid = ["get", "cm", "m", "-o", "jsonpath={.metadata.uid}"];
        let before = kubectl.run(&uid).good().out;
        kubectl.says(&["replace", "-f", &two], "configmap/m replaced");
        kubectl.says(&["get", "cm", "m", "-o", "jsonpath={.data.a}"], "z");
        assert_eq!(kubectl.run(&uid).good().out, before);
        kubectl.shows(&["replace", "--force", "-f", &one], &["configmap/m replaced"]);
        assert_ne!(kubectl.run(&uid).good().out, before);
        let old = map("z").replace("{name: m}", "{name: m, resourceVersion: \"1\"}");
        let old = kubectl.file("old.yaml", &old);
        kubectl.fails(&["replace", "-f", &old], &["the object has been modified"]);
    })
    .await;
}

#[tokio::test]
async fn labels_and_annotations_come_and_go() {
    tour(|kubectl| {
        kubectl.run(&["create", "configmap", "m"]).good();
        kubectl.says(&["label", "cm", "m", "x=y"], "configmap/m labeled");
        kubectl.fails(&["label", "cm", "m", "x=z"], &["'x' already has a value (y)"]);
        kubectl.says(&["label", "cm", "m", "x=z", "--overwrite"], "configmap/m labeled");
        kubectl.says(&["label", "cm", "m", "x=z", "--overwrite"], "configmap/m not labeled");
        kubectl.says(&["label", "cm", "m", "x-"], "configmap/m unlabeled");
        kubectl.says(&["annotate", "cm", "m", "a=b c"], "configmap/m annotated");
        kubectl.says(&["get", "cm", "m", "-o", "jsonpath={.metadata.annotations.a}"], "b c");
        kubectl.says(&["annotate", "cm", "m", "a-"], "configmap/m annotated");
        kubectl.fails(&["label", "cm", "m", "x=a b"], &["a valid label must be an empty string"]);
        let patch = r#"{"metadata":{"labels":{"x":"a b"}}}"#;
        kubectl.fails(
            &["patch", "cm", "m", "-p", patch],
            &["The ConfigMap \"m\" is invalid: metadata.labels: Invalid value: \"a b\""],
        );
    })
    .await;
}

#[tokio::test]
async fn a_deployment_is_scaled_and_its_template_set() {
    tour(|kubectl| {
        let file = kubectl.file("two.yaml", &deployment(2));
        kubectl.run(&["create", "-f", &file]).good();
        let deploy = "deployment/web";
        kubectl.says(&["scale", deploy, "--replicas=3"], "deployment.apps/web scaled");
        kubectl.says(
            &["scale", deploy, "--replicas=1", "--current-replicas=3"],
            "deployment.apps/web scaled",
        );
        kubectl.fails(
            &["scale", deploy, "--replicas=1", "--current-replicas=9"],
            &["Expected replicas to be 9, was 1"],
        );
        kubectl.says(&["set", "image", deploy, "c=nginx:2"], "deployment.apps/web image updated");
        kubectl.says(&["set", "env", deploy, "A=b"], "deployment.apps/web env updated");
        kubectl.shows(&["set", "env", deploy, "--list"], &["A=b"]);
        kubectl.says(
            &["set", "resources", deploy, "--limits=cpu=200m,memory=512Mi"],
            "deployment.apps/web resource requirements updated",
        );
        kubectl.says(
            &["set", "serviceaccount", deploy, "default"],
            "deployment.apps/web serviceaccount updated",
        );
        kubectl.says(&["expose", deploy, "--port=80"], "service/web exposed");
        kubectl
            .says(&["set", "selector", "service/web", "app=other"], "service/web selector updated");
        kubectl.shows(
            &["autoscale", deploy, "--min=1", "--max=3", "--cpu-percent=80"],
            &["horizontalpodautoscaler.autoscaling/web autoscaled"],
        );
        let scaler = kubectl.run(&["get", "hpa", "web"]).good();
        assert_eq!(scaler.rows()[1][..4], ["web", "Deployment/web", "cpu:", "<unknown>/80%"]);
        for version in ["v1", "v2"] {
            let path = format!(
                "/apis/autoscaling/{version}/namespaces/{}/horizontalpodautoscalers/web",
                kubectl.namespace
            );
            let raw = kubectl.run(&["get", "--raw", &path]).good();
            let raw: serde_json::Value = serde_json::from_str(&raw.out).unwrap();
            let place = match version {
                "v1" => "/spec/targetCPUUtilizationPercentage",
                _ => "/spec/metrics/0/resource/target/averageUtilization",
            };
            assert_eq!(raw.pointer(place), Some(&80.into()), "{raw}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_rollout_has_a_history_that_can_be_gone_back_in() {
    tour(|kubectl| {
        let file = kubectl.file("two.yaml", &deployment(1));
        kubectl.run(&["create", "-f", &file]).good();
        let deploy = "deployment/web";
        kubectl.until(&["rollout", "history", deploy], |said| said.rows().len() >= 3);
        kubectl.run(&["set", "image", deploy, "c=nginx:2"]).good();
        let is_second =
            |said: &crate::tour::Said| said.rows().iter().any(|row| row.first() == Some(&"2"));
        kubectl.until(&["rollout", "history", deploy], is_second);
        kubectl.shows(&["rollout", "history", deploy, "--revision=2"], &["nginx:2"]);
        kubectl.shows(&["rollout", "undo", deploy], &["deployment.apps/web rolled back"]);
        let image = "jsonpath={.spec.template.spec.containers[0].image}";
        kubectl.says(&["get", "deploy", "web", "-o", image], "nginx");
        kubectl.says(&["rollout", "pause", deploy], "deployment.apps/web paused");
        kubectl.says(&["rollout", "resume", deploy], "deployment.apps/web resumed");
        kubectl.says(&["rollout", "restart", deploy], "deployment.apps/web restarted");
        kubectl.shows(&["rollout", "status", deploy, "--watch=false"], &["Waiting for deployment"]);
    })
    .await;
}
