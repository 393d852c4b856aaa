//! Managers meeting over objects of built-in types and of types of our own.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::schema::{Field, Form, List, Object, Topology};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn deployments() -> &'static Node {
    Node::find("io.k8s.api.apps.v1.Deployment").unwrap()
}

fn of_apps(name: &str) -> Manager<'_> {
    Manager { name, api_version: "apps/v1", subresource: "", ignored: &["status"] }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
           "metadata": {"name": "web"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": list}}}))
}

fn applied(live: Option<&Value>, config: &Value, name: &str, seconds: i64) -> Value {
    apply(deployments(), live, config, &of_apps(name), false, at(seconds)).unwrap()
}

fn refused(live: Option<&Value>, config: &Value, name: &str) -> Status {
    apply(deployments(), live, config, &of_apps(name), false, at(9)).unwrap_err()
}

/// The fields of one manager's entry; null where it has none.
fn fields(object: &Value, manager: &str, operation: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut own = entries.filter(|it| it["manager"] == manager && it["operation"] == operation);
    own.next().map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    managers::clear(&mut object);
    object
}

#[test]
fn the_first_apply_makes_the_object_and_an_entry_of_what_was_applied() {
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"spec": {"containers": [
                     {"name": "web", "image": "web:1", "args": ["a", "b"],
                      "ports": [{"containerPort": 80}]}]}}},
    });
    let object = applied(None, &config, "me", 60);
    assert_eq!(bare(&object), config);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "apps/v1",
            "time": "1970-01-01T00:01:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:replicas": {},
                    "f:selector": {},
                    "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                            ".": {}, "f:containerPort": {}}},
                    }}}},
                },
            },
        }])
    );
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_the_time() {
    let config = containers(json!([{"name": "a", "image": "1"}]));
    let once = applied(None, &config, "me", 1);
    assert_eq!(applied(Some(&once), &config, "me", 2), once);
}

