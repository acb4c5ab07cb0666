//! The fields of Kubernetes' `v1` objects by name and type, and what becomes of each here.
//!
//! This is how "not supported yet" and "unknown" are told apart at every depth, and what the
//! JSON Schema and the table of fields are made from. Names are those of the API of Kubernetes
//! 1.36. Not here: what the values mean (the decoders beside this).

mod container;
mod document;
mod pod;
mod probe;
pub(super) mod render;
mod scheduling;
mod security;
mod volume;

pub(super) use container::{
    CONTAINER, ENV_FROM, ENV_VAR, EXIT_CODES, FIELD_REF, KEY_REF, OBJECT_REF, POD_RESOURCE_NAMES,
    POD_RESOURCES, PORT, RESIZE_POLICY, RESOURCE_FIELD_REF, RESOURCE_NAMES, RESOURCES,
    RESTART_RULE, VALUE_FROM, VOLUME_MOUNT,
};
pub(super) use document::{CONFIG_MAP_DOCUMENT, SECRET_DOCUMENT};
pub(super) use pod::{
    DNS_CONFIG, DNS_OPTION, HOST_ALIAS, LOCAL_REFERENCE, METADATA, OS, POD, POD_SPEC,
};
pub(super) use probe::{
    CHECK, EXEC, GRPC, HEADER, HOOK, HTTP_GET, LIFECYCLE, PROBE, SLEEP, TCP_SOCKET,
};
pub(super) use security::{CAPABILITIES, CONTAINER_SECURITY, POD_SECURITY, SECCOMP, SYSCTL};
pub(super) use volume::{
    CLAIM, CLAIM_DOCUMENT, CLAIM_DOCUMENT_REQUESTS, CLAIM_DOCUMENT_RESOURCES, CLAIM_DOCUMENT_SPEC,
};
pub(super) use volume::{
    CONFIG_MAP, DOWNWARD, DOWNWARD_ITEM, EMPTY_DIR, HOST_PATH, IMAGE, KEY_TO_PATH, PROJECTED,
    PROJECTED_DOWNWARD, PROJECTED_KEYS, PROJECTION, SECRET, VOLUME,
};

/// An object: its fields, and where it stands.
#[derive(Debug)]
pub(super) struct Object {
    /// Its path in a Pod, as in `spec.containers[]`; empty for the document.
    pub(super) place: &'static str,
    /// What is to be said of a field that is not in the table.
    pub(super) unknown: Unknown,
    /// Every field that Kubernetes knows.
    pub(super) fields: &'static [Field],
    /// An object whose fields it has as well.
    pub(super) like: Option<&'static Object>,
}

/// What becomes of a field that is not in the table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unknown {
    /// It is a slip or from another world: a warning, unless that is asked to be strict.
    Field,
    /// It asks for something that can't be given.
    Refused {
        /// Why.
        why: &'static str,
    },
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// What may stand in it.
    pub(super) shape: Shape,
    /// What becomes of it.
    pub(super) support: Support,
}

/// What may stand in a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Text.
    Text,
    /// One of some words.
    Words(&'static [&'static str]),
    /// A whole number in a range.
    Integer(i64, i64),
    /// True or false.
    Boolean,
    /// A number with a unit.
    Quantity,
    /// A whole number or text: a port or its name.
    Port,
    /// Other fields.
    Object(&'static Object),
    /// A list.
    List(&'static Shape),
    /// Keys of the user's choice.
    Map(&'static Shape),
    /// Anything.
    Any,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Support {
    /// It does what Kubernetes says.
    Works,
    /// It is accepted with a warning, and has no effect.
    Ignored {
        /// Why that is right.
        why: &'static str,
        /// Kubernetes' own default values: what `kubectl get -o yaml` prints of every pod, and
        /// nobody asked for. They are passed over without a word.
        usual: &'static [&'static str],
    },
    /// It is refused so far.
    Later {
        /// The values that ask for what is done anyway, or are Kubernetes' own defaults, and are
        /// accepted. Of an object, what stands in it: `field: value`.
        but: &'static [&'static str],
        /// What to do meanwhile; may be empty.
        help: &'static str,
    },
    /// It is refused for good.
    Never {
        /// Why.
        why: &'static str,
    },
    /// What becomes of the object that it is a field of, which is never read further.
    AsParent,
}

impl Object {
    /// The field of that name.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.all_fields().find(|field| field.name == name)
    }

    /// All fields, those of the object that it is like included.
    pub(super) fn all_fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        let like = self.like.map_or(&[][..], |like| like.fields);
        self.fields.iter().chain(like)
    }
}

const TEXT: Shape = Shape::Text;
const BOOLEAN: Shape = Shape::Boolean;
const QUANTITY: Shape = Shape::Quantity;
const TEXTS: Shape = Shape::List(&Shape::Text);
const TEXT_MAP: Shape = Shape::Map(&Shape::Text);
const QUANTITY_MAP: Shape = Shape::Map(&Shape::Quantity);
/// Whole numbers of the Kubernetes API, which has them in two widths.
const INT32: Shape = Shape::Integer(i32::MIN as i64, i32::MAX as i64);
const INT64: Shape = Shape::Integer(i64::MIN, i64::MAX);
/// A user or group.
const ID: Shape = Shape::Integer(0, super::pod::ID_MAX);
/// The bits of a file's mode.
const MODE: Shape = Shape::Integer(0, 0o777);

const fn object(place: &'static str, fields: &'static [Field]) -> Object {
    Object { place, unknown: Unknown::Field, fields, like: None }
}

