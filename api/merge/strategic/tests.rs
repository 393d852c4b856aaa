//! Patches of built-in types, and of a small type of our own for what can be had at random.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::merge::UNPROCESSABLE;
use crate::schema::{Field, List, Map as MapForm, Object, Text};

fn built_in(name: &str) -> &'static Node {
    Node::find(name).unwrap()
}

fn pod(original: Value, patch: Value) -> Value {
    apply(built_in("io.k8s.api.core.v1.Pod"), &original, &patch).unwrap()
}

fn refused(original: Value, patch: Value) -> (u16, String) {
    let status = apply(built_in("io.k8s.api.core.v1.Pod"), &original, &patch).unwrap_err();
    (status.code(), status.message().replace(UNPROCESSABLE, ""))
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn containers_are_merged_by_name_and_stay_where_they_are() {
    let original = containers(json!([
        {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]},
        {"name": "b", "image": "b:1"},
    ]));
    let patch = containers(json!([
        {"name": "b", "image": "b:2", "env": [{"name": "X", "value": "1"}]},
        {"name": "c", "image": "c:1"},
    ]));
    assert_eq!(
        pod(original, patch),
        containers(json!([
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]},
            {"name": "b", "image": "b:2", "env": [{"name": "X", "value": "1"}]},
            {"name": "c", "image": "c:1"},
        ]))
    );
}

#[test]
fn an_element_is_deleted_and_a_list_replaced_by_directive() {
    let original =
        || containers(json!([{"name": "a", "image": "1"}, {"name": "b"}, {"name": "c"}]));
    assert_eq!(
        pod(original(), containers(json!([{"$patch": "delete", "name": "b"}]))),
        containers(json!([{"name": "a", "image": "1"}, {"name": "c"}]))
    );
    assert_eq!(
        pod(original(), containers(json!([{"$patch": "replace"}, {"name": "a"}]))),
        containers(json!([{"name": "a"}]))
    );
}

#[test]
fn an_object_is_replaced_or_emptied_by_directive() {
    let original = || json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    assert_eq!(
        pod(original(), json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}})),
        json!({"metadata": {"labels": {"c": "3"}}})
    );
    assert_eq!(
        pod(original(), json!({"metadata": {"labels": {"$patch": "delete"}}})),
        json!({"metadata": {"labels": {}}})
    );
}

#[test]
fn null_removes_and_says_nothing_of_what_is_not_there() {
    assert_eq!(
        pod(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": "1"}},
                   "spec": null}),
        ),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}})
    );
}

#[test]
fn scalars_of_a_merged_list_are_a_set_and_leave_by_directive() {
    let original = || json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    assert_eq!(
        pod(original(), json!({"metadata": {"finalizers": ["b", "d"]}})),
        json!({"metadata": {"finalizers": ["a", "b", "d", "c"]}})
    );
    assert_eq!(
        pod(
            original(),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"],
                                "$setElementOrder/finalizers": ["c", "a"]}}),
        ),
        json!({"metadata": {"finalizers": ["c", "a"]}})
    );
}

#[test]
fn a_list_without_a_strategy_is_replaced() {
    assert_eq!(
        pod(
            containers(json!([{"name": "a", "args": ["x", "y"]}])),
            containers(json!([{"name": "a", "args": ["z"]}]))
        ),
        containers(json!([{"name": "a", "args": ["z"]}]))
    );
}

#[test]
fn the_order_of_elements_is_set_by_directive_and_others_keep_their_place() {
    let original = containers(json!([
        {"name": "sidecar-1"}, {"name": "a"}, {"name": "sidecar-2"}, {"name": "b"},
    ]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "x"}],
    }});
    assert_eq!(
        pod(original, patch),
        containers(json!([
            {"name": "sidecar-1"}, {"name": "sidecar-2"},
            {"name": "b"}, {"name": "a", "image": "x"},
        ]))
    );
}

#[test]
fn a_new_element_takes_the_place_of_a_deleted_one() {
    let original = containers(json!([{"name": "old"}, {"name": "a"}, {"name": "sidecar"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "new"}],
        "containers": [{"name": "new"}, {"$patch": "delete", "name": "old"}],
    }});
    assert_eq!(
        pod(original, patch),
        containers(json!([{"name": "a"}, {"name": "sidecar"}, {"name": "new"}]))
    );
}

