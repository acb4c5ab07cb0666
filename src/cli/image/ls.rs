//! `roost image ls`, `roost get images`.

use serde_json::Value;

use super::{Images, all, bytes, familiar, short_id};
use crate::cli::answers::Image;
use crate::cli::args::{ImagesArgs, Output};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::get::{as_list, structured, understood};
use crate::cli::screen::{Screen, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::{output, time};
use crate::clock::WallTime;

/// Digits of an id that tell images apart.
const ID_LEN_MIN: usize = 4;

/// Lists images.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &ImagesArgs,
) -> Result<(), Failure> {
    let ImagesArgs { name, output } = args;
    let mut answer = all(client).await?;
    if let (Some(name), Some(items)) = (name, answer["items"].as_array_mut()) {
        items.retain(|item| is_meant(item, name));
        if items.is_empty() {
            return Err(Failure::wrong(format!("there is no image {name}")));
        }
    }
    if let Some(text) = structured(*output, &as_list(&answer["items"])) {
        return output::print(&text);
    }
    let images: Images = understood(&answer)?;
    if images.items.is_empty() && *output != Output::Name {
        output::note("No images found.");
        return Ok(());
    }
    output::print(&text(screen, *output, &images.items, WallTime::now()))
}

/// Whether an image has that name, or an id that begins so.
fn is_meant(item: &Value, name: &str) -> bool {
    let wanted = familiar(name);
    let names = item["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let id = item["id"].as_str().unwrap_or_default();
    let id = id.split_once(':').map_or(id, |(_, digits)| digits);
    names.map(familiar).any(|name| name == wanted)
        || digits.len() >= ID_LEN_MIN && id.starts_with(digits)
}

pub(super) fn text(screen: Screen, output: Output, images: &[Image], now: WallTime) -> String {
    if output == Output::Name {
        let name = |image: &Image| match image.names.first() {
            Some(name) => output::clean_line(&familiar(name)) + "\n",
            None => output::clean_line(&image.id) + "\n",
        };
        return images.iter().map(name).collect();
    }
    let mut head = vec!["NAME", "ID", "SIZE", "AGE", "USED BY", "PINNED"];
    if output == Output::Wide {
        head.extend(["LAST USED", "MANIFEST"]);
    }
    let mut rows = Vec::new();
    for image in images {
        // An image without a name is about to go.
        let none = ["<none>".to_owned()];
        let names: Vec<String> = image.names.iter().map(|name| familiar(name)).collect();
        for name in if names.is_empty() { &none[..] } else { &names } {
            rows.push(row(output, image, name, now));
        }
    }
    Table::render(screen, &head, &rows).1
}

fn row(output: Output, image: &Image, name: &str, now: WallTime) -> Vec<Cell> {
    let Image { id, manifest, names: _, size, pinned, made, used, used_by } = image;
    let pods = match (used_by.as_slice(), output) {
        ([], _) => "<none>".to_owned(),
        ([first, second, rest @ ..], Output::Table) if !rest.is_empty() => {
            format!("{}, {} and {} more", plain(first), plain(second), rest.len())
        }
        (all, _) => all.iter().map(|pod| plain(pod)).collect::<Vec<_>>().join(", "),
    };
    let tone = if used_by.is_empty() { Tone::Dim } else { Tone::Plain };
    let mut row: Vec<Cell> = vec![
        name.into(),
        short_id(id).into(),
        bytes(*size).into(),
        time::age(Some(made), now).into(),
        Cell::toned(tone, &pods),
        if *pinned { "yes" } else { "no" }.into(),
    ];
    if output == Output::Wide {
        let used = used.as_deref().map(|used| time::age(Some(used), now));
        row.extend([
            used.unwrap_or_else(|| "<unknown>".to_owned()).into(),
            manifest.as_str().into(),
        ]);
    }
    row
}

/// A pod as other commands take it.
fn plain(pod: &str) -> &str {
    pod.strip_prefix("default/").unwrap_or(pod)
}
