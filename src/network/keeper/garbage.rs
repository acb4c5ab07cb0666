//! Having plugins undo what nobody has: what was lost with its record (GC, CNI 1.1).
//!
//! Whoever speaks for a network like that must be the only one who uses it, because it says what is
//! still in use, and all else is undone. So nothing is said of a network that another runtime has
//! pods in as far as can be seen, or if a record of ours can't be read. Nobody waits for it: a pod
//! that is to be attached ends it, and it is begun again later.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Networks, RELEASE_DELAY, RELEASE_DELAY_MAX};
use crate::errors::chain;
use crate::network::choice;
use crate::network::config::{NetworkConfig, kind};
use crate::network::record::Way;
use crate::network::request::{self, Command};

/// The first version with GC.
const VERSION_OF_GC: &str = "1.1.0";

/// Who uses the plugins of one network.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Held for reading while a pod is attached, and for writing while garbage is collected: what
    /// was just made must not be taken for that.
    using: Arc<RwLock<()>>,
    /// Told that somebody wants to attach a pod.
    wanted: Notify,
}

impl Gate {
    /// Waits until no garbage is collected in the network, which is broken off.
    pub(super) async fn enter(&self) -> OwnedRwLockReadGuard<()> {
        self.wanted.notify_one();
        self.using.clone().read_owned().await
    }
}

/// What became of a collection.
enum Collected {
    Done,
    /// Pods are being attached.
    Later,
}

impl Networks {
    /// Collects garbage in each network that there is, each by itself.
    pub(super) async fn collect_garbage(self: Arc<Self>) {
        let configs = self.settings.configs.clone();
        let Ok(Ok(networks)) = spawn_blocking(move || choice::configured(&configs)).await else {
            // Whoever wants a network is told why.
            return;
        };
        for network in networks {
            match network {
                Ok(network) => {
                    tokio::spawn(self.clone().ask_for_status(network.clone()));
                    tokio::spawn(self.clone().collect_at_last(network));
                }
                // Pods that name it are told too; those that take the first are told if it is that.
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a network can't be used");
                }
            }
        }
    }

    pub(super) async fn collect_at_last(self: Arc<Self>, network: NetworkConfig) {
        if network.disable_gc || !network.is_at_least(VERSION_OF_GC) {
            return;
        }
        if !self.lock().unreadable.is_empty() {
            tracing::warn!(
                network = network.name,
                "garbage is not collected: records of networks can't be read, so it is not known \
                 what is in use"
            );
            return;
        }
        let (others, name) = (self.settings.others.clone(), network.name.clone());
        let shared = spawn_blocking(move || is_shared(&others, &name)).await;
        match shared.map_err(io::Error::other).and_then(|it| it) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(
                    network = network.name,
                    "garbage is not collected: another runtime \
                    has pods in the network too; `disableGC` in its configuration says so as well"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(network = network.name, %error, "garbage is not collected: it is \
                    not known who else uses the network");
                return;
            }
        }
        let mut delay = RELEASE_DELAY;
        while let Collected::Later = self.collect(&network).await {
            sleep(delay).await;
            delay = (delay * 2).min(RELEASE_DELAY_MAX);
        }
    }

    async fn collect(&self, network: &NetworkConfig) -> Collected {
        let gate = self.gate(&network.name);
        let Ok(_alone) = gate.using.clone().try_write_owned() else { return Collected::Later };
        let valid = self.attached_to(&network.name);
        let run_all = async {
            for plugin in &network.plugins {
                let input = request::gc_input(network, plugin, &valid);
                let run = self.run(network, kind(plugin), Command::Gc, None, &input, None);
                if let Err(error) = run.await {
                    let text = chain(&error);
                    tracing::warn!(network = network.name, error = text, "can't collect garbage");
                }
            }
        };
        tokio::select! {
            // Cancel-safe: the plugin is killed when its run is dropped.
            () = run_all => Collected::Done,
            () = gate.wanted.notified() => Collected::Later,
        }
    }

    /// Who uses the plugins of that network.
    pub(super) fn gate(&self, network: &str) -> Arc<Gate> {
        self.lock().gates.entry(network.to_owned()).or_default().clone()
    }

    /// Attempts that are known in a network, and their interfaces.
    fn attached_to(&self, network: &str) -> Vec<(String, String)> {
        let state = self.lock();
        let all = state.attempts.values().flat_map(|known| {
            let is_in = |way: &Way| matches!(way, Way::Plugins(by) if by.network.name == network);
            let of = known.file.attachments.iter().filter(move |it| is_in(&it.way));
            of.map(|it| (known.file.attempt.clone(), it.interface.clone()))
        });
        all.collect()
    }
}

/// Whether another runtime has pods in a network. Those that are made with `libcni` keep what they
/// have attached in files `<network>-<container>-<interface>` (containerd, CRI-O, nerdctl, podman).
fn is_shared(others: &Path, network: &str) -> io::Result<bool> {
    let entries = match fs::read_dir(others) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    let start = format!("{network}-");
    for entry in entries {
        if entry?.file_name().to_string_lossy().starts_with(&start) {
            return Ok(true);
        }
    }
    Ok(false)
}
