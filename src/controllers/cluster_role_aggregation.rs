//! Fills the rules of ClusterRoles that gather other ClusterRoles by label.
//!
//! Keeps: the order of rules is that of the roles' names, and each rule stands once, so that the same roles
//! make the same rules. Rules are applied server-side under our name.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use serde_json::json;

use super::{Context, Loop, WORKERS};
use crate::reconcile::{Informer, Key, Next, Reconcile, labels};

const NAME: &str = "clusterrole-aggregation-controller";

struct Controller {
    client: Client,
    roles: Informer<ClusterRole>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let roles = context.informers.of::<ClusterRole>();
    // Any role may be gathered by any that gathers; there are few of those.
    roles.on({
        let (queue, roles) = (queue.clone(), roles.clone());
        move |delta| {
            for role in roles.list().iter().chain([delta.object()]) {
                if role.aggregation_rule.is_some() {
                    queue.add(Key::of(&role.metadata));
                }
            }
        }
    });
    vec![Loop::new(Controller { client: context.client(NAME), roles }, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(role) = self.roles.get(key) else { return Ok(Next::WhenChanged) };
        let Some(rules) = gathered(&role, &self.roles.list()) else {
            return Ok(Next::WhenChanged);
        };
        if role.rules.clone().unwrap_or_default() == rules {
            return Ok(Next::WhenChanged);
        }
        let patch = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": key.name}, "rules": rules});
        match self.client.patch::<ClusterRole>("", &key.name, PatchKind::Apply, &patch, None).await
        {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// What the role gathers; `None` for one that gathers nothing.
fn gathered(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // `all` is in the order of names.
        for other in all.iter().filter(|it| labels::matches(selector, &it.metadata)) {
            if other.metadata.name == role.metadata.name {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn rules_of_selected_roles_are_gathered_once() {
        let role = |name: &str, more: Value| {
            let mut value = json!({"metadata": {"name": name, "labels": {"to": "view"}},
                "rules": [{"apiGroups": [""], "resources": [name], "verbs": ["get"]},
                    {"apiGroups": [""], "resources": ["both"], "verbs": ["get"]}]});
            for (field, new) in more.as_object().unwrap() {
                value[field] = new.clone();
            }
            Arc::new(serde_json::from_value::<ClusterRole>(value).unwrap())
        };
        let rule = json!({"aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"to": "view"}}]}});
        let all = [
            role("a", json!({})),
            role("b", json!({})),
            role("other", json!({"metadata": {"name": "other"}})),
            role("view", rule),
        ];
        let resources: Vec<_> = gathered(&all[3], &all)
            .unwrap()
            .into_iter()
            .map(|it| it.resources.unwrap().concat())
            .collect();
        assert_eq!(resources, ["a", "both", "b"]);
        assert_eq!(gathered(&all[0], &all), None);
    }
}