#[test]
fn a_volume_changes_its_source_by_retain_keys() {
    let original = json!({"spec": {"volumes": [
        {"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {}},
    ]}});
    let patch = json!({"spec": {"volumes": [
        {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}},
    ]}});
    assert_eq!(
        pod(original, patch),
        json!({"spec": {"volumes": [
            {"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}},
        ]}})
    );
}

#[test]
fn what_kubectl_sends_for_an_edit_of_a_deployment_is_carried_out() {
    let live = json!({
        "metadata": {"name": "web", "annotations": {"deployment.kubernetes.io/revision": "1"}},
        "spec": {"replicas": 1,
                 "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
                 "template": {"spec": {"containers": [
                     {"name": "web", "image": "web:1", "imagePullPolicy": "Always"}]}}},
    });
    let patch = json!({
        "metadata": {"annotations": {"note": "x"}},
        "spec": {
            "replicas": 3,
            "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
            "template": {"spec": {
                "$setElementOrder/containers": [{"name": "web"}],
                "containers": [{"name": "web", "image": "web:2"}],
            }},
        },
    });
    assert_eq!(
        apply(built_in("io.k8s.api.apps.v1.Deployment"), &live, &patch).unwrap(),
        json!({
            "metadata": {"name": "web",
                         "annotations": {"deployment.kubernetes.io/revision": "1", "note": "x"}},
            "spec": {"replicas": 3, "strategy": {"type": "Recreate"},
                     "template": {"spec": {"containers": [
                         {"name": "web", "image": "web:2", "imagePullPolicy": "Always"}]}}},
        })
    );
}

#[test]
fn patches_that_cannot_be_understood_are_refused_in_upstreams_words() {
    let original = || containers(json!([{"name": "a"}]));
    assert_eq!(refused(original(), json!([])), (400, "invalid JSON document".into()));
    assert_eq!(
        refused(original(), containers(json!([{"image": "x"}]))),
        (500, "map: map[image:x] does not contain declared merge key: name".into())
    );
    assert_eq!(
        refused(original(), json!({"spec": {"$patch": "paint", "a": 1}})),
        (500, "unknown patch type: paint in map: map[$patch:paint a:1]".into())
    );
    assert_eq!(
        refused(original(), json!({"spec": {"$retainKeys": ["a"], "nodeName": "n"}})),
        (400, "invalid patch format of retainKeys".into())
    );
    assert_eq!(
        refused(original(), json!({"spec": {"$setElementOrder": []}})),
        (400, "invalid patch format of setElementOrder list".into())
    );
    assert_eq!(
        refused(original(), json!({"spec": {"$deleteFromPrimitiveList": []}})),
        (400, "invalid patch format of primitive list".into())
    );
    assert_eq!(
        refused(original(), containers(json!([[{"name": "a"}]]))),
        (422, "lists of lists are not supported".into())
    );
    let (code, message) = refused(
        original(),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}],
                        "containers": [{"name": "a"}]}}),
    );
    assert_eq!(code, 500);
    assert!(message.starts_with("The order in patch list:\n[map[name:a]]\n"), "{message}");
}

/// `{items: [{name, value, nested: {x}}] by name, words: [scalars] as a set, map: {}, plain: [..]}`
fn own_type() -> Node {
    let node = |form| Node { form, ..Node::default() };
    let field =
        |name: &str, node, patch| Field { name: name.into(), node, patch, ..Field::default() };
    let plain = |name: &str| field(name, Node::default(), Patch::default());
    let list =
        |items| node(Form::List(List { items: Arc::new(items), topology: Default::default() }));
    let object = |fields| node(Form::Object(Object { fields, atomic: false }));
    let merged = |key: Option<&str>| Patch {
        merge: true,
        merge_key: key.map(Arc::from),
        ..Patch::default()
    };
    let text = || node(Form::String(Text::Plain));
    let map = MapForm { values: Arc::new(text()), atomic: false };
    let item = object(vec![plain("name"), plain("nested"), plain("value")]);
    object(vec![
        field("items", list(item), merged(Some("name"))),
        field("map", node(Form::Map(map)), Patch::default()),
        field("plain", list(text()), Patch::default()),
        field("words", list(text()), merged(None)),
    ])
}

