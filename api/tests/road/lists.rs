//! Lists: of one moment, in pages, by selectors, as fresh as was asked for.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Api, CONFIG_MAPS, config_map};

async fn filled(api: &Api, count: usize) {
    for number in 0..count {
        let mut wanted = config_map(&format!("c{number:02}"), "1");
        wanted["metadata"]["labels"] = json!({"all": "yes", "odd": (number % 2 == 1).to_string()});
        api.create(CONFIG_MAPS, &wanted).await;
    }
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|it| it["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_show_one_moment_and_count_what_is_left() {
    let api = Api::start().await;
    filled(&api, 7).await;
    let path = format!("{CONFIG_MAPS}?labelSelector=all&limit=3");
    let plain = format!("{CONFIG_MAPS}?limit=3");
    let first = api.get(&plain).await.json();
    let all = api.get(CONFIG_MAPS).await.json();
    let total = names(&all).len();
    assert_eq!(first["metadata"]["remainingItemCount"], total - 3);
    let first = api.get(&path).await.json();
    assert_eq!(first["metadata"].get("remainingItemCount"), None, "a selector hides how many");
    assert_eq!(names(&first), ["c00", "c01", "c02"]);
    api.create(CONFIG_MAPS, &config_map("c03x", "late")).await;
    api.ask("DELETE", &format!("{CONFIG_MAPS}/c04"), &[], "").await;
    let mut seen = names(&first);
    let mut token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let version = first["metadata"]["resourceVersion"].clone();
    while !token.is_empty() {
        let page = api.get(&format!("{path}&continue={token}")).await.json();
        assert_eq!(page["metadata"]["resourceVersion"], version, "every page is of one moment");
        seen.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["c00", "c01", "c02", "c03", "c04", "c05", "c06"]);
}

#[tokio::test]
async fn each_page_says_how_many_are_left_at_its_moment() {
    let api = Api::start().await;
    filled(&api, 7).await;
    let total = names(&api.get(CONFIG_MAPS).await.json()).len();
    let mut path = format!("{CONFIG_MAPS}?limit=2");
    let mut seen = 0;
    loop {
        let page = api.get(&path).await.json();
        seen += names(&page).len();
        let left = total - seen;
        let said = page["metadata"]["remainingItemCount"].as_u64();
        assert_eq!(said, (left > 0).then_some(left as u64));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        path = format!("{CONFIG_MAPS}?limit=2&continue={token}");
        // What comes later is not of this moment.
        api.create(CONFIG_MAPS, &config_map(&format!("c06-{seen}"), "late")).await;
    }
    assert_eq!(seen, total);
}

#[tokio::test]
async fn a_token_whose_moment_is_forgotten_offers_to_go_on_with_the_newest() {
    let api = Api::start().await;
    filled(&api, 4).await;
    let path = format!("{CONFIG_MAPS}?labelSelector=all&limit=2");
    let first = api.get(&path).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.create(CONFIG_MAPS, &config_map("later", "1")).await;
    let objects = api.sandbox.server.road().objects();
    objects.compact(objects.revision()).await.unwrap();
    let expired = api.get(&format!("{path}&continue={token}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str()), (410, Some("Expired")));
    let expired = expired.json();
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{path}&continue={token}")).await.json();
    assert_eq!(names(&rest), ["c02", "c03"]);
}

#[tokio::test]
async fn a_list_is_as_fresh_as_was_asked_for() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    let at = created["metadata"]["resourceVersion"].as_str().unwrap();
    api.create(CONFIG_MAPS, &config_map("b", "1")).await;
    let list = |query: String| {
        let api = &api;
        async move { api.get(&format!("{CONFIG_MAPS}?{query}")).await }
    };
    let exact = list(format!("resourceVersion={at}&resourceVersionMatch=Exact")).await.json();
    assert!(!names(&exact).contains(&"b".to_owned()));
    assert_eq!(exact["metadata"]["resourceVersion"], at);
    let legacy = list(format!("resourceVersion={at}&limit=50")).await.json();
    assert_eq!(legacy["metadata"]["resourceVersion"], at);
    let newer =
        list(format!("resourceVersion={at}&resourceVersionMatch=NotOlderThan")).await.json();
    assert!(names(&newer).contains(&"b".to_owned()));
    assert!(names(&list("resourceVersion=0".into()).await.json()).contains(&"b".to_owned()));
    let future = tokio::time::timeout(
        Duration::from_secs(30),
        list("resourceVersion=999999999&resourceVersionMatch=NotOlderThan".into()),
    );
    let future = future.await.expect("it does not wait for ever");
    assert_eq!(future.code, 504);
    assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(future.header("retry-after"), "1");
    for bad in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=5&resourceVersionMatch=Near",
        "sendInitialEvents=true",
    ] {
        assert_eq!(list(bad.into()).await.code, 422, "{bad}");
    }
    for bad in [
        "resourceVersion=x",
        "limit=x",
        "continue=x",
        "labelSelector=a%20b",
        "fieldSelector=spec.x%3D1",
    ] {
        assert_eq!(list(bad.into()).await.code, 400, "{bad}");
    }
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let api = Api::start().await;
    filled(&api, 4).await;
    let list = |query: &'static str| {
        let api = &api;
        async move { names(&api.get(&format!("{CONFIG_MAPS}?{query}")).await.json()) }
    };
    assert_eq!(list("labelSelector=odd%3Dtrue").await, ["c01", "c03"]);
    assert_eq!(list("labelSelector=all,odd+notin+(true)").await, ["c00", "c02"]);
    assert_eq!(list("fieldSelector=metadata.name%3Dc02").await, ["c02"]);
    assert_eq!(
        list("fieldSelector=metadata.name!%3Dc02&labelSelector=all").await,
        ["c00", "c01", "c03"]
    );
}

