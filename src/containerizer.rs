//! Containerizers: what turns a container of a [`PodSpec`](crate::manifest::pod::PodSpec) into a
//! process tree.
//!
//! There is one, [`native`], which clones and sets up by itself. Not here: when to launch
//! (`executor`), cgroups and their limits (`cgroup`), and the store.

pub mod native;
