//! `roost get revisions`.

use serde_json::Value;

use super::{as_list, own_path, structured, understood};
use crate::cli::answers::{Items, Revision};
use crate::cli::args::{Output, RevisionsArgs};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::screen::{Screen, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::{output, time};
use crate::clock::WallTime;

/// Characters of a digest that a table shows; the rest tells no more revisions apart.
const DIGEST_LEN: usize = 12;

/// Lists the revisions of a pod.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &RevisionsArgs,
) -> Result<(), Failure> {
    let RevisionsArgs { pod, output } = args;
    let name = pod.namespace.pod(&pod.name)?;
    let list: Value =
        client.get(&own_path(&name, "revisions")).await.map_err(|failure| failure.about(&name))?;
    if let Some(text) = structured(*output, &as_list(&list["items"])) {
        return output::print(&text);
    }
    let revisions: Items<Revision> = understood(&list)?;
    output::print(&text(screen, *output, &revisions.items, WallTime::now()))
}

pub(super) fn text(
    screen: Screen,
    output: Output,
    revisions: &[Revision],
    now: WallTime,
) -> String {
    if output == Output::Name {
        return revisions.iter().map(|revision| format!("{}\n", revision.number)).collect();
    }
    let digest = |revision: &Revision| match output {
        Output::Wide => revision.digest.clone(),
        Output::Table | Output::Json | Output::Yaml | Output::Name => {
            revision.digest.chars().take(DIGEST_LEN).collect()
        }
    };
    let row = |revision: &Revision| -> Vec<Cell> {
        let current = if revision.current { "current" } else { "" };
        vec![
            revision.number.to_string().into(),
            Cell::toned(Tone::Good, current),
            time::age(Some(&revision.accepted_at), now).into(),
            digest(revision).into(),
            revision.source.as_str().into(),
        ]
    };
    let rows: Vec<_> = revisions.iter().map(row).collect();
    Table::render(screen, &["REVISION", "", "AGE", "DIGEST", "MANIFEST"], &rows).1
}
