//! Tokens and reviews over a store of several members.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::authenticate::Authentication;
use super::authorize::Authorization;
use super::bootstrap_token::BootstrapTokens;
use super::reviews::Reviews;
use super::tokens::Tokens;
use super::tokens::keys::{Keys, discovery};
use super::{Authenticator, Reviewer, TokenIssuer};
use crate::bed::{Bed, until};
use crate::error::Status;
use crate::kinds::Registry;
use crate::live::Live;
use crate::object::time::{Clock, Timestamp};
use crate::objects::Objects;
use crate::request::User;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn key() -> String {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem()
}

fn clock() -> Clock {
    Clock::set_at(Timestamp::parse("2026-01-01T00:00:00Z").unwrap())
}

fn tokens(key: &str, objects: Objects, clock: &Clock) -> Arc<Tokens> {
    Arc::new(Tokens::new(Keys::read(key, &[]).unwrap(), ISSUER, objects, clock.clone()))
}

fn authentication(tokens: &Arc<Tokens>, objects: Objects, clock: &Clock) -> Authentication {
    let bootstrap = BootstrapTokens::new(objects, clock.clone());
    Authentication::new(tokens.clone(), bootstrap, clock.clone(), true)
}

async fn asks(
    authentication: &Authentication,
    bearer: Option<&str>,
) -> Result<Option<User>, Status> {
    let mut request = http::Request::builder();
    if let Some(token) = bearer {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    authentication.authenticate(&parts).await
}

fn account() -> Value {
    json!({"kind": "ServiceAccount", "apiVersion": "v1",
           "metadata": {"namespace": "ns", "name": "bot", "uid": "account-uid"}})
}

async fn people(bed: &Bed) {
    bed.put("", "serviceaccounts", &account()).await;
    let node =
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "uid": "node-uid"}});
    bed.put("", "nodes", &node).await;
    let pod = json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "ns", "name": "p", "uid": "pod-uid"},
        "spec": {"serviceAccountName": "bot", "nodeName": "n1"}});
    bed.put("", "pods", &pod).await;
}

async fn issue(tokens: &Tokens, spec: Value) -> Result<Value, Status> {
    tokens.issue(&User::default(), &account(), json!({ "spec": spec })).await
}

#[tokio::test]
async fn a_pods_token_is_good_on_every_master_while_the_pod_is() {
    let bed = Bed::of(3).await;
    people(&bed).await;
    let (key, clock) = (key(), clock());
    let issuing = tokens(&key, bed.members[0].clone(), &clock);
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-uid"});
    let issued =
        issue(&issuing, json!({"boundObjectRef": bound, "expirationSeconds": 3607})).await.unwrap();
    assert_eq!(issued["status"]["expirationTimestamp"], "2026-01-01T01:00:07Z");
    let token = issued["status"]["token"].as_str().unwrap();
    for member in &bed.members {
        let verifying = tokens(&key, member.clone(), &clock);
        let authentication = authentication(&verifying, member.clone(), &clock);
        let user = asks(&authentication, Some(token)).await.unwrap().unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:bot");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        let extra: Vec<&str> = user.extra.iter().map(|(key, _)| key.as_str()).collect();
        assert!(extra.contains(&"authentication.kubernetes.io/node-uid"), "{extra:?}");
    }
    bed.delete("", "pods", "ns", "p").await;
    for member in &bed.members {
        member.barrier().await.unwrap();
        let verifying = tokens(&key, member.clone(), &clock);
        let authentication = authentication(&verifying, member.clone(), &clock);
        let status = asks(&authentication, Some(token)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (401, "Unauthorized"));
    }
}

#[tokio::test]
async fn tokens_end_and_are_for_their_audience_and_key_alone() {
    let bed = Bed::of(1).await;
    people(&bed).await;
    let (key, clock) = (key(), clock());
    let mine = tokens(&key, bed.objects(), &clock);
    let asking = authentication(&mine, bed.objects(), &clock);
    let issued = issue(&mine, json!({"expirationSeconds": 600})).await.unwrap();
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    assert!(asks(&asking, Some(&token)).await.is_ok());

    let vault = issue(&mine, json!({"audiences": ["vault"]})).await.unwrap();
    let vault = vault["status"]["token"].as_str().unwrap();
    assert!(asks(&asking, Some(vault)).await.is_err());
    let bearer = asking.bearer(vault, &["vault".into(), "other".into()]).await.unwrap();
    assert_eq!(bearer.audiences, ["vault"]);

    let other = tokens(&self::key(), bed.objects(), &clock);
    let foreign = issue(&other, json!({})).await.unwrap();
    assert!(asks(&asking, foreign["status"]["token"].as_str()).await.is_err());
    assert!(asks(&asking, Some("nonsense")).await.is_err());
    let anonymous = asks(&asking, None).await.unwrap().unwrap();
    assert_eq!(anonymous.name, "system:anonymous");

    clock.advance_seconds(700);
    assert!(asks(&asking, Some(&token)).await.is_err());
}

