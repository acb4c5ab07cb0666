//! Turns an image into a root file system: what it is called, where it comes from, and its layers
//! on the disk.
//!
//! Not here: how the layers get mounted (`containerizer`), and which image is needed when (`agent`).
//!
//! ```text
//! image: ─► reference ─► pull ──► hosts, auth, registry ─┐
//!                          └────► archive ───────────────┤
//!                                                        ▼
//! registry, archive ─► Ingest: blobs, partial downloads ─► unpack ─► layers/<id>/fs
//!                                                          commit ─► images/, names/
//! ```

// What is asked for, and what it is.
pub mod failure;
pub mod image;
pub mod platform;
pub mod reference;
// From a registry or a file.
pub mod archive;
pub mod auth;
mod flight;
pub mod hosts;
pub mod pull;
pub mod registry;
// On the disk.
pub mod copy;
mod hash;
pub mod store;
mod tree;
pub mod unpack;
