//! What a patch makes of an object: JSON patch, merge patch, strategic merge, server-side apply.
//!
//! Pure functions on JSON values. Never: storage, a clock, a verb. Patches meet the object in the version of
//! the URL, decoded and defaulted; what comes out is decoded strictly, defaulted and validated by the road.

pub mod apply;
pub mod json;
pub mod strategic;

use serde_json::{Map, Value};

use crate::error::{Details, Reason, Status};

/// RFC 7386: objects are merged, null removes, everything else replaces.
#[must_use]
pub fn merge(original: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            let under = merged.remove(key).unwrap_or(Value::Null);
            merged.insert(key.clone(), merge(under, value));
        }
    }
    Value::Object(merged)
}

/// What upstream answers to a patch that is well-formed and cannot be carried out; behind it we say why.
const UNPROCESSABLE: &str = "the server rejected our request due to an error in our request: ";

fn unprocessable(why: impl std::fmt::Display) -> Status {
    Status::new(Reason::Invalid, format!("{UNPROCESSABLE}{why}")).with_details(Details::default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_does_what_rfc_7386_says() {
        for (original, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge(original, &patch), merged);
        }
    }

    /// The merge patch from one value to another that has no nulls.
    fn difference(from: &Value, to: &Value) -> Value {
        let (Value::Object(before), Value::Object(after)) = (from, to) else { return to.clone() };
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
        for (key, value) in after {
            match before.get(key) {
                Some(same) if same == value => {}
                Some(other) => drop(patch.insert(key.clone(), difference(other, value))),
                None => drop(patch.insert(key.clone(), value.clone())),
            }
        }
        Value::Object(patch)
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..9).prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[abc]", value, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn the_difference_of_two_objects_applied_to_one_gives_the_other(
            from in documents(), to in documents(),
        ) {
            prop_assert_eq!(merge(from.clone(), &difference(&from, &to)), to);
        }
    }
}
