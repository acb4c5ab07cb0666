//! [`parse`]: the events of the YAML parser → a [`Node`].
//!
//! The parser is only asked for one event after the other (its own loader recurses, and a
//! deeply nested document would overflow the stack); the tree is built on a stack of frames.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag};

use super::{DEPTH_MAX, Key, Kind, NODES_MAX, Node, Scalar, TEXT_MAX};
use crate::manifest::diagnostic::{Diagnostic, Faults, Position, push_field, push_index, quote};

/// A document as far as it could be read.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Its value; `None` where nothing could be read.
    pub(crate) root: Option<Node>,
    /// Whether all of it could be read. If not, `root` holds what stands before the fault, good
    /// for nothing but finding out whose document it is.
    pub(crate) whole: bool,
}

/// Parses one document, whose text begins at that line of its file.
pub(crate) fn parse(text: &str, first_line: u32, faults: &mut Faults) -> Tree {
    let json = json_as_yaml(text);
    let text = json.as_deref().unwrap_or(text);
    let mut builder = Builder {
        text,
        first_line,
        faults,
        frames: Vec::new(),
        anchors: HashMap::new(),
        size: Size::default(),
        root: None,
    };
    let read = builder.read(Parser::new_from_str(text));
    builder.unwind();
    let root = builder.root.take();
    Tree { root, whole: read.is_some() }
}

/// Whether whoever wrote the text meant JSON, right or wrong.
fn looks_like_json(text: &str) -> bool {
    text.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'))
}

/// JSON in a form that the YAML parser reads, if the text is JSON: it knows no `\ud83d\ude00` and
/// no tab after a colon.
fn json_as_yaml(text: &str) -> Option<String> {
    let is_json = text.trim_start().starts_with('{')
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    if !is_json || !(text.contains('\t') || text.contains("\\u")) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    // Tabs can't stand in the strings of JSON, nor backslashes outside of them.
    while let Some(c) = rest.next() {
        match c {
            '\t' => out.push(' '),
            '\\' => match surrogates(rest.as_str()) {
                Some((pair, after)) => {
                    out.push(pair);
                    rest = after.chars();
                }
                None => {
                    out.push(c);
                    out.extend(rest.next());
                }
            },
            other => out.push(other),
        }
    }
    Some(out)
}

/// The character that an escaped pair of UTF-16 stands for (its first backslash is off), and
/// what comes after it.
fn surrogates(text: &str) -> Option<(char, &str)> {
    let unit = |digits: &str| u16::from_str_radix(digits, 16).ok();
    let high = unit(text.strip_prefix('u')?.get(..4)?)?;
    let low = unit(text.get(5..)?.strip_prefix("\\u")?.get(..4)?)?;
    let mut chars = char::decode_utf16([high, low]);
    let pair = chars.next()?.ok().filter(|c| u32::from(*c) > 0xffff)?;
    Some((pair, text.get(11..)?))
}

/// What a value costs: the sum is bounded, so that aliases of aliases can't fill the memory.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    height: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.text = self.text.saturating_add(other.text);
        self.height = self.height.max(other.height);
    }
}

/// A list or mapping that is not yet closed.
struct Frame {
    position: Position,
    anchor: usize,
    size: Size,
    inside: Inside,
}

enum Inside {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<(Key, Node)>,
        lines: HashMap<String, u32>,
        key: Pending,
        merges: Vec<Node>,
    },
}

/// What the next value of a mapping is for.
enum Pending {
    /// It is a key itself.
    Nothing,
    /// The value of a key.
    Key(Key),
    /// The value of `<<`.
    Merge(Position),
    /// The value of a key that was refused.
    Refused,
}

struct Builder<'t, 'f> {
    text: &'t str,
    first_line: u32,
    faults: &'f mut Faults,
    frames: Vec<Frame>,
    anchors: HashMap<usize, (Node, Size)>,
    size: Size,
    root: Option<Node>,
}

