//! `roost get events`.

use serde_json::Value;

use super::{as_list, field, structured, structured_next, understood, with_query};
use crate::api::kubernetes::types::{Event, List, WatchEvent};
use crate::cli::args::{EventsArgs, Output};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::screen::{Screen, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::{output, time};
use crate::clock::WallTime;

/// Lists events.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &EventsArgs,
) -> Result<(), Failure> {
    let EventsArgs { name, space, output, watch } = args;
    let name = name.as_deref().map(|name| space.namespace.pod(name)).transpose()?;
    let namespace = name.as_ref().map(|name| &name.namespace);
    let path = match namespace.or(space.namespace.namespace.as_ref()) {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".to_owned(),
    };
    let selector = name.as_ref().map(|name| field("involvedObject.name", &name.name));
    let list: Value = client.get(&with_query(&path, std::slice::from_ref(&selector))).await?;
    let events: List<Event> = understood(&list)?;
    let now = WallTime::now();
    let rows: Vec<_> = events.items.iter().map(|event| row(event, now)).collect();
    let least: &[usize] = if *watch { &WIDTHS } else { &[] };
    let (table, text) = Table::render_wide(screen, least, HEAD, &rows);
    if let Some(text) = structured(*output, &as_list(&list["items"])) {
        output::print(&text)?;
    } else if *output == Output::Name {
        output::print(&events.items.iter().map(full_name).collect::<String>())?;
    } else if events.items.is_empty() && !*watch {
        output::note("No events found.");
    } else {
        output::print(&text)?;
    }
    if !*watch {
        return Ok(());
    }
    let path = with_query(&path, &[selector, Some("watch=true".to_owned())]);
    let mut watch = client.watch(&path).await?;
    loop {
        let WatchEvent { kind, object } = watch.next::<Value>().await?;
        let event: Event = understood(&object)?;
        // Old events make room for new ones; that is no news.
        if kind == "DELETED" || events.items.contains(&event) {
            continue;
        }
        let text = structured_next(*output, &object).unwrap_or_else(|| match output {
            Output::Name => full_name(&event),
            Output::Json | Output::Yaml | Output::Table | Output::Wide => {
                table.row(&row(&event, WallTime::now()))
            }
        });
        output::print(&text)?;
    }
}

pub(super) const HEAD: &[&str] = &["LAST SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"];

/// Of the columns of a watch: most of what may come fits.
const WIDTHS: [usize; 5] = [9, 7, 16, 20, 5];

fn full_name(event: &Event) -> String {
    format!("event/{}\n", output::clean_line(&event.metadata.name))
}

pub(super) fn row(event: &Event, now: WallTime) -> Vec<Cell> {
    let object = &event.involved_object;
    let is_default = object.namespace.is_empty() || object.namespace == "default";
    let name = if is_default {
        format!("{}/{}", object.kind.to_lowercase(), object.name)
    } else {
        format!("{}/{}/{}", object.kind.to_lowercase(), object.namespace, object.name)
    };
    vec![
        time::age(Some(&event.last_timestamp), now).into(),
        Cell::toned(tone(event), &event.severity),
        event.reason.as_str().into(),
        name.into(),
        event.count.to_string().into(),
        event.message.as_str().into(),
    ]
}

/// Whether somebody should look.
pub(in crate::cli) fn tone(event: &Event) -> Tone {
    if event.severity == "Warning" { Tone::Warning } else { Tone::Plain }
}
