//! SIGHUP: the configuration is read again, and the loop told.
//!
//! A task of its own, because files are read. Not here: what a change means (`agent::core`).

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::config::AgentConfig;

/// Reads the configuration as it was read at the start; an error says what is wrong with it.
pub type Reload = Box<dyn Fn() -> Result<AgentConfig, String> + Send + Sync>;

/// What came of reading the configuration again.
pub(super) type Reloaded = Result<AgentConfig, String>;

/// Reads it at every signal, until the loop is gone. Signals that come while it is being read
/// count as one more.
pub(super) async fn listen(mut signal: Signal, reload: Reload, loop_: mpsc::Sender<Reloaded>) {
    let mut reload = reload;
    while signal.recv().await.is_some() {
        let read = tokio::task::spawn_blocking(move || {
            let read = reload();
            (reload, read)
        });
        let Ok((again, read)) = read.await else {
            tracing::error!("reading the configuration panicked; it can't be read again");
            return;
        };
        reload = again;
        if loop_.send(read).await.is_err() {
            return;
        }
    }
}
