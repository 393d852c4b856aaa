//! The two ways a body is written: JSON, and YAML within bounds.

use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy};

use super::place::{Context, Place};
use super::{Decoded, Node};

type Json<'de> = serde_json::Deserializer<serde_json::de::SliceRead<'de>>;

pub(super) fn json(
    bytes: &[u8],
    read: impl FnOnce(&mut Json<'_>, &mut Context) -> Result<Option<Value>, serde_json::Error>,
) -> Result<Decoded, String> {
    let mut context = Context::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = read(&mut deserializer, &mut context)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"));
    context.finish(value)
}

pub(super) fn yaml(bytes: &[u8], node: &Node) -> Result<Decoded, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| "error converting YAML to JSON: yaml: invalid UTF-8".to_owned())?;
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        with_snippet: false,
        emit_comments: false,
    };
    let mut context = Context::yaml();
    let read =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
            Place::root(node, &mut context).deserialize(deserializer)
        });
    context.finish(read.map_err(|error| format!("error converting YAML to JSON: yaml: {error}")))
}