impl Builder<'_, '_> {
    /// Takes all events; `None` after a fault that ends the document.
    fn read<'t>(&mut self, mut parser: Parser<'t, StrInput<'t>>) -> Option<()> {
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(found) => found,
                Err(error) => return self.refuse_syntax(&error),
            };
            self.event(event, self.place(&span.start))?;
        }
        Some(())
    }

    fn event(&mut self, event: Event<'_>, position: Position) -> Option<()> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Some(()),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return self.stop(position, "this alias stands inside what it refers to");
                };
                let (node, size) = (node.clone(), *size);
                self.charge(size, position)?;
                self.value(node, size, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = self.is_text(style, tag.as_deref(), position);
                let size = Size { nodes: 1, text: text.len(), height: 0 };
                self.charge(size, position)?;
                let kind = Kind::Scalar(Scalar { text: text.into_owned(), quoted });
                self.value(Node { position, kind }, size, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &["seq"], position);
                self.open(position, anchor, Inside::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &["map"], position);
                let inside = Inside::Mapping {
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    key: Pending::Nothing,
                    merges: Vec::new(),
                };
                self.open(position, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn open(&mut self, position: Position, anchor: usize, inside: Inside) -> Option<()> {
        if self.frames.len() >= DEPTH_MAX {
            return self.refuse_depth(position);
        }
        let size = Size { nodes: 1, ..Size::default() };
        self.charge(size, position)?;
        self.frames.push(Frame { position, anchor, size, inside });
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let Some(Frame { position, anchor, mut size, inside }) = self.frames.pop() else {
            return Some(());
        };
        size.height += 1;
        let kind = match inside {
            Inside::Sequence(items) => Kind::Sequence(items),
            Inside::Mapping { mut entries, mut lines, key: _, merges } => {
                for (key, value) in merges.into_iter().flat_map(entries_of) {
                    if !lines.contains_key(&key.text) {
                        lines.insert(key.text.clone(), key.position.line);
                        entries.push((key, value));
                    }
                }
                Kind::Mapping(entries)
            }
        };
        self.value(Node { position, kind }, size, anchor)
    }

    /// Puts a complete value where it belongs.
    fn value(&mut self, node: Node, size: Size, anchor: usize) -> Option<()> {
        if self.frames.len() + size.height > DEPTH_MAX {
            return self.refuse_depth(node.position);
        }
        if anchor > 0 {
            self.charge(size, node.position)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let path = self.path();
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        frame.size.add(size);
        let fault = match &mut frame.inside {
            Inside::Sequence(items) => {
                items.push(node);
                None
            }
            Inside::Mapping { entries, lines, key, merges } => {
                match std::mem::replace(key, Pending::Nothing) {
                    Pending::Nothing => {
                        let (pending, fault) = as_key(node, lines, &path);
                        *key = pending;
                        fault
                    }
                    Pending::Key(name) => {
                        entries.push((name, node));
                        None
                    }
                    Pending::Merge(position) => add_merge(node, position, merges, &path),
                    Pending::Refused => None,
                }
            }
        };
        if let Some(fault) = fault {
            self.faults.push(fault);
        }
        Some(())
    }

    /// Counts a value against the limits of the document.
    fn charge(&mut self, size: Size, position: Position) -> Option<()> {
        self.size.add(size);
        if self.size.nodes > NODES_MAX {
            let message = format!("the document has more than {NODES_MAX} values");
            return self.stop_with(position, &message, "aliases count as often as they are used");
        }
        if self.size.text > TEXT_MAX {
            let message = format!("the document has more than {TEXT_MAX} bytes of text");
            return self.stop_with(position, &message, "aliases count as often as they are used");
        }
        Some(())
    }

    /// Whether a scalar is text whatever it looks like.
    fn is_text(&mut self, style: ScalarStyle, tag: Option<&Tag>, position: Position) -> bool {
        let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
        let bare = tag.is_some_and(|tag| tag.handle.is_empty() && tag.suffix == "!");
        match core {
            Some("str") => true,
            Some("int" | "float" | "bool" | "null") => false,
            _ => {
                if !bare {
                    self.check_tag(tag, &[], position);
                }
                bare || style != ScalarStyle::Plain
            }
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, allowed: &[&str], position: Position) {
        let Some(tag) = tag else { return };
        if tag.is_yaml_core_schema() && allowed.contains(&tag.suffix.as_str()) {
            return;
        }
        let shown =
            if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
        let message = format!("the tag {} is not supported", quote(&shown));
        self.faults.push(Diagnostic::error(position, &self.path(), &message));
    }

    fn refuse_depth(&mut self, position: Position) -> Option<()> {
        // Without its path, which would be as long.
        let message = format!("the document is nested deeper than {DEPTH_MAX} levels");
        self.faults.push(Diagnostic::error(position, "", &message));
        None
    }

    fn refuse_syntax(&mut self, error: &ScanError) -> Option<()> {
        let mut position = self.place(error.marker());
        // The parser's own limit, which it may meet in looking ahead.
        if error.info().contains("recursion limit") {
            return self.refuse_depth(position);
        }
        if let Some(end) = self.end_before(error.marker()) {
            position = end;
        }
        let mut help = explain(error.info());
        // A tab in an indentation is seldom reported as such, and not where it stands.
        if let Some((line, column)) = self.indenting_tab(error.marker().line()) {
            position = Position { line: self.first_line.saturating_add(to_u32(line)), column };
            help = Some("a tab must not indent YAML: use spaces");
        }
        if let Some(line) = self.conflict() {
            position = Position { line: self.first_line.saturating_add(to_u32(line)), column: 1 };
            help = Some("a conflict that a merge of git left: mend it and remove its marks");
        }
        let message = if looks_like_json(self.text) {
            // The parser speaks of what YAML calls them.
            let info = error.info().replace("a flow mapping", "an object");
            format!("not valid JSON: {}", info.replace("a flow sequence", "an array"))
        } else {
            format!("not valid YAML: {}", error.info())
        };
        let fault = Diagnostic::error(position, &self.path(), &message);
        self.faults.push(match help {
            Some(help) => fault.with_help(help),
            None => fault,
        });
        None
    }

    /// The end of the text, if the place is on a line behind it: there is nothing to look at.
    fn end_before(&self, marker: &Marker) -> Option<Position> {
        let text = self.text.trim_end();
        let last = text.lines().next_back()?;
        let line = to_u32(text.lines().count());
        (marker.line() > text.lines().count()).then(|| Position {
            line: self.first_line.saturating_add(line.saturating_sub(1)),
            column: to_u32(last.chars().count()).saturating_add(1),
        })
    }

    /// The first tab in the indentation of that line of the document or the one before, as the
    /// line from 0 and the column from 1.
    fn indenting_tab(&self, near: usize) -> Option<(usize, u32)> {
        // Inside brackets tabs are as good as spaces.
        if self.text.trim_start().starts_with(['{', '[']) {
            return None;
        }
        let lines = self.text.split_inclusive(['\n']).enumerate();
        lines.skip(near.saturating_sub(2)).take(2).find_map(|(number, line)| {
            let at = line.find(|c| c != ' ')?;
            line.get(at..)?.starts_with('\t').then_some((number, to_u32(at) + 1))
        })
    }

    /// The line, from 0, that git marked the beginning of a conflict with.
    fn conflict(&self) -> Option<usize> {
        self.text.lines().position(|line| line.starts_with("<<<<<<< "))
    }

    fn stop(&mut self, position: Position, message: &str) -> Option<()> {
        self.faults.push(Diagnostic::error(position, &self.path(), message));
        None
    }

    fn stop_with(&mut self, position: Position, message: &str, help: &str) -> Option<()> {
        self.faults.push(Diagnostic::error(position, &self.path(), message).with_help(help));
        None
    }

    /// Closes what was open when a fault ended the document. A `metadata` that was cut off is
    /// left out: its name could be in another namespace than what was read of it says.
    fn unwind(&mut self) {
        while let Some(frame) = self.frames.pop() {
            let kind = match frame.inside {
                Inside::Sequence(items) => Kind::Sequence(items),
                Inside::Mapping { entries, .. } => Kind::Mapping(entries),
            };
            let node = Node { position: frame.position, kind };
            match self.frames.last_mut().map(|parent| &mut parent.inside) {
                None => self.root = Some(node),
                Some(Inside::Sequence(items)) => items.push(node),
                Some(Inside::Mapping { entries, key, .. }) => {
                    match std::mem::replace(key, Pending::Nothing) {
                        Pending::Key(name) if name.text != "metadata" => {
                            entries.push((name, node));
                        }
                        Pending::Key(_)
                        | Pending::Nothing
                        | Pending::Merge(_)
                        | Pending::Refused => {}
                    }
                }
            }
        }
    }

    /// The field that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.inside {
                Inside::Sequence(items) => push_index(&mut path, items.len()),
                Inside::Mapping { key: Pending::Key(key), .. } => push_field(&mut path, &key.text),
                Inside::Mapping { key: Pending::Merge(_), .. } => push_field(&mut path, "<<"),
                Inside::Mapping { key: Pending::Nothing | Pending::Refused, .. } => {}
            }
        }
        path
    }

    fn place(&self, marker: &Marker) -> Position {
        Position {
            line: self.first_line.saturating_add(to_u32(marker.line().saturating_sub(1))),
            column: to_u32(marker.col()).saturating_add(1),
        }
    }
}

