//! Jobs, and what makes them by the clock.

use serde_json::Value;

use super::{Field, Found, pod};
use crate::error::Cause;
use crate::object::schedule::{Schedule, time_zone};
use crate::schema::causes;

/// So that the name of a job, with the time behind it, is still a label.
const CRON_NAME_MAX: usize = 52;

pub(super) fn job(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let spec = Field::of(object).at("spec");
    check_spec(&spec, &mut found);
    let selector = spec.at("selector");
    if !selector.is_set() {
        found.push(selector.required(""));
        return found;
    }
    selector.must_be_selector(&mut found);
    let labels = spec.at("template.metadata.labels");
    if selector.selector().is_some_and(|it| !it.matches(labels.map())) {
        found.push(labels.invalid("`selector` does not match template `labels`"));
    }
    found
}

fn check_spec(spec: &Field<'_>, found: &mut Found) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.at(name).must_not_be_negative(found);
    }
    let mode = spec.at("completionMode");
    mode.may_be_one_of(&["NonIndexed", "Indexed"], found);
    let is_indexed = mode.text() == "Indexed";
    if is_indexed && !spec.at("completions").is_set() {
        found.push(spec.at("completions").required("when completion mode is Indexed"));
    }
    if is_indexed {
        let most = spec.at("parallelism");
        if most.number().is_some_and(|number| number > 100_000) {
            let why = "must be less than or equal to 100000 when completion mode is Indexed";
            found.push(most.invalid(why));
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if spec.at(name).is_set() {
                found.push(spec.at(name).invalid("requires indexed completion mode"));
            }
        }
    }
    if spec.at("maxFailedIndexes").is_set() && !spec.at("backoffLimitPerIndex").is_set() {
        let limit = spec.at("backoffLimitPerIndex");
        found.push(limit.required("when maxFailedIndexes is specified"));
    }
    let replaced = spec.at("podReplacementPolicy");
    let fails = spec.at("podFailurePolicy");
    let allowed: &[&str] =
        if fails.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    replaced.may_be_one_of(allowed, found);
    for rule in fails.at("rules").items() {
        check_rule(&rule, found);
    }
    pod::template(&spec.at("template"), &[], found);
    let restarts = spec.at("template.spec.restartPolicy");
    match restarts.text() {
        "" | "Always" => {
            found.push(restarts.required("valid values: \"OnFailure\", \"Never\""));
        }
        "OnFailure" if fails.is_set() => found.push(
            restarts.invalid("only \"Never\" is supported when podFailurePolicy is specified"),
        ),
        "OnFailure" | "Never" => {}
        _ => found.push(restarts.unsupported(&["OnFailure", "Never"])),
    }
}

fn check_rule(rule: &Field<'_>, found: &mut Found) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    rule.at("action").must_be_one_of(ACTIONS, found);
    let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
    let mut say = |why: &str| {
        found.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {why}"),
            field: rule.path.clone(),
        });
    };
    match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => say("specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, false) => say("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
    if codes.is_set() {
        codes.at("operator").must_be_one_of(&["In", "NotIn"], found);
        if codes.at("values").is_empty() {
            found.push(codes.at("values").invalid("at least one value is required"));
        }
    }
}

pub(super) fn job_change(new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let started = Field::of(old).at("status.startTime").is_set();
    let was_suspended = Field::of(old).at("spec.suspend").is_true();
    let (new, old) = (Field::of(new).at("spec"), Field::of(old).at("spec"));
    // An indexed job grows and shrinks as a whole.
    let completions = new.at("completions");
    let is_elastic = new.at("completionMode").text() == "Indexed"
        && completions.value == new.at("parallelism").value;
    if !is_elastic {
        completions.must_stay(&old.at("completions"), &mut found);
    }
    new.at("selector").must_stay(&old.at("selector"), &mut found);
    let (mut template, before) = (new.at("template").value.clone(), old.at("template"));
    if was_suspended && !started {
        free_scheduling(&mut template, before.value);
    }
    if !super::same::same(&template, before.value) {
        found.push(new.at("template").invalid(super::field::IMMUTABLE));
    }
    for name in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        new.at(name).must_stay(&old.at(name), &mut found);
    }
    found
}

/// Where the pods of a job that never ran may go can still be said.
fn free_scheduling(template: &mut Value, old: &Value) {
    for (part, names) in [
        ("metadata", &["labels", "annotations"][..]),
        ("spec", &["nodeSelector", "affinity", "tolerations", "schedulingGates"][..]),
    ] {
        if !template.get(part).is_some_and(Value::is_object) {
            continue;
        }
        for name in names {
            template[part][*name] =
                old.get(part).and_then(|it| it.get(*name)).cloned().unwrap_or_default();
        }
    }
}

pub(super) fn cron_job(object: &Value) -> Vec<Cause> {
    let mut found = Found::new();
    let object = Field::of(object);
    if object.at("metadata.name").text().len() > CRON_NAME_MAX {
        let name = object.at("metadata.name");
        found.push(name.invalid("must be no more than 52 characters"));
    }
    let spec = object.at("spec");
    let schedule = spec.at("schedule");
    if schedule.is_empty() {
        found.push(schedule.required(""));
    } else if let Err(error) = Schedule::parse(schedule.text(), None) {
        found.push(schedule.invalid(&error.to_string()));
    }
    if schedule.text().contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        found.push(schedule.invalid(why));
    }
    let zone = spec.at("timeZone");
    if zone.is_set() {
        if zone.is_empty() {
            let why = "timeZone must be nil or non-empty string";
            found.push(causes::invalid(&zone.path, zone.value, why));
        } else if let Err(error) = time_zone(zone.text()) {
            found.push(zone.invalid(&error.to_string()));
        }
    }
    spec.at("startingDeadlineSeconds").must_not_be_negative(&mut found);
    spec.at("concurrencyPolicy").must_be_one_of(&["Allow", "Forbid", "Replace"], &mut found);
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.at(name).must_not_be_negative(&mut found);
    }
    let template = spec.at("jobTemplate.spec");
    check_spec(&template, &mut found);
    if template.at("manualSelector").is_true() {
        found.push(template.at("manualSelector").unsupported(&["nil", "false"]));
    }
    found
}
