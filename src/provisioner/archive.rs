//! Images in files: `docker save` archives, OCI layout directories, and tar files of these.
//!
//! An archive is not extracted: its entries are found once, and then read where they lie. One that
//! is compressed as a whole is unpacked into a file without a name first. Nothing in it decides
//! about a path on this machine: names of entries are looked up in the archive alone, and blobs are
//! read by their digest. Not here: layers being unpacked (`unpack`).

mod index;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, ImageIndex};
use serde::Deserialize;

use super::image::{
    CONFIG_LEN_MAX, Configuration, INDEX_ENTRIES_MAX, ImageParts, MANIFEST_LEN_MAX, Manifest,
};
use super::platform::Platform;
use super::reference::{ImageSource, Reference};
use super::store::sha256;
use index::Content;
pub use read::LayerReader;

/// Most images of one archive.
pub const IMAGES_MAX: usize = 1000;
/// Deepest nesting of indexes.
pub const INDEX_DEPTH_MAX: usize = 4;
/// Most names in a message.
const SHOWN_MAX: usize = 10;

/// Why a file has no image for us.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It can't be read.
    #[error("can't read {what} of {}", path.display())]
    Io {
        /// The archive or directory.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {fault}", path.display())]
    Invalid {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
}

/// An archive or a layout, open.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    content: Content,
}

/// An image in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveImage {
    /// What it is called, as a source; at least one.
    pub names: Vec<ImageSource>,
    /// What its name led to: an index or the manifest.
    pub target: Digest,
    /// Its manifest; for one of `docker save`, made from what is there.
    pub manifest: Vec<u8>,
    /// The digest of that.
    pub manifest_digest: Digest,
    /// Its configuration, verified.
    pub config: Vec<u8>,
    /// The digest of that.
    pub config_digest: Digest,
    /// That configuration, read.
    pub configuration: Configuration,
    /// Its layers, the lowest first; as many as the configuration has.
    pub layers: Vec<ArchiveLayer>,
}

/// A layer in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveLayer {
    entry: String,
    digest: Option<Digest>,
    /// Its bytes in the archive.
    pub size: u64,
}

/// What stands under one name.
struct Listed {
    /// As the archive says it; none is a layout's only image.
    tags: Vec<String>,
    what: What,
}

enum What {
    Docker(DockerImage),
    /// One for each platform.
    Oci(Vec<Descriptor>),
}

