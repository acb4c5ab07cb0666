//! The table of budgets: what each engine came to, and whether the goal is met.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// This tree.
    Roost,
    /// containerd through its CRI, as the kubelet drives it.
    Cri,
    /// podman.
    Podman,
    /// The runtime alone.
    Crun,
}

impl Who {
    pub(crate) const ALL: [Self; 4] = [Self::Roost, Self::Cri, Self::Podman, Self::Crun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Roost => "roost",
            Self::Cri => "CRI",
            Self::Podman => "podman",
            Self::Crun => "crun",
        }
    }
}

/// What a budget asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not more than this part of what the peer takes.
    OfPeer(Who, f64),
    /// Not more than this part of what the peer takes, and so much besides.
    OfPeerPlus(Who, f64, f64),
    /// At least this multiple of what the peer does.
    TimesPeer(Who, f64),
}

/// The name of a row: its budget, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) budget: u8,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
}

impl Key {
    pub(crate) fn new(budget: u8, what: impl Into<String>, unit: &'static str) -> Self {
        Self { budget, what: what.into(), unit }
    }
}

#[derive(Debug)]
struct Row {
    key: Key,
    values: BTreeMap<Who, f64>,
    goals: Vec<Goal>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    versions: BTreeMap<Who, String>,
}

impl Table {
    /// What was measured of an engine is of this version of it.
    pub(crate) fn version(&mut self, who: Who, version: String) {
        self.versions.insert(who, version);
    }

    /// A budget's row asks for this.
    pub(crate) fn goal(&mut self, key: &Key, goals: &[Goal]) {
        self.row(key).goals = goals.to_vec();
    }

    /// One engine's figure; it is printed at once as well, since the table takes minutes.
    #[expect(clippy::print_stderr, reason = "progress; the table is the output")]
    pub(crate) fn put(&mut self, key: &Key, who: Who, value: Option<f64>) {
        let Some(value) = value else { return };
        let Key { budget, what, unit } = key;
        eprintln!("{budget:>4} {what}: {} {} {unit}", who.name(), short(value));
        self.row(key).values.insert(who, value);
    }

    /// What was put into the first row of a budget.
    pub(crate) fn value(&self, budget: u8, who: Who) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.key.budget == budget)?;
        row.values.get(&who).copied()
    }

    /// In the Markdown of `benches/README.md`.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("| # | what |");
        for who in Who::ALL {
            let version = self.versions.get(&who).map_or("–", String::as_str);
            write!(text, " {} {version} |", who.name()).expect("a string takes everything");
        }
        text.push_str(" ratio | goal | met |\n|---|---|---|---|---|---|---|---|---|\n");
        let mut rows: Vec<_> = self.rows.iter().filter(|row| !row.values.is_empty()).collect();
        rows.sort_by_key(|row| row.key.budget);
        for row in rows {
            text.push_str(&row.render());
        }
        text
    }

    fn row(&mut self, key: &Key) -> &mut Row {
        if let Some(at) = self.rows.iter().position(|row| row.key == *key) {
            return &mut self.rows[at];
        }
        self.rows.push(Row { key: key.clone(), values: BTreeMap::new(), goals: Vec::new() });
        self.rows.last_mut().expect("it was just pushed")
    }
}

impl Row {
    fn render(&self) -> String {
        let Key { budget, what, unit } = &self.key;
        let mut text = format!("| {budget} | {what}, {unit} |");
        for who in Who::ALL {
            let value = self.values.get(&who).map_or("–".to_owned(), |value| short(*value));
            write!(text, " {value} |").expect("a string takes everything");
        }
        let ratios: Vec<_> = self.goals.iter().filter_map(|goal| self.ratio(*goal)).collect();
        let goals: Vec<_> = self.goals.iter().map(|goal| goal.render()).collect();
        let answers: Vec<_> = self.goals.iter().filter_map(|goal| self.met(*goal)).collect();
        let met = match answers.iter().position(|met| !met) {
            Some(_) => "**no**",
            None if answers.is_empty() => "",
            None if answers.len() < self.goals.len() => "yes, of what is here",
            None => "yes",
        };
        writeln!(text, " {} | {} | {met} |", ratios.join(", "), goals.join(", "))
            .expect("a string takes everything");
        text
    }

    fn ratio(&self, goal: Goal) -> Option<String> {
        let peer = match goal {
            Goal::AtMost(_) => return None,
            Goal::OfPeer(peer, _) | Goal::OfPeerPlus(peer, _, _) | Goal::TimesPeer(peer, _) => peer,
        };
        let ratio = self.values.get(&Who::Roost)? / self.values.get(&peer)?;
        Some(format!("{} × {}", short(ratio), peer.name()))
    }

    fn met(&self, goal: Goal) -> Option<bool> {
        let ours = *self.values.get(&Who::Roost)?;
        Some(match goal {
            Goal::AtMost(most) => ours <= most,
            Goal::OfPeer(peer, part) => ours <= part * self.values.get(&peer)?,
            Goal::OfPeerPlus(peer, part, plus) => ours <= part * self.values.get(&peer)? + plus,
            Goal::TimesPeer(peer, times) => ours >= times * self.values.get(&peer)?,
        })
    }
}

impl Goal {
    fn render(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::OfPeer(peer, part) => format!("≤ {part} × {}", peer.name()),
            Self::OfPeerPlus(peer, part, plus) => format!("≤ {part} × {} + {plus}", peer.name()),
            Self::TimesPeer(peer, times) => format!("≥ {times} × {}", peer.name()),
        }
    }
}

/// Three significant digits are more than a machine repeats.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 || v == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
