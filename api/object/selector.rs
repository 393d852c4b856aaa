//! Which objects are meant: selectors of labels and of fields.
//!
//! Keeps: a selector that was read matches without failing. An empty one matches everything.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::meta;

/// A selector of labels: every requirement has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let there = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let compared = |holds: fn(i64, i64) -> bool| {
            let there = there.and_then(|it| it.parse().ok());
            let wanted = self.values.first().and_then(|it| it.parse().ok());
            there.zip(wanted).is_some_and(|(there, wanted)| holds(there, wanted))
        };
        match self.operator {
            Operator::In => there.is_some_and(|it| self.values.contains(it)),
            Operator::NotIn => there.is_none_or(|it| !self.values.contains(it)),
            Operator::Exists => there.is_some(),
            Operator::DoesNotExist => there.is_none(),
            Operator::GreaterThan => compared(|there, wanted| there > wanted),
            Operator::LessThan => compared(|there, wanted| there < wanted),
        }
    }
}

impl Labels {
    /// Reads the text form: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Labels, String> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let requirements = parser.requirements()?;
        for requirement in &requirements {
            check(requirement)?;
        }
        Ok(Labels(requirements))
    }

    /// Reads a `metav1.LabelSelector`. Absent selects nothing (`None`), empty everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Option<Labels>, String> {
        let Some(selector) = selector.filter(|it| !it.is_null()) else {
            return Ok(None);
        };
        let mut requirements = Labels::from_map(selector.get("matchLabels")).0;
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let operator = match meta::text(expression, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            let values = expression.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(Value::as_str);
            let requirement = Requirement {
                key: meta::text(expression, &["key"]).into(),
                operator,
                values: values.map(str::to_owned).collect(),
            };
            check(&requirement)?;
            requirements.push(requirement);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(Labels(requirements)))
    }

    /// Every label of the map with its value (the selector of a Service or a ReplicationController).
    #[must_use]
    pub fn from_map(labels: Option<&Value>) -> Labels {
        let labels = labels.and_then(Value::as_object).into_iter().flatten();
        let one = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: value.as_str().map(str::to_owned).into_iter().collect(),
        };
        Labels(labels.map(one).collect())
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

/// Printed as `Scale.status.selector` and messages have it.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, requirement) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = self;
        let first = values.first().map(String::as_str).unwrap_or_default();
        let all = || values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match operator {
            Operator::In if values.len() == 1 => write!(f, "{key}={first}"),
            Operator::In => write!(f, "{key} in ({})", all()),
            Operator::NotIn if values.len() == 1 => write!(f, "{key}!={first}"),
            Operator::NotIn => write!(f, "{key} notin ({})", all()),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

/// What can be said of a requirement by itself.
fn check(requirement: &Requirement) -> Result<(), String> {
    let Requirement { key, operator, values } = requirement;
    if let Some(why) = bad_key(key) {
        return Err(format!("key: Invalid value: \"{key}\": {why}"));
    }
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                .into())
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            Err("values: Invalid value: values set must be empty for exists and does not exist"
                .into())
        }
        Operator::GreaterThan | Operator::LessThan
            if values.first().is_none_or(|it| it.parse::<i64>().is_err()) =>
        {
            Err("values[0]: Invalid value: for 'Gt', 'Lt' operators, the value must be an integer"
                .into())
        }
        _ => values.iter().try_for_each(|value| match bad_label_value(value) {
            Some(why) => Err(format!("values[0][{key}]: Invalid value: \"{value}\": {why}")),
            None => Ok(()),
        }),
    }
}

/// Why a text cannot be the key of a label or annotation; `None` where it can.
#[must_use]
pub fn bad_key(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".into());
        }
        if let Some(why) = super::names::bad_subdomain(prefix) {
            return Some(format!("prefix part {why}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes".into());
    }
    (!is_qualified(name)).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
         end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
         used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            .into()
    })
}

/// Why a text cannot be the value of a label; `None` where it can.
#[must_use]
pub fn bad_label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!value.is_empty() && !is_qualified(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
         '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            .into()
    })
}

fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// The pieces of a selector's text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
}

fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let ends = |c: char| c.is_whitespace() || "=!(),><".contains(c);
            let end = rest.find(ends).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].into()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        if self.tokens.is_empty() {
            return Ok(found);
        }
        loop {
            found.push(self.requirement()?);
            match self.next() {
                None => break,
                Some(Token::Sign(",")) if self.at < self.tokens.len() => {}
                Some(Token::Sign(",")) => {
                    return Err(refused("found '', expected: identifier after ','"));
                }
                Some(other) => {
                    return Err(refused(&format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.shown()
                    )));
                }
            }
        }
        found.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.take("!");
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            other => {
                let shown = other.map(|it| it.shown()).unwrap_or_default();
                return Err(refused(&format!("found '{shown}', expected: identifier")));
            }
        };
        let one =
            |operator, values: BTreeSet<String>| Requirement { key: key.clone(), operator, values };
        let is_end = matches!(self.tokens.get(self.at), None | Some(Token::Sign(",")));
        if absent || is_end {
            let operator = if absent { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(one(operator, BTreeSet::new()));
        }
        match self.next() {
            Some(Token::Sign("=" | "==")) => Ok(one(Operator::In, [self.value()].into())),
            Some(Token::Sign("!=")) => Ok(one(Operator::NotIn, [self.value()].into())),
            Some(Token::Sign(">")) => Ok(one(Operator::GreaterThan, [self.value()].into())),
            Some(Token::Sign("<")) => Ok(one(Operator::LessThan, [self.value()].into())),
            Some(Token::Word(word)) if word == "in" => Ok(one(Operator::In, self.values()?)),
            Some(Token::Word(word)) if word == "notin" => Ok(one(Operator::NotIn, self.values()?)),
            other => {
                let shown = other.map(|it| it.shown()).unwrap_or_default();
                Err(refused(&format!("found '{shown}', expected: in, notin, =, ==, !=, gt, lt")))
            }
        }
    }

    /// The value behind a sign; an empty one where there is none.
    fn value(&mut self) -> String {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                word.clone()
            }
            _ => String::new(),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        if !self.take("(") {
            let shown = self.next().map(|it| it.shown()).unwrap_or_default();
            return Err(refused(&format!("found '{shown}', expected: '('")));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value());
            match self.next() {
                Some(Token::Sign(",")) => {}
                Some(Token::Sign(")")) => return Ok(values),
                other => {
                    let shown = other.map(|it| it.shown()).unwrap_or_default();
                    return Err(refused(&format!("found '{shown}', expected: ',', or ')'")));
                }
            }
        }
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = matches!(self.tokens.get(self.at), Some(Token::Sign(it)) if *it == sign);
        self.at += usize::from(there);
        there
    }
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Word(word) => word.clone(),
            Token::Sign(sign) => (*sign).into(),
        }
    }
}

fn refused(why: &str) -> String {
    format!("unable to parse requirement: {why}")
}

/// A selector of fields: every term has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub equal: bool,
    pub value: String,
}

impl Fields {
    /// Reads `a=b,c!=d`; `\` escapes a comma, an equals sign and itself.
    pub fn parse(text: &str) -> Result<Fields, String> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let bytes = term.as_bytes();
            let mut signs = term.char_indices().filter(|(at, sign)| {
                (*sign == '=' || term[*at..].starts_with("!=")) && !is_escaped(bytes, *at)
            });
            let wrong = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let (at, _) = signs.next().ok_or_else(wrong)?;
            let (field, rest) = term.split_at(at);
            let (equal, value) = match rest {
                rest if rest.starts_with("!=") => (false, &rest[2..]),
                rest if rest.starts_with("==") => (true, &rest[2..]),
                rest => (true, &rest[1..]),
            };
            let value = unescape(value).ok_or_else(|| {
                format!("invalid field selector: unescaped character in value {value}")
            })?;
            terms.push(Term { field: field.into(), equal, value });
        }
        Ok(Fields(terms))
    }

    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Where in an object the fields are that it asks about.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|it| [Some(path_of(&it.field)), otherwise(&it.field)]).flatten()
    }

    /// The one value that `field` must have, if the selector says so.
    #[must_use]
    pub fn exactly(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|it| it.equal && it.field == field).map(|it| it.value.as_str())
    }

    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|term| (field(object, &term.field) == term.value.as_str()) == term.equal)
    }
}

/// Fields that are selected by another name than they have.
const ALIASES: [(&str, &str); 3] = [
    ("spec.host", "spec.nodeName"),
    ("source", "source.component"),
    ("status.successful", "status.succeeded"),
];

