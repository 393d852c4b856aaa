//! Pods and what of them may change; the templates that workloads make pods from.

use serde_json::{Value, json};

use super::containers::{self, Volumes};
use super::same::{difference, same};
use super::volumes;
use super::{Field, Found};
use crate::error::Cause;
use crate::object::selector::bad_label_value;

const RESTARTS: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
    to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
    was previously negative)";

pub(super) fn pod(object: &Value) -> Vec<Cause> {
    Field::check(object, |pod, found| {
        let spec = pod.at("spec");
        check_spec(&spec, &[], found);
        containers::check_images_exactly(&spec, found);
    })
}

/// What a new pod cannot have yet.
pub(super) fn new_pod(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    if !spec.at("ephemeralContainers").is_empty() {
        found.push(spec.at("ephemeralContainers").forbidden("cannot be set on create"));
    }
    if !spec.at("schedulingGates").is_empty() && !spec.at("nodeName").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        found.push(spec.at("nodeName").forbidden(why));
    }
    found
}

pub(super) fn pod_template(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    template(&Field::of(object).at("template"), &[], &mut found);
    found
}

/// A template within a workload, whose claim templates are volumes of its pods.
pub(super) fn template(template: &Field<'_>, claims: &[&str], found: &mut Found) {
    template.at("metadata.labels").renamed(&template.at("labels").path).must_be_labels(found);
    let annotations = template.at("metadata.annotations");
    annotations.renamed(&template.at("annotations").path).must_be_annotations(found);
    let spec = template.at("spec");
    check_spec(&spec, claims, found);
    if !spec.at("ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        found.push(spec.at("ephemeralContainers").forbidden(why));
    }
}

impl<'a> Field<'a> {
    fn renamed(&self, path: &str) -> Field<'a> {
        Field { path: path.to_owned(), ..self.clone() }
    }
}

fn check_spec(spec: &Field<'_>, claims: &[&str], found: &mut Found) {
    let mut names: Volumes = volumes::check(&spec.at("volumes"), found);
    names.extend(claims.iter().map(|name| (*name).to_owned()));
    containers::check(spec, &names, found);
    spec.at("restartPolicy").must_be_one_of(RESTARTS, found);
    spec.at("dnsPolicy").must_be_one_of(DNS, found);
    spec.at("nodeSelector").must_be_labels(found);
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let field = spec.at(name);
        if !field.is_empty() {
            field.must_be_subdomain(found);
        }
    }
    for name in ["hostname", "subdomain"] {
        let field = spec.at(name);
        if !field.is_empty() {
            field.must_be_label(found);
        }
    }
    spec.at("activeDeadlineSeconds").must_be_between(1, i64::from(i32::MAX), found);
    for toleration in spec.at("tolerations").items() {
        check_toleration(&toleration, found);
    }
    for gate in spec.at("schedulingGates").items() {
        gate.at("name").must_be_qualified(found);
    }
    super::field::duplicates(spec.at("schedulingGates").items().map(|it| it.at("name")), found);
    for spread in spec.at("topologySpreadConstraints").items() {
        check_spread(&spread, found);
    }
    check_affinity(&spec.at("affinity"), found);
    spec.at("preemptionPolicy").may_be_one_of(&["Never", "PreemptLowerPriority"], found);
    for secret in spec.at("imagePullSecrets").items() {
        secret.at("name").must_not_be_empty(found);
    }
    for alias in spec.at("hostAliases").items() {
        if alias.at("ip").text().parse::<std::net::IpAddr>().is_err() {
            found.push(
                alias
                    .at("ip")
                    .invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            );
        }
        for name in alias.at("hostnames").items() {
            name.must_be_subdomain(found);
        }
    }
    for gate in spec.at("readinessGates").items() {
        gate.at("conditionType").must_be_qualified(found);
    }
    if spec.at("dnsPolicy").text() == "None" && spec.at("dnsConfig.nameservers").is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        found.push(spec.at("dnsConfig.nameservers").required(why));
    }
    for sysctl in spec.at("securityContext.sysctls").items() {
        let name = sysctl.at("name");
        if name.is_empty() {
            found.push(name.required(""));
        } else {
            name.must_be(bad_sysctl, found);
        }
    }
    if spec.at("os.name").is_set() {
        spec.at("os.name").must_be_one_of(&["linux", "windows"], found);
    }
}

/// Why a text cannot name a setting of the kernel; `None` where it can.
fn bad_sysctl(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(|byte| plain(*byte) || b"-_".contains(byte))
            && bytes.first().is_some_and(|byte| plain(*byte))
            && bytes.last().is_some_and(|byte| plain(*byte))
    };
    (name.len() > 253 || !name.split(['.', '/']).all(is_part)).then(|| {
        "must have at most 253 characters and match regex \
         ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            .into()
    })
}

fn check_toleration(it: &Field<'_>, found: &mut Found) {
    let (key, operator, effect) = (it.at("key"), it.at("operator"), it.at("effect"));
    if !key.is_empty() {
        key.must_be_qualified(found);
    } else if operator.text() != "Exists" {
        found.push(operator.invalid(
            "operator must be Exists when `key` is empty, which means \"match all values and all \
             keys\"",
        ));
    }
    if it.at("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
        found.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
    }
    let value = it.at("value").renamed(&operator.path);
    match operator.text() {
        "" | "Equal" => value.must_be(bad_label_value, found),
        "Exists" if !value.is_empty() => {
            found.push(value.invalid("value must be empty when `operator` is 'Exists'"));
        }
        "Exists" => {}
        _ => found.push(operator.unsupported(&["Equal", "Exists"])),
    }
    effect.may_be_one_of(EFFECTS, found);
}

