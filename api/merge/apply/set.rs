//! Sets of fields: which manager has what. Read and written as `FieldsV1`.
//!
//! ```text
//! {"f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}}
//!  f:NAME a field   k:{…} an element by its keys   v:… an element by its value   i:N one by its place
//!  "." or an empty object: the path itself is in the set; else only what is below
//! ```
//!
//! Keys and values are kept as compact JSON with sorted names, so that equal elements are equal text.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    Field(String),
    Key(String),
    Value(String),
    Index(i64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Element, Branch>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    member: bool,
    below: Set,
}

/// From the root to a field, printed as upstream does: `.spec.containers[name="a"].image`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Element>);

impl Set {
    /// The root itself is never a member.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        // Most of the way is there already, and is not made again to be found.
        let branch = match self.0.get_mut(first) {
            Some(branch) => branch,
            None => self.0.entry(first.clone()).or_default(),
        };
        match rest {
            [] => branch.member = true,
            rest => branch.below.insert(rest),
        }
    }

    #[must_use]
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.has_element(last),
            [first, rest @ ..] => self.below(first).is_some_and(|below| below.has(rest)),
        }
    }

    #[must_use]
    pub fn has_element(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|branch| branch.member)
    }

    /// What is below an element, if there is anything.
    #[must_use]
    pub fn below(&self, element: &Element) -> Option<&Set> {
        self.0.get(element).map(|branch| &branch.below).filter(|below| !below.is_empty())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|branch| !branch.member && branch.below.is_empty())
    }

    /// Takes in the paths of the other.
    pub fn add(&mut self, other: Set) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for (element, branch) in other.0 {
            let into = self.0.entry(element).or_default();
            into.member |= branch.member;
            into.below.add(branch.below);
        }
    }

    /// Lets go of the paths of the other, each for itself: what is below a path is not that path.
    pub fn subtract(&mut self, other: &Set) {
        for (element, theirs) in &other.0 {
            let Some(mine) = self.0.get_mut(element) else { continue };
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            if !mine.member && mine.below.0.is_empty() {
                self.0.remove(element);
            }
        }
    }

    #[must_use]
    pub fn union(&self, other: &Set) -> Set {
        let mut both = self.clone();
        both.add(other.clone());
        both
    }

    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut result = BTreeMap::new();
        for (element, mine) in &self.0 {
            let Some(theirs) = other.0.get(element) else { continue };
            let branch = Branch {
                member: mine.member && theirs.member,
                below: mine.below.intersection(&theirs.below),
            };
            if branch.member || !branch.below.0.is_empty() {
                result.insert(element.clone(), branch);
            }
        }
        Set(result)
    }

    /// [`Set::subtract`], of a copy.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// Without a path and all that is below it.
    pub fn remove_tree(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => drop(self.0.remove(last)),
            [first, rest @ ..] => {
                if let Some(branch) = self.0.get_mut(first) {
                    branch.below.remove_tree(rest);
                    if !branch.member && branch.below.0.is_empty() {
                        self.0.remove(first);
                    }
                }
            }
        }
    }

    /// Each element, whether its own path is in the set, and what is below; both can be changed, as long as
    /// something is left.
    pub fn branches_mut(&mut self) -> impl Iterator<Item = (&Element, &mut bool, &mut Set)> {
        self.0.iter_mut().map(|(element, branch)| (element, &mut branch.member, &mut branch.below))
    }

    /// Each element, whether its own path is in the set, and what is below.
    pub fn branches(&self) -> impl Iterator<Item = (&Element, bool, &Set)> {
        self.0.iter().map(|(element, branch)| (element, branch.member, &branch.below))
    }

    /// From branches as [`Set::branches`] gives them; those that hold nothing are left out.
    pub fn from_branches(branches: impl Iterator<Item = (Element, bool, Set)>) -> Set {
        Set(branches
            .filter(|(_, member, below)| *member || !below.0.is_empty())
            .map(|(element, member, below)| (element, Branch { member, below }))
            .collect())
    }

    /// All paths; at each level first those that end there.
    #[must_use]
    pub fn paths(&self) -> Vec<Path> {
        fn walk(set: &Set, prefix: &mut Vec<Element>, into: &mut Vec<Path>) {
            for (element, branch) in &set.0 {
                if branch.member {
                    into.push(Path([prefix.as_slice(), std::slice::from_ref(element)].concat()));
                }
            }
            for (element, branch) in &set.0 {
                prefix.push(element.clone());
                walk(&branch.below, prefix, into);
                prefix.pop();
            }
        }
        let mut paths = Vec::new();
        walk(self, &mut Vec::new(), &mut paths);
        paths
    }

    #[must_use]
    pub fn to_fields(&self) -> Value {
        let entries = self.0.iter().map(|(element, branch)| {
            let mut below = match branch.below.to_fields() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if branch.member && !below.is_empty() {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            (element.to_key(), Value::Object(below))
        });
        Value::Object(entries.collect())
    }

    /// Elements of a kind that is not known are passed over, as a later release may have them.
    pub fn from_fields(fields: &Value) -> Result<Set, String> {
        let Value::Object(fields) = fields else {
            return Err("a set of fields is a JSON object".into());
        };
        let mut set = Set::default();
        for (key, value) in fields.iter().filter(|(key, _)| *key != ".") {
            let Some(element) = Element::from_key(key)? else { continue };
            let below = Set::from_fields(value)?;
            let member = below.0.is_empty() || value.get(".").is_some();
            set.0.insert(element, Branch { member, below });
        }
        Ok(set)
    }
}