const fn works(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, support: Support::Works }
}

const fn ignored(name: &'static str, shape: Shape, why: &'static str) -> Field {
    usual(name, shape, &[], why)
}

/// Ignored, and without a word if it is what Kubernetes writes by itself.
const fn usual(
    name: &'static str,
    shape: Shape,
    usual: &'static [&'static str],
    why: &'static str,
) -> Field {
    Field { name, shape, support: Support::Ignored { why, usual } }
}

const fn later(name: &'static str, shape: Shape) -> Field {
    later_but(name, shape, "")
}

const fn later_but(name: &'static str, shape: Shape, help: &'static str) -> Field {
    only(name, shape, &[], help)
}

/// Only some values, which ask for what is done anyway.
const fn only(
    name: &'static str,
    shape: Shape,
    but: &'static [&'static str],
    help: &'static str,
) -> Field {
    Field { name, shape, support: Support::Later { but, help } }
}

const fn never(name: &'static str, shape: Shape, why: &'static str) -> Field {
    Field { name, shape, support: Support::Never { why } }
}

/// A field of an object that does not work, or has no effect, as a whole.
const fn part(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, support: Support::AsParent }
}

const BY_SERVER: &str = "an API server wrote it";
const NO_SCHEDULER: &str = "there is one node and no scheduler";
const NO_ACCOUNTS: &str = "there are no service accounts";
const ONLY_WINDOWS: &str = "it is for Windows";
const NO_CLAIMS: &str = "there are no resource claims; give the container the device's file";

/// Every table; where a name is unknown in one, the others are looked through.
pub(super) static OBJECTS: &[&Object] = &[
    &POD,
    &METADATA,
    &POD_SPEC,
    &CONTAINER,
    &POD_SECURITY,
    &CONTAINER_SECURITY,
    &ENV_VAR,
    &RESOURCES,
    &RESOURCE_NAMES,
    &VOLUME_MOUNT,
    &PORT,
    &RESTART_RULE,
    &EXIT_CODES,
    &PROBE,
    &HTTP_GET,
    &LIFECYCLE,
    &VOLUME,
    &EMPTY_DIR,
    &HOST_PATH,
    &IMAGE,
    &ENV_FROM,
    &OBJECT_REF,
    &VALUE_FROM,
    &KEY_REF,
    &FIELD_REF,
    &RESOURCE_FIELD_REF,
    &CONFIG_MAP,
    &SECRET,
    &KEY_TO_PATH,
    &DOWNWARD,
    &DOWNWARD_ITEM,
    &PROJECTED,
    &PROJECTION,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every object that can be reached, each once.
    fn all() -> Vec<&'static Object> {
        fn visit(shape: Shape, found: &mut Vec<&'static Object>) {
            match shape {
                Shape::Object(object)
                    if !found.iter().any(|known| std::ptr::eq(*known, object)) =>
                {
                    found.push(object);
                    object.all_fields().for_each(|field| visit(field.shape, found));
                }
                Shape::List(inner) | Shape::Map(inner) => visit(*inner, found),
                Shape::Object(_)
                | Shape::Text
                | Shape::Words(_)
                | Shape::Integer(..)
                | Shape::Boolean
                | Shape::Quantity
                | Shape::Port
                | Shape::Any => {}
            }
        }
        let mut found = Vec::new();
        for document in [&POD, &CONFIG_MAP_DOCUMENT, &SECRET_DOCUMENT] {
            visit(Shape::Object(document), &mut found);
        }
        found
    }

    #[test]
    fn the_reference_has_every_field_that_works() {
        let reference = include_str!("../../../specs/README.md");
        let (reference, _generated) = reference.split_once(render::BEGIN).unwrap();
        for field in all().into_iter().flat_map(Object::all_fields) {
            let named = ["`", ".", "|"].iter().any(|before| {
                ["`", ".", "["]
                    .iter()
                    .any(|after| reference.contains(&format!("{before}{}{after}", field.name)))
            });
            assert!(named || !matches!(field.support, Support::Works), "{}", field.name);
        }
    }

    /// Holds a file equal to what is made from the tables; `INSTA_UPDATE=always`, which renews
    /// the snapshots, renews it.
    #[track_caller]
    fn hold_equal(name: &str, wanted: &str) {
        let path = format!("{}/specs/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
            std::fs::write(&path, wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{path} is not what the tables say: set INSTA_UPDATE=always");
    }

    #[test]
    fn the_json_schema_is_that_of_the_tables() {
        let schema = serde_json::to_string_pretty(&render::json_schema()).unwrap();
        hold_equal("pod.schema.json", &format!("{schema}\n"));
    }

    #[test]
    fn the_table_of_fields_is_that_of_the_tables() {
        let reference = include_str!("../../../specs/README.md");
        let (written, _) = reference.split_once(render::BEGIN).unwrap();
        let table = render::field_table(&all());
        hold_equal("README.md", &format!("{written}{}{table}", render::BEGIN));
    }

    #[test]
    fn no_table_has_a_name_twice() {
        for object in all() {
            let mut names = BTreeSet::new();
            for field in object.all_fields() {
                assert!(names.insert(field.name), "{}.{}", object.place, field.name);
            }
        }
    }

    #[test]
    fn every_object_whose_fields_are_suggested_is_part_of_a_pod() {
        let all = all();
        for object in OBJECTS {
            assert!(all.iter().any(|known| std::ptr::eq(*known, *object)), "{}", object.place);
        }
        assert!(all.len() > 100);
    }
}
