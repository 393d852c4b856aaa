//! Which requests there are, path by path, in a form that both versions of OpenAPI are written from.
//!
//! kubectl looks for `fieldValidation` among the parameters of an operation to learn whether the server
//! validates fields. The deprecated `/watch/` paths are served but not published.

use super::META;
use super::definitions::{list_name, type_name, type_of};
use crate::kinds::{Kind, Snapshot, Subresource, Verbs};
use crate::object::GroupVersionKind;

pub(super) struct Path {
    pub path: String,
    pub parameters: Vec<&'static str>,
    pub operations: Vec<Operation>,
}

pub(super) struct Operation {
    /// `get`, `put`, …
    pub method: &'static str,
    pub id: String,
    pub description: String,
    pub tag: String,
    /// `x-kubernetes-action`; empty for what is no resource.
    pub action: &'static str,
    pub gvk: Option<GroupVersionKind>,
    pub parameters: &'static [&'static str],
    pub body: Option<Body>,
    pub produces: &'static [&'static str],
    /// The type of the answer; none is text.
    pub answer: Option<String>,
    pub statuses: &'static [(u16, &'static str)],
}

pub(super) struct Body {
    pub type_name: String,
    pub consumes: &'static [&'static str],
    pub required: bool,
}

pub(super) struct Parameter {
    pub name: &'static str,
    pub place: &'static str,
    pub kind: &'static str,
    pub description: &'static str,
}

const fn query(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "query", kind, description }
}

const fn in_path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "path", kind: "string", description }
}

pub(super) const PARAMETERS: &[Parameter] = &[
    in_path("name", "The name of the object."),
    in_path("namespace", "The namespace of the object."),
    in_path("path", "The rest of the URL, passed on."),
    query("pretty", "string", "If 'true', the answer is indented."),
    query("allowWatchBookmarks", "boolean", "Whether a watch may send BOOKMARK events."),
    query("continue", "string", "Where a list in pieces goes on, from the piece before."),
    query("fieldSelector", "string", "Only objects whose fields are like this."),
    query("labelSelector", "string", "Only objects whose labels are like this."),
    query("limit", "integer", "At most so many objects; the answer says how to go on."),
    query("resourceVersion", "string", "How old the answer may be, or where a watch begins."),
    query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    query("sendInitialEvents", "boolean", "Whether a watch begins with what is there now."),
    query("timeoutSeconds", "integer", "When a list or watch is to end."),
    query("watch", "boolean", "Send what changes, instead of what is there."),
    query("dryRun", "string", "With 'All', everything is done except storing the result."),
    query(
        "fieldManager",
        "string",
        "Who the client is, for the record of who manages which field.",
    ),
    query(
        "fieldValidation",
        "string",
        "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
    ),
    query("force", "boolean", "An apply takes over fields that others manage."),
    query("gracePeriodSeconds", "integer", "How long the object may take to end."),
    query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    query(
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
];

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const DELETE_MANY: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];

const ANYTHING: &[&str] = &["*/*"];
const PLAIN: &[&str] = &["application/json", "application/yaml"];
const BINARY: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PLAIN_LIST: &[&str] =
    &["application/json", "application/yaml", "application/json;stream=watch"];
const BINARY_LIST: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCHES_CUSTOM: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const OK: &[(u16, &str)] = &[(200, "OK")];
const WRITTEN: &[(u16, &str)] = &[(200, "OK"), (201, "Created")];
const CREATED: &[(u16, &str)] = &[(200, "OK"), (201, "Created"), (202, "Accepted")];
const DELETED: &[(u16, &str)] = &[(200, "OK"), (202, "Accepted")];

/// Everything that can be asked of a kind.
pub(super) fn paths(rows: &Snapshot, kind: &Kind) -> Vec<Path> {
    let maker = Maker::new(kind);
    let mut paths = vec![maker.collection()];
    if kind.namespaced && kind.verbs.list {
        paths.push(maker.all_namespaces());
    }
    paths.push(maker.item());
    for sub in &kind.subresources {
        paths.extend(maker.subresource(rows, sub));
    }
    paths.retain(|path| !path.operations.is_empty());
    paths
}

/// `/version`
pub(super) fn version(type_name: &str) -> Path {
    let get = Operation {
        method: "get",
        id: "getCodeVersion".into(),
        description: "get the version of the server".into(),
        tag: "version".into(),
        action: "",
        gvk: None,
        parameters: &[],
        body: None,
        produces: &["application/json"],
        answer: Some(type_name.into()),
        statuses: OK,
    };
    Path { path: "/version/".into(), parameters: Vec::new(), operations: vec![get] }
}

