//! What has to be done about an object, given what is there. Pure.

use serde_json::{Map, Value, json};

use crate::auth::rbac::escalation::uncovered;
use crate::live::rbac::Rule as Permission;

/// How an object is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Made if it is missing, and then left alone.
    Once,
    /// A default role or binding: what is missing is added, nothing is taken away; one that says so is left
    /// alone.
    Rbac,
    /// Flow control that everything depends on: always as it should be.
    Mandatory,
    /// Flow control that is only suggested: mended until an administrator changes it.
    Suggested,
    /// The fields that are wanted are as wanted; others may be there.
    Fields,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    Create(Value),
    Update(Value),
    /// Cannot be mended: to be deleted, and made anew.
    Replace,
}

const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const FLOW_AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

pub(super) fn step(there: Option<&Value>, wanted: &Value, rule: Rule) -> Step {
    let Some(there) = there else { return Step::Create(wanted.clone()) };
    if there["metadata"]["deletionTimestamp"].is_string() {
        return Step::Nothing;
    }
    let mut next = there.clone();
    match rule {
        Rule::Once => {}
        Rule::Rbac => {
            if there["metadata"]["annotations"][RBAC_AUTOUPDATE] == "false" {
                return Step::Nothing;
            }
            if !wanted["roleRef"].is_null() && !contains(&there["roleRef"], &wanted["roleRef"]) {
                return Step::Replace;
            }
            add_permissions(&mut next, wanted);
            add_items(&mut next, wanted, &["subjects"]);
            add_items(&mut next, wanted, &["aggregationRule", "clusterRoleSelectors"]);
            merge_metadata(&mut next, wanted);
        }
        Rule::Mandatory => mend_flow(&mut next, wanted),
        Rule::Suggested => {
            let annotation = there["metadata"]["annotations"][FLOW_AUTOUPDATE].as_str();
            let untouched = there["metadata"]["generation"].as_i64().unwrap_or(1) == 1;
            if annotation.map_or(untouched, |value| value == "true") {
                mend_flow(&mut next, wanted);
            }
        }
        Rule::Fields => overlay(&mut next, wanted),
    }
    if next == *there { Step::Nothing } else { Step::Update(next) }
}

fn merge_metadata(next: &mut Value, wanted: &Value) {
    for field in ["annotations", "labels"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if next["metadata"][field][key].is_null() {
                next["metadata"][field][key] = value.clone();
            }
        }
    }
}

/// Adds what the rules of the wanted role allow and those of this one do not.
fn add_permissions(next: &mut Value, wanted: &Value) {
    let missing = uncovered(&Permission::read_all(next), &Permission::read_all(wanted));
    let rule = |rule: Permission| {
        let mut value = Map::new();
        for (field, list) in [
            ("apiGroups", &rule.groups),
            ("nonResourceURLs", &rule.urls),
            ("resourceNames", &rule.names),
            ("resources", &rule.resources),
            ("verbs", &rule.verbs),
        ] {
            if !list.is_empty() {
                value.insert(field.into(), json!(list));
            }
        }
        Value::Object(value)
    };
    for missing in missing {
        push(&mut next["rules"], rule(missing));
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// Adds what is wanted of a list and not in it.
fn add_items(next: &mut Value, wanted: &Value, path: &[&str]) {
    let of = |object: &Value| path.iter().fold(object.clone(), |at, field| at[*field].clone());
    let there = of(next);
    let there = there.as_array().map_or(&[][..], Vec::as_slice);
    for item in of(wanted).as_array().into_iter().flatten() {
        if !there.iter().any(|it| it == item) {
            let list = path.iter().fold(&mut *next, |at, field| &mut at[*field]);
            push(list, item.clone());
        }
    }
}

fn mend_flow(next: &mut Value, wanted: &Value) {
    if !contains(&next["spec"], &wanted["spec"]) {
        next["spec"] = wanted["spec"].clone();
    }
    next["metadata"]["annotations"][FLOW_AUTOUPDATE] = "true".into();
}

/// Whether everything of `wanted` is there alike. Fields that the server fills in may be there beside.
fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(field, value)| contains(there.get(field).unwrap_or(&Value::Null), value)),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(a, b)| contains(a, b))
        }
        _ => there == wanted,
    }
}