#[tokio::test]
async fn an_older_key_verifies_what_it_signed() {
    let bed = Bed::of(1).await;
    people(&bed).await;
    let (old, new, clock) = (key(), key(), clock());
    let before = tokens(&old, bed.objects(), &clock);
    let issued = issue(&before, json!({})).await.unwrap();
    let keys = Keys::read(&new, &[old]).unwrap();
    assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 2);
    let after = Arc::new(Tokens::new(keys, ISSUER, bed.objects(), clock.clone()));
    let asking = authentication(&after, bed.objects(), &clock);
    assert!(asks(&asking, issued["status"]["token"].as_str()).await.is_ok());
    assert_eq!(discovery(ISSUER, "https://h/openid/v1/jwks")["issuer"], ISSUER);
}

#[tokio::test]
async fn a_token_binds_to_what_is_there_alone() {
    let bed = Bed::of(1).await;
    people(&bed).await;
    let mine = tokens(&key(), bed.objects(), &clock());
    let told = async |to: Value| {
        issue(&mine, json!({ "boundObjectRef": to })).await.unwrap_err().message().to_owned()
    };
    assert_eq!(
        told(json!({"apiVersion": "v1", "kind": "Pod", "name": "none"})).await,
        "pods \"none\" not found"
    );
    assert!(
        told(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x"}))
            .await
            .ends_with("The object might have been deleted and then recreated")
    );
    assert_eq!(
        told(json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "p"})).await,
        "cannot bind token to object of type apps/v1, Kind=Deployment"
    );
}

#[tokio::test]
async fn reviews_answer_as_requests_are_answered() {
    let bed = Bed::of(1).await;
    people(&bed).await;
    let clock = clock();
    let live = Arc::new(Live::default());
    let running = tokio::spawn({
        let (live, objects) = (live.clone(), bed.objects());
        async move { live.run(&objects).await }
    });
    live.ready().await;
    for object in super::rbac::policy::objects() {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        bed.put("rbac.authorization.k8s.io", &format!("{kind}s"), &object).await;
    }
    let masters = User { groups: vec!["system:authenticated".into()], ..User::default() };
    until("the basic rules", || live.rbac().rules_for(&masters, "").0.len() >= 4).await;

    let mine = tokens(&key(), bed.objects(), &clock);
    let asking = Arc::new(authentication(&mine, bed.objects(), &clock));
    let authorizer = Arc::new(Authorization::new(live.clone()));
    let reviews = Reviews::new(asking, authorizer, live.clone(), clock);
    let registry = Registry::builtin();
    let ask = async |group: &str, resource: &str, who: &str, review: Value| {
        let kind = registry.find(group, "v1", resource).expect("it is served");
        let groups = vec!["system:authenticated".to_owned()];
        let who = User { name: who.into(), groups, ..User::default() };
        reviews.review(&who, &kind, "", review).await
    };
    let access = "authorization.k8s.io";
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/api"}}});
    let answer = ask(access, "selfsubjectaccessreviews", "eve", path).await.unwrap();
    assert_eq!(
        answer["status"],
        json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \
            \"system:discovery\" of ClusterRole \"system:discovery\" to Group \
            \"system:authenticated\""})
    );
    let wish = json!({"verb": "list", "resource": "pods"});
    let pods = json!({"spec": {"user": "eve", "resourceAttributes": wish}});
    let answer = ask(access, "subjectaccessreviews", "x", pods).await.unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let rules = json!({"spec": {"namespace": "ns"}});
    let answer = ask(access, "selfsubjectrulesreviews", "eve", rules).await.unwrap();
    assert_eq!(answer["status"]["incomplete"], false);
    assert!(answer["status"]["resourceRules"].as_array().unwrap().iter().any(|rule| {
        rule["resources"] == json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])
    }));
    let issued = issue(&mine, json!({})).await.unwrap();
    let review = json!({"spec": {"token": issued["status"]["token"]}});
    let answer = ask("authentication.k8s.io", "tokenreviews", "x", review).await.unwrap();
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:ns:bot");
    assert_eq!(answer["status"]["audiences"], json!([ISSUER]));
    let review = json!({"spec": {"token": "nonsense"}});
    let answer = ask("authentication.k8s.io", "tokenreviews", "x", review).await.unwrap();
    assert_eq!(answer["status"], json!({"user": {}, "error": "invalid bearer token"}));
    let answer =
        ask("authentication.k8s.io", "selfsubjectreviews", "eve", json!({})).await.unwrap();
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "eve", "groups": ["system:authenticated"]})
    );
    running.abort();
}
