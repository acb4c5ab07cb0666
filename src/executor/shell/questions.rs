//! Asking something of containers: the [`Shell`]'s part, which knows the runs.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::pipe::PipeFlags;

use super::Shell;
use crate::clock::BootTime;
use crate::containerizer::native::Streams;
use crate::executor::asking::{Begun, Question};
use crate::executor::journal::chain;
use crate::manifest::pod::Handler;

impl Shell {
    /// Asks something of a container.
    pub(super) fn ask(&mut self, question: Question) {
        // A probe can be asked by the build to come. That one waits until nothing is under way,
        // which would never be if probes went on.
        if self.upgrade.is_some() && !question.purpose.is_hook() {
            return self.asking.hold(question);
        }
        let now = BootTime::now();
        let Handler::Exec { command } = &question.handler else {
            return self.asking.begin(question, now);
        };
        match self.execute_for(&question, command) {
            Ok(begun) => self.asking.begin_program(question, begun, now),
            Err(why) => self.asking.refuse(question, why),
        }
    }

    /// Asks what was kept back for an upgrade that was given up.
    pub(super) fn ask_again(&mut self) {
        if self.upgrade.is_none() {
            for question in self.asking.release() {
                self.ask(question);
            }
        }
    }

    fn execute_for(&mut self, question: &Question, command: &[String]) -> Result<Begun, String> {
        if self.asking.is_full() {
            return Err("programs that were asked before it were killed and do not die".to_owned());
        }
        let Question { container: name, attempt, .. } = question;
        let spec = self.machine.spec().cloned().ok_or("there is no specification")?;
        let container = spec.container(name).ok_or("it is not in the specification")?;
        let run = self.runs.values().find(|run| run.container == *name && run.attempt == *attempt);
        let run = run.ok_or("it does not run")?;
        let target = &run.process().ok_or("it has ended")?.pidfd;
        let pipe = |error| format!("making a pipe failed: {error}");
        let (output, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(pipe)?;
        rustix::io::ioctl_fionbio(&output, true).map_err(pipe)?;
        let null = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
        let streams = Streams::Given([null.as_fd(), theirs.as_fd(), theirs.as_fd()]);
        let (cgroup, entry) = run.cgroup.session().map_err(|error| chain(&error))?;
        let pair = (spec.as_ref(), container);
        match self.pod.exec(pair, target.as_fd(), command, entry, streams) {
            Ok(executed) => Ok(Begun { executed, output, cgroup }),
            Err(why) => {
                cgroup.remove().ok();
                Err(why)
            }
        }
    }
}
