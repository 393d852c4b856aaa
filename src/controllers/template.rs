//! Pod templates as identities: are two the same, and a short name for one.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label by which a Deployment tells the pods of its ReplicaSets apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates make the same pods, apart from the label above. Nothing said is the same as an
/// empty list.
#[must_use]
pub fn is_same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|it| it.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        canonical(&template)
    };
    bare(a) == bare(b)
}

/// The value without what says nothing: nulls, empty lists, empty maps.
#[must_use]
pub fn canonical<T: serde::Serialize>(object: &T) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        // An empty struct can mean something (`emptyDir: {}`), a field of a struct that is a map cannot;
        // both are kept, since templates that are compared went through the same defaults.
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| !says_nothing(value));
            for map in ["labels", "annotations", "nodeSelector"] {
                if fields.get(map).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
                {
                    fields.remove(map);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A short name made from what a value says, other for each `collisions`. It stays the same over restarts.
#[must_use]
pub fn hash<T: serde::Serialize>(object: &T, collisions: Option<i32>) -> String {
    let mut bytes = canonical(object).to_string().into_bytes();
    if let Some(count) = collisions {
        bytes.extend_from_slice(&i64::from(count).to_le_bytes());
    }
    // FNV-1a of 32 bits, written without vowels and without digits that look like letters.
    let sum = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let letters = b"bcdfghjklmnpqrstvwxz2456789";
    let digits = sum.to_string();
    digits.bytes().map(|digit| char::from(letters[usize::from(digit) % letters.len()])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(labels: &Value, image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "a", "image": image}], "volumes": []}}))
        .unwrap()
    }

    #[test]
    fn templates_are_the_same_apart_from_their_hash_label() {
        let plain = template(&json!({"app": "web"}), "v1");
        let labelled = template(&json!({"app": "web", "pod-template-hash": "x"}), "v1");
        assert!(is_same(&plain, &labelled));
        assert!(!is_same(&plain, &template(&json!({"app": "web"}), "v2")));
    }

    #[test]
    fn a_hash_differs_by_content_and_by_collisions_and_is_a_valid_label() {
        let one = template(&json!({"app": "web"}), "v1");
        let two = template(&json!({"app": "web"}), "v2");
        assert_eq!(hash(&one, None), hash(&one.clone(), None));
        assert_ne!(hash(&one, None), hash(&two, None));
        assert_ne!(hash(&one, None), hash(&one, Some(1)));
        assert!(hash(&one, None).bytes().all(|letter| letter.is_ascii_alphanumeric()));
    }
}
