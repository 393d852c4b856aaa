//! Rows that come and go while others look them up.

use super::*;

/// A row of a made-up group: a copy of the built-in lease's under another name.
fn widget(version: &str) -> Kind {
    let group: Arc<str> = "example.com".into();
    Kind {
        group: group.clone(),
        version: version.into(),
        resource: "widgets".into(),
        kind: "Widget".into(),
        custom: true,
        ..builtin::kinds().into_iter().find(|kind| kind.kind.as_ref() == "Lease").unwrap()
    }
}

#[test]
fn a_row_is_found_by_resource_and_by_kind() {
    let registry = Registry::builtin();
    let pods = registry.find("", "v1", "pods").unwrap();
    assert_eq!(pods.kind.as_ref(), "Pod");
    let scaler = GroupVersionKind::new("autoscaling", "v1", "HorizontalPodAutoscaler");
    assert_eq!(registry.by_gvk(&scaler).unwrap().stored.version.as_ref(), "v2");
    assert!(registry.find("", "v1", "pod").is_none());
    assert!(registry.find("apps", "v2", "deployments").is_none());
}

#[test]
fn groups_are_in_discoverys_order_and_the_best_version_is_preferred() {
    let registry = Registry::builtin();
    registry.put(vec![widget("v1beta1"), widget("v1")]);
    let snapshot = registry.snapshot();
    let names: Vec<&str> = snapshot.groups().iter().map(|group| group.name.as_ref()).collect();
    assert_eq!(names[..4], ["apiregistration.k8s.io", "", "apps", "events.k8s.io"]);
    assert_eq!(names.last(), Some(&"example.com"));
    let preferred = snapshot.preferred("autoscaling", "horizontalpodautoscalers").unwrap();
    assert_eq!(preferred.version.as_ref(), "v2");
    assert_eq!(snapshot.preferred_kind("example.com", "Widget").unwrap().version.as_ref(), "v1");
}

#[test]
fn rows_come_and_go_and_each_change_is_counted() {
    let registry = Registry::builtin();
    assert_eq!(registry.changes(), 0);
    registry.put(vec![widget("v1")]);
    assert_eq!(registry.changes(), 1);
    let held = registry.find("example.com", "v1", "widgets").unwrap();
    registry.put(vec![Kind { namespaced: false, ..widget("v1") }]);
    assert!(!registry.find("example.com", "v1", "widgets").unwrap().namespaced, "replaced");
    assert!(held.namespaced, "who holds a row keeps it");
    registry.replace(|kind| kind.custom, vec![widget("v2")]);
    assert!(registry.find("example.com", "v1", "widgets").is_none());
    assert!(registry.find("example.com", "v2", "widgets").is_some());
    registry.remove(|kind| kind.custom);
    assert_eq!(registry.changes(), 4);
    registry.remove(|kind| kind.custom);
    assert_eq!(registry.changes(), 4, "nothing was there to remove");
    assert!(registry.snapshot().group("example.com").is_none());
}
