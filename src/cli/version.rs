//! `roost version`.

use serde_json::{Value, json};

use super::args::VersionArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::structured;
use super::output;

/// Of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Says which build this is.
pub(super) fn client(args: &VersionArgs) -> Result<(), Failure> {
    output::print(&text(args, None))
}

/// Says also which the agent is, if there is one.
pub(super) async fn run(client: &Client, args: &VersionArgs) -> Result<(), Failure> {
    // That there is none is no answer to the question, and `roost status` says why.
    let status: Option<Value> = client.get("/roost/v1/status").await.ok();
    let agent = status.as_ref().and_then(|status| status["version"].as_str());
    output::print(&text(args, agent))
}

fn text(args: &VersionArgs, agent: Option<&str>) -> String {
    structured(args.output, &json!({ "version": OWN, "agentVersion": agent })).unwrap_or_else(
        || {
            let agent = agent.map(|agent| format!("agent {}\n", output::clean_line(agent)));
            format!("roost {OWN}\n{}", agent.unwrap_or_default())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Output;

    #[test]
    fn the_agent_s_version_is_told_if_there_is_one() {
        let args = |output| VersionArgs { client: false, output };
        assert_eq!(text(&args(Output::Table), None), format!("roost {OWN}\n"));
        let both = text(&args(Output::Table), Some("9.9.9"));
        assert_eq!(both, format!("roost {OWN}\nagent 9.9.9\n"));
        assert!(text(&args(Output::Yaml), Some("9.9.9")).starts_with("agentVersion: \"9.9.9\"\n"));
    }
}