#[test]
fn a_field_that_is_no_longer_applied_goes_unless_another_has_it() {
    let mine = deployment(json!({"replicas": 2, "paused": true, "minReadySeconds": 5}));
    let theirs = deployment(json!({"paused": true}));
    let live = applied(None, &mine, "me", 1);
    let live = applied(Some(&live), &theirs, "other", 2);
    let live = applied(Some(&live), &deployment(json!({"minReadySeconds": 5})), "me", 3);
    assert_eq!(live["spec"], json!({"paused": true, "minReadySeconds": 5}));
    assert_eq!(fields(&live, "me", "Apply"), json!({"f:spec": {"f:minReadySeconds": {}}}));
    assert_eq!(fields(&live, "other", "Apply"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn an_element_that_is_no_longer_applied_goes_with_all_of_it_but_what_others_have() {
    let two = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
    let one = containers(json!([{"name": "a", "image": "1"}]));
    let live = applied(None, &two, "me", 1);
    assert_eq!(bare(&applied(Some(&live), &one, "me", 2)), one);

    let sidecar = containers(json!([{"name": "b", "tty": true}]));
    let shared = applied(Some(&live), &sidecar, "other", 2);
    let rest = applied(Some(&shared), &one, "me", 3);
    assert_eq!(
        rest["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "1"}, {"name": "b", "tty": true}])
    );
}

#[test]
fn what_is_in_a_dropped_element_through_an_update_goes_with_it() {
    let two = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
    let live = applied(None, &two, "me", 1);
    // Defaults are nobody's.
    let mut defaulted = live.clone();
    defaulted["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let one = containers(json!([{"name": "a", "image": "1"}]));
    assert_eq!(bare(&applied(Some(&defaulted), &one, "me", 2)), one);
}

#[test]
fn a_field_of_an_update_is_a_conflict_that_names_it_until_it_is_forced() {
    let live = applied(None, &deployment(json!({"replicas": 1})), "me", 1);
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    updated(deployments(), Some(&live), &mut scaled, &of_apps("kubectl-edit"), at(2));
    assert_eq!(fields(&scaled, "me", "Apply"), Value::Null);
    assert_eq!(fields(&scaled, "kubectl-edit", "Update"), json!({"f:spec": {"f:replicas": {}}}));

    let config = deployment(json!({"replicas": 2}));
    let status = refused(Some(&scaled), &config, "me");
    assert_eq!(
        status.to_json(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": "Conflict", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using \
                        apps/v1: .spec.replicas",
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "field": ".spec.replicas",
                "message": "conflict with \"kubectl-edit\" using apps/v1",
            }]},
        })
    );
    let forced = apply(deployments(), Some(&scaled), &config, &of_apps("me"), true, at(3)).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(fields(&forced, "kubectl-edit", "Update"), Value::Null);
    assert_eq!(fields(&forced, "me", "Apply"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let theirs = deployment(json!({"paused": true, "replicas": 1,
        "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}));
    let live = applied(None, &theirs, "other", 1);
    let more = deployment(json!({"minReadySeconds": 1}));
    let live = applied(Some(&live), &more, "third", 2);
    let config = deployment(json!({"paused": false, "replicas": 1, "minReadySeconds": 2,
        "template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}));
    assert_eq!(
        refused(Some(&live), &config, "me").message(),
        "Apply failed with 3 conflicts: conflicts with \"other\":\n\
         - .spec.paused\n\
         - .spec.template.spec.containers[name=\"a\"].image\n\
         conflicts with \"third\":\n\
         - .spec.minReadySeconds"
    );
}

#[test]
fn equal_values_are_shared_without_a_conflict() {
    let config = deployment(json!({"replicas": 1}));
    let live = applied(None, &config, "one", 1);
    let live = applied(Some(&live), &config, "two", 2);
    for name in ["one", "two"] {
        assert_eq!(fields(&live, name, "Apply"), json!({"f:spec": {"f:replicas": {}}}));
    }
}

#[test]
fn elements_are_told_apart_by_keys_of_which_absent_ones_have_their_default() {
    let service = Node::find("io.k8s.api.core.v1.Service").unwrap();
    let manager = |name| Manager { name, api_version: "v1", ..Manager::default() };
    let config = |ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
               "spec": {"ports": ports}})
    };
    let tcp = config(json!([{"port": 53, "protocol": "TCP", "name": "tcp"}]));
    let udp = config(json!([{"port": 53, "protocol": "UDP", "name": "udp"},
                            {"port": 53, "name": "tcp"}]));
    let live = apply(service, None, &tcp, &manager("one"), false, at(1)).unwrap();
    let live = apply(service, Some(&live), &udp, &manager("two"), false, at(2)).unwrap();
    assert_eq!(
        live["spec"]["ports"],
        json!([{"port": 53, "protocol": "UDP", "name": "udp"},
               {"port": 53, "protocol": "TCP", "name": "tcp"}])
    );
}

#[test]
fn elements_of_the_live_list_stay_among_those_that_are_applied() {
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let of = |names: &[&str]| {
        containers(names.iter().map(|name| json!({"name": name})).collect::<Value>())
    };
    for (live, config, merged) in [
        (&["a", "b"][..], &["c"][..], &["a", "b", "c"][..]),
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (&["a", "b", "c"], &["b"], &["a", "b", "c"]),
        (&["a", "b"], &["b", "c", "a"], &["b", "c", "a"]),
    ] {
        let live = applied(None, &of(live), "one", 1);
        assert_eq!(names(&applied(Some(&live), &of(config), "two", 2)), merged);
    }
}

#[test]
fn lists_are_sets_or_one_value_as_their_type_says() {
    let finalized = |list: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
               "metadata": {"name": "web", "finalizers": list}})
    };
    let live = applied(None, &finalized(json!(["a"])), "one", 1);
    let live = applied(Some(&live), &finalized(json!(["b"])), "two", 2);
    assert_eq!(live["metadata"]["finalizers"], json!(["a", "b"]));
    assert_eq!(
        fields(&live, "two", "Apply"),
        json!({"f:metadata": {"f:finalizers": {"v:\"b\"": {}}}})
    );

    let args = |list: Value| containers(json!([{"name": "a", "args": list}]));
    let live = applied(None, &args(json!(["x"])), "one", 1);
    let status = refused(Some(&live), &args(json!(["y"])), "two");
    assert!(status.message().ends_with(".spec.template.spec.containers[name=\"a\"].args"));
}

#[test]
fn a_create_and_its_updates_are_tracked_by_what_they_set() {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "uid": "u", "labels": {"app": "web"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"replicas": 3},
    });
    updated(deployments(), None, &mut object, &of_apps("kubectl-create"), at(1));
    let created = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {"f:replicas": {}, "f:selector": {}},
    });
    assert_eq!(fields(&object, "kubectl-create", "Update"), created);

    let mut changed = object.clone();
    changed["spec"]["replicas"] = 2.into();
    changed["metadata"]["labels"]["more"] = "x".into();
    updated(deployments(), Some(&object), &mut changed, &of_apps("python"), at(2));
    assert_eq!(
        fields(&changed, "python", "Update"),
        json!({"f:metadata": {"f:labels": {"f:more": {}}}, "f:spec": {"f:replicas": {}}})
    );
    assert_eq!(fields(&changed, "kubectl-create", "Update")["f:spec"], json!({"f:selector": {}}));

    let mut status = changed.clone();
    status["status"] = json!({"replicas": 2});
    let controller =
        Manager { name: "controller", subresource: "status", ignored: &["spec"], ..of_apps("") };
    updated(deployments(), Some(&changed), &mut status, &controller, at(3));
    assert_eq!(
        status["metadata"]["managedFields"][2],
        json!({
            "manager": "controller", "operation": "Update", "apiVersion": "apps/v1",
            "subresource": "status", "time": "1970-01-01T00:00:03Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:replicas": {}}},
        })
    );
}

