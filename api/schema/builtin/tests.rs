//! Built-in types as nodes.

use super::*;
use crate::schema::Text;

/// Follows `path` from a type: `[]` is an element of a list, `{}` a value of a map.
fn at(name: &'static str, path: &str) -> Node {
    let mut node = Node::named(name);
    for step in path.split('.') {
        let next = match (&node.resolve().form, step) {
            (Form::List(list), "[]") => Node::clone(&list.items),
            (Form::Map(map), "{}") => Node::clone(&map.values),
            _ => node.field(step).unwrap_or_else(|| panic!("no {step} in {path}")).node.clone(),
        };
        node = next;
    }
    node
}

const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const POD: &str = "io.k8s.api.core.v1.Pod";

#[test]
fn a_container_of_a_deployment_is_reached_through_named_types() {
    let containers = at(DEPLOYMENT, "spec.template.spec.containers");
    let Form::List(list) = &containers.form else { panic!("not a list: {containers:?}") };
    assert_eq!(list.topology, Topology::Map(vec![Arc::from("name")]));
    let ports = at(DEPLOYMENT, "spec.template.spec.containers.[].ports");
    let Form::List(list) = &ports.form else { panic!("not a list: {ports:?}") };
    assert_eq!(list.topology, Topology::Map(vec![Arc::from("containerPort"), "protocol".into()]));
}

#[test]
fn special_types_are_told_apart() {
    let form = |path: &str| at(POD, path).resolve().form.clone();
    assert!(matches!(form("spec.containers.[].resources.limits.{}"), Form::Quantity));
    assert!(matches!(form("spec.containers.[].livenessProbe.httpGet.port"), Form::IntOrString));
    assert!(matches!(form("metadata.creationTimestamp"), Form::String(Text::Time)));
    assert!(matches!(form("metadata.managedFields.[].fieldsV1"), Form::Any));
    assert!(matches!(form("spec.priority"), Form::Integer { bits32: true }));
    assert!(matches!(form("metadata.generation"), Form::Integer { bits32: false }));
    assert!(matches!(form("spec.hostNetwork"), Form::Boolean));
    let secret = at("io.k8s.api.core.v1.Secret", "data.{}");
    assert!(matches!(secret.form, Form::String(Text::Bytes)));
    let renewed = at("io.k8s.api.coordination.v1.Lease", "spec.renewTime");
    assert!(matches!(renewed.form, Form::String(Text::MicroTime)));
    let schema = at(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        "spec.versions.[].schema.openAPIV3Schema.properties.{}.default",
    );
    assert!(matches!(schema.resolve().form, Form::Any));
}

#[test]
fn patch_strategies_presence_and_defaults_come_from_the_facts() {
    let volumes = at(POD, "spec").field("volumes").unwrap().clone();
    assert!(volumes.patch.merge && volumes.patch.retain_keys);
    assert_eq!(volumes.patch.merge_key.as_deref(), Some("name"));
    let spec = at(DEPLOYMENT, "spec");
    assert_eq!(spec.field("replicas").unwrap().presence, Presence::AsSent);
    assert_eq!(spec.field("strategy").unwrap().presence, Presence::Always);
    assert_eq!(spec.field("paused").unwrap().presence, Presence::UnlessZero);
    assert!(spec.field("selector").unwrap().required);
    let protocol = at(POD, "spec.containers.[].ports.[].protocol");
    assert_eq!(protocol.default, Some(Value::from("TCP")));
    let Form::Object(selector) =
        &at(POD, "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution")
            .resolve()
            .form
            .clone()
    else {
        panic!()
    };
    assert!(selector.atomic);
}

#[test]
fn every_fact_is_about_a_field_that_there_is() {
    let mut wrong = Vec::new();
    for name in facts::names() {
        let Some(node) = find(&name) else {
            wrong.push(name);
            continue;
        };
        let missing =
            facts::of(&name).fields.into_iter().filter(|(field, _)| node.field(field).is_none());
        wrong.extend(missing.map(|(field, _)| format!("{name}.{field}")));
    }
    wrong.sort();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_named_type_resolves() {
    fn visit(node: &Node, seen: &mut std::collections::HashSet<&'static str>) {
        if let Form::Named(name) = node.form
            && !seen.insert(name.as_str())
        {
            return;
        }
        match &node.resolve().form {
            Form::Object(object) => object.fields.iter().for_each(|field| visit(&field.node, seen)),
            Form::Map(map) => visit(&map.values, seen),
            Form::List(list) => visit(&list.items, seen),
            Form::Named(name) => panic!("{name:?} is still a name"),
            _ => {}
        }
    }
    let mut seen = std::collections::HashSet::new();
    for package in roots::PACKAGES {
        for (name, _) in package.types {
            visit(&Node::named(convert::intern(&format!("{}.{name}", package.name))), &mut seen);
        }
    }
    assert!(seen.len() > 500, "{}", seen.len());
}

#[test]
fn lists_of_built_in_types_can_be_had_by_name() {
    let pods = find("io.k8s.api.core.v1.PodList").unwrap();
    let Form::List(list) = &pods.field("items").unwrap().node.form else { panic!("{pods:?}") };
    assert!(matches!(list.items.form, Form::Named(name) if name.as_str() == POD));
    assert!(find("io.k8s.api.core.v1.NothingList").is_none());
    assert!(find("io.k8s.api.core.v1.ResourceClaim").is_some(), "a type within another");
}
