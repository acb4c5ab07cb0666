//! Keeping the built-in network as it was made, for as long as there are pods in it.
//!
//! Somebody may flush rules or take interfaces away. It is looked at when the kernel says that
//! something has changed, and made good. Not here: what it is to be like (`network::bridge`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Networks, RELEASE_DELAY_MAX, Use};
use crate::errors::chain;
use crate::network::bridge::BridgeError;
use crate::network::error::NetworkError;
use crate::network::links;
use crate::network::netlink::Netlink;
use crate::network::nft;
use crate::network::record::ByBridge;

/// Rules that somebody changes again and again are not made good more often than that.
const RESTORE_DELAY: Duration = Duration::from_secs(1);
/// Nor is that told more often than that.
const TELL_DELAY: Duration = Duration::from_secs(300);

impl Networks {
    /// Makes the built-in network good when somebody has changed it.
    pub(super) async fn keep_bridge(self: Arc<Self>) {
        let mut delay = RESTORE_DELAY;
        let mut told: Option<Instant> = None;
        loop {
            let pods = self.in_bridge();
            if pods.is_empty() {
                // Nothing of it need be there, and nobody is woken by what others do.
                self.bridged.notified().await;
                continue;
            }
            match self.watch_bridge(pods).await {
                Ok((made_good, changes)) => {
                    delay = RESTORE_DELAY;
                    // Before the wait, and not for each of many times.
                    if made_good && told.is_none_or(|told| told.elapsed() >= TELL_DELAY) {
                        told = Some(Instant::now());
                        tracing::warn!(
                            "rules of the pods' network were missing or changed, and are \
                            made good; whoever changes them should use a table of his own"
                        );
                    }
                    if let Err(error) = changes.wait().await {
                        tracing::warn!(%error, "can't hear what changes in the host's network");
                    }
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, retry_in = ?delay, "can't keep the network of pods");
                    delay = (delay * 2).min(RELEASE_DELAY_MAX);
                }
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Makes good what is not as it was; whether rules were. What it is told then says when it is
    /// to be looked at again.
    async fn watch_bridge(&self, pods: Vec<ByBridge>) -> Result<(bool, Changes), NetworkError> {
        // Before it is looked at, so that no change is missed.
        let rules = nft::changes().map_err(BridgeError::Rules)?;
        let links = links::changes().map_err(BridgeError::Ask)?;
        let made_good = self.with_bridge(move |bridge, ports| bridge.restore(&pods, ports)).await?;
        Ok((made_good, Changes { rules: readable(rules)?, links: readable(links)? }))
    }

    /// What pods are in the built-in network.
    fn in_bridge(&self) -> Vec<ByBridge> {
        let state = self.lock();
        let kept = state.attempts.values().filter(|known| known.use_ == Use::Kept);
        kept.flat_map(|known| known.file.bridged().cloned()).collect()
    }
}

/// What tells of changes.
struct Changes {
    rules: AsyncFd<Netlink>,
    links: AsyncFd<Netlink>,
}

impl Changes {
    /// Waits until somebody changes rules or interfaces.
    async fn wait(&self) -> std::io::Result<()> {
        tokio::select! {
            // Cancel-safe: nothing is read.
            changed = self.rules.readable() => changed.map(drop),
            changed = self.links.readable() => changed.map(drop),
        }
    }
}

/// Whether something was heard can be waited for.
fn readable(netlink: Netlink) -> Result<AsyncFd<Netlink>, BridgeError> {
    #[expect(
        deprecated,
        reason = "`register` is unsafe for descriptors that may change; a Netlink's does not"
    )]
    AsyncFd::with_interest(netlink, Interest::READABLE).map_err(BridgeError::Ask)
}
