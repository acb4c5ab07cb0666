//! `roost wait pod`.

use tokio::time::Instant;

use super::args::{Goal, WaitArgs};
use super::client::Client;
use super::failure::Failure;
use super::live::{self, Step};
use super::output;
use super::screen::Screen;
use crate::api::kubernetes::types::Pod;
use crate::ids::PodName;

/// Waits until something holds of a pod.
pub(super) async fn pod(client: &Client, screen: Screen, args: &WaitArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let WaitArgs { pod: _, goal, timeout } = args;
    let mut is_told = false;
    let check = |pods: &[Pod]| {
        let pod = pods.last();
        if holds(goal, &name, pod)? {
            return Ok(Step::Done(""));
        }
        if pod.is_none() && !std::mem::replace(&mut is_told, true) {
            output::note(&format!("There is no pod {name} yet; waiting for it."));
        }
        let missing = pod.map_or_else(|| "there is no such pod".to_owned(), live::missing);
        Ok(Step::Waits(missing))
    };
    live::until(client, screen, &name, Instant::now() + *timeout, check).await?;
    let what = match goal {
        Goal::Condition { kind, status: true } => output::clean_line(kind),
        Goal::Condition { kind, status: false } => format!("not {}", output::clean_line(kind)),
        Goal::Phase(phase) => output::clean_line(phase),
        Goal::Delete => "gone".to_owned(),
    };
    output::print(&format!("pod {name} is {what}\n"))
}

/// Whether it holds; an error if it never will.
fn holds(goal: &Goal, name: &PodName, pod: Option<&Pod>) -> Result<bool, Failure> {
    let (kind, wanted, pod) = match (goal, pod) {
        (Goal::Delete, pod) => return Ok(pod.is_none()),
        // It may come yet.
        (Goal::Condition { .. } | Goal::Phase(_), None) => return Ok(false),
        (Goal::Phase(wanted), Some(pod)) => {
            let phase = pod.status.phase.as_str();
            return match phase {
                _ if phase.eq_ignore_ascii_case(wanted) => Ok(true),
                "Failed" => Err(live::failed(name, pod)),
                "Succeeded" => {
                    let line = format!("pod {name} has succeeded and will not be {wanted}");
                    Err(Failure::wrong(output::clean_line(&line)))
                }
                _ => Ok(false),
            };
        }
        (Goal::Condition { kind, status }, Some(pod)) => (kind, *status, pod),
    };
    let condition =
        pod.status.conditions.iter().find(|found| found.kind.eq_ignore_ascii_case(kind));
    if condition.is_some_and(|found| found.status == "True") == wanted {
        return Ok(true);
    }
    let phase = pod.status.phase.as_str();
    match phase {
        "Failed" if kind.eq_ignore_ascii_case("Ready") => Err(live::failed(name, pod)),
        "Succeeded" if kind.eq_ignore_ascii_case("Ready") => {
            let line = format!("pod {name} has succeeded and will not get ready");
            Err(Failure::wrong(line).with_help("`--for=phase=Succeeded` waits for that"))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kubernetes::types::Condition;

    fn pod(phase: &str, ready: &str) -> Pod {
        let mut pod = Pod::default();
        pod.status.phase = phase.to_owned();
        let kind = "Ready".to_owned();
        pod.status.conditions =
            vec![Condition { kind, status: ready.to_owned(), ..Condition::default() }];
        pod
    }

    #[test]
    fn what_holds_is_told_from_what_may_and_what_will_not() {
        let name = "web".parse().unwrap();
        let ready = |status| Goal::Condition { kind: "ready".to_owned(), status };
        let check = |goal: &Goal, pod: Option<&Pod>| holds(goal, &name, pod);
        assert_eq!(check(&ready(true), None), Ok(false));
        assert_eq!(check(&ready(true), Some(&pod("Pending", "False"))), Ok(false));
        assert_eq!(check(&ready(true), Some(&pod("Running", "True"))), Ok(true));
        assert_eq!(check(&ready(false), Some(&pod("Failed", "False"))), Ok(true));
        check(&ready(true), Some(&pod("Failed", "False"))).unwrap_err();
        let phase = |name: &str| Goal::Phase(name.to_owned());
        assert_eq!(check(&phase("Succeeded"), None), Ok(false));
        assert_eq!(check(&phase("Succeeded"), Some(&pod("Running", "True"))), Ok(false));
        assert_eq!(check(&phase("succeeded"), Some(&pod("Succeeded", "False"))), Ok(true));
        assert_eq!(check(&phase("Failed"), Some(&pod("Failed", "False"))), Ok(true));
        check(&phase("Succeeded"), Some(&pod("Failed", "False"))).unwrap_err();
        check(&phase("Running"), Some(&pod("Succeeded", "False"))).unwrap_err();
        assert_eq!(check(&Goal::Delete, Some(&pod("Failed", "False"))), Ok(false));
        assert_eq!(check(&Goal::Delete, None), Ok(true));
    }
}
