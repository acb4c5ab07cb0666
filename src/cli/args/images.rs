//! What can be typed about images.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::lists::{Output, any};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ImageCommand {
    /// Gets images from their registries, also if they are here already
    Pull(PullArgs),
    /// Loads images from files; they are never collected
    Load(LoadArgs),
    /// Lists images, as `get images` does
    #[command(visible_aliases = ["list"])]
    Ls(ImagesArgs),
    /// Removes names of images, and with its last name an image; none that a pod uses
    #[command(visible_aliases = ["remove"])]
    Rm(RemoveArgs),
    /// Removes all images that no manifest names and no file brought, and unfinished pulls
    Prune,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A pull goes on as long as this command does, or a pod waits for the same.
Credentials are those of the node: /etc/roost/auth.json, or what `images.auth-files` says.")]
pub(in crate::cli) struct PullArgs {
    /// The images, such as nginx, ghcr.io/example/web:1.2 or oci:/srv/web
    #[arg(value_name = "IMAGE", required = true)]
    pub(in crate::cli) names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Files are what `docker save`, `podman save` and `skopeo copy` write, compressed or not; directories \
are OCI image layouts. Without an agent, the images are put where the next one finds them.")]
pub(in crate::cli) struct LoadArgs {
    /// Archives and layout directories
    #[arg(value_name = "FILE", required = true)]
    pub(in crate::cli) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ImagesArgs {
    /// Only this image: a name, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) name: Option<String>,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RemoveArgs {
    /// The images: names, or ids of at least 12 digits
    #[arg(value_name = "IMAGE", required = true)]
    pub(in crate::cli) names: Vec<String>,
}