/// Fields that another stands for when they are absent.
const OTHERWISE: [(&str, &str); 1] = [("source", "reportingComponent")];

/// Fields that are not text, with what they are when they are absent.
const ABSENT: [(&str, &str); 4] = [
    ("spec.hostNetwork", "false"),
    ("spec.unschedulable", "false"),
    ("status.replicas", "0"),
    ("status.successful", "0"),
];

fn path_of(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, path)| path)
}

/// Where what stands for an absent field is.
fn otherwise(name: &str) -> Option<&'static str> {
    OTHERWISE.iter().find(|(field, _)| *field == name).map(|(_, path)| *path)
}

/// A field as selectors see it: text, empty where it is absent.
fn field<'a>(object: &'a Value, name: &str) -> Cow<'a, str> {
    let at = |path: &str| path.split('.').try_fold(object, |value, name| value.get(name));
    let found = at(path_of(name)).filter(|it| *it != "").or_else(|| at(otherwise(name)?));
    match found {
        Some(Value::String(text)) => text.into(),
        Some(Value::Bool(_) | Value::Number(_)) => {
            found.map(Value::to_string).unwrap_or_default().into()
        }
        _ => match ABSENT.iter().find(|(field, _)| *field == name) {
            Some((_, value)) => (*value).into(),
            None => "".into(),
        },
    }
}

fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let commas =
        text.char_indices().filter(|(at, sign)| *sign == ',' && !is_escaped(text.as_bytes(), *at));
    let mut terms = Vec::new();
    let mut start = 0;
    for (comma, _) in commas {
        terms.push(&text[start..comma]);
        start = comma + 1;
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut signs = value.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => out.push(signs.next().filter(|it| "\\,=".contains(*it))?),
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_labels(selector: &str, labels: &Value, matches: bool) {
        let parsed = Labels::parse(selector).unwrap();
        assert_eq!(parsed.matches(labels.as_object()), matches, "{selector} on {labels}");
        let again = Labels::parse(&parsed.to_string()).unwrap();
        assert_eq!(again, parsed, "{selector} is printed so that it can be read");
    }

    #[test]
    fn labels_are_selected_as_kubectl_means_it() {
        let labels = json!({"app": "web", "tier": "front", "n": "7", "empty": ""});
        for (selector, matches) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!gone", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("gone!=web", true),
            ("app in (web, api)", true),
            ("app notin (web,api)", false),
            ("gone notin (a)", true),
            ("gone in (a)", false),
            ("n>6", true),
            ("n<7", false),
            ("app>1", false),
            ("empty=", true),
            ("app in (web),!gone , n", true),
        ] {
            check_labels(selector, &labels, matches);
        }
    }

    #[test]
    fn a_selector_with_bad_grammar_is_refused() {
        for text in ["a in b", "a in (b", "=", "a,", "a b", "(", "a=b=c", "-x=y", "a=!"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Labels::parse("a in b").unwrap_err(),
            "unable to parse requirement: found 'b', expected: '('"
        );
    }

    #[test]
    fn a_selector_object_means_the_same_as_its_text() {
        let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["e", "d"]},
            {"key": "f", "operator": "DoesNotExist"}]});
        let selector = Labels::from_object(Some(&object)).unwrap().unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (d,e),!f");
        assert_eq!(Labels::from_object(None).unwrap(), None);
        assert!(Labels::from_object(Some(&json!({}))).unwrap().unwrap().is_everything());
    }

    #[test]
    fn fields_are_compared_as_text() {
        let pod = json!({"metadata": {"name": "a,b"}, "spec": {"nodeName": "n1"},
            "status": {"replicas": 3}});
        let check = |selector: &str, matches: bool| {
            assert_eq!(Fields::parse(selector).unwrap().matches(&pod), matches, "{selector}");
        };
        check("", true);
        check("metadata.name=a\\,b", true);
        check("spec.nodeName==n1,status.replicas=3", true);
        check("spec.host=n1", true);
        check("spec.nodeName!=n1", false);
        check("status.phase=", true);
        check("spec.unschedulable=false", true);
        assert!(Fields::parse("spec.nodeName").is_err());
        assert!(Fields::parse("a=b\\c").is_err());
        let one = Fields::parse("metadata.name=x").unwrap();
        assert_eq!(one.exactly("metadata.name"), Some("x"));
    }
}