impl Element {
    #[must_use]
    pub fn field(name: &str) -> Element {
        Element::Field(name.into())
    }

    /// An element by the fields that tell it apart.
    #[must_use]
    pub fn key(keys: &BTreeMap<&str, &Value>) -> Element {
        let fields = keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).clone()));
        Element::Key(canonical(&Value::Object(fields.collect())))
    }

    #[must_use]
    pub fn value(value: &Value) -> Element {
        Element::Value(canonical(value))
    }

    fn to_key(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(text) => format!("k:{text}"),
            Element::Value(text) => format!("v:{text}"),
            Element::Index(at) => format!("i:{at}"),
        }
    }

    fn from_key(key: &str) -> Result<Option<Element>, String> {
        let (kind, rest) = key.split_once(':').ok_or_else(|| format!("missing colon: {key}"))?;
        let parsed = |text: &str| {
            serde_json::from_str(text).map_err(|why| format!("cannot read {key}: {why}"))
        };
        Ok(Some(match kind {
            "f" => Element::Field(rest.into()),
            "k" => match parsed(rest)? {
                keys @ Value::Object(_) => Element::Key(canonical(&keys)),
                _ => return Err(format!("cannot read {key}: not an object")),
            },
            "v" => Element::Value(canonical(&parsed(rest)?)),
            "i" => Element::Index(rest.parse().map_err(|_| format!("cannot read {key}"))?),
            _ => return Ok(None),
        }))
    }
}

/// Compact JSON, names sorted, whole numbers without a fraction.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries = entries
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9.0e15 => {
                (float as i64).to_string()
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(text) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_default();
                let keys = keys.iter().map(|(name, value)| format!("{name}={value}"));
                write!(f, "[{}]", keys.collect::<Vec<_>>().join(","))
            }
            Element::Value(text) => write!(f, "[={text}]"),
            Element::Index(at) => write!(f, "[{at}]"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| element.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sets() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            "[abc]".prop_map(Element::Field),
            "[ab]".prop_map(|name| Element::key(&BTreeMap::from([("name", &Value::from(name))]))),
            (0..3).prop_map(|value| Element::value(&Value::from(value))),
            (0..3i64).prop_map(Element::Index),
        ];
        prop::collection::vec(prop::collection::vec(element, 1..4), 0..8).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #[test]
        fn a_set_is_read_as_it_was_written(set in sets()) {
            prop_assert_eq!(Set::from_fields(&set.to_fields()), Ok(set));
        }

        #[test]
        fn sets_obey_the_laws_of_sets(a in sets(), b in sets()) {
            let common = a.intersection(&b);
            prop_assert_eq!(&a.union(&b), &b.union(&a));
            prop_assert_eq!(&common, &b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&common), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            for path in a.paths() {
                prop_assert!(a.union(&b).has(&path.0));
                prop_assert_eq!(common.has(&path.0), b.has(&path.0));
            }
        }

        #[test]
        fn any_fields_are_read_or_refused(
            keys in prop::collection::vec("[fkvix.]:?[a{}0:\"]{0,5}", 0..5),
        ) {
            let fields: Map<String, Value> = keys.into_iter().map(|key| (key, json!({}))).collect();
            let _ = Set::from_fields(&Value::Object(fields));
        }
    }

    #[test]
    fn paths_are_printed_as_upstream_does() {
        let fields = json!({"f:spec": {
            "f:containers": {
                "k:{\"protocol\":\"TCP\",\"containerPort\":80.0}": {".": {}, "f:image": {}},
            },
            "f:finalizers": {"v:\"x\"": {}},
            "x:later": {},
        }});
        let paths = Set::from_fields(&fields).unwrap().paths();
        let paths: Vec<String> = paths.iter().map(Path::to_string).collect();
        assert_eq!(
            paths,
            [
                ".spec.containers[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[containerPort=80,protocol=\"TCP\"].image",
                ".spec.finalizers[=\"x\"]",
            ]
        );
    }
}
