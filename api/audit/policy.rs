//! What of a request is written down (`audit.k8s.io/v1`, `Policy`): the first rule that fits decides.
//!
//! Pure. Never: a policy with a field that is not understood; it could mean that less is written than somebody
//! relies on.

use serde::Deserialize;

use crate::auth::Attributes;

/// How much is written of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When it is written.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Stage {
    RequestReceived,
    /// Of what takes as long as it takes: the head of the answer is out.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What was decided for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// A policy as it is written in a file, YAML or JSON.
    pub fn read(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!(
                "it is a {} of {}, not a Policy of audit.k8s.io/v1",
                policy.kind, policy.api_version
            ));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules, so nothing would be written".into());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{index}]: {why}"))?;
        }
        Ok(policy)
    }

    #[must_use]
    pub fn choose(&self, of: &Attributes<'_>) -> Choice {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(of)) else {
            return Choice::default();
        };
        Choice {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Err("rules cannot apply to both regular resources and non-resource URLs".into());
        }
        for url in self.non_resource_urls.iter().filter(|url| *url != "*") {
            if !url.starts_with('/') {
                return Err(format!("nonResourceURLs: {url:?} must begin with a '/' character"));
            }
            if url[..url.len() - 1].contains('*') {
                return Err(format!(
                    "nonResourceURLs: {url:?}: wildcards '*' must be the final character of the \
                     rule"
                ));
            }
        }
        let named = self.resources.iter().find(|it| !it.resource_names.is_empty());
        if named.is_some_and(|it| it.resources.is_empty()) {
            return Err("using resourceNames requires at least one resource".into());
        }
        Ok(())
    }

    fn fits(&self, of: &Attributes<'_>) -> bool {
        let any = |list: &[String], fits: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|it| fits(it))
        };
        any(&self.users, &|it| it == of.user.name)
            && any(&self.user_groups, &|it| of.user.groups.iter().any(|group| group == it))
            && any(&self.verbs, &|it| it == of.verb)
            && (self.is_of_anything() || self.fits_resource(of) || self.fits_path(of))
    }

    fn is_of_anything(&self) -> bool {
        self.resources.is_empty() && self.namespaces.is_empty() && self.non_resource_urls.is_empty()
    }

    fn fits_path(&self, of: &Attributes<'_>) -> bool {
        let fits = |url: &String| match url.strip_suffix('*') {
            Some(start) => of.path.starts_with(start),
            None => url == of.path,
        };
        !of.is_resource() && self.non_resource_urls.iter().any(fits)
    }

    fn fits_resource(&self, of: &Attributes<'_>) -> bool {
        if !of.is_resource() || !self.non_resource_urls.is_empty() {
            return false;
        }
        (self.namespaces.is_empty() || self.namespaces.iter().any(|it| it == of.namespace))
            && (self.resources.is_empty() || self.resources.iter().any(|it| it.fits(of)))
    }
}

impl Resources {
    fn fits(&self, of: &Attributes<'_>) -> bool {
        if self.group != of.group {
            return false;
        }
        let named =
            self.resource_names.is_empty() || self.resource_names.iter().any(|it| it == of.name);
        let fits = |wanted: &String| match wanted.split_once('/') {
            None => wanted == "*" || (of.subresource.is_empty() && wanted == of.resource),
            Some((resource, subresource)) => {
                let all = subresource == "*" && resource == of.resource;
                let same = subresource == of.subresource && !of.subresource.is_empty();
                all || (same && (resource == "*" || resource == of.resource))
            }
        };
        self.resources.is_empty() || (named && self.resources.iter().any(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:kube-proxy"]
    verbs: [watch]
    resources: [{group: "", resources: [endpoints, services]}]
  - level: None
    nonResourceURLs: ["/healthz*", "/version"]
  - level: Request
    namespaces: [kube-system]
    resources: [{group: "", resources: [configmaps], resourceNames: [one]}]
    omitStages: [ResponseStarted]
  - level: Metadata
    resources: [{group: "", resources: [secrets, "pods/*", "*/scale"]}]
  - level: RequestResponse
    userGroups: [admins]
    omitManagedFields: true
"#;

    /// `user group verb group/resource/subresource namespace name`, or a path in the fourth place.
    fn check(request: &str, expected: Level) {
        let parts: Vec<&str> = request.split(' ').collect();
        let user = User { name: parts[0].into(), groups: vec![parts[1].into()], ..User::default() };
        let mut of = Attributes::of(&user, parts[2]);
        if parts[3].starts_with('/') {
            of.path = parts[3];
        } else {
            let names: Vec<&str> = parts[3].split(':').collect();
            (of.group, of.resource) = (names[0], names[1]);
            of.subresource = names.get(2).copied().unwrap_or_default();
            of.namespace = parts.get(4).copied().unwrap_or_default();
            of.name = parts.get(5).copied().unwrap_or_default();
        }
        let policy = Policy::read(POLICY).unwrap();
        assert_eq!(policy.choose(&of).level, expected, "{request}");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        check("system:kube-proxy x watch :services", Level::None);
        check("system:kube-proxy admins list :services", Level::RequestResponse);
        check("system:kube-proxy x list :services", Level::None);
        check("any admins get /healthz/ping", Level::None);
        check("any admins get /version", Level::None);
        check("any admins get /versions", Level::RequestResponse);
        check("any x get :configmaps kube-system one", Level::Request);
        check("any x get :configmaps kube-system two", Level::None);
        check("any x get :configmaps default one", Level::None);
        check("any x get :secrets default one", Level::Metadata);
        check("any x get apps:secrets default one", Level::None);
        check("any x get :pods:log default one", Level::Metadata);
        check("any x get :pods default one", Level::Metadata);
        check("any x update :replicationcontrollers:scale default one", Level::Metadata);
        check("any x update :replicationcontrollers default one", Level::None);
    }

    #[test]
    fn stages_of_the_policy_and_of_the_rule_are_left_out() {
        let policy = Policy::read(POLICY).unwrap();
        let user = User::system("x");
        let mut of = Attributes::of(&user, "get");
        (of.resource, of.namespace, of.name) = ("configmaps", "kube-system", "one");
        let choice = policy.choose(&of);
        assert_eq!(choice.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(!choice.omit_managed_fields);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |rule: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]");
            Policy::read(&text).unwrap_err()
        };
        for (rule, word) in [
            ("", "no rules"),
            ("{level: Everything}", "Everything"),
            ("{level: None, user: [x]}", "user"),
            ("{level: None, nonResourceURLs: [healthz]}", "begin with"),
            ("{level: None, nonResourceURLs: [/a*b]}", "final character"),
            ("{level: None, nonResourceURLs: [/a], namespaces: [b]}", "both"),
            ("{level: None, resources: [{resourceNames: [a]}]}", "at least one resource"),
        ] {
            let why = refused(rule);
            assert!(why.contains(word), "{rule}: {why}");
        }
        let other = Policy::read("apiVersion: v1\nkind: Policy").unwrap_err();
        assert!(other.contains("audit.k8s.io/v1"), "{other}");
    }
}