fn objects() -> impl Strategy<Value = Value> {
    let word = || "[abcdef]".prop_map(Value::from);
    let nested = prop::collection::btree_map("[xy]", word(), 0..3);
    let item = (prop::option::of(word()), nested);
    let items = prop::collection::btree_map("[abcdef]", item, 0..5)
        .prop_map(|items| items.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    let words = prop::collection::btree_set("[abcdef]", 0..5)
        .prop_map(|words| words.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    let map = prop::collection::btree_map("[abc]", word(), 0..3);
    let plain = prop::collection::vec(word(), 0..3);
    (prop::option::of(items), prop::option::of(words), prop::option::of(map), plain).prop_map(
        |(items, words, map, plain)| {
            let mut object = json!({"plain": plain});
            if let Some(items) = items {
                let item = |(name, (value, nested)): (String, (Option<Value>, _))| {
                    let mut item = json!({"name": name, "nested": json!(nested)});
                    if let Some(value) = value {
                        item["value"] = value;
                    }
                    item
                };
                object["items"] = items.into_iter().map(item).collect();
            }
            if let Some(words) = words {
                object["words"] = json!(words);
            }
            if let Some(map) = map {
                object["map"] = json!(map);
            }
            object
        },
    )
}

/// The patch that kubectl would make, for the type above.
fn difference(from: &Value, to: &Value) -> Value {
    let (from, to) = (from.as_object().unwrap(), to.as_object().unwrap());
    let gone = from.keys().filter(|key| !to.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, after) in to {
        match (from.get(key), after) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(_)), Value::Object(_)) => {
                drop(patch.insert(key.clone(), difference(&from[key], after)));
            }
            (Some(Value::Array(before)), Value::Array(list)) if key == "items" => {
                let named = |list: &[Value], name: &Value| {
                    list.iter().find(|item| item["name"] == *name).cloned()
                };
                let mut changes = Vec::new();
                for item in list {
                    match named(before, &item["name"]) {
                        Some(same) if same == *item => {}
                        Some(other) => {
                            let mut change = difference(&other, item);
                            change["name"] = item["name"].clone();
                            changes.push(change);
                        }
                        None => changes.push(item.clone()),
                    }
                }
                for item in before.iter().filter(|item| named(list, &item["name"]).is_none()) {
                    changes.push(json!({"$patch": "delete", "name": item["name"]}));
                }
                let order = list.iter().map(|item| json!({"name": item["name"]}));
                patch.insert("$setElementOrder/items".into(), order.collect());
                patch.insert(key.clone(), changes.into());
            }
            (Some(Value::Array(before)), Value::Array(list)) if key == "words" => {
                let without = |list: &[Value], other: &[Value]| -> Value {
                    list.iter().filter(|word| !other.contains(word)).cloned().collect()
                };
                patch.insert("$setElementOrder/words".into(), after.clone());
                patch.insert("$deleteFromPrimitiveList/words".into(), without(before, list));
                patch.insert(key.clone(), without(list, before));
            }
            _ => drop(patch.insert(key.clone(), after.clone())),
        }
    }
    Value::Object(patch)
}

fn patches() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        "[abc]".prop_map(Value::from),
        "delete|replace|merge".prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = "items|words|map|plain|name|nested|\\$patch|\\$retainKeys|\
                   \\$setElementOrder/(items|words)|\\$deleteFromPrimitiveList/(items|words)";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_difference_of_two_objects_applied_to_one_gives_the_other(
        from in objects(), to in objects(),
    ) {
        let patch = difference(&from, &to);
        prop_assert_eq!(apply(&own_type(), &from, &patch), Ok(to));
    }

    #[test]
    fn what_a_patch_does_not_name_keeps_its_order(from in objects(), to in objects()) {
        // Without the directive, and so without a say over the live elements.
        let mut patch = difference(&from, &to);
        for directive in ["$setElementOrder/items", "$setElementOrder/words"] {
            patch.as_object_mut().unwrap().remove(directive);
        }
        let Ok(merged) = apply(&own_type(), &from, &patch) else { return Ok(()) };
        let names = |of: &Value| -> Vec<Value> {
            of["items"].as_array().into_iter().flatten().map(|it| it["name"].clone()).collect()
        };
        let patched = names(&patch);
        let others = |of: &Value| -> Vec<Value> {
            names(of).into_iter().filter(|name| !patched.contains(name)).collect()
        };
        if patch.get("items").is_none_or(|items| !items.is_null()) {
            prop_assert_eq!(others(&merged), others(&from));
        }
    }

    #[test]
    fn any_patch_is_carried_out_or_refused(from in objects(), patch in patches()) {
        let _ = apply(&own_type(), &from, &patch);
        let _ = apply(built_in("io.k8s.api.core.v1.Pod"), &from, &patch);
    }
}