struct Maker<'a> {
    kind: &'a Kind,
    type_name: String,
    /// `/apis/apps/v1`
    root: String,
    /// `AppsV1`
    prefix: String,
    /// `Namespaced` or nothing.
    scope: &'static str,
    tag: String,
}

impl<'a> Maker<'a> {
    fn new(kind: &'a Kind) -> Maker<'a> {
        let root = match &*kind.group {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        let words = group_words(kind);
        let prefix =
            words.iter().map(|word| capital(word)).collect::<String>() + &capital(&kind.version);
        let mut tag: String = words[..1].concat();
        for word in &words[1..] {
            tag.push_str(&capital(word));
        }
        Maker {
            kind,
            type_name: type_name(kind),
            root,
            prefix,
            scope: if kind.namespaced { "Namespaced" } else { "" },
            tag: format!("{tag}_{}", kind.version),
        }
    }

    fn base(&self) -> String {
        let namespace = if self.kind.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{}{namespace}/{}", self.root, self.kind.resource)
    }

    fn parameters(&self, more: &[&'static str]) -> Vec<&'static str> {
        let namespace = self.kind.namespaced.then_some("namespace");
        more.iter().copied().chain(namespace).chain(["pretty"]).collect()
    }

    /// An operation on the kind itself, to be completed.
    fn operation(&self, method: &'static str, action: &'static str, id: String) -> Operation {
        Operation {
            method,
            id,
            description: String::new(),
            tag: self.tag.clone(),
            action,
            gvk: Some(self.kind.gvk()),
            parameters: &[],
            body: None,
            produces: if self.kind.custom { PLAIN } else { BINARY },
            answer: Some(self.type_name.clone()),
            statuses: OK,
        }
    }

    fn list(&self, id: String) -> Operation {
        Operation {
            description: format!("list or watch objects of kind {}", self.kind.kind),
            parameters: LIST,
            produces: if self.kind.custom { PLAIN_LIST } else { BINARY_LIST },
            answer: Some(list_name(self.kind)),
            ..self.operation("get", "list", id)
        }
    }

    fn collection(&self) -> Path {
        let (prefix, scope, name) = (&self.prefix, self.scope, &self.kind.kind);
        let mut operations = Vec::new();
        if self.kind.verbs.list {
            operations.push(self.list(format!("list{prefix}{scope}{name}")));
        }
        if self.kind.verbs.create {
            let id = format!("create{prefix}{scope}{name}");
            operations.push(Operation {
                description: format!("create {}", with_article(name)),
                parameters: WRITE,
                body: Some(body(&self.type_name, ANYTHING, true)),
                statuses: CREATED,
                ..self.operation("post", "post", id)
            });
        }
        if self.kind.verbs.delete_collection {
            let id = format!("delete{prefix}Collection{scope}{name}");
            operations.push(Operation {
                description: format!("delete collection of {name}"),
                parameters: DELETE_MANY,
                body: Some(body(&format!("{META}.DeleteOptions"), ANYTHING, false)),
                answer: Some(format!("{META}.Status")),
                ..self.operation("delete", "deletecollection", id)
            });
        }
        Path { path: self.base(), parameters: self.parameters(&[]), operations }
    }

    fn all_namespaces(&self) -> Path {
        let id = format!("list{}{}ForAllNamespaces", self.prefix, self.kind.kind);
        Path {
            path: format!("{}/{}", self.root, self.kind.resource),
            parameters: vec!["pretty"],
            operations: vec![self.list(id)],
        }
    }

    fn item(&self) -> Path {
        let (prefix, scope, name) = (&self.prefix, self.scope, &self.kind.kind);
        let suffix = format!("{prefix}{scope}{name}");
        let of = format!("the specified {name}");
        let mut operations = self.reads_and_writes(self.kind.verbs, &suffix, &of, &self.type_name);
        if self.kind.verbs.delete {
            let answer = match self.kind.returns_deleted {
                true => self.type_name.clone(),
                false => format!("{META}.Status"),
            };
            operations.push(Operation {
                description: format!("delete {}", with_article(name)),
                parameters: DELETE,
                body: Some(body(&format!("{META}.DeleteOptions"), ANYTHING, false)),
                answer: Some(answer),
                statuses: DELETED,
                ..self.operation("delete", "delete", format!("delete{suffix}"))
            });
        }
        Path {
            path: format!("{}/{{name}}", self.base()),
            parameters: self.parameters(&["name"]),
            operations,
        }
    }

    /// What items and most subresources have in common: get, put and patch.
    fn reads_and_writes(
        &self,
        verbs: Verbs,
        suffix: &str,
        of: &str,
        type_name: &str,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        let mut add = |operation: Operation| {
            operations.push(Operation { answer: Some(type_name.to_owned()), ..operation });
        };
        if verbs.get {
            add(Operation {
                description: format!("read {of}"),
                ..self.operation("get", "get", format!("read{suffix}"))
            });
        }
        if verbs.update {
            add(Operation {
                description: format!("replace {of}"),
                parameters: WRITE,
                body: Some(body(type_name, ANYTHING, true)),
                statuses: WRITTEN,
                ..self.operation("put", "put", format!("replace{suffix}"))
            });
        }
        if verbs.patch {
            let consumes = if self.kind.custom { PATCHES_CUSTOM } else { PATCHES };
            add(Operation {
                description: format!("partially update {of}"),
                parameters: PATCH,
                body: Some(body(&format!("{META}.Patch"), consumes, true)),
                statuses: WRITTEN,
                ..self.operation("patch", "patch", format!("patch{suffix}"))
            });
        }
        operations
    }

    fn subresource(&self, rows: &Snapshot, sub: &Subresource) -> Vec<Path> {
        let path = format!("{}/{{name}}/{}", self.base(), sub.name);
        let parameters = self.parameters(&["name"]);
        if matches!(&*sub.name, "attach" | "exec" | "portforward" | "proxy") {
            let mut paths = vec![Path {
                path: path.clone(),
                parameters,
                operations: self.connections(sub, ""),
            }];
            if &*sub.name == "proxy" {
                paths.push(Path {
                    path: format!("{path}/{{path}}"),
                    parameters: self.parameters(&["name", "path"]),
                    operations: self.connections(sub, "WithPath"),
                });
            }
            return paths;
        }
        let type_name = match &sub.kind {
            Some(gvk) => type_of(rows, gvk).unwrap_or_else(|| self.type_name.clone()),
            None => self.type_name.clone(),
        };
        let suffix =
            format!("{}{}{}{}", self.prefix, self.scope, self.kind.kind, capital(&sub.name));
        let of = format!("{} of the specified {}", sub.name, self.kind.kind);
        let mut operations = self.reads_and_writes(sub.verbs, &suffix, &of, &type_name);
        if sub.verbs.create {
            operations.push(Operation {
                description: format!("create {of}"),
                parameters: WRITE,
                body: Some(body(&type_name, ANYTHING, true)),
                answer: Some(type_name.clone()),
                statuses: CREATED,
                ..self.operation("post", "post", format!("create{suffix}"))
            });
        }
        for operation in &mut operations {
            if sub.kind.is_some() {
                operation.gvk.clone_from(&sub.kind);
            }
            if &*sub.name == "log" {
                operation.answer = None;
                operation.produces = &["text/plain", "application/json", "application/yaml"];
            }
        }
        vec![Path { path, parameters, operations }]
    }

    fn connections(&self, sub: &Subresource, more: &str) -> Vec<Operation> {
        let methods = [
            ("delete", sub.verbs.delete),
            ("get", sub.verbs.get),
            ("patch", sub.verbs.patch),
            ("post", sub.verbs.create),
            ("put", sub.verbs.update),
        ];
        methods
            .into_iter()
            .filter(|(_, can)| *can)
            .map(|(method, _)| {
                let (prefix, scope, kind) = (&self.prefix, self.scope, &self.kind.kind);
                let (name, verb) = (capital(&sub.name), capital(method));
                let id = format!("connect{prefix}{verb}{scope}{kind}{name}{more}");
                Operation {
                    description: format!(
                        "connect {} requests to {} of {kind}",
                        method.to_uppercase(),
                        sub.name
                    ),
                    gvk: sub.kind.clone().or_else(|| Some(self.kind.gvk())),
                    produces: ANYTHING,
                    answer: None,
                    ..self.operation(method, "connect", id)
                }
            })
            .collect()
    }
}

fn body(type_name: &str, consumes: &'static [&'static str], required: bool) -> Body {
    Body { type_name: type_name.into(), consumes, required }
}

/// `["core"]`, `["rbac", "authorization"]`; a custom group read backwards.
fn group_words(kind: &Kind) -> Vec<String> {
    if kind.group.is_empty() {
        return vec!["core".into()];
    }
    let own = kind.group.strip_suffix(".k8s.io").unwrap_or(&kind.group);
    let words = own.split('.').map(str::to_owned);
    if kind.custom { words.rev().collect() } else { words.collect() }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn with_article(kind: &str) -> String {
    let vowel = kind.starts_with(['A', 'E', 'I', 'O', 'U']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
