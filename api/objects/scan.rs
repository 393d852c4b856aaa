//! Looks into the bytes of an object at rest without decoding them.
//!
//! A list that selects one object in a hundred, or shows nothing but metadata, has no use for the rest; to
//! pass over bytes costs a tenth of making values of them.
//!
//! Keeps: what is found is what decoding would have given. Bytes at rest are JSON as this server writes it,
//! without a space between its parts.
//! Never: panics on other bytes, nor finds anything in them that is not there.

/// The bytes of a value, by the names on the way to it; `None` where it is not there.
#[must_use]
pub fn find<'a, 'n>(object: &'a [u8], path: impl IntoIterator<Item = &'n str>) -> Option<&'a [u8]> {
    path.into_iter().try_fold(object, member)
}

fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if object.first() != Some(&b'{') {
        return None;
    }
    let mut at = 1;
    loop {
        let colon = string_end(object, at)?;
        if object.get(colon) != Some(&b':') {
            return None;
        }
        let end = value_end(object, colon + 1)?;
        if object.get(at + 1..colon - 1) == Some(name.as_bytes()) {
            return object.get(colon + 1..end);
        }
        if object.get(end) != Some(&b',') {
            return None;
        }
        at = end + 1;
    }
}

/// Where the string that begins at `from` is over.
fn string_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.get(from) != Some(&b'"') {
        return None;
    }
    let mut at = from + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            // Whatever comes behind it is no end.
            _ => at += 2,
        }
    }
}

/// Where the value that begins at `from` is over.
#[must_use]
pub fn value_end(bytes: &[u8], from: usize) -> Option<usize> {
    match bytes.get(from)? {
        b'"' => string_end(bytes, from),
        b'{' | b'[' => {
            let (mut at, mut depth) = (from, 0_usize);
            loop {
                match bytes.get(at)? {
                    b'"' => at = string_end(bytes, at)?,
                    b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
                    b'}' | b']' if depth == 1 => return Some(at + 1),
                    b'}' | b']' => (at, depth) = (at + 1, depth - 1),
                    _ => at += 1,
                }
            }
        }
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']');
            let rest = bytes.get(from..)?;
            Some(from + rest.iter().position(ends).unwrap_or(rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\{}\\[\\]:, é\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4).prop_map(|map| {
                    Value::Object(map.into_iter().collect::<Map<String, Value>>())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_decoding_gives(
            value in values(),
            path in prop::collection::vec("[a-c]{1,2}", 0..4),
        ) {
            let bytes = serde_json::to_vec(&value).unwrap();
            let names = || path.iter().map(String::as_str);
            let decoded = names().try_fold(&value, |value, name| value.get(name));
            let found = find(&bytes, names());
            let found = found.map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap());
            prop_assert_eq!(found.as_ref(), decoded);
        }

        #[test]
        fn bytes_that_are_no_json_end_nothing(
            bytes in prop::collection::vec(
                prop::sample::select(b"{}[]\",:\\ab1".to_vec()), 0..24),
        ) {
            let _ = find(&bytes, ["a", "b"]);
            if let Some(end) = value_end(&bytes, 0) {
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