#[tokio::test]
async fn a_list_says_the_stores_revision_and_items_their_own() {
    let api = Api::start().await;
    let created = api.create(CONFIG_MAPS, &config_map("a", "1")).await;
    api.create(
        "/api/v1/namespaces/default/secrets",
        &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}}),
    )
    .await;
    let list = api.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Da")).await.json();
    let number = |it: &Value| it["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>();
    assert!(number(&list).unwrap() > number(&created).unwrap());
    let item = &list["items"][0];
    assert_eq!(item["metadata"], created["metadata"]);
    assert_eq!(item.get("kind"), None, "items of built-in lists do not say what they are");
    let empty = api.get("/api/v1/namespaces/default/endpoints").await.json();
    assert!(empty["items"].is_array());
    assert_eq!(empty["kind"], "EndpointsList");
}

#[tokio::test]
async fn a_name_or_namespace_never_stands_for_those_that_begin_with_it() {
    let api = Api::start().await;
    for name in ["a", "ab", "a-b"] {
        let wanted = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
        api.create("/api/v1/namespaces", &wanted).await;
        let path = format!("/api/v1/namespaces/{name}/secrets");
        let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}});
        api.create(&path, &secret).await;
    }
    assert_eq!(names(&api.get("/api/v1/namespaces/a/secrets").await.json()), ["a"]);
    assert_eq!(api.get("/api/v1/namespaces/a/secrets/a-").await.code, 404);
}

#[tokio::test]
async fn events_are_selected_by_who_reported_them_in_the_words_of_either_group() {
    let api = Api::start().await;
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    let older = "/api/v1/namespaces/default/events";
    let event = json!({"kind": "Event", "apiVersion": "events.k8s.io/v1",
        "metadata": {"name": "one"}, "regarding": {"namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c",
        "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"});
    api.create(newer, &event).await;
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "two"},
        "involvedObject": {"namespace": "default"}, "source": {"component": "s"},
        "reportingComponent": ""});
    api.create(older, &event).await;
    for (path, selector, expected) in [
        (newer, "reportingController=c", "one"),
        (older, "source=c", "one"),
        (older, "source=s", "two"),
        (older, "reportingComponent=c", "one"),
    ] {
        let list = api.get(&format!("{path}?fieldSelector={selector}")).await.json();
        let names: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, [expected], "{selector}");
    }
}
