//! Devices: claims on them, classes of them, and who says which there are.
//!
//! The CEL of selectors is not looked at; only that there is some and how long it is.

use serde_json::Value;

use super::drivers::check_driver;
use super::field::duplicates;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::names;
use crate::schema::causes;

const REQUESTS_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const EXPRESSION_MAX: usize = 10 << 10;
const PARAMETERS_MAX: usize = 10 << 10;
const POOL_NAME_MAX: usize = 253;
const DEVICES_MAX: usize = 128;
const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a \
    subrequest separated by '/'";

pub(super) fn claim(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    check_devices(&Field::of(object).at("spec.devices"), &mut found);
    found
}

pub(super) fn template(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    spec.at("metadata.labels").must_be_labels(&mut found);
    spec.at("metadata.annotations").must_be_annotations(&mut found);
    check_devices(&spec.at("spec.devices"), &mut found);
    found
}

pub(super) fn keeps_spec(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    Field::of(new).at("spec").must_stay(&Field::of(old).at("spec"), &mut found);
    found
}

fn check_devices(devices: &Field<'_>, found: &mut Found) {
    let requests = devices.at("requests");
    must_not_pass(&requests, REQUESTS_MAX, found);
    for request in requests.items() {
        check_request(&request, found);
    }
    duplicates(requests.items().map(|request| request.at("name")), found);
    let known = Known::of(&requests);
    let constraints = devices.at("constraints");
    must_not_pass(&constraints, REQUESTS_MAX, found);
    for constraint in constraints.items() {
        known.check(&constraint.at("requests"), found);
        let (matched, distinct) =
            (constraint.at("matchAttribute"), constraint.at("distinctAttribute"));
        if !matched.is_set() && !distinct.is_set() {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but \
                       multiple fields are set";
            found.push(constraint.required(why));
        }
        for attribute in [matched, distinct].into_iter().filter(Field::is_set) {
            check_attribute(&attribute, found);
        }
    }
    let config = devices.at("config");
    must_not_pass(&config, REQUESTS_MAX, found);
    for config in config.items() {
        known.check(&config.at("requests"), found);
        check_config(&config, found);
    }
}

fn must_not_pass(list: &Field<'_>, most: usize, found: &mut Found) {
    if list.len() > most {
        found.push(causes::too_many(&list.path, list.len(), most as u64));
    }
}

fn check_request(request: &Field<'_>, found: &mut Found) {
    check_request_name(&request.at("name"), found);
    let (exactly, first) = (request.at("exactly"), request.at("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required";
            found.push(request.required(why));
        }
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple \
                       fields are set";
            found.push(causes::invalid(&request.path, &Value::Null, why));
        }
        (true, false) => check_wanted(&exactly, found),
        (false, true) => {
            must_not_pass(&first, FIRST_AVAILABLE_MAX, found);
            for sub in first.items() {
                check_request_name(&sub.at("name"), found);
                check_wanted(&sub, found);
            }
            duplicates(first.items().map(|sub| sub.at("name")), found);
        }
    }
}

fn check_request_name(name: &Field<'_>, found: &mut Found) {
    if name.is_empty() {
        found.push(name.required(""));
    } else {
        name.must_be_label(found);
    }
}

/// Which devices, and how many.
fn check_wanted(wanted: &Field<'_>, found: &mut Found) {
    let class = wanted.at("deviceClassName");
    if class.is_empty() {
        found.push(class.required(""));
    } else {
        class.must_be_subdomain(found);
    }
    check_selectors(&wanted.at("selectors"), found);
    let (mode, count) = (wanted.at("allocationMode"), wanted.at("count"));
    match (mode.text(), count.number().unwrap_or_default()) {
        ("All", 0) | ("ExactCount", 1..) => {}
        ("All", _) => {
            found.push(count.invalid("must not be specified when allocationMode is 'All'"));
        }
        ("ExactCount", number) => {
            let why = "must be greater than zero";
            found.push(causes::invalid(&count.path, &number.into(), why));
        }
        _ => found.push(mode.unsupported(&["All", "ExactCount"])),
    }
    for toleration in wanted.at("tolerations").items() {
        check_toleration(&toleration, found);
    }
}