/// A value where a key is meant.
fn as_key(
    node: Node,
    lines: &mut HashMap<String, u32>,
    path: &str,
) -> (Pending, Option<Diagnostic>) {
    let position = node.position;
    if node.is_null() {
        return (
            Pending::Refused,
            Some(Diagnostic::error(position, path, "a key is missing here")),
        );
    }
    let found = node.describe();
    let Kind::Scalar(Scalar { text, quoted }) = node.kind else {
        let message = format!("a key must be text, but this is {found}");
        let fault = Diagnostic::error(position, path, &message);
        // `{{ name }}` is a mapping whose key is a mapping.
        let help = match node.kind {
            Kind::Mapping(_) => "a template's `{{ … }}` must be filled in before",
            Kind::Sequence(_) | Kind::Scalar(_) => "put it in quotes if it is meant as text",
        };
        return (Pending::Refused, Some(fault.with_help(help)));
    };
    if let Some(first) = lines.get(&text) {
        let mut path = path.to_owned();
        push_field(&mut path, &text);
        let message = format!("this key stands twice; first in line {first}");
        let fault = Diagnostic::error(position, &path, &message);
        let begins_document = path == "apiVersion" || path == "kind";
        let fault = if begins_document {
            fault.with_help("is the `---` missing between two documents?")
        } else {
            fault
        };
        return (Pending::Refused, Some(fault));
    }
    lines.insert(text.clone(), position.line);
    if text == "<<" && !quoted {
        (Pending::Merge(position), None)
    } else {
        (Pending::Key(Key { position, text }), None)
    }
}

