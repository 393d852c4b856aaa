//! Every generator of `kubectl create`, and what comes of it.

use crate::tour::tour;

#[tokio::test]
async fn every_kind_that_kubectl_generates_is_created() {
    tour(|kubectl| {
        let n = &kubectl.namespace;
        let create = |arguments: &[&str], created: &str| {
            let mut command = vec!["create"];
            command.extend(arguments);
            kubectl.says(&command, &format!("{created} created"));
        };
        create(&["configmap", "cm", "--from-literal=a=b"], "configmap/cm");
        create(&["configmap", "bytes", "--from-file=/bin/true"], "configmap/bytes");
        create(&["secret", "generic", "s", "--from-literal=a=b"], "secret/s");
        let registry = ["--docker-username=u", "--docker-password=p", "--docker-server=x"];
        create(&[&["secret", "docker-registry", "d"], &registry[..]].concat(), "secret/d");
        create(&["serviceaccount", "robot"], "serviceaccount/robot");
        create(
            &["role", "r", "--verb=get,list", "--resource=pods,deployments.apps"],
            "role.rbac.authorization.k8s.io/r",
        );
        let subject = format!("--serviceaccount={n}:robot");
        create(
            &["rolebinding", "rb", "--role=r", &subject],
            "rolebinding.rbac.authorization.k8s.io/rb",
        );
        let (role, sum) = (format!("cr-{n}"), format!("sum-{n}"));
        create(
            &["clusterrole", &role, "--verb=get", "--non-resource-url=/metrics"],
            &format!("clusterrole.rbac.authorization.k8s.io/{role}"),
        );
        create(
            &["clusterrole", &sum, "--aggregation-rule=a=b"],
            &format!("clusterrole.rbac.authorization.k8s.io/{sum}"),
        );
        create(
            &["clusterrolebinding", &role, &format!("--clusterrole={role}"), "--user=jo"],
            &format!("clusterrolebinding.rbac.authorization.k8s.io/{role}"),
        );
        create(&["deployment", "web", "--image=nginx", "--port=80"], "deployment.apps/web");
        create(&["job", "j", "--image=busybox", "--", "echo", "hi"], "job.batch/j");
        create(
            &["cronjob", "cj", "--image=busybox", "--schedule=*/5 * * * *", "--", "echo"],
            "cronjob.batch/cj",
        );
        create(&["job", "once", "--from=cronjob/cj"], "job.batch/once");
        create(
            &["ingress", "ing", "--class=nginx", "--rule=a.example.com/x*=svc:80,tls=t"],
            "ingress.networking.k8s.io/ing",
        );
        create(&["service", "clusterip", "c", "--tcp=80:8080"], "service/c");
        create(&["service", "nodeport", "n", "--tcp=80"], "service/n");
        create(&["service", "loadbalancer", "l", "--tcp=80"], "service/l");
        create(&["service", "externalname", "e", "--external-name=example.com"], "service/e");
        create(
            &["poddisruptionbudget", "b", "--selector=a=b", "--min-available=50%"],
            "poddisruptionbudget.policy/b",
        );
        create(&["quota", "q", "--hard=pods=50,services=20"], "resourcequota/q");
        let class = format!("pc-{n}");
        create(
            &["priorityclass", &class, "--value=10", "--description=x"],
            &format!("priorityclass.scheduling.k8s.io/{class}"),
        );
        let token = kubectl.run(&["create", "token", "robot", "--duration=10m"]).good();
        assert_eq!(token.out.trim().split('.').count(), 3);
        kubectl.fails(
            &["create", "configmap", "cm"],
            &["failed to create configmap: configmaps \"cm\" already exists"],
        );
        kubectl.says(&["get", "secret", "s", "-o", "jsonpath={.data.a}"], "Yg==");
        kubectl.says(&["get", "service", "e", "-o", "jsonpath={.spec.clusterIP}"], "");
    })
    .await;
}

#[tokio::test]
async fn files_and_runs_become_objects() {
    tour(|kubectl| {
        kubectl.says(&["run", "p", "--image=busybox", "--labels=a=b"], "pod/p created");
        kubectl.shows(
            &["run", "q", "--image=busybox", "--dry-run=server", "-o", "yaml"],
            &["serviceAccountName: default", "tolerationSeconds: 300", "schedulerName: default"],
        );
        kubectl.fails(&["get", "pod", "q"], &["NotFound"]);
        let alone = r#"{"apiVersion":"v1","spec":{"automountServiceAccountToken":false}}"#;
        kubectl.run(&["run", "alone", "--image=i", "--overrides", alone]).good();
        kubectl.says(&["get", "pod", "alone", "-o", "jsonpath={.spec.volumes}"], "");
        let range = "apiVersion: v1\nkind: LimitRange\nmetadata: {name: r}\nspec:\n  limits:\n  \
            - {type: Container, default: {cpu: 300m}, defaultRequest: {cpu: 200m}}\n";
        kubectl.feed(&["create", "-f", "-"], range).good();
        let resources = "jsonpath={.spec.containers[0].resources}";
        kubectl
            .until(&["run", "limited", "--image=i", "--dry-run=server", "-o", resources], |it| {
                it.out == r#"{"limits":{"cpu":"300m"},"requests":{"cpu":"200m"}}"#
            });
        kubectl.run(&["delete", "limitrange", "r"]).good();
        kubectl.says(&["expose", "pod", "p", "--port=80"], "service/p exposed");
        kubectl.says(&["get", "service", "p", "-o", "jsonpath={.spec.selector}"], r#"{"a":"b"}"#);
        let list = "apiVersion: v1\nkind: List\nitems:\n\
            - {apiVersion: v1, kind: ConfigMap, metadata: {generateName: made-}}\n\
            - {apiVersion: v1, kind: Secret, metadata: {name: plain}, stringData: {a: b}}\n";
        let created = kubectl.feed(&["create", "-f", "-"], list).good();
        let lines: Vec<&str> = created.out.lines().collect();
        assert!(lines[0].starts_with("configmap/made-") && lines[0].len() == 28, "{lines:?}");
        assert_eq!(lines[1], "secret/plain created");
        kubectl.says(&["get", "secret", "plain", "-o", "jsonpath={.data}"], r#"{"a":"Yg=="}"#);
    })
    .await;
}
