//! `restartPolicy` and `restartPolicyRules` of a container.

use super::fields::{At, Fields};
use super::schema;
use crate::manifest::diagnostic::Faults;
use crate::manifest::pod::{
    ContainerRestart, ExitCodes, RestartAction, RestartPolicy, RestartRule,
};

/// Rules of a container, as in Kubernetes.
pub(super) const RULES_MAX: usize = 20;
/// Exit codes of a rule: there are no more.
const CODES_MAX: usize = 256;

/// The words of `restartPolicy`, of pods and containers.
pub(super) const POLICIES: [(&str, RestartPolicy); 3] = [
    ("Always", RestartPolicy::Always),
    ("OnFailure", RestartPolicy::OnFailure),
    ("Never", RestartPolicy::Never),
];
const ACTIONS: [(&str, RestartAction); 2] = [
    ("Restart", RestartAction::Restart),
    ("RestartAllContainers", RestartAction::RestartAllContainers),
];
const OPERATORS: [(&str, ExitCodes); 2] = [("In", ExitCodes::In), ("NotIn", ExitCodes::NotIn)];

/// Reads what a container says about its restarts.
pub(super) fn decode(fields: &Fields<'_>, faults: &mut Faults) -> Option<ContainerRestart> {
    let policy_at = fields.get("restartPolicy");
    let policy = policy_at.and_then(|at| at.choice(&POLICIES, faults));
    let rules_at = fields.get("restartPolicyRules");
    let rules = rules_at.map(|at| rules(at, faults)).unwrap_or_default();
    if let Some(at) = rules_at.filter(|_| policy_at.is_none()) {
        let help = "set `restartPolicy` of the container: it counts where no rule matches";
        faults.push(at.error("needs `restartPolicy` beside it").with_help(help));
    }
    Some(ContainerRestart { policy: policy?, rules })
}

fn rules(at: At<'_>, faults: &mut Faults) -> Vec<RestartRule> {
    at.items(RULES_MAX, faults).into_iter().filter_map(|item| rule(item, faults)).collect()
}

fn rule(at: At<'_>, faults: &mut Faults) -> Option<RestartRule> {
    let fields = at.fields(&schema::RESTART_RULE, faults)?;
    let action = fields.required("action", faults).and_then(|at| at.choice(&ACTIONS, faults));
    let codes = fields.required("exitCodes", faults).and_then(|at| exit_codes(at, faults));
    let (when, values) = codes?;
    Some(RestartRule { action: action?, when, values })
}

fn exit_codes(at: At<'_>, faults: &mut Faults) -> Option<(ExitCodes, Vec<u8>)> {
    let fields = at.fields(&schema::EXIT_CODES, faults)?;
    let when = fields.required("operator", faults).and_then(|at| at.choice(&OPERATORS, faults));
    let values = fields.required("values", faults).map(|at| values(at, faults));
    Some((when?, values?))
}

fn values(list: At<'_>, faults: &mut Faults) -> Vec<u8> {
    let mark = faults.mark();
    let items = list.items(CODES_MAX, faults);
    if items.is_empty() && !faults.any_error_since(mark) {
        faults.push(list.error("must have at least one exit code"));
    }
    let code = |item: At<'_>| {
        let code = item.integer(0..=i64::from(u8::MAX), faults)?;
        u8::try_from(code).ok()
    };
    items.into_iter().filter_map(code).collect()
}
