//! `roost image`: getting, loading, listing and removing images.
//!
//! Listing and loading also work without an agent, on the store itself: its lock keeps an agent
//! from being there at the same time.

use serde_json::{Value, json};

use super::answers::{Got, Images, Items, Pruned};
use super::args::{LoadArgs, RemoveArgs};
use super::client::Client;
use super::failure::Failure;
use super::get::{encoded, understood};
use super::output;
use crate::agent::service::IdleImages;
use crate::api::images as shapes;
use crate::config;
use crate::provisioner::reference::ImageSource;

pub(super) mod ls;
pub(super) mod pull;

/// The path of all images.
pub(super) const PATH: &str = "/roost/v1/images";
/// Digits of an id that are shown, as Docker does.
const ID_LEN: usize = 12;

/// Loads files.
pub(super) async fn load(client: &Client, args: &LoadArgs) -> Result<(), Failure> {
    let mut idle: Option<IdleImages> = None;
    let mut failures = Vec::new();
    for file in &args.files {
        let path = config::absolute(file).map_err(|error| Failure::usage(error.to_string()))?;
        let asked = match &idle {
            Some(idle) => load_idle(idle, &path).await,
            None => {
                let body = json!({ "path": path });
                client.post_patiently(&format!("{PATH}/load"), &body).await
            }
        };
        let loaded = match asked {
            Err(failure) if failure.is_unreachable() && idle.is_none() => {
                let opened = open_idle(client, failure)?;
                load_idle(idle.insert(opened), &path).await
            }
            asked => asked,
        };
        match loaded {
            Ok(loaded) => {
                let text: String = loaded.items.iter().map(|got| got_text(got, "loaded")).collect();
                output::print(&text)?;
            }
            Err(failure) if failure.is_unreachable() => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    all_told(failures)
}

async fn load_idle(idle: &IdleImages, path: &std::path::Path) -> Result<Items<Got>, Failure> {
    let loaded = idle.load(path).await;
    let loaded = loaded.map_err(|error| Failure::wrong(crate::agent::chain(&error)))?;
    let items: Vec<Value> = loaded.iter().map(shapes::got_shown).collect();
    understood(&json!({ "items": items }))
}

/// The store, if no agent has it; else why none could be asked. Nothing is made where no agent has
/// ever been.
fn open_idle(client: &Client, failure: Failure) -> Result<IdleImages, Failure> {
    let paths = client.paths();
    if !paths.data.is_dir() {
        return Err(failure);
    }
    let idle = IdleImages::open(paths).map_err(|_| failure)?;
    output::note(&format!("no agent is running; working on {} itself", paths.images().display()));
    Ok(idle)
}

/// Removes images.
pub(super) async fn remove(client: &Client, args: &RemoveArgs) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for name in &args.names {
        match client.delete(&format!("{PATH}?name={}", encoded(name))).await {
            Ok(_) => output::print(&format!("removed {}\n", output::clean_line(name)))?,
            Err(failure) if failure.is_unreachable() => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    all_told(failures)
}

/// Removes what nobody uses.
pub(super) async fn prune(client: &Client) -> Result<(), Failure> {
    let pruned: Pruned = client.post_patiently(&format!("{PATH}/prune"), &json!({})).await?;
    let mut text: String =
        pruned.images.iter().map(|id| format!("removed {}\n", short_id(id))).collect();
    text.push_str(&format!("{} given back\n", bytes(pruned.freed_bytes)));
    output::print(&text)
}

/// Several failures as one: all but the last are told now.
fn all_told(mut failures: Vec<Failure>) -> Result<(), Failure> {
    let Some(last) = failures.pop() else { return Ok(()) };
    failures.iter().for_each(|failure| output::note(failure.to_string().trim_end()));
    Err(last)
}

/// All images as the agent answers, or by the store itself if there is no agent.
async fn all(client: &Client) -> Result<Value, Failure> {
    match client.get(PATH).await {
        Err(failure) if failure.is_unreachable() => {
            if !client.paths().images().is_dir() {
                return Err(failure);
            }
            let listed = open_idle(client, failure)?.list();
            let listed = listed.map_err(|error| Failure::wrong(crate::agent::chain(&error)))?;
            Ok(shapes::shown(&listed))
        }
        answered => answered,
    }
}

/// A line about an image that was got.
fn got_text(got: &Got, what: &str) -> String {
    let names: Vec<String> = got.names.iter().map(|name| familiar(name)).collect();
    let name = if names.is_empty() { "<none>".to_owned() } else { names.join(", ") };
    output::clean_line(&format!("{name} {what} ({})", short_id(&got.id))) + "\n"
}

/// A name as people write it.
pub(super) fn familiar(name: &str) -> String {
    name.parse::<ImageSource>().map_or_else(|_| name.to_owned(), |source| source.familiar())
}

fn short_id(id: &str) -> String {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    output::clean_line(&digits.chars().take(ID_LEN).collect::<String>())
}

/// Bytes as `docker image ls` has them: in powers of 1000, three digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    // In thousandths of the unit.
    let mut milli = u128::from(count) * 1000;
    while milli >= 999_500 && unit + 1 < UNITS.len() {
        milli /= 1000;
        unit += 1;
    }
    let (whole, rest) = (milli / 1000, milli % 1000);
    match whole {
        _ if unit == 0 => format!("{whole}B"),
        0..10 => format!("{whole}.{:02}{}", rest / 10, UNITS[unit]),
        10..100 => format!("{whole}.{}{}", rest / 100, UNITS[unit]),
        _ => format!("{whole}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests;
