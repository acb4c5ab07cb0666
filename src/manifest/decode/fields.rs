//! The reader that all decoding goes through: [`At`], a value and the path to it, and
//! [`Fields`], an object with its table of known fields.
//!
//! Each accessor records what is wrong with the place, the path and advice, and gives `None`;
//! the caller goes on, so that every fault of a document is found in one pass.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::schema::{self, Field, Object, Shape, Support, Unknown};
use super::suggest::closest;
use crate::manifest::diagnostic::{
    Diagnostic, Faults, Position, Severity, push_field, push_index, quote,
};
use crate::manifest::node::{Key, Kind, Meaning, Node, Scalar};
use crate::manifest::quantity::Quantity;

/// Fields that are named where none was found.
const NAMED_MAX: usize = 4;

/// What other tools, and other objects of Kubernetes, call what a Pod has under another name.
const ELSEWHERE: [(&str, &str); 9] = [
    ("depends_on", "pods and containers start side by side; let the program wait"),
    ("entrypoint", "a Pod calls it `command`"),
    ("environment", "a Pod calls it `env`, a list of `name` and `value`"),
    ("replicas", "a Pod is one instance; write a document for each"),
    ("restart", "a Pod has `spec.restartPolicy`: Always, OnFailure or Never"),
    ("selector", "only Deployments and their like have it; leave it out"),
    ("strategy", "only Deployments and their like have it; leave it out"),
    ("template", "a Pod has what stands in a template as its own `metadata` and `spec`"),
    ("volumeClaimTemplates", "a Pod has `spec.volumes`"),
];

/// The path to a value, as a chain to the document's root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    /// What stands in for a root: an item of a List, already as text.
    Named(&'a str),
    Field(&'a str),
    Index(usize),
}

impl Path<'_> {
    /// The path to the document itself.
    pub(super) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// The path to an item of a List.
    pub(super) fn named<'s>(name: &'s str) -> Path<'s> {
        Path { parent: None, step: Step::Named(name) }
    }

    fn write(&self, path: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(path);
        }
        match self.step {
            Step::Root => {}
            Step::Named(name) => path.push_str(name),
            Step::Field(name) => push_field(path, name),
            Step::Index(index) => push_index(path, index),
        }
    }

    /// The path as text: `spec.containers[0].image`.
    pub(super) fn render(&self) -> String {
        let mut path = String::new();
        self.write(&mut path);
        path
    }
}

/// A value and the path to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    pub(super) path: Path<'a>,
}

impl<'a> At<'a> {
    /// Where the value stands.
    pub(super) fn position(&self) -> Position {
        self.node.position
    }

    /// An error about this value.
    pub(super) fn error(&self, message: &str) -> Diagnostic {
        Diagnostic::error(self.position(), &self.path.render(), message)
    }

    /// A warning about this value.
    pub(super) fn warning(&self, message: &str) -> Diagnostic {
        Diagnostic::warning(self.position(), &self.path.render(), message)
    }

    fn refuse<T>(&self, faults: &mut Faults, message: &str) -> Option<T> {
        faults.push(self.error(message));
        None
    }