#[test]
fn an_update_that_changes_nothing_leaves_the_books_as_they_are() {
    let mut object = deployment(json!({"replicas": 1}));
    updated(deployments(), None, &mut object, &of_apps("me"), at(1));
    let mut same = object.clone();
    updated(deployments(), Some(&object), &mut same, &of_apps("other"), at(2));
    assert_eq!(same, object);
    // A client that knows nothing of managedFields does not lose them.
    let mut stripped = bare(&object);
    updated(deployments(), Some(&object), &mut stripped, &of_apps("other"), at(2));
    assert_eq!(stripped, object);
}

#[test]
fn times_alone_are_no_change() {
    let mut object = deployment(json!({"replicas": 1}));
    updated(deployments(), None, &mut object, &of_apps("me"), at(1));
    let mut later = object.clone();
    later["metadata"]["managedFields"][0]["time"] = "1970-01-01T00:00:59Z".into();
    let mut different = later.clone();
    keep_times(&object, &mut later);
    assert_eq!(later, object);
    different["spec"]["replicas"] = 2.into();
    let unchanged = different.clone();
    keep_times(&object, &mut different);
    assert_eq!(different, unchanged);
}

#[test]
fn a_client_can_have_the_books_forgotten_and_then_nobody_is_tracked() {
    let mut object = deployment(json!({"replicas": 1}));
    updated(deployments(), None, &mut object, &of_apps("me"), at(1));
    for reset in [json!([{}]), json!([])] {
        let mut sent = object.clone();
        sent["metadata"]["managedFields"] = reset;
        updated(deployments(), Some(&object), &mut sent, &of_apps("me"), at(2));
        assert_eq!(sent, bare(&object));
        let mut again = sent.clone();
        again["spec"]["replicas"] = 2.into();
        updated(deployments(), Some(&sent), &mut again, &of_apps("me"), at(3));
        assert_eq!(again["metadata"].get("managedFields"), None);
    }
    // What cannot be read is as if it were not there.
    let mut broken = object.clone();
    broken["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    updated(deployments(), Some(&object), &mut broken, &of_apps("me"), at(2));
    assert_eq!(broken, object);
}

#[test]
fn what_was_there_before_anybody_was_tracked_can_only_be_forced() {
    let live = deployment(json!({"replicas": 1, "paused": true}));
    let config = deployment(json!({"replicas": 2}));
    assert_eq!(
        refused(Some(&live), &config, "me").message(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: \
         .spec.replicas"
    );
    let forced = apply(deployments(), Some(&live), &config, &of_apps("me"), true, at(2)).unwrap();
    assert_eq!(
        fields(&forced, "before-first-apply", "Update"),
        json!({"f:spec": {"f:paused": {}}})
    );
}

#[test]
fn the_oldest_of_many_updates_are_drawn_together() {
    let mut object = deployment(json!({"replicas": 0}));
    updated(deployments(), None, &mut object, &of_apps("manager-0"), at(0));
    for number in 1..15 {
        let mut next = object.clone();
        next["metadata"]["annotations"][format!("a{number}")] = "x".into();
        let name = format!("manager-{number}");
        updated(deployments(), Some(&object), &mut next, &of_apps(&name), at(number));
        object = next;
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), managers::UPDATES_MAX);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["time"], "1970-01-01T00:00:05Z");
    assert_eq!(fields(&object, "ancient-changes", "Update")["f:spec"], json!({"f:replicas": {}}));
    assert_eq!(entries[9]["manager"], "manager-14");
}

