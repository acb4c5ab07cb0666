//! What goes wrong, and what users do, at random.

use crate::executor::{ExecutorEvent, Stage};
use crate::world::{Event, World};
use roost::state::record::Exit;

impl World {
    /// One thing happens; then the next is due.
    pub(crate) fn chaos(&mut self) {
        match self.rng.between(0, 99) {
            0..=5 => self.somebody_asks(),
            6..=9 | 97..=98 if self.options.evictions => self.something_runs_out(),
            6..=49 => {
                let said = self.user.change(&mut self.rng);
                self.say(|| said);
                self.manifests_changed();
            }
            50..=59 => self.agent_dies(),
            60..=61 => {
                self.build += 1;
                self.agent_dies();
            }
            62..=63 => {
                self.agent_dies();
                self.say(|| "the store is lost".to_owned());
                self.store.lose();
                self.oracle.store_lost();
                self.oracle.losses.clear();
            }
            64 => {
                // The same directory, spelt in another way.
                self.agent_dies();
                let (name, _) = &mut self.user.directories[0];
                name.push('/');
                let name = name.clone();
                self.say(|| format!("the first directory is called {name}"));
            }
            65..=67 => self.reboot(false),
            68..=70 => self.reboot(true),
            71..=77 => {
                let pids: Vec<u64> = self.executors.keys().copied().collect();
                if let Some(pid) = self.rng.pick(&pids).copied() {
                    self.executor_dies(pid);
                }
            }
            78..=83 => self.container_dies(),
            84..=87 => {
                let pids: Vec<u64> = self.executors.keys().copied().collect();
                if let Some(pid) = self.rng.pick(&pids).copied() {
                    let until = self.now + self.rng.between(10, 60_000);
                    self.executors.get_mut(&pid).expect("just seen").hung_until = until;
                    self.say(|| format!("executor {pid} hangs until {until}"));
                }
            }
            88..=92 => self.step_wall_clock(),
            93..=95 => self.store_fails_until = self.now + self.rng.between(100, 30_000),
            96 => self.disk_fails_until = self.now + self.rng.between(100, 30_000),
            _ => self.somebody_asks(),
        }
        if self.faults {
            let delay = match self.rng.between(0, 9) {
                0 => self.rng.between(30_000, 700_000),
                1..=3 => self.rng.between(2000, 30_000),
                _ => self.rng.between(1, 2000),
            };
            self.at(delay, Event::Chaos);
        }
    }

    /// A container is killed from outside.
    fn container_dies(&mut self) {
        let ids: Vec<u64> = self
            .runs
            .iter()
            .filter(|(_, run)| matches!(run.stage, Stage::Executed { .. }))
            .map(|(id, _)| *id)
            .collect();
        if let Some(id) = self.rng.pick(&ids).copied() {
            let pid = self.runs[&id].executor;
            let what = ExecutorEvent::Exits { run: id, exit: Exit::Signal(9) };
            self.at(0, Event::Executor { pid, what });
        }
    }
}
