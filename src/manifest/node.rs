//! [`Node`]: the tree of one YAML or JSON document, with the place of every part.
//!
//! Aliases and merge keys are resolved here, and everything that a hostile or broken document
//! can do to a parser ends here, in a diagnostic: depth, size, binary rubbish. Not here: what
//! the fields mean (`manifest::decode`).
//!
//! Plain scalars are read as Kubernetes' own parser does, by YAML 1.1: `0644` is octal. `yes`,
//! `no`, `on` and `off` are booleans where a boolean is meant, and text where text is meant, each
//! with a warning, since readers disagree about them.

mod build;
mod documents;

pub(crate) use build::parse;
pub(crate) use documents::{Document, documents};

use super::diagnostic::Position;

/// Deepest nesting of a document.
pub(crate) const DEPTH_MAX: usize = 64;
/// Nodes of a document with its aliases resolved: what stops an alias bomb.
pub(crate) const NODES_MAX: usize = 100_000;
/// Bytes of text of a document with its aliases resolved.
pub(crate) const TEXT_MAX: usize = 4 << 20;

/// One value of a document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) position: Position,
    /// What it is.
    pub(crate) kind: Kind,
}

/// The three kinds of values.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Text, a number, a boolean or nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys, each at most once, in the order of the document, and their values.
    Mapping(Vec<(Key, Node)>),
}

/// The key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// Where it stands.
    pub(crate) position: Position,
    /// Its text.
    pub(crate) text: String,
}

/// A scalar as written.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    /// Its text, without quotes and escapes.
    pub(crate) text: String,
    /// In quotes or a block: text whatever it looks like.
    pub(crate) quoted: bool,
}

/// What a scalar means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing: the field is unset.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// `yes`, `no`, `on`, `off`: a boolean in YAML 1.1 only.
    OldBool(bool),
    /// A whole number; `None` where it is beyond all measure.
    Int(Option<i64>),
    /// A number with a fraction or an exponent.
    Float,
    /// Text.
    Text,
}

impl Node {
    /// Whether it is a null, which in Kubernetes means that the field is unset.
    pub(crate) fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.meaning() == Meaning::Null,
            Kind::Sequence(_) | Kind::Mapping(_) => false,
        }
    }

    /// The value under a key, if this is a mapping that has it.
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Mapping(entries) => {
                entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
            }
            Kind::Scalar(_) | Kind::Sequence(_) => None,
        }
    }

    /// The text, if this is a scalar with one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) if scalar.meaning() != Meaning::Null => Some(&scalar.text),
            Kind::Scalar(_) | Kind::Sequence(_) | Kind::Mapping(_) => None,
        }
    }

    /// What it is, in words: `a list`.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.meaning().describe(),
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

impl Meaning {
    /// In words: `a number`.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) | Self::OldBool(_) => "a boolean",
            Self::Int(_) | Self::Float => "a number",
            Self::Text => "text",
        }
    }
}

impl Scalar {
    /// What it means by the rules of YAML 1.1 as Kubernetes' parser applies them.
    pub(crate) fn meaning(&self) -> Meaning {
        if self.quoted {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" | "True" | "TRUE" => Meaning::Bool(true),
            "false" | "False" | "FALSE" => Meaning::Bool(false),
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Meaning::OldBool(true),
            "no" | "No" | "NO" | "off" | "Off" | "OFF" => Meaning::OldBool(false),
            text => number(text),
        }
    }
}

/// The meaning of a plain scalar that is not a word of YAML's.
fn number(text: &str) -> Meaning {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Meaning::Text;
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Meaning::Float;
    }
    // YAML 1.1 lets underscores group digits.
    let plain: String = unsigned.chars().filter(|c| *c != '_').collect();
    let (digits, radix) = if let Some(hex) = plain.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(binary) = plain.strip_prefix("0b") {
        (binary, 2)
    } else if let Some(octal) = plain.strip_prefix("0o") {
        (octal, 8)
    } else if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(is_octal) {
        (plain.as_str(), 8)
    } else {
        (plain.as_str(), 10)
    };
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
        let value = i128::from_str_radix(digits, radix).ok();
        let signed = value.map(|n| if negative { -n } else { n });
        return Meaning::Int(signed.and_then(|n| i64::try_from(n).ok()));
    }
    let is_float = plain.bytes().any(|b| b.is_ascii_digit())
        && plain.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && plain.parse::<f64>().is_ok();
    if is_float { Meaning::Float } else { Meaning::Text }
}

fn is_octal(byte: u8) -> bool {
    (b'0'..=b'7').contains(&byte)
}

#[cfg(test)]
mod tests;