#[test]
fn the_status_is_not_applied_through_the_resource_itself() {
    let mut config = deployment(json!({"replicas": 1}));
    config["status"] = json!({"replicas": 7});
    let object = applied(None, &config, "me", 1);
    assert_eq!(fields(&object, "me", "Apply"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn a_configuration_that_does_not_fit_its_type_is_refused_in_upstreams_words() {
    let told = |config: &Value| {
        let status = refused(None, config, "me");
        (status.code(), status.message().to_owned())
    };
    let mut other = deployment(json!({}));
    other["apiVersion"] = "apps/v2".into();
    assert_eq!(
        told(&other),
        (
            400,
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, \
             expected: apps/v1"
                .into()
        )
    );
    let mut managed = deployment(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(told(&managed), (400, "metadata.managedFields must be nil".into()));
    assert_eq!(
        told(&deployment(json!({"replica": 1}))),
        (
            500,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): \
             .spec.replica: field not declared in schema"
                .into()
        )
    );
    let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
    assert!(
        told(&twice)
            .1
            .ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]")
    );
    let nameless = containers(json!([{"image": "a"}]));
    assert!(
        told(&nameless).1.contains("element 0: associative list with keys has an element that")
    );
    assert!(told(&deployment(json!({"replicas": "x"}))).1.contains("expected numeric"));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_clients_side() {
    let mut config = deployment(json!({"replicas": 1}));
    let annotation = config.to_string();
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: annotation});
    let client_side = of_apps("kubectl-client-side-apply");
    updated(deployments(), None, &mut live, &client_side, at(1));
    config["spec"]["replicas"] = 3.into();
    let taken = applied(Some(&live), &config, "kubectl", 2);
    assert_eq!(taken["spec"]["replicas"], 3);
    let annotation = taken["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), config);
    // Anybody else meets the conflict.
    assert_eq!(refused(Some(&live), &config, "me").reason(), Reason::Conflict);
}

fn node(form: Form) -> Node {
    Node { form, ..Node::default() }
}

fn object_of(fields: Vec<(&str, Node)>) -> Node {
    let field = |(name, node): (&str, Node)| Field { name: name.into(), node, ..Field::default() };
    let mut fields: Vec<Field> = fields.into_iter().map(field).collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    node(Form::Object(Object { fields, atomic: false }))
}

fn list_of(items: Node, topology: Topology) -> Node {
    node(Form::List(List { items: Arc::new(items), topology }))
}

fn integer() -> Node {
    node(Form::Integer { bits32: false })
}

#[test]
fn entries_of_other_versions_are_compared_in_their_own_and_go_when_the_version_goes() {
    let (one, two) = (object_of(vec![("size", integer())]), object_of(vec![("count", integer())]));
    let rename = |object: &Value, from: &str, to: &str, version: &str| {
        let mut object = object.clone();
        let fields = object.as_object_mut().unwrap();
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
        fields.insert("apiVersion".into(), version.into());
        object
    };
    let convert = |object: &Value, version: &str| match version {
        "x/v1" => Some((rename(object, "count", "size", version), &one)),
        "x/v2" => Some((rename(object, "size", "count", version), &two)),
        _ => None,
    };
    let of_one = Types { node: &one, convert: Some(&convert) };
    let of_two = Types { node: &two, convert: Some(&convert) };
    let v1 = Manager { name: "a", api_version: "x/v1", ..Manager::default() };
    let v2 = Manager { name: "b", api_version: "x/v2", ..Manager::default() };
    let config = |version: &str, field: &str, value: i64| {
        let mut config = json!({"apiVersion": version, "kind": "X", "metadata": {"name": "x"}});
        config[field] = value.into();
        config
    };
    let first = apply(of_one, None, &config("x/v1", "size", 1), &v1, false, at(1)).unwrap();
    let seen = rename(&first, "size", "count", "x/v2");
    let second = config("x/v2", "count", 2);
    let status = apply(of_two, Some(&seen), &second, &v2, false, at(2)).unwrap_err();
    assert_eq!(status.message(), "Apply failed with 1 conflict: conflict with \"a\": .size");
    // The same applier moves to the new version: the field is still the one it had.
    let mover = Manager { name: "a", ..v2 };
    let moved = apply(of_two, Some(&seen), &second, &mover, false, at(2)).unwrap();
    assert_eq!(moved["count"], 2);
    let emptied = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}});
    let back = rename(&moved, "count", "size", "x/v1");
    let emptied = apply(of_one, Some(&back), &emptied, &v1, false, at(3)).unwrap();
    assert_eq!(
        bare(&emptied),
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}})
    );

    let mut old = first.clone();
    old["metadata"]["managedFields"][0]["apiVersion"] = "x/v0".into();
    let mut new = old.clone();
    new["size"] = 5.into();
    updated(of_one, Some(&old), &mut new, &v1, at(4));
    assert_eq!(new["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    assert_eq!(fields(&new, "a", "Update"), json!({"f:size": {}}));
}

#[test]
fn a_list_that_has_become_one_value_is_owned_as_one() {
    let items = || object_of(vec![("name", integer()), ("size", integer())]);
    let keyed = object_of(vec![("list", list_of(items(), Topology::Map(vec!["name".into()])))]);
    let atomic = object_of(vec![("list", list_of(items(), Topology::Atomic))]);
    let manager = Manager { name: "a", api_version: "x/v1", ..Manager::default() };
    let config = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"},
                        "list": [{"name": 1, "size": 1}]});
    let live = apply(&keyed, None, &config, &manager, false, at(1)).unwrap();
    let other = Manager { name: "b", ..manager };
    let mut changed = config.clone();
    changed["list"][0]["size"] = 2.into();
    let status = apply(&atomic, Some(&live), &changed, &other, false, at(2)).unwrap_err();
    assert_eq!(status.message(), "Apply failed with 1 conflict: conflict with \"a\": .list");
}