/// An entry of `manifest.json`
/// (<https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format>).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutVersion {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Archive {
    /// Opens a layout directory or an archive. One that is compressed is unpacked into a file
    /// without a name in `scratch`. Blocks.
    ///
    /// # Errors
    /// When it can't be read, or is neither.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let content = Content::open(path, scratch)?;
        Ok(Self { path: path.into(), content })
    }

    /// Every image for this machine. Blocks.
    ///
    /// # Errors
    /// When one of them is damaged, or there is none.
    pub fn images(&self, platform: &Platform) -> Result<Vec<ArchiveImage>, ArchiveError> {
        let listed = self.list(None)?;
        listed.iter().map(|listed| self.image(listed, platform)).collect()
    }

    /// The image that a source means. Blocks.
    ///
    /// # Errors
    /// When it is not there or damaged, or several could be meant.
    pub fn image_of(
        &self,
        source: &ImageSource,
        platform: &Platform,
    ) -> Result<ArchiveImage, ArchiveError> {
        let (tag, docker) = match source {
            ImageSource::DockerArchive { tag, .. } => (tag.as_ref().map(ToString::to_string), true),
            ImageSource::OciLayout { tag, .. } | ImageSource::OciArchive { tag, .. } => {
                (tag.clone(), false)
            }
            ImageSource::Registry(_) => return Err(self.invalid("this is no file")),
        };
        let listed = self.list(Some(docker))?;
        let found: Vec<&Listed> = match &tag {
            Some(tag) => listed.iter().filter(|listed| listed.is_called(tag)).collect(),
            None => listed.iter().collect(),
        };
        match (found.as_slice(), tag) {
            ([one], _) => {
                let image = self.image(one, platform)?;
                Ok(ArchiveImage { names: vec![source.clone()], ..image })
            }
            ([], Some(tag)) => {
                let there = names_of(&listed);
                Err(self.invalid(format!("there is no image `{tag}` in it; there are {there}")))
            }
            (_, tag) => {
                let (what, there) = (tag.unwrap_or_default(), names_of(&listed));
                let fault =
                    format!("several images could be meant by `{what}`: name one of {there}");
                Err(self.invalid(fault))
            }
        }
    }

    /// The content of a layer as it lies there. Reading fails at the end if it is not what it
    /// should be.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn layer(&self, layer: &ArchiveLayer) -> Result<LayerReader, ArchiveError> {
        let section = self.content.section(&layer.entry).map_err(|e| self.io(&layer.entry, e))?;
        LayerReader::new(section, layer.digest.clone())
            .ok_or_else(|| self.invalid(format!("the digest of {} can't be verified", layer.entry)))
    }

    /// What is in it: by Docker's table if that is there (and wanted, where that is known), else
    /// by the layout's.
    fn list(&self, docker: Option<bool>) -> Result<Vec<Listed>, ArchiveError> {
        let table = self.content.has("manifest.json");
        let layout = self.content.has("index.json");
        let listed = match (docker, table, layout) {
            (Some(true) | None, true, _) => self.list_docker()?,
            (Some(false) | None, _, true) => self.list_layout()?,
            (Some(true), false, true) => {
                return Err(self.invalid(
                    "it is no archive of Docker but an OCI layout: write oci-archive: or oci:",
                ));
            }
            (Some(false), true, false) => {
                return Err(self.invalid("it is an archive of Docker: write docker-archive:"));
            }
            (_, false, false) => {
                return Err(self.invalid(
                    "it is neither an OCI layout (it has no index.json) nor an archive of `docker \
                     save` (it has no manifest.json)",
                ));
            }
        };
        match listed.len() {
            0 => Err(self.invalid("there is no image in it")),
            1..=IMAGES_MAX => Ok(listed),
            _ => Err(self.invalid(format!("there are more than {IMAGES_MAX} images in it"))),
        }
    }

    fn list_docker(&self) -> Result<Vec<Listed>, ArchiveError> {
        let bytes = self.small("manifest.json", MANIFEST_LEN_MAX)?;
        let images: Vec<DockerImage> = self.json("manifest.json", &bytes)?;
        let listed = |image: DockerImage| Listed {
            tags: image.repo_tags.clone().unwrap_or_default(),
            what: What::Docker(image),
        };
        Ok(images.into_iter().map(listed).collect())
    }

    fn list_layout(&self) -> Result<Vec<Listed>, ArchiveError> {
        if !self.content.has("oci-layout") {
            return Err(self.invalid("it is no OCI layout: the file oci-layout is missing"));
        }
        let bytes = self.small("oci-layout", MANIFEST_LEN_MAX)?;
        let layout: LayoutVersion = self.json("oci-layout", &bytes)?;
        if !layout.version.starts_with("1.") {
            let version = layout.version.chars().take(20).collect::<String>();
            return Err(self.invalid(format!("version {version} of OCI layouts is not known")));
        }
        let bytes = self.small("index.json", MANIFEST_LEN_MAX)?;
        let index: ImageIndex = self.json("index.json", &bytes)?;
        if index.manifests().len() > INDEX_ENTRIES_MAX {
            let fault = format!("index.json has more than {INDEX_ENTRIES_MAX} entries");
            return Err(self.invalid(fault));
        }
        // Entries of one name are images of one for several platforms.
        let mut named: BTreeMap<Vec<String>, Vec<Descriptor>> = BTreeMap::new();
        for entry in index.manifests() {
            let annotations = entry.annotations().clone().unwrap_or_default();
            let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let tags = keys.iter().filter_map(|key| annotations.get(*key).cloned()).collect();
            named.entry(tags).or_default().push(entry.clone());
        }
        let listed = |(tags, entries)| Listed { tags, what: What::Oci(entries) };
        Ok(named.into_iter().map(listed).collect())
    }

    fn image(&self, listed: &Listed, platform: &Platform) -> Result<ArchiveImage, ArchiveError> {
        let names = self.names(listed)?;
        let image = match &listed.what {
            What::Docker(image) => self.docker_image(image, names)?,
            What::Oci(entries) => self.oci_image(entries, names, platform)?,
        };
        let (layers, expected) = (image.layers.len(), image.configuration.diff_ids.len());
        if layers != expected {
            return Err(self.invalid(format!(
                "the image has {layers} layers, and its configuration knows {expected}"
            )));
        }
        if !platform.runs(&image.configuration.platform) {
            let (found, wanted) = (&image.configuration.platform, &platform.architecture);
            return Err(self.invalid(format!("the image is for {found}, not linux/{wanted}")));
        }
        Ok(image)
    }

    fn docker_image(
        &self,
        image: &DockerImage,
        names: Vec<ImageSource>,
    ) -> Result<ArchiveImage, ArchiveError> {
        let config = self.small(&image.config, CONFIG_LEN_MAX)?;
        let config_digest = sha256(&config);
        // Its name is its digest, in both forms that there are.
        let hex = config_digest.digest();
        let name = image.config.strip_suffix(".json").unwrap_or(&image.config);
        let claimed = name.rsplit('/').next().unwrap_or(name);
        if claimed.len() == hex.len() && claimed != hex {
            return Err(self.invalid(format!("{} is damaged: its digest is {hex}", image.config)));
        }
        let configuration =
            Configuration::parse(&config).map_err(|e| self.invalid(e.to_string()))?;
        let mut layers = Vec::new();
        for (entry, diff) in image.layers.iter().zip(&configuration.diff_ids) {
            let section = self.content.section(entry).map_err(|e| self.io(entry, e))?;
            // What it should be is its diff id, which unpacking verifies.
            layers.push((entry.clone(), section.len(), diff.digest().clone()));
        }
        if image.layers.len() != configuration.diff_ids.len() {
            return Err(self.invalid("manifest.json and the configuration differ about the layers"));
        }
        let described: Vec<_> = layers
            .iter()
            .map(|(_, size, digest)| {
                let kind = "application/vnd.oci.image.layer.v1.tar";
                serde_json::json!({"mediaType": kind, "digest": digest, "size": size})
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len(),
            },
            "layers": described,
        });
        let manifest = manifest.to_string().into_bytes();
        let manifest_digest = sha256(&manifest);
        let layer = |(entry, size, _)| ArchiveLayer { entry, size, digest: None };
        Ok(ArchiveImage {
            names,
            target: manifest_digest.clone(),
            manifest,
            manifest_digest,
            config,
            config_digest,
            configuration,
            layers: layers.into_iter().map(layer).collect(),
        })
    }

    fn oci_image(
        &self,
        entries: &[Descriptor],
        names: Vec<ImageSource>,
        platform: &Platform,
    ) -> Result<ArchiveImage, ArchiveError> {
        let target = match entries {
            [one] => one.digest().clone(),
            _ => {
                platform.choose(entries).map_err(|e| self.invalid(e.to_string()))?.digest().clone()
            }
        };
        let (mut digest, mut depth) = (target.clone(), 0);
        let (manifest, parts): (Vec<u8>, ImageParts) = loop {
            let bytes = self.blob(&digest, MANIFEST_LEN_MAX)?;
            match Manifest::parse(&bytes, None).map_err(|e| self.invalid(e.to_string()))? {
                Manifest::Image(parts) => break (bytes, *parts),
                Manifest::Index(_) if depth == INDEX_DEPTH_MAX => {
                    return Err(
                        self.invalid(format!("indexes are nested deeper than {INDEX_DEPTH_MAX}"))
                    );
                }
                Manifest::Index(entries) => {
                    let chosen =
                        platform.choose(&entries).map_err(|e| self.invalid(e.to_string()))?;
                    (digest, depth) = (chosen.digest().clone(), depth + 1);
                }
            }
        };
        let config_digest = parts.config.digest().clone();
        let config = self.blob(&config_digest, CONFIG_LEN_MAX)?;
        let configuration =
            Configuration::parse(&config).map_err(|e| self.invalid(e.to_string()))?;
        let mut layers = Vec::new();
        for layer in &parts.layers {
            let entry = blob_entry(layer.digest());
            let section = self.content.section(&entry).map_err(|e| self.io(&entry, e))?;
            if section.len() != layer.size() {
                let (found, expected) = (section.len(), layer.size());
                let fault = format!("{entry} has {found} bytes instead of {expected}");
                return Err(self.invalid(fault));
            }
            let digest = Some(layer.digest().clone());
            layers.push(ArchiveLayer { entry, digest, size: layer.size() });
        }
        let manifest_digest = digest;
        Ok(ArchiveImage {
            names,
            target,
            manifest,
            manifest_digest,
            config,
            config_digest,
            configuration,
            layers,
        })
    }

    /// What an image is called from outside: the names that look like references, or else the
    /// place of the file with the name in it.
    fn names(&self, listed: &Listed) -> Result<Vec<ImageSource>, ArchiveError> {
        let mut names: Vec<ImageSource> = Vec::new();
        for tag in &listed.tags {
            let whole = matches!(listed.what, What::Docker(_)) || tag.contains(['/', ':']);
            if let Some(reference) = whole.then(|| tag.parse::<Reference>().ok()).flatten() {
                let source = ImageSource::Registry(reference);
                if !names.contains(&source) {
                    names.push(source);
                }
            }
        }
        if names.is_empty() {
            let kind = match (&listed.what, self.content.is_directory()) {
                (What::Docker(_), _) => "docker-archive",
                (What::Oci(_), true) => "oci",
                (What::Oci(_), false) => "oci-archive",
            };
            let place = self.path.to_str().ok_or_else(|| self.invalid("its path is not UTF-8"))?;
            let tag = listed.tags.last().map_or_else(String::new, |tag| format!(":{tag}"));
            let source = format!("{kind}:{place}{tag}").parse().map_err(|e| {
                self.invalid(format!("an image in it has no name that can be used ({e})"))
            })?;
            names.push(source);
        }
        Ok(names)
    }

    /// A blob that is small enough to be held, verified.
    fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let entry = blob_entry(digest);
        let bytes = self.small(&entry, limit)?;
        match read::digest_like(digest, &bytes) {
            Some(found) if found == *digest => Ok(bytes),
            Some(found) => Err(self.invalid(format!("{entry} is damaged: its digest is {found}"))),
            None => Err(self.invalid(format!("the digest of {entry} can't be verified"))),
        }
    }

    fn small(&self, entry: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let section = self.content.section(entry).map_err(|e| self.io(entry, e))?;
        if section.len() > limit {
            return Err(self.invalid(format!("{entry} is larger than {limit} bytes")));
        }
        section.read_all().map_err(|e| self.io(entry, e))
    }

    fn json<'a, T: Deserialize<'a>>(
        &self,
        entry: &str,
        bytes: &'a [u8],
    ) -> Result<T, ArchiveError> {
        serde_json::from_slice(bytes)
            .map_err(|e| self.invalid(format!("{entry} is not what it should be: {e}")))
    }

    fn io(&self, entry: &str, source: std::io::Error) -> ArchiveError {
        let what = entry.chars().take(200).collect();
        ArchiveError::Io { path: self.path.clone(), what, source }
    }

    fn invalid(&self, fault: impl Into<String>) -> ArchiveError {
        ArchiveError::Invalid { path: self.path.clone(), fault: fault.into() }
    }
}

impl Listed {
    fn is_called(&self, wanted: &str) -> bool {
        let same = |tag: &String| {
            let canonical = tag.parse::<Reference>().map(|found| found.to_string());
            tag == wanted || canonical.is_ok_and(|canonical| canonical == wanted)
        };
        self.tags.iter().any(same)
    }
}

fn names_of(listed: &[Listed]) -> String {
    let mut names: Vec<&str> =
        listed.iter().flat_map(|listed| &listed.tags).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN_MAX);
    names.truncate(SHOWN_MAX);
    match (names.is_empty(), more) {
        (true, _) => "none with a name".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// Where a layout has a blob. Both parts of a digest have letters, digits and few signs only.
fn blob_entry(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}
