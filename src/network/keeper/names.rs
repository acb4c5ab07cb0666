//! Telling what pods of the node are called: `name.namespace.pod.roost`, in a file of the form of
//! hosts(5).
//!
//! Executors write it into their containers' `/etc/hosts`: looking a name up needs no process then,
//! and works while the agent does not run. Who is not a pod can read the file too.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Networks, Use};

/// The domain that pods are in.
const DOMAIN: &str = "pod.roost";
/// It is not told more often than that: each pod is told of each other one.
const NAMES_DELAY: Duration = Duration::from_millis(250);
/// Until it is tried again to write them.
const NAMES_RETRY: Duration = Duration::from_secs(10);

impl Networks {
    /// Says whenever the file has changed.
    #[must_use]
    pub fn named(&self) -> watch::Receiver<()> {
        self.named.subscribe()
    }

    /// Keeps the file as long as the agent lives.
    pub(super) async fn keep_names(self: Arc<Self>) {
        let mut written: Option<String> = None;
        loop {
            let names = self.names();
            if written.as_ref() != Some(&names) {
                let (path, text) = (self.settings.names.clone(), names.clone());
                let done = spawn_blocking(move || write(&path, &text)).await;
                match done.map_err(io::Error::other).and_then(|done| done) {
                    Ok(()) => {
                        written = Some(names);
                        self.named.send_replace(());
                    }
                    Err(error) => {
                        let path = self.settings.names.display().to_string();
                        tracing::warn!(path, %error, "can't say what pods are called");
                        sleep(NAMES_RETRY).await;
                        continue;
                    }
                }
            }
            sleep(NAMES_DELAY).await;
            self.renamed.notified().await;
        }
    }

    /// What all pods with addresses are called.
    fn names(&self) -> String {
        let mut text = String::new();
        let state = self.lock();
        let whole = |use_: Use, is_whole: bool| use_ == Use::Kept && is_whole;
        for known in state.attempts.values() {
            let file = &known.file;
            if whole(known.use_, file.is_whole()) {
                for address in file.addresses() {
                    let (name, namespace) = (&file.name.name, &file.name.namespace);
                    writeln!(text, "{address}\t{name}.{namespace}.{DOMAIN}")
                        .expect("it is a string");
                }
            }
        }
        text
    }
}

/// Puts another file in the place of the one that is there. It need not survive the machine.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, text)?;
    fs::rename(draft, path)
}
