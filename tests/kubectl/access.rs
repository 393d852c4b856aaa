//! Who may do what, and who one is.

use crate::tour::tour;

#[tokio::test]
async fn rights_are_asked_for_granted_and_told() {
    tour(|kubectl| {
        let n = &kubectl.namespace;
        let robot = format!("--as=system:serviceaccount:{n}:robot");
        kubectl.run(&["create", "serviceaccount", "robot"]).good();
        kubectl.says(&["auth", "can-i", "create", "pods"], "yes");
        let refused = kubectl.run(&["auth", "can-i", "get", "pods", &robot]);
        assert_eq!((refused.good, refused.out.trim()), (false, "no"));
        let list = ["get", "pods", &robot];
        kubectl.fails(
            &list,
            &[&format!(
                "pods is forbidden: User \"system:serviceaccount:{n}:robot\" cannot list resource \
                 \"pods\" in API group \"\" in the namespace \"{n}\""
            )],
        );
        kubectl.run(&["create", "role", "r", "--verb=get,list", "--resource=pods"]).good();
        let subject = format!("--serviceaccount={n}:robot");
        kubectl.run(&["create", "rolebinding", "rb", "--role=r", &subject]).good();
        kubectl.until(&list, |said| said.good);
        kubectl.says(&["auth", "can-i", "get", "pods", &robot], "yes");
        kubectl.shows(&["auth", "can-i", "--list", &robot], &["pods", "[get list]"]);
        kubectl.shows(&["auth", "whoami"], &["kubernetes-admin", "system:masters"]);
        kubectl.shows(&["auth", "whoami", "--as=jo", "--as-group=g"], &["jo", "[g system:auth"]);
        // With the token of an account one is that account.
        let token = kubectl.run(&["create", "token", "robot"]).good().out;
        let server = kubectl.run(&["config", "view", "--minify", "-o", SERVER]).good().out;
        let mut command = kubectl.command(&[]);
        command.args(["auth", "whoami", "--kubeconfig=/dev/null", "--insecure-skip-tls-verify"]);
        command.args(["--token", token.trim(), "--server", server.trim()]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("system:serviceaccount:{n}:robot")), "{said}");
    })
    .await;
}

const SERVER: &str = "jsonpath={.clusters[0].cluster.server}";

#[tokio::test]
async fn roles_are_reconciled() {
    tour(|kubectl| {
        let role = |verb: &str| {
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
                 metadata: {{name: r, namespace: {}}}\n\
                 rules:\n- {{apiGroups: [\"\"], resources: [pods], verbs: [{verb}]}}\n",
                kubectl.namespace
            )
        };
        let (get, watch) =
            (kubectl.file("get.yaml", &role("get")), kubectl.file("watch.yaml", &role("watch")));
        let reconciled = "role.rbac.authorization.k8s.io/r reconciled";
        kubectl.shows(&["auth", "reconcile", "-f", &get], &[reconciled]);
        kubectl.shows(&["auth", "reconcile", "-f", &watch], &[reconciled]);
        let verbs = ["get", "role", "r", "-o", "jsonpath={.rules[*].verbs}"];
        kubectl.says(&verbs, r#"["get"] ["watch"]"#);
        kubectl.run(&["auth", "reconcile", "-f", &watch, "--remove-extra-permissions"]).good();
        kubectl.says(&verbs, r#"["watch"]"#);
    })
    .await;
}

#[tokio::test]
async fn a_request_for_a_certificate_is_approved_or_denied() {
    tour(|kubectl| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut asked = rcgen::CertificateParams::new(Vec::new()).unwrap();
        asked.distinguished_name.push(rcgen::DnType::CommonName, "jo");
        let pem = asked.serialize_request(&key).unwrap().pem().unwrap();
        for (verb, condition) in [("approve", "Approved"), ("deny", "Denied")] {
            let name = format!("{verb}-{}", kubectl.namespace);
            let request = serde_json::json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"name": name},
                "spec": {"request": base64(pem.as_bytes()), "usages": ["client auth"],
                    "signerName": "example.com/signer"},
            });
            let file = kubectl.file(&format!("{verb}.json"), &request.to_string());
            kubectl.run(&["create", "-f", &file]).good();
            let listed = kubectl.run(&["get", "csr", &name]).good();
            assert_eq!(listed.rows()[1].last(), Some(&"Pending"), "{}", listed.told());
            kubectl.shows(&["certificate", verb, &name], &["certificatesigningrequest", &name]);
            let path = "jsonpath={.status.conditions[*].type}";
            kubectl.says(&["get", "csr", &name, "-o", path], condition);
            kubectl.shows(&["describe", "csr", &name], &["kubernetes-admin"]);
            kubectl.run(&["delete", "csr", &name]).good();
        }
    })
    .await;
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