    fn scalar(&self, faults: &mut Faults, wanted: &str) -> Option<&'a Scalar> {
        match &self.node.kind {
            Kind::Scalar(scalar) if !self.node.is_null() => Some(scalar),
            Kind::Scalar(_) | Kind::Sequence(_) | Kind::Mapping(_) => {
                let found = self.node.describe();
                self.refuse(faults, &format!("must be {wanted}, but this is {found}"))
            }
        }
    }

    /// Text. A number or boolean is taken as it is written, with a warning.
    pub(super) fn text(&self, faults: &mut Faults) -> Option<&'a str> {
        let scalar = self.scalar(faults, "text")?;
        match scalar.meaning() {
            Meaning::Text | Meaning::Null => {}
            other @ (Meaning::Bool(_) | Meaning::OldBool(_) | Meaning::Int(_) | Meaning::Float) => {
                let message = format!(
                    "text is meant here, but {} is {}; taken as written",
                    quote(&scalar.text),
                    other.describe()
                );
                let help = format!("write it in quotes: \"{}\"", scalar.text);
                faults.push(self.warning(&message).with_help(&help));
            }
        }
        Some(&scalar.text)
    }

    /// Text that must not be null, from where the system takes strings that end with NUL.
    pub(super) fn c_text(&self, faults: &mut Faults) -> Option<&'a str> {
        let text = self.text(faults)?;
        if text.contains('\0') {
            return self.refuse(faults, "must not contain the character NUL");
        }
        Some(text)
    }

    /// Text that parses into something.
    pub(super) fn parse<T>(&self, faults: &mut Faults) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(faults)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let fault = self.error(&T::Err::to_string(&error));
                let is_curly = text.contains(['“', '”', '„', '‘', '’']);
                faults.push(if is_curly {
                    fault
                        .with_help("these quotes are part of the text; plain ones are `\"` and `'`")
                } else {
                    fault
                });
                None
            }
        }
    }

    /// A boolean.
    pub(super) fn boolean(&self, faults: &mut Faults) -> Option<bool> {
        let scalar = self.scalar(faults, "true or false")?;
        match scalar.meaning() {
            Meaning::Bool(value) => Some(value),
            Meaning::OldBool(value) => {
                let found = quote(&scalar.text);
                let message = format!("{found} is a boolean only in old YAML; taken as {value}");
                faults.push(self.warning(&message).with_help(&format!("write {value}")));
                Some(value)
            }
            other @ (Meaning::Null | Meaning::Int(_) | Meaning::Float | Meaning::Text) => {
                let found = format!("{} ({})", quote(&scalar.text), other.describe());
                let fault = self.error(&format!("must be true or false, but this is {found}"));
                let word = scalar.text.to_lowercase();
                let in_quotes = scalar.quoted && matches!(word.as_str(), "true" | "false");
                faults.push(if in_quotes { fault.with_help("remove the quotes") } else { fault });
                None
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn integer(&self, range: RangeInclusive<i64>, faults: &mut Faults) -> Option<i64> {
        let wanted = if *range.start() < 0 {
            "a whole number".to_owned()
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        let scalar = self.scalar(faults, &wanted)?;
        match scalar.meaning() {
            Meaning::Int(Some(value)) if range.contains(&value) => Some(value),
            Meaning::Int(_) => {
                let (found, least, most) = (quote(&scalar.text), range.start(), range.end());
                let range = format!("a whole number from {least} to {most}");
                self.refuse(faults, &format!("must be {range}, but this is {found}"))
            }
            other @ (Meaning::Null
            | Meaning::Bool(_)
            | Meaning::OldBool(_)
            | Meaning::Float
            | Meaning::Text) => {
                let found = format!("{} ({})", quote(&scalar.text), other.describe());
                let fault = self.error(&format!("must be {wanted}, but this is {found}"));
                let in_quotes = scalar.quoted && scalar.text.parse::<i64>().is_ok();
                let is_time =
                    matches!(self.path.step, Step::Field(name) if name.ends_with("Seconds"));
                let time = humantime::parse_duration(&scalar.text).ok().filter(|_| is_time);
                faults.push(match time {
                    _ if in_quotes => fault.with_help("remove the quotes"),
                    Some(time) => fault.with_help(&format!("in seconds: {}", time.as_secs())),
                    None => fault,
                });
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, of: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let text = self.text(faults)?;
        if let Some((_, value)) = of.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = of.iter().map(|(word, _)| *word);
        let listed: Vec<String> = words.clone().filter(|w| !w.is_empty()).map(quote).collect();
        let message = format!("must be one of {}, but this is {}", listed.join(", "), quote(text));
        let fault = self.error(&message);
        faults.push(match closest(text, words) {
            Some(near) if !near.is_empty() => fault.with_help(&format!("did you mean `{near}`?")),
            Some(_) | None => fault,
        });
        None
    }

    /// The items of a list of at most so many.
    pub(super) fn items<'s>(&'s self, most: usize, faults: &mut Faults) -> Vec<At<'s>> {
        let Kind::Sequence(items) = &self.node.kind else {
            let found = self.node.describe();
            let fault = self.error(&format!("must be a list, but this is {found}"));
            faults.push(fault.with_help(match self.node.kind {
                Kind::Scalar(_) => "write it as `[one, two]`, or each item on a line after `- `",
                Kind::Sequence(_) | Kind::Mapping(_) => "each item of a list begins with `- `",
            }));
            return Vec::new();
        };
        if items.len() > most {
            let message = format!("has {} items; at most {most} are allowed", items.len());
            faults.push(self.error(&message));
        }
        let item = |(index, node)| At {
            node,
            path: Path { parent: Some(&self.path), step: Step::Index(index) },
        };
        items.iter().take(most).enumerate().map(item).collect()
    }

    /// The entries of a mapping with keys of the user's choice; those without a value are unset.
    pub(super) fn entries<'s>(&'s self, faults: &mut Faults) -> Vec<(&'s Key, At<'s>)> {
        let mut all = self.keys(faults);
        all.retain(|(_, value)| !value.node.is_null());
        all
    }

    /// All entries of a mapping.
    fn keys<'s>(&'s self, faults: &mut Faults) -> Vec<(&'s Key, At<'s>)> {
        let Kind::Mapping(entries) = &self.node.kind else {
            let found = self.node.describe();
            faults.push(self.error(&format!("must be a mapping, but this is {found}")));
            return Vec::new();
        };
        let at = |node, key: &'s Key| At { node, path: self.path_to(&key.text) };
        entries.iter().map(|(key, node)| (key, at(node, key))).collect()
    }

    /// A member that is looked at apart from the object's own reading.
    pub(super) fn member<'s>(&'s self, name: &'s str) -> Option<At<'s>> {
        let node = self.node.get(name).filter(|node| !node.is_null())?;
        Some(At { node, path: self.path_to(name) })
    }

    fn path_to<'s>(&'s self, field: &'s str) -> Path<'s> {
        Path { parent: Some(&self.path), step: Step::Field(field) }
    }

    /// The fields of an object; those that do not work are refused here, by name.
    pub(super) fn fields(self, object: &'static Object, faults: &mut Faults) -> Option<Fields<'a>> {
        let Kind::Mapping(entries) = &self.node.kind else {
            let found = self.node.describe();
            let wanted = match self.path.parent {
                None => "a document must be a mapping",
                Some(_) => "must be a mapping",
            };
            let fault = self.error(&format!("{wanted}, but this is {found}"));
            let works = object.all_fields().filter(|f| matches!(f.support, Support::Works));
            let names: Vec<String> = works.take(NAMED_MAX).map(|f| quote(f.name)).collect();
            faults.push(fault.with_help(&format!("it has fields, such as {}", names.join(", "))));
            return None;
        };
        for (key, node) in entries {
            let at = At { node, path: self.path_to(&key.text) };
            inspect_field(object, key, at, false, faults);
        }
        Some(Fields {
            at: self,
            #[cfg(test)]
            object,
            #[cfg(test)]
            asked: std::cell::RefCell::default(),
        })
    }
}

/// Says what is wrong with a field as such. One that works is for the decoder to look into; what
/// stands in any other is looked at here. Of a field `inside` one that does not work, that is
/// known already.
fn inspect_field(object: &Object, key: &Key, at: At<'_>, inside: bool, faults: &mut Faults) {
    let fault = |severity: Severity, message: &str| Diagnostic {
        severity,
        ..Diagnostic::error(key.position, &at.path.render(), message)
    };
    let Some(field) = object.field(&key.text) else {
        let (severity, message) = match object.unknown {
            Unknown::Field => (faults.of_unknown(), "unknown field"),
            Unknown::Refused { why } => (Severity::Error, why),
        };
        let fault = fault(severity, message);
        faults.push(if faults.is_full(severity) { fault } else { advise(fault, object, key) });
        return;
    };
    // `null` is how tools write that a field is not set.
    if at.node.is_null() {
        return;
    }
    match field.support {
        _known if inside => {}
        Support::Works => return,
        Support::AsParent => {}
        Support::Ignored { why, usual } => {
            let is_empty = matches!(&at.node.kind, Kind::Mapping(entries) if entries.is_empty());
            if !is_empty && !is_one_of(at.node, usual) {
                faults.push(fault(Severity::Warning, &format!("has no effect: {why}")));
            }
        }
        Support::Later { but, help } => {
            if is_one_of(at.node, but) {
                return;
            }
            let message = if but.is_empty() {
                "not supported yet".to_owned()
            } else {
                let only: Vec<String> = but.iter().map(|value| quote(value)).collect();
                format!("not supported yet, but for {}", only.join(", "))
            };
            let fault = fault(Severity::Error, &message);
            faults.push(if help.is_empty() { fault } else { fault.with_help(help) });
        }
        Support::Never { why } => {
            faults.push(fault(Severity::Error, &format!("not supported: {why}")));
        }
    }
    inspect(at, field.shape, faults);
}

/// Whether it is one of these values, or an object of such fields: `field: value`.
fn is_one_of(node: &Node, values: &[&str]) -> bool {
    let Kind::Mapping(entries) = &node.kind else {
        return node.as_text().is_some_and(|text| values.contains(&text));
    };
    let is_known = |(key, value): &(Key, Node)| {
        value
            .as_text()
            .is_some_and(|text| values.contains(&format!("{}: {text}", key.text).as_str()))
    };
    !entries.is_empty() && entries.iter().all(is_known)
}

/// Says what is wrong with a value that is not used, so that slips in it are found all the same.
fn inspect(at: At<'_>, shape: Shape, faults: &mut Faults) {
    if at.node.is_null() {
        return;
    }
    match shape {
        Shape::Any => {}
        Shape::Text => drop(at.text(faults)),
        Shape::Words(words) => {
            let words: Vec<(&str, ())> = words.iter().map(|word| (*word, ())).collect();
            at.choice(&words, faults);
        }
        Shape::Integer(least, most) => drop(at.integer(least..=most, faults)),
        Shape::Boolean => drop(at.boolean(faults)),
        Shape::Quantity => {
            if let Some(text) = at.node.as_text().or_else(|| at.text(faults))
                && let Err(error) = text.parse::<Quantity>()
            {
                faults.push(at.error(&format!("{} {error}", quote(text))));
            }
        }
        Shape::Port => match at.node.kind {
            Kind::Scalar(_) => {}
            Kind::Sequence(_) | Kind::Mapping(_) => {
                let found = at.node.describe();
                let message = format!("must be a port or the name of one, but this is {found}");
                faults.push(at.error(&message));
            }
        },
        Shape::List(item) => {
            for at in at.items(usize::MAX, faults) {
                inspect(at, *item, faults);
            }
        }
        Shape::Map(value) => {
            for (_, at) in at.entries(faults) {
                inspect(at, *value, faults);
            }
        }
        Shape::Object(object) => {
            for (key, at) in at.keys(faults) {
                inspect_field(object, key, at, true, faults);
            }
        }
    }
}

/// Adds to an unknown field what was probably meant.
fn advise(fault: Diagnostic, object: &Object, key: &Key) -> Diagnostic {
    if object.field(&key.text).is_some() {
        return fault;
    }
    if let Some(odd) = key.text.chars().find(|c| c.is_whitespace() && *c != ' ') {
        let code = u32::from(odd);
        let help = format!(
            "the character U+{code:04X} in it looks like a space and is none: type the line anew"
        );
        return fault.with_help(&help);
    }
    if let Some((_, help)) = ELSEWHERE.iter().find(|(name, _)| *name == key.text) {
        return fault.with_help(help);
    }
    let near = closest(&key.text, object.all_fields().map(|field| field.name));
    if let Some(near) = near.and_then(|name| object.field(name)) {
        return fault.with_help(&format!("did you mean `{}`?{}", near.name, but_refused(near)));
    }
    let elsewhere = schema::OBJECTS.iter().find(|other| other.field(&key.text).is_some());
    match elsewhere {
        Some(other) if !other.place.is_empty() => {
            let help = format!("{} is a field of `{}`", quote(&key.text), other.place);
            fault.with_help(&help)
        }
        Some(_) => fault.with_help(&format!("{} belongs to the top level", quote(&key.text))),
        None => fault,
    }
}

/// That the field which was probably meant would be refused.
fn but_refused(field: &Field) -> String {
    match field.support {
        Support::Works | Support::AsParent | Support::Ignored { .. } => String::new(),
        Support::Later { but: [], help: "" } => " It is not supported yet".to_owned(),
        Support::Later { but: [], help } => format!(" It is not supported yet: {help}"),
        Support::Later { .. } => String::new(),
        Support::Never { why } => format!(" It is not supported: {why}"),
    }
}

/// An object whose fields are being read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// The object itself.
    pub(super) at: At<'a>,
    #[cfg(test)]
    object: &'static Object,
    #[cfg(test)]
    asked: std::cell::RefCell<std::collections::BTreeSet<&'static str>>,
}

impl Fields<'_> {
    /// The value of a field that works, if it is set.
    pub(super) fn get<'s>(&'s self, name: &'static str) -> Option<At<'s>> {
        #[cfg(test)]
        self.asked.borrow_mut().insert(name);
        let node = self.at.node.get(name).filter(|node| !node.is_null())?;
        Some(At { node, path: self.at.path_to(name) })
    }

    /// The value of a field that must be set.
    pub(super) fn required<'s>(
        &'s self,
        name: &'static str,
        faults: &mut Faults,
    ) -> Option<At<'s>> {
        #[cfg(test)]
        assert!(schema::render::required(self.object).contains(&name), "{name}");
        let found = self.get(name);
        if found.is_none() {
            let path = self.at.path_to(name).render();
            faults.push(Diagnostic::error(self.at.position(), &path, "this field is required"));
        }
        found
    }

    /// A boolean that is false where it is not set.
    pub(super) fn flag(&self, name: &'static str, faults: &mut Faults) -> bool {
        self.get(name).and_then(|at| at.boolean(faults)).unwrap_or(false)
    }
}

/// In tests, that the table and the decoder agree: a field that is said to work is read, and
/// only such a field.
#[cfg(test)]
impl Drop for Fields<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let works = self.object.all_fields().filter(|f| matches!(f.support, Support::Works));
        let works: std::collections::BTreeSet<&str> = works.map(|field| field.name).collect();
        assert_eq!(*self.asked.borrow(), works, "fields read of {:?}", self.object.place);
    }
}
