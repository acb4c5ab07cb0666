//! `roost get configmaps` and `roost get secrets`. Values are not shown: the agent does not tell
//! them.

use serde_json::Value;

use super::{as_list, structured, understood};
use crate::api::kubernetes::pod::SOURCE_ANNOTATION;
use crate::cli::answers::Items;
use crate::cli::args::{DocumentsArgs, Output};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::screen::{Screen, Tone};
use crate::cli::table::{Cell, Table};

/// Which documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Kind {
    ConfigMaps,
    Secrets,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::ConfigMaps => "configmaps",
            Self::Secrets => "secrets",
        }
    }
}

/// Lists them.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    kind: Kind,
    args: &DocumentsArgs,
) -> Result<(), Failure> {
    let DocumentsArgs { name, space, output } = args;
    let word = kind.word();
    let path = match space.namespace.namespace.as_ref() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/{word}"),
        None => format!("/api/v1/{word}"),
    };
    let found: Items<Value> = understood(&client.get::<Value>(&path).await?)?;
    let is_it = |item: &Value| {
        let of = &item["metadata"];
        let (namespace, own) = (text(&of["namespace"]), text(&of["name"]));
        name.as_ref().is_none_or(|name| *name == own || *name == format!("{namespace}/{own}"))
    };
    let items: Vec<Value> = found.items.into_iter().filter(is_it).collect();
    if let Some(text) = structured(*output, &as_list(&items.clone().into())) {
        return output::print(&text);
    }
    if items.is_empty() {
        output::note(&format!("No {word} found."));
        return Ok(());
    }
    output::print(&table(screen, *output, kind, &items))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn table(screen: Screen, output: Output, kind: Kind, items: &[Value]) -> String {
    if output == Output::Name {
        let name = |item: &Value| {
            let of = &item["metadata"];
            format!("{}/{}\n", text(&of["namespace"]), text(&of["name"]))
        };
        return items.iter().map(name).collect();
    }
    let mut head = vec!["NAMESPACE", "NAME"];
    head.extend((kind == Kind::Secrets).then_some("TYPE"));
    head.extend(["DATA", "MANIFEST", ""]);
    head.extend((output == Output::Wide).then_some("KEYS"));
    let row = |item: &Value| {
        let of = &item["metadata"];
        let mut row: Vec<Cell> = vec![text(&of["namespace"]).into(), text(&of["name"]).into()];
        row.extend((kind == Kind::Secrets).then(|| Cell::from(text(&item["type"]))));
        let keys = item["roost"]["keys"].as_object();
        row.push(keys.map_or(0, serde_json::Map::len).to_string().into());
        row.push(text(&of["annotations"][SOURCE_ANNOTATION]).into());
        let stale =
            if item["roost"]["stale"] == true { "faulty: the last good one counts" } else { "" };
        row.push(Cell::toned(Tone::Bad, stale));
        if output == Output::Wide {
            let names = keys.into_iter().flatten().map(|(key, len)| format!("{key} ({len} B)"));
            row.push(names.collect::<Vec<_>>().join(", ").into());
        }
        row
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    Table::render(screen, &head, &rows).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::service::{DocumentView, ManifestFile};
    use crate::api::kubernetes::document;
    use crate::manifest::document::{DocumentKind, DocumentName};

    #[test]
    fn documents_are_listed_by_their_keys() {
        let view = |kind, name: &str, is_stale| DocumentView {
            name: DocumentName { kind, name: name.parse().unwrap() },
            secret_type: (kind == DocumentKind::Secret).then(|| "Opaque".to_owned()),
            source: ManifestFile { directory: "/m".to_owned(), file: "a.yaml".to_owned() },
            is_stale,
            keys: vec![("password".to_owned(), 7), ("user".to_owned(), 2)],
        };
        let items = [
            document::of(&view(DocumentKind::Secret, "db", false)),
            document::of(&view(DocumentKind::Secret, "shop/db", true)),
        ];
        insta::assert_snapshot!(
            table(Screen::default(), Output::Wide, Kind::Secrets, &items),
            @"
        NAMESPACE   NAME   TYPE     DATA   MANIFEST                                       KEYS
        default     db     Opaque   2      /m/a.yaml                                      password (7 B), user (2 B)
        shop        db     Opaque   2      /m/a.yaml   faulty: the last good one counts   password (7 B), user (2 B)
        "
        );
    }
}
