//! Manifests, indexes and configurations: from untrusted JSON to what an image is. PURE.
//!
//! OCI images and Docker's schema 2 are the same but for their media types; Docker's schema 1 and
//! artifacts that are no images are refused. Not here: where the bytes come from (`registry`,
//! `archive`), and that they have the digest they should have (whoever read them has checked).

use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

use super::reference::ImageSource;
use super::store::{DiffId, ImageId, LAYERS_MAX, LayerId};

/// Largest manifest or index in bytes, as registries limit them themselves.
pub const MANIFEST_LEN_MAX: u64 = 4 << 20;
/// Largest configuration in bytes.
pub const CONFIG_LEN_MAX: u64 = 4 << 20;
/// Largest blob of a layer in bytes, as it is transferred.
pub const LAYER_BLOB_LEN_MAX: u64 = 64 << 30;
/// Most images in an index.
pub const INDEX_ENTRIES_MAX: usize = 1000;
/// Most entries of a list in a configuration.
pub const CONFIG_ITEMS_MAX: usize = 10_000;
/// Longest text in a configuration: the kernel takes no longer argument (`MAX_ARG_STRLEN`).
pub const CONFIG_TEXT_LEN_MAX: usize = 131_071;

/// The media types that a registry is asked for.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// An image that is here, and can be run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration, which names its content.
    pub id: ImageId,
    /// The digest of its manifest. For an image of `docker save`, of one made for it.
    pub manifest: Digest,
    /// What it was pulled or loaded as.
    pub names: Vec<ImageSource>,
    /// The directories of its layers, the lowest first.
    pub layers: Vec<LayerId>,
    /// How its programs are meant to be run.
    pub config: ImageConfig,
    /// Bytes on this disk; images may share them.
    pub size: u64,
    /// Whether it is never collected, whoever uses it.
    pub pinned: bool,
    /// When it was built (RFC 3339), as it says itself.
    pub created: Option<String>,
}

/// What a configuration says about running the image. Texts have no NUL and bounded lengths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// A name or number; empty is SIGTERM.
    pub stop_signal: String,
    /// Directories that the image wants to be volumes, in order.
    pub volumes: Vec<String>,
    /// `80/tcp`, in order.
    pub exposed_ports: Vec<String>,
    /// Whether there is a health check of Docker's, which is not run.
    pub healthcheck: bool,
}

/// Why JSON is no image; says what it is instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageData {
    /// It can't be read as what it should be.
    #[error("the {what} can't be read: {fault}")]
    Json {
        /// What it should be.
        what: &'static str,
        /// Why not.
        fault: String,
    },
    /// Docker's old format, which has no digests that can be trusted.
    #[error(
        "the image is in Docker's old format (manifest schema 1), which is not supported: push it \
         again with a current docker, podman or skopeo"
    )]
    Schema1,
    /// It is something, but no image.
    #[error("{what} is not a container image: it is of type {media_type}")]
    NoImage {
        /// What was asked for.
        what: &'static str,
        /// What it is.
        media_type: String,
    },
    /// It is not what images are like.
    #[error("the {what} is wrong: {fault}")]
    Wrong {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        fault: String,
    },
}

/// What a registry or layout may have under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image(Box<ImageParts>),
    /// Images, one a platform.
    Index(Vec<Descriptor>),
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParts {
    /// Its configuration.
    pub config: Descriptor,
    /// The blobs of its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What says which of the two it is.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Reads a manifest or an index. `content_type` is what the server called it, if it did; what
    /// the document says itself counts more.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, InvalidImageData> {
        let kind: Kind = json("manifest", bytes)?;
        let media_type = kind.media_type.as_deref().or(content_type).unwrap_or_default();
        if kind.schema_version == Some(1) || media_type.contains("distribution.manifest.v1") {
            return Err(InvalidImageData::Schema1);
        }
        match (kind.manifests.is_some(), kind.layers.is_some()) {
            // What is both at once is neither (CVE-2021-41190).
            (true, true) => Err(InvalidImageData::Wrong {
                what: "manifest",
                fault: "it has `layers` and `manifests`, and can't be both".into(),
            }),
            (true, false) => {
                let index: ImageIndex = json("index", bytes)?;
                if index.manifests().len() > INDEX_ENTRIES_MAX {
                    let fault = format!("it has more than {INDEX_ENTRIES_MAX} entries");
                    return Err(InvalidImageData::Wrong { what: "index", fault });
                }
                Ok(Self::Index(index.manifests().clone()))
            }
            (false, true) => ImageParts::parse(bytes).map(|parts| Self::Image(Box::new(parts))),
            (false, false) => Err(InvalidImageData::Wrong {
                what: "manifest",
                fault: "it has neither `layers` nor `manifests`".into(),
            }),
        }
    }
}

