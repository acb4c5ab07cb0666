//! Asking plugins whether what they have made is as it was (CHECK), and whether they could make
//! more (STATUS), when the agent starts.
//!
//! What they say is told, and nothing follows from it: a pod that runs is not stopped because a
//! plugin thinks so, and whether one can be attached is found out when it is.

use std::sync::Arc;

use super::{Known, Networks, target};
use crate::errors::chain;
use crate::network::config::{NetworkConfig, kind};
use crate::network::record::{ByPlugins, Way};
use crate::network::request::{self, Command, Runtime};

/// The first versions with these commands.
const VERSION_OF_CHECK: &str = "0.4.0";
const VERSION_OF_STATUS: &str = "1.1.0";

impl Networks {
    /// Has the plugins that made an attempt look at it.
    pub(super) async fn check(self: Arc<Self>, attempt: String) {
        let Some(Known { file, namespace, .. }) = self.lock().attempts.get(&attempt).cloned()
        else {
            return;
        };
        for (index, attachment) in file.attachments.iter().enumerate() {
            let Way::Plugins(ByPlugins { network, runtime, result }) = &attachment.way else {
                continue;
            };
            if network.disable_check || !network.is_at_least(VERSION_OF_CHECK) {
                continue;
            }
            let target = target(&file, index, namespace.as_deref());
            for plugin in &network.plugins {
                let input = request::input(network, plugin, runtime, result.as_ref());
                let run =
                    self.run(network, kind(plugin), Command::Check, Some(&target), &input, None);
                if let Err(error) = run.await {
                    let (pod, error) = (file.name.to_string(), chain(&error));
                    tracing::warn!(
                        pod,
                        error,
                        "the pod's network is not as it was made; \
                        `roost restart` makes it anew"
                    );
                    // Later plugins rely on those before.
                    break;
                }
            }
        }
    }

    /// Asks the plugins of a network whether they are ready.
    pub(super) async fn ask_for_status(self: Arc<Self>, network: NetworkConfig) {
        if !network.is_at_least(VERSION_OF_STATUS) {
            return;
        }
        for plugin in &network.plugins {
            let input = request::input(&network, plugin, &Runtime::default(), None);
            let run = self.run(&network, kind(plugin), Command::Status, None, &input, None);
            if let Err(error) = run.await {
                let (network, error) = (&network.name, chain(&error));
                tracing::warn!(network, error, "pods can't be attached to the network as it is");
            }
        }
    }
}
