#![doc = include_str!("ARCHITECTURE.md")]

// Words that every module uses.
pub mod clock;
pub mod ids;
// 1. What the user wrote, and what it means.
pub mod manifest;
// 2. What must not be forgotten.
pub mod state;
// 3. What the kernel keeps.
pub mod cgroup;
pub mod sys;
// 4. What runs.
pub mod containerizer;
