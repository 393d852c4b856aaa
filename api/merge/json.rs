//! JSON patch, RFC 6902: a list of operations, all carried out or none.
//!
//! Bounds: the number of operations; the bytes that `copy` may add, since ten copies of a value into itself are
//! a thousand of it; the depth, since moves can nest what no parser would have read.
//!
//! The texts of errors are those of the library that upstream uses. An index is never negative here.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::unprocessable;
use crate::error::{Reason, Status};

pub const OPERATIONS_MAX: usize = 10_000;
/// Like the body of a request.
pub const COPIED_BYTES_MAX: usize = 3 << 20;
/// Of the result, as of any JSON that is read.
pub const DEPTH_MAX: usize = 128;
/// How deep the document may at most have become before it is measured again.
const DEPTH_UNMEASURED_MAX: usize = 2000;

/// Carries out a patch, given as the bytes of the request.
pub fn apply(original: &Value, patch: &[u8]) -> Result<Value, Status> {
    let operations: Vec<Value> = serde_json::from_slice(patch).map_err(undecodable)?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    let mut document = original.clone();
    let mut copied = 0;
    let mut depth_at_most = depth(&document);
    for operation in operations {
        let operation: PatchOperation = serde_json::from_value(operation).map_err(undecodable)?;
        if let PatchOperation::Copy(copy) = &operation {
            let size = document.pointer(copy.from.as_str()).map_or(0, |it| it.to_string().len());
            copied += size;
            if copied > COPIED_BYTES_MAX {
                return Err(unprocessable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is \
                     {copied}, exceeding the limit {COPIED_BYTES_MAX}"
                )));
            }
        }
        // One at a time: the document is our own copy, so nothing need be undone.
        json_patch::patch_unsafe(&mut document, std::slice::from_ref(&operation))
            .map_err(|error| unprocessable(told(&operation, &error.kind)))?;
        let added = match &operation {
            PatchOperation::Add(add) => depth(&add.value),
            PatchOperation::Replace(replace) => depth(&replace.value),
            _ => 0,
        };
        depth_at_most += operation.path().tokens().count() + added;
        if depth_at_most > DEPTH_UNMEASURED_MAX {
            depth_at_most = measured(&document)?;
        }
    }
    measured(&document)?;
    Ok(document)
}

fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Object(map) => map.values().map(depth).max(),
        Value::Array(list) => list.iter().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

