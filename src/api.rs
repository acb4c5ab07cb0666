//! The API of the agent: HTTP/1.1 on a Unix socket.
//!
//! | path | what |
//! |---|---|
//! | `/api/v1/pods`, `/api/v1/namespaces/{ns}/pods[/{name}[/log\|/exec\|/portforward]]`, `/api/v1[/namespaces/{ns}]/events` | the shapes of Kubernetes, `?watch=true` included |
//! | `/version`, `/api`, `/apis`, `/api/v1` | what there is, for kubectl |
//! | `/roost/v1/status` | how the agent itself is |
//! | `/roost/v1/stats` | what pods use and ask for |
//! | `/metrics` | the node in numbers, for Prometheus |
//! | `/roost/v1/…` | plan, diff, manifests, restart, rollback, revisions: see `roost` |
//! | `/healthz`, `/livez`, `/readyz` | for supervisors |
//!
//! Every shape is an adapter on `agent::service`; nothing is decided or remembered here. Root and
//! the members of group `roost` may talk to it, and nobody else.
//!
//! Not here: what the answers look like on a terminal (`cli`).

mod body;
pub mod channels;
mod exec;
mod exposition;
mod failure;
mod forward;
mod health;
pub mod kubernetes;
mod logs;
mod metrics;
pub mod overview;
mod process;
mod query;
mod rendered;
mod roost;
mod routes;
#[cfg(test)]
pub(crate) mod samples;
mod server;
pub mod socket;
pub mod stats;
mod status_files;
mod upgrade;
mod watch;
pub mod websocket;

pub(crate) use roost::images;
pub use server::serve;
pub use socket::{Listener, ServeError, listen};
pub use status_files::keep_status_files;

#[cfg(test)]
mod tests;
