//! What a URL asks for, before anybody looks at what there is (`RequestInfo`).

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::error::Status;
use crate::object::GroupVersionResource;
use crate::request::{Body, Options, Request, Verb};

/// One request line, read.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub what: What,
    pub query: Query,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Resource {
        request: Box<Request>,
        /// What comes behind the subresource (of a proxy).
        rest: String,
    },
    /// Anything else, with the path as rules name it.
    Path(String),
}

/// A decoded query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(pub Vec<(String, String)>);

impl Query {
    pub(super) fn read(uri: &Uri) -> Query {
        let pairs = uri.query().and_then(|it| serde_urlencoded::from_str(it).ok());
        Query(pairs.unwrap_or_default())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As Go's conversion reads a flag: there and not `false` or `0`.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|it| !it.eq_ignore_ascii_case("false") && it != "0")
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|it| !it.is_empty()).map(str::to_owned)
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Status>
    where
        N::Err: std::fmt::Display,
    {
        let read = |it: &str| {
            it.parse().map_err(|error| {
                Status::bad_request(format!("{name}: Invalid value: \"{it}\": {error}"))
            })
        };
        self.get(name).filter(|it| !it.is_empty()).map(read).transpose()
    }

    fn options(&self, user_agent: &str) -> Result<Options, Status> {
        Ok(Options {
            label_selector: self.text("labelSelector"),
            field_selector: self.text("fieldSelector"),
            resource_version: self.text("resourceVersion"),
            resource_version_match: self.text("resourceVersionMatch"),
            limit: self.number("limit")?,
            go_on: self.text("continue"),
            timeout_seconds: self.number("timeoutSeconds")?,
            allow_watch_bookmarks: self.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: self.flag("sendInitialEvents"),
            dry_run: self
                .0
                .iter()
                .filter(|(key, value)| key == "dryRun" && !value.is_empty())
                .map(|(_, value)| value.clone())
                .collect(),
            field_manager: self.text("fieldManager"),
            field_validation: self.text("fieldValidation"),
            force: self.flag("force"),
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            propagation_policy: self.text("propagationPolicy"),
            orphan_dependents: self.flag("orphanDependents"),
            user_agent: user_agent.to_owned(),
        })
    }
}

impl Info {
    pub(super) fn read(method: &Method, uri: &Uri, user_agent: &str) -> Result<Info, Status> {
        let query = Query::read(uri);
        let Some((place, rest)) = Place::read(uri.path()) else {
            return Ok(Info { what: What::Path(uri.path().to_owned()), query });
        };
        let verb = place.verb(method, &query);
        let Some(verb) = verb else {
            return Err(Status::new(
                crate::error::Reason::MethodNotAllowed,
                "the server does not allow this method on the requested resource",
            ));
        };
        let request = Request {
            verb,
            resource: place.resource,
            subresource: place.subresource,
            namespace: place.namespace,
            name: place.name,
            options: query.options(user_agent)?,
            body: Body::None,
        };
        Ok(Info { what: What::Resource { request: Box::new(request), rest }, query })
    }
}

struct Place {
    resource: GroupVersionResource,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    /// The path says that it is a watch, as it did long ago.
    watch: bool,
}

impl Place {
    /// `None`: not the path of a resource.
    fn read(path: &str) -> Option<(Place, String)> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (group, version, rest) = match (parts.next()?, parts.next()?) {
            ("api", rest) => {
                let (version, rest) = rest.split_once('/')?;
                (String::new(), version, rest)
            }
            ("apis", rest) => {
                let (group, rest) = rest.split_once('/')?;
                let (version, rest) = rest.split_once('/')?;
                (group.to_owned(), version, rest)
            }
            _ => return None,
        };
        let (watch, rest) = match rest.strip_prefix("watch/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (namespace, rest) = namespace(rest);
        let mut parts = rest.splitn(4, '/');
        let mut next = || parts.next().filter(|it| !it.is_empty()).map(decoded);
        let resource = next()?;
        let (name, subresource) = (next(), next());
        let tail = parts.next().unwrap_or_default();
        let place = Place {
            resource: GroupVersionResource::new(&group, version, &resource),
            subresource,
            namespace,
            name,
            watch,
        };
        Some((place, tail.to_owned()))
    }

