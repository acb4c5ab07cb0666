//! Which image of an index is for this machine. PURE.

use oci_spec::image::{Arch, Descriptor, Os};

/// What a machine runs, in Go's words (`GOOS`, `GOARCH`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: Arch,
}

/// No image of an index fits; says which there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no image for linux/{wanted}: {there}")]
pub struct NoPlatform {
    wanted: String,
    there: String,
}

/// Most platforms in a message.
const SHOWN_MAX: usize = 12;

impl Platform {
    /// That of this program, which is the machine's.
    #[must_use]
    pub fn current() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => Arch::Amd64,
            "aarch64" => Arch::ARM64,
            other => Arch::Other(other.to_owned()),
        };
        Self { architecture }
    }

    /// Whether an image whose configuration says `platform` (`linux/arm64/v8`) runs here.
    #[must_use]
    pub fn runs(&self, platform: &str) -> bool {
        let mut parts = platform.split('/');
        let os = parts.next() == Some("linux");
        let architecture = self.architecture.to_string();
        let same = parts.next() == Some(&architecture);
        os && same && self.rank(parts.next()).is_some()
    }

    /// The entry to use, best variant first, else the first in the index's own order. An entry
    /// without a platform is taken if it is the only image: it may be for any.
    ///
    /// # Errors
    /// When none fits.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, NoPlatform> {
        let mut best: Option<(u8, &Descriptor)> = None;
        for entry in entries {
            let Some(platform) = entry.platform() else { continue };
            if *platform.os() != Os::Linux || *platform.architecture() != self.architecture {
                continue;
            }
            let Some(rank) = self.rank(platform.variant().as_deref()) else { continue };
            if best.is_none_or(|(found, _)| rank < found) {
                best = Some((rank, entry));
            }
        }
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        match entries {
            [only] if only.platform().is_none() => Ok(only),
            _ => Err(self.none(entries)),
        }
    }

    /// How well a variant fits, 0 the best. The amd64 levels above 1 need instructions that not
    /// every machine has; arm64 has had v8 only.
    fn rank(&self, variant: Option<&str>) -> Option<u8> {
        match (&self.architecture, variant.unwrap_or_default()) {
            (Arch::Amd64, "" | "v1") | (Arch::ARM64, "v8") => Some(0),
            (Arch::ARM64, "") => Some(1),
            (Arch::Amd64 | Arch::ARM64, _) => None,
            (_, variant) => variant.is_empty().then_some(0),
        }
    }

    fn none(&self, entries: &[Descriptor]) -> NoPlatform {
        let mut there: Vec<String> = Vec::new();
        for platform in entries.iter().filter_map(|entry| entry.platform().as_ref()) {
            let variant = platform.variant().as_ref().map(|variant| format!("/{variant}"));
            let text = format!(
                "{}/{}{}",
                platform.os(),
                platform.architecture(),
                variant.unwrap_or_default()
            );
            // Attestations stand in an index as images for no machine.
            if text != "unknown/unknown" && !there.contains(&text) {
                there.push(text);
            }
        }
        let more = there.len().saturating_sub(SHOWN_MAX);
        there.truncate(SHOWN_MAX);
        let there = match (there.is_empty(), more) {
            (true, _) => "the index names no platform".to_owned(),
            (false, 0) => format!("there are {}", there.join(", ")),
            (false, more) => format!("there are {} and {more} more", there.join(", ")),
        };
        NoPlatform { wanted: self.architecture.to_string(), there }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(byte: u8, platform: &str) -> Descriptor {
        let digest = format!("sha256:{byte:064x}");
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next());
        let platform = architecture.map_or(String::new(), |architecture| {
            let variant = parts.next().map_or(String::new(), |v| format!(r#","variant":"{v}""#));
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#)
        });
        let text = format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,
                "digest":"{digest}"{platform}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn chosen(architecture: Arch, platforms: &[&str]) -> Result<usize, String> {
        let entries: Vec<_> =
            (0..).zip(platforms).map(|(at, platform)| entry(at, platform)).collect();
        let platform = Platform { architecture };
        match platform.choose(&entries) {
            Ok(found) => Ok(entries.iter().position(|entry| entry == found).unwrap()),
            Err(none) => Err(none.to_string()),
        }
    }

    #[test]
    fn the_best_variant_for_the_machine_is_chosen() {
        let all =
            ["windows/amd64", "linux/amd64/v3", "linux/amd64", "linux/arm64", "linux/arm64/v8"];
        assert_eq!(chosen(Arch::Amd64, &all), Ok(2));
        assert_eq!(chosen(Arch::ARM64, &all), Ok(4));
        assert_eq!(chosen(Arch::ARM64, &["linux/arm/v7", "linux/arm64"]), Ok(1));
        assert_eq!(chosen(Arch::Amd64, &["linux"]), Ok(0), "one without a platform");
        assert_eq!(chosen(Arch::Amd64, &["linux/amd64", "linux/amd64"]), Ok(0));
    }

    #[test]
    fn what_there_is_instead_is_named() {
        let none = chosen(Arch::Amd64, &["linux/arm64/v8", "unknown/unknown", "linux/s390x"]);
        let text = "there is no image for linux/amd64: there are linux/arm64/v8, linux/s390x";
        assert_eq!(none.unwrap_err(), text);
        assert!(chosen(Arch::Amd64, &[]).unwrap_err().contains("names no platform"));
        assert!(chosen(Arch::Amd64, &["linux/amd64/v4"]).is_err());
    }

    #[test]
    fn an_image_runs_here_if_its_configuration_says_so() {
        let platform = Platform { architecture: Arch::ARM64 };
        assert!(platform.runs("linux/arm64/v8") && platform.runs("linux/arm64"));
        assert!(!platform.runs("linux/amd64") && !platform.runs("windows/arm64"));
    }
}
