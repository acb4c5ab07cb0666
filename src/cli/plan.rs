//! `roost plan`: what the agent would do now.

use serde_json::Value;

use super::answers::{Items, PlanItem};
use super::args::PlanArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{structured, understood};
use super::output;
use super::screen::{Screen, Tone};
use super::table::{Cell, Table};

/// Says what the agent would do.
pub(super) async fn run(client: &Client, screen: Screen, args: &PlanArgs) -> Result<(), Failure> {
    let value: Value = client.get("/roost/v1/plan").await?;
    if let Some(text) = structured(args.output, &value) {
        return output::print(&text);
    }
    let plan: Items<PlanItem> = understood(&value)?;
    output::print(&text(screen, &plan.items))
}

fn text(screen: Screen, items: &[PlanItem]) -> String {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for PlanItem { pod, actions, waits } in items {
        for action in actions {
            let verb = Cell::toned(tone(&action.action), &action.action);
            rows.push(vec![pod.as_str().into(), verb, action.reason.as_str().into()]);
        }
        if let Some(why) = waits {
            let verb = Cell::toned(Tone::Dim, "wait");
            rows.push(vec![pod.as_str().into(), verb, why.as_str().into()]);
        }
    }
    if rows.is_empty() {
        return "Nothing to do.\n".to_owned();
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
        let plan: Items<PlanItem> = understood(&json!({ "items": items })).unwrap();
        text(Screen::default(), &plan.items)
    }

    #[test]
    fn a_plan_has_a_line_for_each_action_and_for_what_waits() {
        let text = shown(&json!([
            { "pod": "default/web", "actions": [{ "action": "create", "reason": "it is new" }] },
            { "pod": "default/idle", "actions": [], "waits": null },
            { "pod": "shop/db", "actions": [
                { "action": "stop", "reason": "its manifest\u{1b} is gone" },
            ], "waits": "its containers\nend" },
        ]));
        insta::assert_snapshot!(text, @r"
        POD           ACTION   WHY
        default/web   create   it is new
        shop/db       stop     its manifest\u{1b} is gone
        shop/db       wait     its containers end
        ");
    }

    #[test]
    fn an_empty_plan_says_so() {
        let text = shown(&json!([{ "pod": "default/idle", "actions": [], "waits": null }]));
        assert_eq!(text, "Nothing to do.\n");
    }
}