fn check_spread(it: &Field<'_>, found: &mut Found) {
    let skew = it.at("maxSkew");
    if skew.number().unwrap_or_default() < 1 {
        found.push(skew.invalid("must be greater than zero"));
    }
    it.at("topologyKey").must_not_be_empty(found);
    it.at("whenUnsatisfiable").must_be_one_of(&["DoNotSchedule", "ScheduleAnyway"], found);
    it.at("labelSelector").must_be_selector(found);
}

fn check_affinity(affinity: &Field<'_>, found: &mut Found) {
    let node = affinity.at("nodeAffinity");
    let required = node.at("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        let terms = required.at("nodeSelectorTerms");
        if terms.is_empty() {
            found.push(terms.required("must have at least one node selector term"));
        }
        for term in terms.items() {
            check_node_term(&term, found);
        }
    }
    for term in node.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        check_weight(&term, found);
        check_node_term(&term.at("preference"), found);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let of = affinity.at(kind);
        for term in of.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            check_pod_term(&term, found);
        }
        for term in of.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            check_weight(&term, found);
            check_pod_term(&term.at("podAffinityTerm"), found);
        }
    }
}

fn check_weight(term: &Field<'_>, found: &mut Found) {
    let weight = term.at("weight");
    if !(1..=100).contains(&weight.number().unwrap_or_default()) {
        found.push(weight.invalid("must be in the range 1-100"));
    }
}

fn check_pod_term(term: &Field<'_>, found: &mut Found) {
    term.at("labelSelector").must_be_selector(found);
    let key = term.at("topologyKey");
    if key.is_empty() {
        found.push(key.required("can not be empty"));
    } else {
        key.must_be_qualified(found);
    }
}

fn check_node_term(term: &Field<'_>, found: &mut Found) {
    for it in term.at("matchExpressions").items() {
        let (operator, values) = (it.at("operator"), it.at("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                found.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                found.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                found.push(values.required(why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => found.push(operator.invalid("not a valid selector operator")),
        }
        it.at("key").must_be_qualified(found);
    }
    for it in term.at("matchFields").items() {
        if it.at("key").text() != "metadata.name" {
            found.push(it.at("key").invalid("not a valid field selector key"));
        }
    }
}

pub(super) fn change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    for list in ["containers", "initContainers"] {
        if new.at(list).len() != old.at(list).len() {
            found.push(new.at(list).forbidden("pod updates may not add or remove containers"));
            return found;
        }
    }
    check_deadline(&new.at("activeDeadlineSeconds"), &old.at("activeDeadlineSeconds"), &mut found);
    check_tolerations(&new.at("tolerations"), &old.at("tolerations"), &mut found);
    for gate in new.at("schedulingGates").items() {
        if !old.at("schedulingGates").items().any(|it| it.value == gate.value) {
            let why = "only deletion is allowed, but found new scheduling gate ";
            let why = format!("{why}'{}'", gate.at("name").text());
            found.push(new.at("schedulingGates").forbidden(&why));
        }
    }
    let mut rest = new.value.clone();
    pass_over(&mut rest, &new, &old, &mut found);
    if !same(&rest, old.value) {
        let why = format!("{MAY_CHANGE}\n{}", difference(old.value, &rest));
        found.push(new.forbidden(&why));
    }
    found
}

/// Gives what may change its old value, so that what is left must be equal.
fn pass_over(rest: &mut Value, new: &Field<'_>, old: &Field<'_>, found: &mut Found) {
    for list in ["containers", "initContainers"] {
        let there = rest.get_mut(list).and_then(Value::as_array_mut);
        for (container, before) in there.into_iter().flatten().zip(old.at(list).items()) {
            container["image"] = before.at("image").value.clone();
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let grace = "terminationGracePeriodSeconds";
    if old.at(grace).number().is_some_and(|it| it < 0) && new.at(grace).number() == Some(1) {
        free.push(grace);
    }
    // Until a pod may be scheduled, where it may go can be narrowed.
    if !old.at("schedulingGates").is_empty() {
        free.push("nodeSelector");
        let (now, before) = (new.at("nodeSelector"), old.at("nodeSelector"));
        let kept = |(name, value): (&String, &Value)| now.value.get(name) == Some(value);
        if !before.map().into_iter().flatten().all(kept) {
            found.push(now.invalid(
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ));
        }
        let within = "nodeAffinity";
        if rest.get("affinity").is_some_and(Value::is_object) {
            rest["affinity"][within] = old.at("affinity").at(within).value.clone();
        }
    }
    for name in free {
        rest[name] = old.at(name).value.clone();
    }
}

fn check_deadline(new: &Field<'_>, old: &Field<'_>, found: &mut Found) {
    match (new.number(), old.number()) {
        (Some(now), Some(before)) if now > before => {
            found.push(new.invalid("must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            found.push(crate::schema::causes::invalid(
                &new.path,
                &json!(null),
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
}

/// They may be added to; those of a taint that ends pods may change how long they hold.
fn check_tolerations(new: &Field<'_>, old: &Field<'_>, found: &mut Found) {
    let without_time = |it: &Value| {
        let mut it = it.clone();
        if let Some(fields) = it.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        it
    };
    for before in old.items() {
        let wanted = without_time(before.value);
        if !new.items().any(|now| same(&without_time(now.value), &wanted)) {
            found.push(
                new.forbidden(
                    "existing toleration can not be modified except its tolerationSeconds",
                ),
            );
        }
    }
}