/// Small configurations over every kind of place: scalars, maps, sets, keyed and atomic lists, the untyped.
fn small() -> Node {
    let item = object_of(vec![
        ("name", node(Form::Any)),
        ("size", integer()),
        ("set", list_of(integer(), Topology::Set)),
    ]);
    object_of(vec![
        ("size", integer()),
        ("open", node(Form::Any)),
        ("keyed", list_of(item, Topology::Map(vec!["name".into()]))),
        ("set", list_of(integer(), Topology::Set)),
        ("atomic", list_of(integer(), Topology::Atomic)),
        ("inner", object_of(vec![("a", integer()), ("b", integer())])),
    ])
}

fn configs() -> impl Strategy<Value = Value> {
    let set = || prop::collection::btree_set(0..4, 1..4).prop_map(|it| json!(it));
    let item = (prop::option::of(0..3), prop::option::of(set()));
    let keyed = prop::collection::btree_map("[abc]", item, 1..4).prop_map(|items| {
        let item = |(name, (size, set)): (String, (Option<i32>, Option<Value>))| {
            let mut item = json!({"name": name});
            size.into_iter().for_each(|size| item["size"] = size.into());
            set.into_iter().for_each(|set| item["set"] = set);
            item
        };
        items.into_iter().map(item).collect::<Value>()
    });
    let map = || prop::collection::btree_map("[ab]", 0..3, 1..3).prop_map(|it| json!(it));
    let fields = (
        prop::option::of((0..3).prop_map(Value::from)),
        prop::option::of(prop_oneof![map(), (0..3).prop_map(Value::from)]),
        prop::option::of(keyed),
        prop::option::of(set()),
        prop::option::of(set()),
        prop::option::of(map()),
    );
    fields.prop_map(|(size, open, keyed, set, atomic, inner)| {
        let mut config = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}});
        let all = [
            ("size", size),
            ("open", open),
            ("keyed", keyed),
            ("set", set),
            ("atomic", atomic),
            ("inner", inner),
        ];
        for (name, value) in all {
            value.into_iter().for_each(|value| config[name] = value);
        }
        config
    })
}