impl ImageParts {
    fn parse(bytes: &[u8]) -> Result<Self, InvalidImageData> {
        let manifest: ImageManifest = json("manifest", bytes)?;
        let wrong = |fault: String| Err(InvalidImageData::Wrong { what: "manifest", fault });
        let (config, layers) = (manifest.config().clone(), manifest.layers().clone());
        let kind = config.media_type().to_string();
        let is_config = [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            // What some builders write.
            "application/octet-stream",
        ];
        if !is_config.contains(&kind.as_str()) {
            let media_type = manifest.artifact_type().as_ref().map_or(kind, ToString::to_string);
            return Err(InvalidImageData::NoImage { what: "the manifest", media_type });
        }
        if config.size() > CONFIG_LEN_MAX {
            return wrong(format!("its configuration is larger than {CONFIG_LEN_MAX} bytes"));
        }
        if layers.len() > LAYERS_MAX {
            return wrong(format!("it has {} layers, and {LAYERS_MAX} are possible", layers.len()));
        }
        for layer in &layers {
            let kind = layer.media_type().to_string();
            if kind.contains("encrypted") {
                return wrong(format!(
                    "layer {} is encrypted, which is not supported",
                    layer.digest()
                ));
            }
            if layer.size() > LAYER_BLOB_LEN_MAX {
                let (digest, size) = (layer.digest(), layer.size());
                return wrong(format!(
                    "layer {digest} has {size} bytes, and {LAYER_BLOB_LEN_MAX} are possible"
                ));
            }
        }
        Ok(Self { config, layers })
    }

    /// Bytes of the configuration and all layers, as they are transferred.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().fold(self.config.size(), |sum, layer| sum.saturating_add(layer.size()))
    }
}

/// A configuration, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// How to run the image.
    pub config: ImageConfig,
    /// The layers by their uncompressed content, the lowest first.
    pub diff_ids: Vec<DiffId>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// When it was built, as it says.
    pub created: Option<String>,
}

/// The one thing in Docker's configurations that OCI's do not have.
#[derive(Deserialize)]
struct DockerConfiguration {
    #[serde(default)]
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default, rename = "Healthcheck")]
    healthcheck: Option<Healthcheck>,
}

#[derive(Deserialize)]
struct Healthcheck {
    #[serde(default, rename = "Test")]
    test: Option<Vec<String>>,
}

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is none, or has texts that no program can be started with.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidImageData> {
        let wrong = |fault: String| InvalidImageData::Wrong { what: "configuration", fault };
        let parsed: ImageConfiguration = json("configuration", bytes)?;
        let docker: DockerConfiguration = json("configuration", bytes)?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() > LAYERS_MAX {
            return Err(wrong(format!("it has more than {LAYERS_MAX} layers")));
        }
        let diff_ids = diff_ids
            .iter()
            .map(|id| id.parse().map_err(|_| wrong("a diff_id of it is not a digest".into())))
            .collect::<Result<_, _>>()?;
        let mut platform = format!("{}/{}", parsed.os(), parsed.architecture());
        if let Some(variant) = parsed.variant().as_ref().filter(|variant| !variant.is_empty()) {
            platform = format!("{platform}/{variant}");
        }
        let healthcheck = docker.config.and_then(|config| config.healthcheck);
        // `["NONE"]` takes the check of the image below away.
        let healthcheck = healthcheck
            .and_then(|check| check.test)
            .is_some_and(|test| test.first().is_some_and(|kind| kind != "NONE"));
        let run = parsed.config().clone().unwrap_or_default();
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort_unstable();
            list
        };
        let config = ImageConfig {
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            cmd: run.cmd().clone().unwrap_or_default(),
            env: run.env().clone().unwrap_or_default(),
            user: run.user().clone().unwrap_or_default(),
            working_dir: run.working_dir().clone().unwrap_or_default(),
            stop_signal: run.stop_signal().clone().unwrap_or_default(),
            volumes: sorted(run.volumes()),
            exposed_ports: sorted(run.exposed_ports()),
            healthcheck,
        };
        config.check().map_err(wrong)?;
        Ok(Self { config, diff_ids, platform, created: parsed.created().clone() })
    }
}

impl ImageConfig {
    /// Holds it to its bounds.
    fn check(&self) -> Result<(), String> {
        let lists = [
            ("Entrypoint", &self.entrypoint),
            ("Cmd", &self.cmd),
            ("Env", &self.env),
            ("Volumes", &self.volumes),
            ("ExposedPorts", &self.exposed_ports),
        ];
        let texts = [
            ("User", &self.user),
            ("WorkingDir", &self.working_dir),
            ("StopSignal", &self.stop_signal),
        ];
        for (what, list) in lists {
            if list.len() > CONFIG_ITEMS_MAX {
                return Err(format!("{what} has more than {CONFIG_ITEMS_MAX} entries"));
            }
        }
        let all = lists.iter().flat_map(|(what, list)| list.iter().map(move |text| (*what, text)));
        for (what, text) in all.chain(texts) {
            if text.len() > CONFIG_TEXT_LEN_MAX {
                return Err(format!("{what} has a text of more than {CONFIG_TEXT_LEN_MAX} bytes"));
            }
            if text.contains('\0') {
                return Err(format!("{what} has a text with a NUL in it"));
            }
        }
        Ok(())
    }
}

