//! `hostname` and what belongs to it, `hostAliases`, `dnsPolicy` and `dnsConfig`.
//!
//! What stands here becomes lines of files that programs parse, so nothing in it may end a line or
//! a word.

use core::net::IpAddr;

use super::fields::{At, Fields};
use super::schema;
use crate::ids::{LABEL_LEN_MAX, Namespace, ObjectName};
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::node::Kind;
use crate::manifest::pod::{Dns, DnsBase, DnsOption, Domain, HostAlias, HostNamespaces, Names};

/// Aliases of a pod, and names of each.
const ALIASES_MAX: usize = 256;
/// What resolv.conf(5) takes: name servers (`MAXNS`); search domains, and the length of their list
/// in bytes (Kubernetes: `MaxDNSSearchPaths`, `MaxDNSSearchListChars`).
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_LEN_MAX: usize = 2048;
const OPTIONS_MAX: usize = 64;
/// Longest name or value of an option, in bytes.
const OPTION_LEN_MAX: usize = 64;
/// `HOST_NAME_MAX` of Linux (gethostname(2)).
pub(super) const HOSTNAME_LEN_MAX: usize = 64;

/// The host name, if the manifest has one, and the rest.
pub(super) fn decode(
    spec: &Fields<'_>,
    host: HostNamespaces,
    faults: &mut Faults,
) -> (Option<String>, Names) {
    let mut hostname = spec.get("hostname").and_then(|at| label(at, faults));
    let in_hostname = spec.flag("setHostnameAsFQDN", faults);
    let subdomain = spec.get("subdomain").and_then(|at| label(at, faults));
    let mut domain = match subdomain {
        Some(name) => Domain::Subdomain { name, in_hostname: in_hostname && !host.network },
        None => Domain::None,
    };
    if let Some(at) = spec.get("hostnameOverride")
        && let Some(name) = override_of(at, host, in_hostname, faults)
    {
        (hostname, domain) = (Some(name), Domain::Override);
    }
    let aliases = spec.get("hostAliases").map(|at| aliases(at, faults)).unwrap_or_default();
    (hostname, Names { domain, aliases, dns: dns(spec, faults) })
}

fn label(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    // A host name and a namespace are both DNS labels.
    if text.parse::<Namespace>().is_err() {
        let message = format!(
            "{} must be a DNS label: lower-case letters, digits and `-`, beginning and ending \
             with a letter or digit, at most {LABEL_LEN_MAX} characters",
            quote(text)
        );
        faults.push(at.error(&message));
    }
    Some(text.to_owned())
}

fn override_of(
    at: At<'_>,
    host: HostNamespaces,
    in_hostname: bool,
    faults: &mut Faults,
) -> Option<String> {
    let name: ObjectName = at.parse(faults)?;
    let others = [("hostNetwork", host.network), ("setHostnameAsFQDN", in_hostname)];
    for (other, _) in others.into_iter().filter(|(_, is_set)| *is_set) {
        faults.push(at.error(&format!("can't be set together with `{other}: true`")));
    }
    if name.as_str().len() > HOSTNAME_LEN_MAX {
        let message = format!("must be at most {HOSTNAME_LEN_MAX} characters (a limit of Linux)");
        faults.push(at.error(&message));
    }
    Some(name.as_str().to_owned())
}

fn aliases(at: At<'_>, faults: &mut Faults) -> Vec<HostAlias> {
    let mut found = Vec::new();
    for item in at.items(ALIASES_MAX, faults) {
        let Some(fields) = item.fields(&schema::HOST_ALIAS, faults) else { continue };
        let ip = fields.required("ip", faults).and_then(|at| address(at, faults));
        let names_at = fields.get("hostnames");
        let names = names_at.map(|at| domains(at, ALIASES_MAX, faults)).unwrap_or_default();
        match ip {
            Some(_) if names.is_empty() && names_at.is_none() => {
                faults.push(item.warning("has no effect: it has no `hostnames`"));
            }
            Some(ip) if !names.is_empty() => found.push(HostAlias { ip, hostnames: names }),
            Some(_) | None => {}
        }
    }
    found
}

