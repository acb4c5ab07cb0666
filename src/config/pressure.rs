//! The table `pressure`.

use super::{MeasureEvery, PressureLimits};
use crate::clock::Millis;
use crate::reconciler::pressure::{Threshold, Thresholds};

/// What one source says of pressure; where it is silent, the next one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PressureLayer {
    /// `pressure.memory-available`.
    pub memory: Option<Threshold>,
    /// `pressure.disk-available`.
    pub disk: Option<Threshold>,
    /// `pressure.inodes-free`.
    pub inodes: Option<Threshold>,
    /// `pressure.transition`.
    pub transition: Option<Millis>,
    /// `pressure.measure-every`.
    pub measure: Option<Millis>,
}

impl PressureLayer {
    /// This, and where it is silent the other.
    #[must_use]
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            memory: self.memory.or(below.memory),
            disk: self.disk.or(below.disk),
            inodes: self.inodes.or(below.inodes),
            transition: self.transition.or(below.transition),
            measure: self.measure.or(below.measure),
        }
    }

    pub(super) fn limits(&self) -> PressureLimits {
        let default = Thresholds::default();
        PressureLimits {
            thresholds: Thresholds {
                memory: self.memory.unwrap_or(default.memory),
                disk: self.disk.unwrap_or(default.disk),
                inodes: self.inodes.unwrap_or(default.inodes),
                transition: self.transition.unwrap_or(default.transition),
            },
            measure: self.measure.map(MeasureEvery).unwrap_or_default(),
        }
    }
}