fn json<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, InvalidImageData> {
    serde_json::from_slice(bytes).map_err(|fault| {
        let start = bytes.trim_ascii_start().first();
        let fault = match start {
            None => "it is empty".to_owned(),
            Some(b'<') => "it is HTML or XML, not JSON".to_owned(),
            Some(_) => fault.to_string(),
        };
        InvalidImageData::Json { what, fault }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

    fn descriptor(kind: &str, size: u64) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{HEX}","size":{size}}}"#)
    }

    fn manifest(config: &str, layer: &str, more: &str) -> String {
        format!(r#"{{"schemaVersion":2,{more}"config":{config},"layers":[{layer}]}}"#)
    }

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let wrong = Manifest::parse(text.as_bytes(), None).unwrap_err().to_string();
        assert!(wrong.contains(part), "{wrong}");
    }

    #[test]
    fn images_and_indexes_are_told_apart_by_what_they_hold() {
        let image = manifest(&descriptor(CONFIG, 7), &descriptor(LAYER, 5), "");
        let Manifest::Image(parts) = Manifest::parse(image.as_bytes(), None).unwrap() else {
            panic!("not an image")
        };
        assert_eq!((parts.bytes(), parts.layers.len()), (12, 1));
        let list = "application/vnd.docker.distribution.manifest.list.v2+json";
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{list}","manifests":[{}]}}"#,
            descriptor("application/vnd.docker.distribution.manifest.v2+json", 1)
        );
        let parsed = Manifest::parse(index.as_bytes(), None).unwrap();
        assert!(matches!(parsed, Manifest::Index(entries) if entries.len() == 1));
    }

    #[test]
    fn what_is_no_image_is_named() {
        refused("", "empty");
        refused("<html>", "HTML");
        refused("{", "EOF");
        refused("{}", "neither");
        refused(r#"{"layers":[],"manifests":[]}"#, "can't be both");
        refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1");
        let helm = "application/vnd.cncf.helm.config.v1+json";
        refused(&manifest(&descriptor(helm, 1), "", ""), helm);
        refused(&manifest(&descriptor(CONFIG, 5 << 20), "", ""), "configuration is larger");
        refused(&manifest(&descriptor(CONFIG, 5), &descriptor(LAYER, 1 << 50), ""), "are possible");
        let layers = vec![descriptor(LAYER, 1); LAYERS_MAX + 1].join(",");
        refused(&manifest(&descriptor(CONFIG, 5), &layers, ""), "layers, and");
        refused(&manifest(&descriptor(CONFIG, 5), "{\"size\":-1}", ""), "can't be read");
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        refused(&manifest(&descriptor(CONFIG, 5), &descriptor(encrypted, 1), ""), "encrypted");
    }

    #[track_caller]
    fn config(inside: &str) -> Result<Configuration, InvalidImageData> {
        let text = format!(
            r#"{{"architecture":"arm64","variant":"v8","os":"linux","created":"2020-01-01T00:00:00Z",
                "config":{inside},"rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        );
        Configuration::parse(text.as_bytes())
    }

    #[test]
    fn a_configuration_says_how_to_run_the_image() {
        let parsed = config(
            r#"{"Entrypoint":["/e"],"Cmd":null,"Env":["A=1"],"User":"me","Volumes":{"/b":{},"/a":{}},
                "Healthcheck":{"Test":["CMD","x"]},"ExposedPorts":{"80/tcp":{}},"Unknown":1}"#,
        )
        .unwrap();
        assert_eq!(parsed.platform, "linux/arm64/v8");
        assert_eq!(parsed.diff_ids.len(), 1);
        assert_eq!(parsed.config.volumes, ["/a", "/b"]);
        assert_eq!((parsed.config.cmd.len(), parsed.config.healthcheck), (0, true));
        assert!(!config(r#"{"Healthcheck":{"Test":["NONE"]}}"#).unwrap().config.healthcheck);
        assert_eq!(config("null").unwrap().config, ImageConfig::default());
    }

    #[test]
    fn a_configuration_that_nothing_could_run_is_refused() {
        let wrong = |inside: &str| config(inside).unwrap_err().to_string();
        assert!(wrong(r#"{"Env":["A=\u0000"]}"#).contains("NUL"));
        let long = format!(r#"{{"Cmd":["{}"]}}"#, "a".repeat(200_000));
        assert!(wrong(&long).contains("Cmd has a text of more"));
        let many = format!(r#"{{"Env":[{}"a"]}}"#, "\"a\",".repeat(CONFIG_ITEMS_MAX));
        assert!(wrong(&many).contains("more than 10000"));
        assert!(wrong(r#"{"Env":"A"}"#).contains("configuration can't be read"));
    }
}