fn address(at: At<'_>, faults: &mut Faults) -> Option<IpAddr> {
    let text = at.text(faults)?;
    let address = text.parse().ok();
    if address.is_none() {
        faults.push(at.error(&format!("{} is no IP address", quote(text))));
    }
    address
}

/// Names of hosts or domains: DNS subdomains, as those of objects are. A final dot is allowed, as
/// in a name that is not to be searched for, and `_` as in names of services.
fn domains(at: At<'_>, most: usize, faults: &mut Faults) -> Vec<String> {
    let mut found = Vec::new();
    for item in at.items(most, faults) {
        let Some(text) = item.text(faults) else { continue };
        let plain = text.strip_suffix('.').unwrap_or(text).replace('_', "a");
        if plain.parse::<ObjectName>().is_err() {
            let message = format!("{} is no name of a host or domain", quote(text));
            faults.push(item.error(&message));
        } else {
            found.push(text.to_owned());
        }
    }
    found
}

fn dns(spec: &Fields<'_>, faults: &mut Faults) -> Dns {
    let policies = [
        ("Default", DnsBase::Host),
        // Without a DNS service of the cluster it is what the kubelet makes of these.
        ("ClusterFirst", DnsBase::Host),
        ("ClusterFirstWithHostNet", DnsBase::Host),
        ("None", DnsBase::Nothing),
    ];
    let policy_at = spec.get("dnsPolicy");
    let base = policy_at.and_then(|at| at.choice(&policies, faults)).unwrap_or_default();
    let config_at = spec.get("dnsConfig");
    let config = config_at.and_then(|at| at.fields(&schema::DNS_CONFIG, faults));
    let mut dns = Dns { base, ..Dns::default() };
    if let Some(fields) = &config {
        if let Some(list) = fields.get("nameservers") {
            let items = list.items(NAMESERVERS_MAX, faults);
            dns.nameservers = items.into_iter().filter_map(|at| address(at, faults)).collect();
        }
        if let Some(list) = fields.get("searches") {
            dns.searches = domains(list, SEARCHES_MAX, faults);
            let len: usize = dns.searches.iter().map(|domain| domain.len() + 1).sum();
            if len > SEARCHES_LEN_MAX {
                let message = format!("must be at most {SEARCHES_LEN_MAX} bytes together");
                faults.push(list.error(&message));
            }
        }
        let options = fields.get("options").map(|at| options(at, faults));
        dns.options = options.unwrap_or_default();
    }
    let servers = config_at.as_ref().and_then(|at| at.member("nameservers"));
    let has_none =
        servers.is_none_or(|at| matches!(&at.node.kind, Kind::Sequence(all) if all.is_empty()));
    if let Some(at) = policy_at.filter(|_| base == DnsBase::Nothing && has_none) {
        faults.push(at.error("`None` needs at least one of `dnsConfig.nameservers`"));
    }
    dns
}

fn options(at: At<'_>, faults: &mut Faults) -> Vec<DnsOption> {
    let mut found = Vec::new();
    for item in at.items(OPTIONS_MAX, faults) {
        let Some(fields) = item.fields(&schema::DNS_OPTION, faults) else { continue };
        let name = fields.required("name", faults).and_then(|at| word(at, faults));
        let value = fields.get("value").map(|at| word(at, faults));
        if let (Some(name), value) = (name, value)
            && value != Some(None)
        {
            found.push(DnsOption { name, value: value.flatten() });
        }
    }
    found
}

/// A word of a line of options.
fn word(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    let valid = (1..=OPTION_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !valid {
        let message = format!(
            "{} must be letters, digits, `-`, `_` and `.`, at most {OPTION_LEN_MAX} of them",
            quote(text)
        );
        faults.push(at.error(&message));
    }
    valid.then(|| text.to_owned())
}
