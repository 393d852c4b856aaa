//! Which form of an answer the client wants: the first of its wishes that can be had.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use super::info::Query;
use crate::error::{Reason, Status};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What is made of the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Whole,
    /// `meta.k8s.io/v1` or `v1beta1`.
    Table(&'static str),
    /// Only metadata: of one object or, for a list, of each.
    Partial(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub media: Media,
    pub shape: Shape,
    pub pretty: bool,
}

/// What can be had of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub protobuf: bool,
    /// Table and the like: of what has metadata.
    pub shapes: bool,
}

struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

/// The clauses of an Accept header, the most wanted first.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|it| !it.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|it| it.split_once('=')).collect();
            let quality = parameters.iter().find(|(name, _)| *name == "q");
            let quality = quality.and_then(|(_, it)| it.parse().ok()).unwrap_or(1.0);
            Some(Clause { media, parameters, quality })
        })
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

impl Clause<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(it, _)| *it == name).map(|(_, value)| *value)
    }

    fn form(&self, offer: Offer) -> Option<Form> {
        let media = match self.media {
            "*/*" | "application/*" | "application/json" => Media::Json,
            "application/yaml" => Media::Yaml,
            "application/vnd.kubernetes.protobuf" if offer.protobuf => Media::Protobuf,
            _ => return None,
        };
        let shape = match self.parameter("as") {
            None => Shape::Whole,
            Some(_) if !offer.shapes || self.parameter("g") != Some("meta.k8s.io") => return None,
            Some(shape) => {
                let version = match self.parameter("v") {
                    Some("v1") => "v1",
                    Some("v1beta1") => "v1beta1",
                    _ => return None,
                };
                match shape {
                    "Table" => Shape::Table(version),
                    "PartialObjectMetadata" | "PartialObjectMetadataList" => {
                        Shape::Partial(version)
                    }
                    _ => return None,
                }
            }
        };
        if self.parameter("stream").is_some_and(|it| it != "watch") {
            return None;
        }
        let pretty = self.parameter("pretty") == Some("1");
        Some(Form { media, shape, pretty })
    }
}

/// The form of an answer, or 406.
pub(super) fn form(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Form, Status> {
    let text = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let accept = text(&ACCEPT);
    let pretty = match query.get("pretty") {
        Some(value) => !matches!(value, "false" | "0"),
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|it| text(&USER_AGENT).starts_with(it)),
    };
    if accept.trim().is_empty() {
        return Ok(Form { media: Media::Json, shape: Shape::Whole, pretty });
    }
    let found = clauses(accept).iter().find_map(|clause| clause.form(offer));
    let form = found.ok_or_else(|| not_acceptable(offer))?;
    Ok(Form { pretty: form.pretty || pretty, ..form })
}

fn not_acceptable(offer: Offer) -> Status {
    let mut known = vec!["application/json", "application/yaml"];
    if offer.protobuf {
        known.push("application/vnd.kubernetes.protobuf");
    }
    Status::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: {}", known.join(", ")),
    )
}

/// Errors are told in JSON unless YAML or protobuf alone is understood.
pub(super) fn error_media(headers: &HeaderMap) -> Media {
    let offer = Offer { protobuf: true, shapes: false };
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    // A Status passes whatever it was to be made into.
    let plain = clauses(accept).into_iter().find_map(|mut clause| {
        clause.parameters.retain(|(name, _)| !matches!(*name, "as" | "g" | "v"));
        clause.form(offer)
    });
    plain.map_or(Media::Json, |it| it.media)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str, offer: Offer) -> Result<Form, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        form(&headers, &Query::default(), offer)
    }

    const ALL: Offer = Offer { protobuf: true, shapes: true };

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let form = |accept: &str, offer| {
            let form = negotiated(accept, offer).unwrap();
            (form.media, form.shape)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(form(table, ALL), (Media::Json, Shape::Table("v1")));
        let none = Offer { protobuf: false, shapes: false };
        assert_eq!(form(table, none), (Media::Json, Shape::Whole));
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(form(both, ALL), (Media::Protobuf, Shape::Whole));
        assert_eq!(form(both, none), (Media::Json, Shape::Whole));
        assert_eq!(form("*/*", ALL), (Media::Json, Shape::Whole));
        assert_eq!(form("application/yaml;q=0.9, application/json", ALL).0, Media::Json);
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
        assert_eq!(form(old, ALL), (Media::Json, Shape::Table("v1beta1")));
    }

    #[test]
    fn what_cannot_be_served_is_406() {
        for accept in ["text/html", "application/json;as=Table;v=v2;g=meta.k8s.io"] {
            assert_eq!(negotiated(accept, ALL).unwrap_err().code(), 406, "{accept}");
        }
        let none = Offer { protobuf: false, shapes: false };
        let only = "application/vnd.kubernetes.protobuf";
        assert_eq!(negotiated(only, none).unwrap_err().code(), 406);
    }
}
