//! Label selectors as typed objects carry them, against an object's labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Whether a selector selects these labels. A selector that says nothing selects nothing here: no controller
/// means "everything" by it.
#[must_use]
pub fn selects(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let empty = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    !empty && matches(selector, metadata)
}

/// The same, where a selector that says nothing selects everything.
#[must_use]
pub fn matches(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let equal =
        selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    equal
        && selector.match_expressions.iter().flatten().all(|rule| {
            let found = value(&rule.key);
            let among = || {
                let values = rule.values.as_deref().unwrap_or_default();
                found.is_some_and(|found| values.iter().any(|value| value == found))
            };
            match rule.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn selectors_mean_what_the_api_says() {
        let labelled = |pairs: &[(&str, &str)]| ObjectMeta {
            labels: Some(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            ..ObjectMeta::default()
        };
        let rule = |key: &str, operator: &str, values: &[&str]| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).into()).collect()),
            }]),
            ..LabelSelector::default()
        };
        let object = labelled(&[("app", "web")]);
        assert!(selects(&rule("app", "In", &["web", "db"]), &object));
        assert!(!selects(&rule("app", "NotIn", &["web"]), &object));
        assert!(selects(&rule("tier", "NotIn", &["x"]), &object), "a label that is not there");
        assert!(selects(&rule("tier", "DoesNotExist", &[]), &object));
        assert!(!selects(&LabelSelector::default(), &object), "nothing is said");
        assert!(matches(&LabelSelector::default(), &object));
    }
}
