//! The file in which a program leaves a message when it ends (`terminationMessagePath`).
//!
//! It lies on top of everything else, volumes included: it is this file that is read when the run
//! is over. Every user of the container may write to it; on the host nobody gets at it but root,
//! because of the directory that it is in.

use crate::containerizer::native::plan::{
    Context, HostEffect, Isolator, LaunchPlan, PlanError, mount,
};

/// Whoever the program becomes.
const FILE_MODE: u32 = 0o666;

/// See the module.
#[derive(Debug)]
pub(super) struct TerminationFile;

impl Isolator for TerminationFile {
    fn name(&self) -> &'static str {
        "termination"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let Context { container, facts, .. } = context;
        let path = facts.paths.termination_message(&container.name, facts.attempt);
        let options = ["bind", "rprivate", "rw", "nosuid", "nodev", "noexec"];
        plan.add_mount(mount(container.termination.path(), "bind", path.clone(), &options));
        plan.effects.push(HostEffect::EmptyFile { path, mode: FILE_MODE });
        Ok(())
    }
}
