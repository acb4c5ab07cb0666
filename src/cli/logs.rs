//! `roost logs`.

use hyper::Method;

use super::args::LogsArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{pod_path, with_query};
use super::output;

/// Prints what a container printed.
pub(super) async fn run(client: &Client, args: &LogsArgs) -> Result<(), Failure> {
    let LogsArgs { pod, container, follow, previous, tail, since, timestamps } = args;
    let name = pod.namespace.pod(&pod.name)?;
    let flag = |name: &str, is_set: bool| is_set.then(|| format!("{name}=true"));
    let path = with_query(
        &format!("{}/log", pod_path(&name)),
        &[
            container.as_ref().map(|name| format!("container={name}")),
            flag("follow", *follow),
            flag("previous", *previous),
            flag("timestamps", *timestamps),
            tail.map(|lines| format!("tailLines={lines}")),
            // The API knows whole seconds; rather a little more than too little.
            since.map(|since| format!("sinceSeconds={}", since.as_millis().div_ceil(1000).max(1))),
        ],
    );
    let mut body = client.open(Method::GET, &path).await?.into_body();
    while let Some(piece) = client.piece(&mut body).await? {
        output::print_bytes(&piece)?;
    }
    Ok(())
}
