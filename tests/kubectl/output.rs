//! What is read, in every form that kubectl prints.

use crate::tour::{deployment, tour};

#[tokio::test]
async fn objects_are_printed_in_every_format() {
    tour(|kubectl| {
        let file = kubectl.file("two.yaml", &deployment(2));
        kubectl.run(&["apply", "-f", &file]).good();
        let all = kubectl.run(&["get", "deploy", "web"]).good();
        assert_eq!(all.rows()[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
        assert_eq!(all.rows()[1][0], "web");
        let wide = kubectl.run(&["get", "deploy", "web", "-o", "wide"]).good();
        assert_eq!(wide.rows()[0][5..], ["CONTAINERS", "IMAGES", "SELECTOR"]);
        assert_eq!(wide.rows()[1][5..], ["c", "nginx", "app=web"]);
        kubectl.says(&["get", "deploy", "-o", "name"], "deployment.apps/web");
        kubectl.shows(
            &["get", "deploy", "web", "-o", "yaml"],
            &["apiVersion: apps/v1\n", "  replicas: 2\n", "        imagePullPolicy: Always\n"],
        );
        let json = kubectl.run(&["get", "deploy", "web", "-o", "json"]).good();
        let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(json["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert!(json["metadata"].get("managedFields").is_none());
        let template = "{{.spec.replicas}} {{(index .spec.template.spec.containers 0).name}}";
        kubectl.says(&["get", "deploy", "web", "-o", &format!("go-template={template}")], "2 c");
        let columns = "custom-columns=N:.metadata.name,R:.spec.replicas";
        let said = kubectl.run(&["get", "deploy", "-o", columns]).good();
        assert_eq!(said.rows(), [["N", "R"], ["web", "2"]]);
        let labels = kubectl.run(&["get", "deploy", "--show-labels", "-L", "app"]).good();
        assert_eq!(labels.rows()[1].last(), Some(&"app=web"));
        kubectl.shows(&["get", "all"], &["deployment.apps/web"]);
        let none = kubectl.run(&["get", "cronjobs"]).good();
        none.has(&["No resources found in", &kubectl.namespace]);
    })
    .await;
}

#[tokio::test]
async fn a_list_is_chosen_from_and_comes_in_pieces() {
    tour(|kubectl| {
        for (name, tier) in [("a", "x"), ("b", "y"), ("c", "y")] {
            kubectl.run(&["create", "secret", "generic", name]).good();
            kubectl.run(&["label", "secret", name, &format!("tier={tier}")]).good();
        }
        let names = |more: &[&str]| {
            let mut command = vec!["get", "secrets", "-o", "name"];
            command.extend(more);
            kubectl.run(&command).good().out
        };
        assert_eq!(names(&["--chunk-size=1"]), "secret/a\nsecret/b\nsecret/c\n");
        assert_eq!(names(&["-l", "tier=y"]), "secret/b\nsecret/c\n");
        assert_eq!(names(&["-l", "tier in (x,z),!other"]), "secret/a\n");
        assert_eq!(names(&["--field-selector", "metadata.name!=b"]), "secret/a\nsecret/c\n");
        assert_eq!(names(&["--field-selector", "type=kubernetes.io/tls"]), "");
        assert_eq!(names(&["--sort-by=.metadata.creationTimestamp"]).lines().count(), 3);
        kubectl.fails(&["get", "secrets", "-l", "a=b=c"], &["unable to parse requirement"]);
        kubectl.fails(
            &["get", "pods", "--field-selector", "nonsense=x"],
            &["field label not supported: nonsense"],
        );
        kubectl.fails(
            &["get", "secret", "none"],
            &["Error from server (NotFound): secrets \"none\" not found"],
        );
        let kinds = "the server doesn't have a resource type \"nonsense\"";
        kubectl.fails(&["get", "nonsense"], &[kinds]);
        let path = format!("/api/v1/namespaces/{}/secrets?limit=1", kubectl.namespace);
        let raw = kubectl.run(&["get", "--raw", &path]).good();
        let raw: serde_json::Value = serde_json::from_str(&raw.out).unwrap();
        assert_eq!(raw["kind"], "SecretList");
        assert_eq!(raw["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(raw["metadata"]["remainingItemCount"], 2);
    })
    .await;
}

#[tokio::test]
async fn the_server_says_what_it_is_and_what_there_is() {
    tour(|kubectl| {
        kubectl.shows(&["version"], &["Server Version: v1.37."]);
        let version = kubectl.run(&["version", "-o", "json"]).good();
        let version: serde_json::Value = serde_json::from_str(&version.out).unwrap();
        assert_eq!(version["serverVersion"]["minor"], "37");
        kubectl.shows(&["cluster-info"], &["Kubernetes control plane", "is running at"]);
        kubectl.run(&["cluster-info", "dump", "--output-directory=dump"]).good();
        let versions = kubectl.run(&["api-versions"]).good();
        for version in ["apps/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1", "v1"] {
            assert!(versions.out.lines().any(|line| line == version), "{}", versions.told());
        }
        let wide = ["api-resources", "--api-group=apps", "--no-headers", "-o", "wide"];
        let resources = kubectl.run(&wide).good();
        let verbs = "create,delete,deletecollection,get,list,patch,update,watch";
        let sets = ["statefulsets", "sts", "apps/v1", "true", "StatefulSet", verbs, "all"];
        assert!(resources.rows().contains(&sets.to_vec()), "{}", resources.told());
        let all = kubectl.run(&["api-resources", "--categories=all", "-o", "name"]).good();
        assert_eq!(all.out.lines().count(), 10, "{}", all.told());
        for path in ["/healthz", "/livez", "/readyz"] {
            kubectl.says(&["get", "--raw", path], "ok");
        }
        kubectl.shows(&["get", "--raw", "/readyz?verbose"], &["readyz check passed"]);
        kubectl.shows(&["get", "--raw", "/metrics"], &["apiserver_request_total{"]);
        kubectl.shows(&["get", "--raw", "/version"], &["\"gitVersion\":\"v1.37."]);
        kubectl.shows(&["get", "--raw", "/openid/v1/jwks"], &["\"keys\""]);
    })
    .await;
}

#[tokio::test]
async fn fields_are_explained() {
    tour(|kubectl| {
        kubectl.shows(
            &["explain", "pod.spec.containers"],
            &["KIND:       Pod", "FIELD: containers <[]Container>", "List of containers"],
        );
        let all = kubectl.shows(&["explain", "deployment", "--recursive"], &["maxUnavailable"]);
        assert!(all.out.lines().count() > 700, "{}", all.out.lines().count());
        kubectl.shows(
            &["explain", "hpa", "--api-version=autoscaling/v1"],
            &["GROUP:      autoscaling", "VERSION:    v1"],
        );
        kubectl.shows(
            &["explain", "deployment", "--output=plaintext-openapiv2"],
            &["VERSION:  apps/v1", "spec\t<Object>"],
        );
        kubectl.fails(&["explain", "pod.spec.none"], &["field \"none\" does not exist"]);
        kubectl.shows(&["explain", "crd.spec.versions"], &["CustomResourceDefinitionVersion"]);
    })
    .await;
}

#[tokio::test]
async fn the_configuration_of_clients_is_read_and_written() {
    tour(|kubectl| {
        kubectl.says(&["config", "current-context"], "kontiki");
        kubectl.shows(&["config", "view"], &["certificate-authority-data: DATA+OMITTED"]);
        kubectl.run(&["config", "set-context", "mine", "--cluster=kontiki"]).good();
        kubectl.shows(&["config", "get-contexts"], &["mine", "kubernetes-admin"]);
        kubectl.run(&["config", "delete-context", "mine"]).good();
    })
    .await;
}
