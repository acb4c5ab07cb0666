//! Images: from a name in a manifest to layers on this disk.
//!
//! ```text
//! image: ─► reference ─► pull ──► hosts, auth, registry ─┐
//!                          │ └──► archive ───────────────┴─► image, platform ─► the store
//! ```
//!
//! Not here: what a container makes of its image's configuration, and its root file system's mount
//! (`containerizer`); which images are in use (the agent).

// What is asked for, and what it is.
pub mod failure;
pub mod image;
pub mod platform;
pub mod reference;
// From a registry or a file.
pub mod auth;
pub mod pull;