/// Whether a value says all that a configuration does; lists by what is in them.
fn covers(value: &Value, config: &Value) -> bool {
    match (value, config) {
        (Value::Object(value), Value::Object(config)) => config
            .iter()
            .all(|(key, config)| value.get(key).is_some_and(|value| covers(value, config))),
        (Value::Array(value), Value::Array(config)) => {
            config.iter().all(|config| value.iter().any(|value| covers(value, config)))
        }
        _ => value == config,
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), (0..3).prop_map(Value::from), "[ab]".prop_map(Value::from)];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = "size|open|keyed|set|atomic|inner|name|a|metadata|managedFields|f:a|\\.";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(
        first in configs(), second in configs(), third in configs(),
    ) {
        let of = small();
        let manager = |name| Manager { name, api_version: "x/v1", ..Manager::default() };
        let live = apply(&of, None, &first, &manager("a"), false, at(1)).unwrap();
        let live = apply(&of, Some(&live), &second, &manager("b"), true, at(2)).unwrap();
        let once = apply(&of, Some(&live), &third, &manager("a"), true, at(3)).unwrap();
        prop_assert!(covers(&once, &third), "{} does not hold {}", once, third);
        let twice = apply(&of, Some(&once), &third, &manager("a"), false, at(4)).unwrap();
        prop_assert_eq!(&twice, &once);
    }

    #[test]
    fn one_who_applies_alone_has_what_it_applied_last(first in configs(), second in configs()) {
        let of = small();
        let manager = Manager { name: "a", api_version: "x/v1", ..Manager::default() };
        let live = apply(&of, None, &first, &manager, false, at(1)).unwrap();
        let live = apply(&of, Some(&live), &second, &manager, false, at(2)).unwrap();
        prop_assert!(covers(&live, &second));
        let mut alone = apply(&of, None, &second, &manager, false, at(2)).unwrap();
        if first == second {
            alone = apply(&of, None, &second, &manager, false, at(1)).unwrap();
        }
        prop_assert_eq!(&live["metadata"]["managedFields"][0]["fieldsV1"],
                        &alone["metadata"]["managedFields"][0]["fieldsV1"]);
    }

    #[test]
    fn an_update_owns_what_it_changed_and_every_field_is_somebodys(
        first in configs(), second in configs(),
    ) {
        let of = small();
        let manager = |name| Manager { name, api_version: "x/v1", ..Manager::default() };
        let mut old = first.clone();
        updated(&of, None, &mut old, &manager("a"), at(1));
        let mut new = second.clone();
        updated(&of, Some(&old), &mut new, &manager("b"), at(2));
        let owned = managers::read(&new)
            .unwrap()
            .values()
            .fold(Set::default(), |all, entry| all.union(&entry.set));
        let all = field_set(Type::of_object(&of), &second).difference(&SYSTEM_FIELDS);
        // Nobody is tracked of an object that began with nothing to track.
        if old["metadata"].get("managedFields").is_some() {
            prop_assert!(all.difference(&owned).is_empty(), "{:?}", all.difference(&owned).paths());
        }
    }

    #[test]
    fn any_values_are_applied_or_refused(live in values(), config in values(), new in values()) {
        let of = small();
        let manager = Manager { name: "a", api_version: "x/v1", ..Manager::default() };
        let mut config = config;
        if let Some(config) = config.as_object_mut() {
            config.insert("apiVersion".into(), "x/v1".into());
        }
        for force in [false, true] {
            let _ = apply(&of, Some(&live), &config, &manager, force, at(1));
        }
        let mut after = new.clone();
        updated(&of, Some(&live), &mut after, &manager, at(2));
        keep_times(&live, &mut after);
    }
}