fn check_toleration(toleration: &Field<'_>, found: &mut Found) {
    let (key, operator, value) =
        (toleration.at("key"), toleration.at("operator"), toleration.at("value"));
    if !key.is_empty() {
        key.must_be_qualified(found);
    }
    match operator.text() {
        "Exists" if !value.is_empty() => {
            found.push(value.invalid("must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" | "" => {
            value.must_be(crate::object::selector::bad_label_value, found);
            if key.is_empty() {
                found.push(operator.invalid(
                    "operator must be Exists when `key` is empty, which \
                                             means \"match all values and all keys\"",
                ));
            }
        }
        _ => found.push(operator.unsupported(&["Equal", "Exists"])),
    }
    toleration.at("effect").may_be_one_of(&["NoExecute", "NoSchedule", "None"], found);
}

fn check_selectors(selectors: &Field<'_>, found: &mut Found) {
    must_not_pass(selectors, SELECTORS_MAX, found);
    for selector in selectors.items() {
        let (cel, expression) = (selector.at("cel"), selector.at("cel.expression"));
        if !cel.is_set() {
            found.push(cel.required(""));
        } else if expression.is_empty() {
            found.push(expression.required(""));
        } else if expression.text().len() > EXPRESSION_MAX {
            found.push(causes::too_long(&expression.path, EXPRESSION_MAX as u64));
        }
    }
}

/// `domain/identifier`.
fn check_attribute(attribute: &Field<'_>, found: &mut Found) {
    let Some((domain, id)) = attribute.text().split_once('/') else {
        found.push(attribute.invalid("must include a domain"));
        return;
    };
    found.extend(names::bad_subdomain(domain).map(|why| attribute.invalid(&why)));
    let begins = id.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic());
    if !begins || !id.bytes().all(|it| it == b'_' || it.is_ascii_alphanumeric()) {
        found.push(attribute.invalid(
            "a valid C identifier must start with alphabetic character or '_', followed by a \
             string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
             'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
        ));
    }
}

fn check_config(config: &Field<'_>, found: &mut Found) {
    let opaque = config.at("opaque");
    if !opaque.is_set() {
        found.push(opaque.required(""));
        return;
    }
    check_driver(&opaque.at("driver"), found);
    let parameters = opaque.at("parameters");
    match parameters.value {
        Value::Null => found.push(parameters.required("")),
        Value::Object(_) if parameters.value.to_string().len() > PARAMETERS_MAX => {
            found.push(causes::too_long(&parameters.path, PARAMETERS_MAX as u64));
        }
        Value::Object(_) => {}
        _ => found.push(parameters.invalid("must be a valid JSON object")),
    }
}

/// The requests of a claim, as others name them.
struct Known<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> Known<'a> {
    fn of(requests: &Field<'a>) -> Known<'a> {
        let one = |request: Field<'a>| {
            let subs = request.at("firstAvailable");
            let subs = subs.items().map(|sub| sub.at("name").text()).collect();
            (request.at("name").text(), subs)
        };
        Known(requests.items().map(one).collect())
    }

    fn has(&self, name: &str) -> bool {
        let (first, rest) = match name.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (name, None),
        };
        self.0
            .iter()
            .any(|(known, subs)| *known == first && rest.is_none_or(|rest| subs.contains(&rest)))
    }

    fn check(&self, references: &Field<'_>, found: &mut Found) {
        must_not_pass(references, REQUESTS_MAX, found);
        for name in references.items() {
            if !self.has(name.text()) {
                found.push(name.invalid(REFERENCE));
            }
        }
        duplicates(references.items(), found);
    }
}

pub(super) fn class(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    check_selectors(&spec.at("selectors"), &mut found);
    must_not_pass(&spec.at("config"), REQUESTS_MAX, &mut found);
    for config in spec.at("config").items() {
        check_config(&config, &mut found);
    }
    found
}

pub(super) fn slice(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    check_driver(&spec.at("driver"), &mut found);
    check_pool(&spec.at("pool"), &mut found);
    let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let said = places.into_iter().filter(|name| {
        let place = spec.at(name);
        !place.is_empty() && place.value != &Value::Bool(false)
    });
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is \
               required";
    match said.count() {
        0 => found.push(spec.required(one)),
        1 => {}
        _ => {
            let why = format!("{one}, but multiple fields are set");
            found.push(causes::invalid(&spec.path, &Value::Null, &why));
        }
    }
    let node = spec.at("nodeName");
    if !node.is_empty() {
        node.must_be_subdomain(&mut found);
    }
    let devices = spec.at("devices");
    must_not_pass(&devices, DEVICES_MAX, &mut found);
    for device in devices.items() {
        check_request_name(&device.at("name"), &mut found);
    }
    duplicates(devices.items().map(|device| device.at("name")), &mut found);
    found
}

fn check_pool(pool: &Field<'_>, found: &mut Found) {
    let name = pool.at("name");
    if name.is_empty() {
        found.push(name.required(""));
    } else {
        if name.text().len() > POOL_NAME_MAX {
            found.push(causes::too_long(&name.path, POOL_NAME_MAX as u64));
        }
        for part in name.text().split('/') {
            let why = names::bad_subdomain(part);
            found.extend(why.map(|why| causes::invalid(&name.path, &part.into(), &why)));
        }
    }
    let (count, generation) = (pool.at("resourceSliceCount"), pool.at("generation"));
    if count.number().unwrap_or_default() <= 0 {
        let number = count.number().unwrap_or_default();
        let why = "must be greater than zero";
        found.push(causes::invalid(&count.path, &number.into(), why));
    }
    generation.must_not_be_negative(found);
}

/// A slice goes on to speak of the same pool at the same place.
pub(super) fn slice_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    for name in ["driver", "pool.name", "nodeName"] {
        new.at(name).must_stay(&old.at(name), &mut found);
    }
    found
}