fn measured(document: &Value) -> Result<usize, Status> {
    let depth = depth(document);
    if depth > DEPTH_MAX {
        return Err(unprocessable(format!("the patched object is nested deeper than {DEPTH_MAX}")));
    }
    Ok(depth)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape `map_err` asks for")]
fn undecodable(error: serde_json::Error) -> Status {
    Status::bad_request(format!("error decoding patch: {error}"))
}

fn told(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    match (operation, kind) {
        (_, PatchErrorKind::TestFailed) | (PatchOperation::Test(_), _) => {
            format!("testing value {path} failed: test failed")
        }
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Remove(_), _) => format!(
            "remove operation does not apply: doc is missing path: \"{path}\": missing value"
        ),
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (PatchOperation::Move(it), PatchErrorKind::InvalidFromPointer) => format!(
            "move operation does not apply: doc is missing from path: {}: missing value",
            it.from
        ),
        (PatchOperation::Copy(it), PatchErrorKind::InvalidFromPointer) => format!(
            "copy operation does not apply: doc is missing from path: {}: missing value",
            it.from
        ),
        (PatchOperation::Move(_), PatchErrorKind::CannotMoveInsideItself) => {
            format!("move operation does not apply: {path} is inside of what is moved")
        }
        (PatchOperation::Move(_), _) => format!(
            "move operation does not apply: doc is missing destination path: {path}: missing value"
        ),
        (PatchOperation::Copy(_), _) => format!(
            "copy operation does not apply: doc is missing destination path: {path}: missing value"
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::merge::UNPROCESSABLE;

    fn patched(original: &Value, patch: &Value) -> Result<Value, (u16, String)> {
        apply(original, patch.to_string().as_bytes())
            .map_err(|status| (status.code(), status.message().replace(UNPROCESSABLE, "")))
    }

    #[test]
    fn operations_are_carried_out_in_their_order() {
        let original = json!({"spec": {"replicas": 1, "list": ["a", "b"]}});
        let patch = json!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/list/-", "value": "c"},
            {"op": "remove", "path": "/spec/list/0"},
            {"op": "add", "path": "/metadata", "value": {"annotations": {"a/b": "x"}}},
            {"op": "copy", "from": "/metadata/annotations/a~1b", "path": "/spec/copied"},
            {"op": "move", "from": "/spec/list", "path": "/spec/moved"},
        ]);
        assert_eq!(
            patched(&original, &patch),
            Ok(json!({"metadata": {"annotations": {"a/b": "x"}},
                      "spec": {"replicas": 3, "copied": "x", "moved": ["b", "c"]}}))
        );
    }

    #[test]
    fn a_patch_that_cannot_be_read_is_400_and_one_that_does_not_apply_is_422() {
        let original = json!({"a": {"b": 1}});
        let told = |patch: Value| patched(&original, &patch).unwrap_err();
        assert_eq!(told(json!({"op": "add"})).0, 400);
        assert_eq!(told(json!([{"op": "paint", "path": "/a"}])).0, 400);
        assert_eq!(
            told(json!([{"op": "test", "path": "/a/b", "value": 2}])),
            (422, "testing value /a/b failed: test failed".into())
        );
        assert_eq!(
            told(json!([{"op": "remove", "path": "/x/y"}])),
            (
                422,
                "remove operation does not apply: doc is missing path: \"/x/y\": missing value"
                    .into()
            )
        );
        assert_eq!(told(json!([{"op": "add", "path": "/x/y", "value": 1}])).0, 422);
        assert_eq!(told(json!([{"op": "replace", "path": "/x", "value": 1}])).0, 422);
        assert_eq!(told(json!([{"op": "move", "from": "/x", "path": "/a"}])).0, 422);
    }

    #[test]
    fn operations_and_what_they_copy_are_bounded() {
        let many = vec![json!({"op": "test", "path": "", "value": 1}); OPERATIONS_MAX + 1];
        assert_eq!(patched(&json!(1), &many.into()).unwrap_err().0, 413);

        let text = "x".repeat(1000);
        let mut doubling = vec![json!({"op": "add", "path": "/a", "value": [text]})];
        doubling.extend((0..100).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let (code, message) = patched(&json!({}), &doubling.into()).unwrap_err();
        assert_eq!(code, 422);
        assert!(message.contains("exceeding the limit"), "{message}");
    }

    #[test]
    fn moves_cannot_nest_deeper_than_a_parser_would() {
        let deeper = json!([
            {"op": "move", "from": "/a", "path": "/t"},
            {"op": "add", "path": "/a", "value": {}},
            {"op": "move", "from": "/t", "path": "/a/n"},
        ]);
        let nest = |times| -> Value {
            (0..times).flat_map(|_| deeper.as_array().unwrap().clone()).collect()
        };
        assert!(patched(&json!({"a": {}}), &nest(100)).is_ok());
        let (code, message) = patched(&json!({"a": {}}), &nest(3000)).unwrap_err();
        assert_eq!((code, message.as_str()), (422, "the patched object is nested deeper than 128"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_carried_out_or_refused(patch: Vec<u8>) {
            let refused = apply(&json!({"a": [1]}), &patch).is_err();
            prop_assert!(refused || patch.contains(&b'['));
        }

        #[test]
        fn any_operations_are_carried_out_or_refused(
            operations in prop::collection::vec(
                ("add|remove|replace|move|copy|test", "(/[ab0-]){0,3}", "(/[ab0-]){0,3}"), 0..6),
        ) {
            let patch: Vec<Value> = operations
                .into_iter()
                .map(|(op, path, from)| {
                    json!({"op": op, "path": path, "from": from, "value": {"a": []}})
                })
                .collect();
            let original = json!({"a": {"b": [1, 2]}, "b": [{"a": 1}]});
            let _ = patched(&original, &patch.into());
        }
    }
}