/// Sets each field of `wanted`. A list is one value, and stays if it says what is wanted.
fn overlay(next: &mut Value, wanted: &Value) {
    match (&mut *next, wanted) {
        (Value::Object(next), Value::Object(wanted)) => {
            for (field, value) in wanted {
                overlay(next.entry(field).or_insert(Value::Null), value);
            }
        }
        (there, wanted) if !contains(there, wanted) => *next = wanted.clone(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r", "labels": {"l": "1"}}, "rules": rules})
    }

    fn rule(verbs: Value) -> Value {
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs})
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_is_left() {
        let wanted = role(json!([rule(json!(["get"]))]));
        assert_eq!(step(None, &wanted, Rule::Once), Step::Create(wanted.clone()));
        assert_eq!(step(Some(&json!({"metadata": {}})), &wanted, Rule::Once), Step::Nothing);
        assert_eq!(step(Some(&wanted), &wanted, Rule::Rbac), Step::Nothing);
    }

    #[test]
    fn a_role_gets_what_it_lacks_and_keeps_what_it_has() {
        let wanted = role(json!([rule(json!(["get", "list"]))]));
        let there = role(json!([rule(json!(["get", "delete"]))]));
        let Step::Update(next) = step(Some(&there), &wanted, Rule::Rbac) else { panic!() };
        assert_eq!(next["rules"], json!([rule(json!(["get", "delete"])), rule(json!(["list"]))]));
        let mut own = there.clone();
        own["metadata"]["annotations"] = json!({(RBAC_AUTOUPDATE): "false"});
        assert_eq!(step(Some(&own), &wanted, Rule::Rbac), Step::Nothing);
    }

    #[test]
    fn a_binding_gets_its_subjects_and_is_replaced_if_it_binds_another_role() {
        let binding = |role: &str, subjects: Value| {
            let role = json!({ "name": role });
            json!({"metadata": {"name": "b"}, "roleRef": role, "subjects": subjects})
        };
        let wanted = binding("r", json!([{"name": "a"}]));
        let there = binding("r", json!([{"name": "b"}]));
        let Step::Update(next) = step(Some(&there), &wanted, Rule::Rbac) else { panic!() };
        assert_eq!(next["subjects"], json!([{"name": "b"}, {"name": "a"}]));
        assert_eq!(step(Some(&binding("other", json!([]))), &wanted, Rule::Rbac), Step::Replace);
    }

    #[test]
    fn flow_control_is_mended_until_someone_takes_it_over() {
        let flow = |level: &str, annotation: &str, filled_in: Value| {
            json!({
                "metadata": {"annotations": {(FLOW_AUTOUPDATE): annotation}},
                "spec": {"level": level, "more": filled_in},
            })
        };
        let wanted = json!({"spec": {"level": "a"}});
        let is = |there: &Value, rule| step(Some(there), &wanted, rule) == Step::Nothing;
        assert!(is(&flow("a", "true", json!(1)), Rule::Suggested), "defaults are no difference");
        assert!(!is(&flow("b", "true", Value::Null), Rule::Suggested));
        assert!(is(&flow("b", "false", Value::Null), Rule::Suggested));
        assert!(!is(&flow("b", "false", Value::Null), Rule::Mandatory));
    }

    #[test]
    fn fields_are_set_and_others_stay() {
        let there = json!({"data": {"a": "1", "b": "2"}});
        let wanted = json!({"data": {"a": "3"}});
        let Step::Update(next) = step(Some(&there), &wanted, Rule::Fields) else { panic!() };
        assert_eq!(next, json!({"data": {"a": "3", "b": "2"}}));
    }
}
