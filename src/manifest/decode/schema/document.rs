//! ConfigMap and Secret.

use super::pod::METADATA;
use super::*;

/// Why what is said to be immutable can be changed.
const THE_FILE_COUNTS: &str = "what stands in the file counts";

pub(in super::super) static CONFIG_MAP_DOCUMENT: Object = object(
    "ConfigMap",
    &[
        works("apiVersion", Shape::Words(&["v1"])),
        works("kind", Shape::Words(&["ConfigMap"])),
        works("metadata", Shape::Object(&METADATA)),
        works("data", TEXT_MAP),
        works("binaryData", TEXT_MAP),
        usual("immutable", BOOLEAN, &["false"], THE_FILE_COUNTS),
    ],
);

pub(in super::super) static SECRET_DOCUMENT: Object = object(
    "Secret",
    &[
        works("apiVersion", Shape::Words(&["v1"])),
        works("kind", Shape::Words(&["Secret"])),
        works("metadata", Shape::Object(&METADATA)),
        works("type", TEXT),
        works("data", TEXT_MAP),
        works("stringData", TEXT_MAP),
        usual("immutable", BOOLEAN, &["false"], THE_FILE_COUNTS),
    ],
);
