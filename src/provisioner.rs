//! Turns an image into a root file system: what it is called, where it comes from, and its layers
//! on the disk.
//!
//! Not here: how the layers get mounted (`containerizer`), and which image is needed when (`agent`).
//!
//! ```text
//! registry, archive ─► Ingest: blobs, partial downloads ─► unpack ─► layers/<id>/fs
//!                                                          commit ─► images/, names/
//! ```

pub mod copy;
mod hash;
pub mod store;
mod tree;
pub mod unpack;
