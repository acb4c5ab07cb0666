//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`: what a pod is called and how it looks
//! names up.
//!
//! A container with an image has files of its own, written anew for each of its runs; the image's
//! are another machine's. Without an image those of the host are seen, unless the manifest asks for
//! more, but for `/etc/hosts` of a pod in a network. A volume that is mounted there lies on top. Every word in them is checked when the
//! manifest is read, so that none can begin a line of its own.

use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr};

use crate::containerizer::native::plan::{
    Context, HostEffect, Isolator, LaunchPlan, PlanError, mount,
};
use crate::containerizer::native::{self, HostFiles};
use crate::manifest::pod::{Dns, DnsBase, DnsOption, Names, PodSpec};

/// Every user of the container reads them.
const FILE_MODE: u32 = 0o644;
/// What resolv.conf(5) takes.
const NAMESERVERS_MAX: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct NameFiles;

impl Isolator for NameFiles {
    fn name(&self) -> &'static str {
        "names"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let (pod, container) = (context.pod, context.container);
        let has_image = container.image.is_some();
        let Names { domain: _, aliases, dns } = &pod.names;
        let files = &context.facts.files;
        let hostname =
            if pod.host.network { context.facts.hostname.clone() } else { pod.kernel_name() };
        let all = [
            (
                "hosts",
                // Whoever is in a network finds the others.
                has_image || !aliases.is_empty() || !context.facts.addresses.is_empty(),
                hosts(pod, has_image, files, &context.facts.addresses),
            ),
            ("hostname", has_image, format!("{hostname}\n")),
            (
                "resolv.conf",
                has_image || *dns != Dns::default(),
                resolv_conf(dns, &files.resolv_conf),
            ),
        ];
        let access = if has_image && !container.read_only_root { "rw" } else { "ro" };
        for (name, _, content) in all.into_iter().filter(|(_, is_wanted, _)| *is_wanted) {
            let path = context.facts.paths.name_file(&container.name, name);
            let options = ["bind", "rprivate", access, "nosuid", "nodev", "noexec"];
            plan.add_mount(mount(&format!("/etc/{name}"), "bind", path.clone(), &options));
            plan.effects.push(HostEffect::File { path, mode: FILE_MODE, content });
        }
        Ok(())
    }
}

/// As the kubelet writes it, so that programs find what they expect. One without an image, which has
/// the host's root, has what the host has as well.
fn hosts(pod: &PodSpec, has_image: bool, files: &HostFiles, addresses: &[IpAddr]) -> String {
    let of_host = files.hosts.trim_end();
    let text = if pod.host.network {
        format!("{of_host}\n")
    } else {
        let names = match pod.names.domain.full_name(&pod.hostname, pod.name.namespace.as_str()) {
            Some(full) => format!("{full}\t{}", pod.hostname),
            None => pod.hostname.clone(),
        };
        let own = |address: &IpAddr| format!("{address}\t{names}\n");
        let own: String = match addresses {
            [] => own(&Ipv4Addr::LOCALHOST.into()),
            addresses => addresses.iter().map(own).collect(),
        };
        if !has_image {
            return with_pods(format!("{of_host}\n{own}"), pod, files);
        }
        format!(
            "# Written by Roost for each start of the container.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n\
             {own}"
        )
    };
    with_pods(text, pod, files)
}

/// With the aliases of the pod, and the names of others.
fn with_pods(mut text: String, pod: &PodSpec, files: &HostFiles) -> String {
    if !pod.names.aliases.is_empty() {
        text.push_str("\n# `hostAliases` of the pod.\n");
    }
    for alias in &pod.names.aliases {
        writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t")).expect("it is a string");
    }
    text.push_str(&native::hosts::part(files.pods.as_deref()));
    text
}

/// What resolv.conf(5) says.
#[derive(Debug, Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// What the host has, if that counts, and then what the manifest adds. Of options with one name
/// the manifest's counts.
fn resolv_conf(dns: &Dns, of_host: &str) -> String {
    let Dns { base, nameservers, searches, options } = dns;
    let mut all = match base {
        DnsBase::Host => parse(of_host),
        DnsBase::Nothing => Resolver::default(),
    };
    let add = |list: &mut Vec<String>, text: String| {
        if !list.contains(&text) {
            list.push(text);
        }
    };
    nameservers.iter().for_each(|ip| add(&mut all.nameservers, ip.to_string()));
    searches.iter().for_each(|domain| add(&mut all.searches, domain.clone()));
    for DnsOption { name, value } in options {
        let named = |text: &String| text.split(':').next() == Some(name.as_str());
        all.options.retain(|known| !named(known));
        all.options.push(match value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    let mut text = String::new();
    for server in all.nameservers.iter().take(NAMESERVERS_MAX) {
        writeln!(text, "nameserver {server}").expect("it is a string");
    }
    for (key, words) in [("search", &all.searches), ("options", &all.options)] {
        if !words.is_empty() {
            writeln!(text, "{key} {}", words.join(" ")).expect("it is a string");
        }
    }
    text
}

/// Of several `search` lines the last counts (resolv.conf(5)).
fn parse(text: &str) -> Resolver {
    let mut found = Resolver::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => found.nameservers.extend(words.next()),
            Some("search" | "domain") => found.searches = words.collect(),
            Some("options") => found.options.extend(words),
            Some(_) | None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# by hand\nnameserver 10.0.0.1\nnameserver fd00::1\ndomain old\n\
        search lan example.org\noptions ndots:1 edns0\n; end\nsortlist 1.2.3.4\n";

    fn option(name: &str, value: Option<&str>) -> DnsOption {
        DnsOption { name: name.to_owned(), value: value.map(str::to_owned) }
    }

    #[test]
    fn what_the_manifest_says_is_added_to_what_the_host_has() {
        assert_eq!(
            resolv_conf(&Dns::default(), HOST),
            "nameserver 10.0.0.1\nnameserver fd00::1\nsearch lan example.org\n\
             options ndots:1 edns0\n"
        );
        let dns = Dns {
            nameservers: ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap()).into(),
            searches: vec!["lan".to_owned(), "svc".to_owned()],
            options: vec![option("ndots", Some("5")), option("rotate", None)],
            ..Dns::default()
        };
        assert_eq!(
            resolv_conf(&dns, HOST),
            "nameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.0.0.2\n\
             search lan example.org svc\noptions edns0 ndots:5 rotate\n"
        );
        let alone = Dns { base: DnsBase::Nothing, options: Vec::new(), ..dns };
        assert_eq!(
            resolv_conf(&alone, HOST),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch lan svc\n"
        );
    }
}