/// Keeps what `<<` brings in for the end of the mapping, when its own keys are known.
fn add_merge(
    node: Node,
    position: Position,
    merges: &mut Vec<Node>,
    path: &str,
) -> Option<Diagnostic> {
    match node.kind {
        Kind::Mapping(_) => merges.push(node),
        Kind::Sequence(items) if items.iter().all(|i| matches!(i.kind, Kind::Mapping(_))) => {
            merges.extend(items);
        }
        Kind::Scalar(_) | Kind::Sequence(_) => {
            let message = "`<<` merges a mapping or a list of mappings, but this is neither";
            return Some(Diagnostic::error(position, path, message));
        }
    }
    None
}

fn entries_of(node: Node) -> Vec<(Key, Node)> {
    match node.kind {
        Kind::Mapping(entries) => entries,
        Kind::Scalar(_) | Kind::Sequence(_) => Vec::new(),
    }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What the parser's commonest complaints mean to somebody who writes manifests.
fn explain(info: &str) -> Option<&'static str> {
    const EXPLANATIONS: [(&str, &str); 13] = [
        (
            "expected <document start>",
            "is this a manifest? Each line of YAML is `key: value`, or begins with `- `",
        ),
        (
            "mapping values are not allowed",
            "check the indentation of this line; text with `: ` in it needs quotes",
        ),
        (
            "simple key expect",
            "a `:` is missing after this key, or the line belongs to a text above and must be indented",
        ),
        ("simple key expected", "check the indentation of this line"),
        ("did not find expected key", "check the indentation of this line and the ones before"),
        ("unexpected end of stream", "the quote that begins here is not closed"),
        ("indentation in quoted scalar", "the quote that begins here is not closed"),
        ("parsing a flow mapping", "before this a `,` is missing, or a bracket is not closed"),
        ("parsing a flow sequence", "before this a `,` is missing, or a bracket is not closed"),
        ("found unexpected document indicator", "the quote that begins here is not closed"),
        ("unknown escape character", "in double quotes a backslash is written `\\\\`"),
        ("unknown anchor", "an alias `*name` needs its `&name` before it in the same document"),
        ("unexpected character", "text that begins with this character needs quotes"),
    ];
    EXPLANATIONS.iter().find(|(part, _)| info.contains(part)).map(|(_, help)| *help)
}