    fn verb(&self, method: &Method, query: &Query) -> Option<Verb> {
        let watches = self.watch || query.flag("watch") == Some(true);
        Some(match *method {
            Method::GET | Method::HEAD if watches && self.subresource.is_none() => Verb::Watch,
            Method::GET | Method::HEAD if self.name.is_some() => Verb::Get,
            Method::GET | Method::HEAD => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if self.name.is_some() => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            // Of no verb of its own: whoever may read what is served there may ask how.
            Method::OPTIONS if self.subresource.as_deref() == Some("proxy") => Verb::Get,
            _ => return None,
        })
    }
}

/// `namespaces/x/…` is within a namespace, unless it is the namespace itself or a part of it.
fn namespace(rest: &str) -> (Option<String>, &str) {
    let Some(within) = rest.strip_prefix("namespaces/") else {
        return (None, rest);
    };
    match within.split_once('/') {
        Some((name, below))
            if !below.is_empty() && !matches!(below, "status" | "finalize") && !name.is_empty() =>
        {
            (Some(decoded(name)), below)
        }
        _ => (None, rest),
    }
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &Method, uri: &str) -> Request {
        match Info::read(method, &uri.parse().unwrap(), "").unwrap().what {
            What::Resource { request, .. } => *request,
            What::Path(path) => panic!("{path} was taken for a path"),
        }
    }

    #[track_caller]
    fn check(method: Method, uri: &str, expected: &str) {
        let it = request(&method, uri);
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let told = format!(
            "{} {} ns={} name={} sub={}",
            it.verb.name(),
            it.resource.group_resource(),
            or(it.namespace),
            or(it.name),
            or(it.subresource)
        );
        assert_eq!(told, expected, "{uri}");
    }

    #[test]
    fn urls_are_read_as_upstream_reads_them() {
        let get = Method::GET;
        check(get.clone(), "/api/v1/pods", "list pods ns=- name=- sub=-");
        check(get.clone(), "/api/v1/pods/", "list pods ns=- name=- sub=-");
        check(get.clone(), "/api/v1/namespaces", "list namespaces ns=- name=- sub=-");
        check(get.clone(), "/api/v1/namespaces/a", "get namespaces ns=- name=a sub=-");
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            "update namespaces ns=- name=a sub=finalize",
        );
        check(get.clone(), "/api/v1/namespaces/a/pods", "list pods ns=a name=- sub=-");
        check(get.clone(), "/api/v1/namespaces/a/pods/b/log", "get pods ns=a name=b sub=log");
        check(
            get.clone(),
            "/apis/apps/v1/namespaces/a/deployments?watch=true",
            "watch deployments.apps ns=a name=- sub=-",
        );
        check(
            get.clone(),
            "/apis/apps/v1/watch/namespaces/a/deployments/b",
            "watch deployments.apps ns=a name=b sub=-",
        );
        check(get.clone(), "/api/v1/pods?watch=0", "list pods ns=- name=- sub=-");
        check(
            Method::DELETE,
            "/api/v1/namespaces/a/pods",
            "deletecollection pods ns=a name=- sub=-",
        );
        check(
            Method::POST,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "create clusterroles.rbac.authorization.k8s.io ns=- name=- sub=-",
        );
        check(get, "/api/v1/nodes/n%3A1", "get nodes ns=- name=n:1 sub=-");
        let proxy = "/api/v1/namespaces/a/pods/b/proxy/x";
        check(Method::OPTIONS, proxy, "get pods ns=a name=b sub=proxy");
        let elsewhere = "/api/v1/namespaces/a/pods/b".parse().unwrap();
        assert_eq!(Info::read(&Method::OPTIONS, &elsewhere, "").unwrap_err().code(), 405);
    }

    #[test]
    fn paths_that_are_no_resources_stay_paths() {
        for path in ["/api", "/api/", "/api/v1", "/api/v1/", "/apis/apps/v1", "/healthz", "/", "/x"]
        {
            let info = Info::read(&Method::GET, &path.parse().unwrap(), "").unwrap();
            assert!(matches!(info.what, What::Path(_)), "{path}");
        }
    }

    #[test]
    fn the_query_is_read_into_options() {
        let uri = "/api/v1/pods?limit=5&labelSelector=a%3Db%2Cc&sendInitialEvents=true&dryRun=All";
        let options = request(&Method::GET, uri).options;
        assert_eq!(options.limit, Some(5));
        assert_eq!(options.label_selector.as_deref(), Some("a=b,c"));
        assert_eq!(options.send_initial_events, Some(true));
        assert_eq!(options.dry_run, ["All"]);
        let bad = Info::read(&Method::GET, &"/api/v1/pods?limit=x".parse().unwrap(), "");
        assert_eq!(bad.unwrap_err().code(), 400);
    }
}
