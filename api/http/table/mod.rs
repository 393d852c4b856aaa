//! Tables and bare metadata: what `kubectl get` and metadata informers ask for instead of objects.

mod path;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::negotiate::Shape;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::kinds::kind::{Column, Columns};
use crate::object::duration::human;
use crate::object::meta;
use crate::object::time::Timestamp;
use crate::pipeline::Shown;

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub(super) fn read(text: Option<&str>) -> Result<Include, Status> {
        match text.unwrap_or_default() {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::Nothing),
            "Object" => Ok(Include::Object),
            other => Err(Status::new(
                Reason::BadRequest,
                format!("unrecognized includeObject value: \"{other}\""),
            )),
        }
    }
}

/// Makes rows of objects of one kind at one moment.
pub(super) struct Tables {
    pub kind: Arc<Kind>,
    pub version: &'static str,
    pub include: Include,
    pub now: Timestamp,
}

impl Tables {
    /// `columnDefinitions`.
    pub(super) fn columns(&self) -> Value {
        let all: Vec<Value> = match &self.kind.columns {
            Columns::Default => DEFAULT.iter().map(definition).collect(),
            Columns::Printer(columns, _) => columns.iter().map(definition).collect(),
            Columns::Paths(columns) => {
                let name = std::iter::once(definition(&DEFAULT[0]));
                name.chain(columns.iter().map(|(column, _)| definition(column))).collect()
            }
        };
        all.into()
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        match &self.kind.columns {
            Columns::Default => vec![
                meta::name(object).into(),
                meta::text(object, &["metadata", "creationTimestamp"]).into(),
            ],
            Columns::Printer(_, cells) => cells(object, self.now),
            Columns::Paths(columns) => {
                let name = std::iter::once(meta::name(object).into());
                let cell = |(column, path): &(Column, String)| {
                    path::cell(object, path, &column.kind, self.now)
                };
                name.chain(columns.iter().map(cell)).collect()
            }
        }
    }

    pub(super) fn row(&self, shown: &Shown) -> Result<Value, Status> {
        let object = shown.value()?;
        let carried = match self.include {
            Include::Nothing => Value::Null,
            Include::Metadata => partial(object, self.version),
            Include::Object => object.clone(),
        };
        let mut row = json!({"cells": self.cells(object)});
        if !carried.is_null() {
            row["object"] = carried;
        }
        Ok(row)
    }

    /// A row as JSON at the end of `out`; what it carries is not decoded for it.
    pub(super) fn write_row(&self, shown: &Shown, out: &mut Vec<u8>) -> Result<(), Status> {
        out.extend_from_slice(b"{\"cells\":");
        let cells = self.cells(shown.value()?);
        serde_json::to_writer(&mut *out, &cells).map_err(Status::internal)?;
        match self.include {
            Include::Nothing => {}
            Include::Metadata => {
                out.extend_from_slice(b",\"object\":");
                write_partial(shown, self.version, out)?;
            }
            Include::Object => {
                out.extend_from_slice(b",\"object\":");
                shown.write_json(out)?;
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// A whole table.
    pub(super) fn table(&self, metadata: Value, columns: bool, rows: Vec<Value>) -> Value {
        let columns = if columns { self.columns() } else { Value::Array(Vec::new()) };
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": metadata, "columnDefinitions": columns, "rows": rows,
        })
    }
}

const fn column(name: &'static str, format: &'static str, description: &'static str) -> Column {
    use std::borrow::Cow::Borrowed;
    Column {
        name: Borrowed(name),
        kind: Borrowed("string"),
        format: Borrowed(format),
        description: Borrowed(description),
        priority: 0,
    }
}

static DEFAULT: [Column; 2] = [
    column("Name", "name", "Name must be unique within a namespace."),
    column("Created At", "", "When the object was created, in UTC."),
];

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.kind, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

/// Only what every object has.
pub(super) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Map::new().into()),
    })
}

/// The same as JSON at the end of `out`, from the bytes of the object.
pub(super) fn write_partial(shown: &Shown, version: &str, out: &mut Vec<u8>) -> Result<(), Status> {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    shown.write_metadata(out)?;
    out.push(b'}');
    Ok(())
}

/// One object in a shape.
pub(super) fn shaped(shape: Shape, tables: &Tables, shown: &Shown) -> Result<Value, Status> {
    match shape {
        Shape::Whole => shown.value().cloned(),
        Shape::Partial(version) => Ok(partial(shown.value()?, version)),
        Shape::Table(_) => {
            let metadata = json!({"resourceVersion": shown.revision().to_string()});
            Ok(tables.table(metadata, true, vec![tables.row(shown)?]))
        }
    }
}

/// How long ago a moment was, as a cell shows it.
pub(super) fn age(text: &str, now: Timestamp) -> String {
    match Timestamp::parse(text) {
        Some(then) => human(now.micros_since(then) / 1_000_000),
        None => "<unknown>".into(),
    }
}
