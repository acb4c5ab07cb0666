//! `roost plan`: what the agent would do now.

use serde_json::Value;

use super::answers::{Fault, Plan, PlanItem};
use super::args::PlanArgs;
use super::client::Client;
use super::diff;
use super::failure::Failure;
use super::get::{structured, understood};
use super::output;
use super::screen::{Screen, Tone};
use super::table::{Cell, Table};

/// Says what the agent would do.
pub(super) async fn run(client: &Client, screen: Screen, args: &PlanArgs) -> Result<(), Failure> {
    let value: Value = client.get("/roost/v1/plan").await?;
    let plan: Plan = understood(&value)?;
    match structured(args.output, &value) {
        Some(text) => output::print(&text)?,
        None => output::print(&text(screen, &plan))?,
    }
    diff::tell(&[], &plan.faults)
}

fn text(screen: Screen, plan: &Plan) -> String {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for PlanItem { pod, actions, waits, held_at } in &plan.items {
        for action in actions {
            let verb = Cell::toned(tone(&action.action), &action.action);
            rows.push(vec![pod.as_str().into(), verb, action.reason.as_str().into()]);
        }
        if let Some(why) = waits {
            let verb = Cell::toned(Tone::Dim, "wait");
            rows.push(vec![pod.as_str().into(), verb, why.as_str().into()]);
        }
        if let Some(revision) = held_at {
            let short = pod.strip_prefix("default/").unwrap_or(pod);
            let why = format!(
                "at revision {revision}, because it was rolled back from what its manifest asks \
                 for; `roost rollback {short} --release` follows the manifest again"
            );
            rows.push(vec![pod.as_str().into(), Cell::toned(Tone::Dim, "hold"), why.into()]);
        }
    }
    if rows.is_empty() {
        let is_all = !plan.faults.iter().any(Fault::is_error);
        return if is_all { "Nothing to do.\n" } else { "" }.to_owned();
    }
    Table::render(screen, &["POD", "ACTION", "WHY"], &rows).1
}

/// What ends something stands out.
fn tone(action: &str) -> Tone {
    let action = action.to_lowercase();
    let ends = ["stop", "kill", "delete", "destroy", "terminate", "remove", "replace"];
    if ends.iter().any(|word| action.starts_with(word)) { Tone::Warning } else { Tone::Good }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(items: &Value) -> String {
        let plan: Plan = understood(&json!({ "items": items })).unwrap();
        text(Screen::default(), &plan)
    }

    #[test]
    fn a_plan_has_a_line_for_each_action_and_for_what_waits() {
        let text = shown(&json!([
            { "pod": "default/web", "actions": [{ "action": "create", "reason": "it is new" }] },
            { "pod": "default/idle", "actions": [], "waits": null },
            { "pod": "shop/db", "actions": [
                { "action": "stop", "reason": "its manifest\u{1b} is gone" },
            ], "waits": "its containers\nend" },
            { "pod": "shop/old", "actions": [], "waits": null, "heldAt": 2 },
        ]));
        insta::assert_snapshot!(text, @r"
        POD           ACTION   WHY
        default/web   create   it is new
        shop/db       stop     its manifest\u{1b} is gone
        shop/db       wait     its containers end
        shop/old      hold     at revision 2, because it was rolled back from what its manifest asks for; `roost rollback shop/old --release` follows the manifest again
        ");
    }

    #[test]
    fn an_empty_plan_says_so() {
        let text = shown(&json!([{ "pod": "default/idle", "actions": [], "waits": null }]));
        assert_eq!(text, "Nothing to do.\n");
        // It can't be said of what can't be read.
        let faults = vec![Fault { severity: "error".to_owned(), ..Fault::default() }];
        assert_eq!(super::text(Screen::default(), &Plan { items: vec![], faults }), "");
    }
}
