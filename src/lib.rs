#![doc = include_str!("ARCHITECTURE.md")]

// Words that every module uses.
pub mod clock;
pub mod ids;
// 1. What the user wrote, and what it means.
pub mod manifest;
// 2. What is desired, what is there, and so what to do.
pub mod reconciler;
// 3. What must not be forgotten.
pub mod state;
// 4. What the kernel keeps.
pub mod cgroup;
pub mod sys;
// 5. What runs.
pub mod containerizer;
// 6. One pod: its executor.
pub mod executor;
