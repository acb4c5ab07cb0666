//! Hints from the kernel (inotify through `notify`) that a look at a directory is worth while.
//!
//! Where the way to a directory leads through symbolic links, the directories that hold those
//! links are watched as well, and so is its parent: a switch, a rename and a new directory in the
//! place of a lost one are heard of. Only hints: mounts give none, nor do changes further up.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::listing::{NameKind, name_kind};
use super::settle::{Hint, Hints};
use crate::clock::{BootTime, Millis};

/// Most names that are remembered between two looks; beyond it everything is looked at.
const MAX_HINTS: usize = 4096;
/// Most symbolic links on the way to a directory, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Parents nearer to the root are not watched: `notify` asks for every file opened in a directory,
/// and in `/etc` or `/tmp` that would wake an idle agent all the time.
const MIN_PARENT_DEPTH: usize = 3;

/// What the watcher thread waits for.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct InboxState {
    hints: Vec<Hints>,
    request: Request,
    /// How often to look without a hint.
    relist: Millis,
    #[cfg(test)]
    rings: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Request {
    #[default]
    None,
    Relist,
    Stop,
}

/// Why a wait ended.
#[derive(Debug)]
pub(super) enum Wake {
    /// The hints of each directory, possibly none because the time is up.
    Look(Vec<Hints>),
    Relist(Vec<Hints>),
    Stop,
}

impl Inbox {
    pub(super) fn new(directories: usize, relist: Millis) -> Self {
        let hints = (0..directories).map(|_| Hints::default()).collect();
        let state = Mutex::new(InboxState { hints, relist, ..InboxState::default() });
        Self { state, bell: Condvar::new() }
    }

    pub(super) fn stop(&self) {
        self.lock().request = Request::Stop;
        self.bell.notify_all();
    }

    pub(super) fn relist_every(&self, span: Millis) {
        self.lock().relist = span;
        self.relist();
    }

    pub(super) fn relist_span(&self) -> Millis {
        self.lock().relist
    }

    pub(super) fn relist(&self) {
        let mut state = self.lock();
        if state.request == Request::None {
            state.request = Request::Relist;
        }
        self.bell.notify_all();
    }

    /// Waits for hints, a request or the deadline.
    pub(super) fn wait(&self, deadline: BootTime) -> Wake {
        let mut state = self.lock();
        loop {
            match state.request {
                Request::Stop => return Wake::Stop,
                Request::Relist => {
                    state.request = Request::None;
                    return Wake::Relist(state.take_hints());
                }
                Request::None => {}
            }
            let remaining = deadline.since(BootTime::now());
            if remaining == Millis(0) || state.hints.iter().any(|hints| !hints.is_empty()) {
                return Wake::Look(state.take_hints());
            }
            let wait = self.bell.wait_timeout(state, Duration::from(remaining));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the file was reported as written to since the hints were taken. Takes nothing.
    pub(super) fn is_being_written(&self, directory: usize, name: &str) -> bool {
        let hint = self.lock().hints.get(directory).and_then(|h| h.names.get(name).copied());
        matches!(hint, Some((Hint::Writing, _)))
    }

    /// How often anybody put something in.
    #[cfg(test)]
    pub(super) fn rings(&self) -> u64 {
        self.lock().rings
    }

    fn change(&self, directory: usize, change: impl FnOnce(&mut Hints)) {
        let mut state = self.lock();
        if let Some(hints) = state.hints.get_mut(directory) {
            change(hints);
            if hints.names.len() > MAX_HINTS {
                *hints = Hints { look: true, ..Hints::default() };
            }
        }
        #[cfg(test)]
        {
            state.rings += 1;
        }
        self.bell.notify_all();
    }

    fn lose_all(&self) {
        let mut state = self.lock();
        for hints in &mut state.hints {
            *hints = Hints { look: true, ..Hints::default() };
        }
        self.bell.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        // The state is whole after each statement, whoever panicked meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InboxState {
    fn take_hints(&mut self) -> Vec<Hints> {
        self.hints.iter_mut().map(std::mem::take).collect()
    }
}

/// A directory to watch on behalf of a manifest directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WatchPoint {
    path: PathBuf,
    /// Device and inode: another directory at the same path needs a new watch.
    identity: Option<(u32, u32, u64)>,
    /// Index of the manifest directory.
    directory: usize,
    part: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// It holds the manifests.
    Content,
    /// The way to the manifests leads through this name in it.
    Way(OsString),
}

/// Where hints about the directory at `path` come from, as things are now.
pub(super) fn watch_points(directory: usize, path: &Path) -> Vec<WatchPoint> {
    let way = walk(path);
    let mut points = Vec::new();
    for (parent, name) in way.names {
        if parent.components().count() >= MIN_PARENT_DEPTH {
            let part = Part::Way(name);
            points.push(WatchPoint { identity: identity(&parent), path: parent, directory, part });
        }
    }
    if let Some(real) = way.end {
        let part = Part::Content;
        points.push(WatchPoint { identity: identity(&real), path: real, directory, part });
    }
    points.retain(|point| point.identity.is_some());
    points
}

/// Watches while it lives.
#[derive(Debug)]
pub(super) struct Ears {
    /// Only kept, for its drop ends the watch.
    _watcher: INotifyWatcher,
    /// What could not be watched, in words.
    pub(super) faults: Vec<String>,
}

impl Ears {
    /// Watches all the points. A watch that fails is noted; the relist makes up for it.
    pub(super) fn new(points: &[WatchPoint], inbox: Arc<Inbox>) -> Result<Self, notify::Error> {
        let mut routes: BTreeMap<PathBuf, Vec<(usize, Part)>> = BTreeMap::new();
        for point in points {
            let route = routes.entry(point.path.clone()).or_default();
            route.push((point.directory, point.part.clone()));
        }
        let paths: Vec<PathBuf> = routes.keys().cloned().collect();
        let router = Router { routes, inbox };
        let mut watcher = INotifyWatcher::new(
            move |event: notify::Result<Event>| router.hear(event),
            notify::Config::default(),
        )?;
        let mut faults = Vec::new();
        for path in paths {
            if let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive) {
                faults.push(format!("{}: {error}", path.display()));
            }
        }
        Ok(Self { _watcher: watcher, faults })
    }
}

/// What an event says about one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Written,
    Closed,
    MovedHere,
    Removed,
    Touched,
}

/// Turns events into hints, on the thread of `notify`.
struct Router {
    routes: BTreeMap<PathBuf, Vec<(usize, Part)>>,
    inbox: Arc<Inbox>,
}

impl Router {
    fn hear(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.inbox.lose_all() };
        if event.need_rescan() {
            return self.inbox.lose_all();
        }
        let Some(change) = change_of(&event.kind) else { return };
        let Some(path) = event.paths.first() else { return self.inbox.lose_all() };
        // About a watched directory itself: it was moved, removed, or its mode changed.
        for (directory, _) in self.routes.get(path).into_iter().flatten() {
            self.inbox.change(*directory, |hints| hints.look = true);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        for (directory, part) in self.routes.get(parent).into_iter().flatten() {
            match part {
                Part::Content => self.hear_of_file(*directory, name, change),
                Part::Way(step) if step == name && change.moves_names() => {
                    self.inbox.change(*directory, |hints| hints.look = true);
                }
                Part::Way(_) => {}
            }
        }
    }

    fn hear_of_file(&self, directory: usize, name: &OsStr, change: Change) {
        match (name_kind(name.as_bytes()), name.to_str()) {
            (NameKind::Manifest, Some(name)) => {
                let at = BootTime::now();
                self.inbox.change(directory, |hints| remember(hints, name, change, at));
            }
            // `..data` and its like, through which links to manifests lead.
            (NameKind::Hidden | NameKind::Ignored | NameKind::Manifest, _) => {
                let convention = name.as_bytes().starts_with(b"..") && change.moves_names();
                if change == Change::MovedHere || convention {
                    self.inbox.change(directory, |hints| hints.links_moved = true);
                }
            }
        }
    }
}

impl Change {
    fn moves_names(self) -> bool {
        matches!(self, Self::Created | Self::MovedHere | Self::Removed)
    }
}

/// Merges one more event into what is remembered of a name.
fn remember(hints: &mut Hints, name: &str, change: Change, at: BootTime) {
    let hint = match change {
        Change::Created => Hint::Created,
        Change::Written => Hint::Writing,
        Change::Closed | Change::MovedHere => Hint::Complete,
        Change::Removed => Hint::Touched,
        // Says nothing about the content: what is known of that stays known.
        Change::Touched => hints.names.get(name).map_or(Hint::Touched, |(before, _)| *before),
    };
    hints.names.insert(name.to_owned(), (hint, at));
}

/// Nothing for what must wake nobody: opening and reading, which we do ourselves.
fn change_of(kind: &EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Closed),
        EventKind::Access(_) => None,
        EventKind::Create(_) => Some(Change::Created),
        EventKind::Remove(_) => Some(Change::Removed),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Change::Written),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Change::MovedHere),
        // Comes in addition to From and To.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(Change::Removed),
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Change::Touched),
    }
}

/// The way to a directory: every name in it that may be switched, and its end.
struct Way {
    names: Vec<(PathBuf, OsString)>,
    /// The path without links; nothing if the way is broken.
    end: Option<PathBuf>,
}

/// Follows a path step by step. Where it breaks, the last name is the one to wait for.
fn walk(path: &Path) -> Way {
    let mut names = Vec::new();
    let mut here = PathBuf::from("/");
    let mut steps: VecDeque<OsString> = VecDeque::new();
    if path.is_relative() {
        here = std::env::current_dir().unwrap_or(here);
    }
    prepend(&mut steps, path);
    let mut links = 0;
    let mut last = None;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            here.pop();
            last = None;
            continue;
        }
        let next = here.join(&step);
        if let Ok(target) = std::fs::read_link(&next) {
            links += 1;
            names.push((here.clone(), step));
            if links > MAX_LINKS {
                return Way { names, end: None };
            }
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            prepend(&mut steps, &target);
        } else if next.is_dir() {
            last = Some((here, step));
            here = next;
        } else {
            names.push((here, step));
            return Way { names, end: None };
        }
    }
    names.extend(last);
    Way { names, end: Some(here) }
}

fn prepend(steps: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => steps.push_front(name.to_owned()),
            Component::ParentDir => steps.push_front("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
}

fn identity(path: &Path) -> Option<(u32, u32, u64)> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

#[cfg(test)]
mod tests {
    use notify::event::Flag;

    use super::*;

    fn hear(routes: &[(&str, Part)], events: &[Event]) -> Hints {
        let inbox = Arc::new(Inbox::new(1, Millis::from_secs(20)));
        let route = |(path, part): &(&str, Part)| (PathBuf::from(path), vec![(0, part.clone())]);
        let router =
            Router { routes: routes.iter().map(route).collect(), inbox: Arc::clone(&inbox) };
        for event in events {
            router.hear(Ok(event.clone()));
        }
        inbox.lock().take_hints().remove(0)
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    fn hint(events: &[Event]) -> Option<Hint> {
        let hints = hear(&[("/p", Part::Content)], events);
        hints.names.get("a.yaml").map(|(hint, _)| *hint)
    }

    #[test]
    fn the_last_event_that_speaks_of_the_content_counts() {
        use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind};
        let created = event(EventKind::Create(CreateKind::File), "/p/a.yaml");
        let written = event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/p/a.yaml");
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let closed = event(close, "/p/a.yaml");
        let mode = ModifyKind::Metadata(MetadataKind::Any);
        let touched = event(EventKind::Modify(mode), "/p/a.yaml");
        let removed = event(EventKind::Remove(RemoveKind::File), "/p/a.yaml");
        let cases: [(&[&Event], Hint); 7] = [
            (&[&created], Hint::Created),
            (&[&created, &written], Hint::Writing),
            (&[&created, &written, &closed], Hint::Complete),
            (&[&closed, &written], Hint::Writing),
            (&[&closed, &touched], Hint::Complete),
            (&[&closed, &removed], Hint::Touched),
            (&[&closed, &removed, &created], Hint::Created),
        ];
        for (events, expected) in cases {
            let events: Vec<Event> = events.iter().map(|event| (*event).clone()).collect();
            assert_eq!(hint(&events), Some(expected), "{events:?}");
        }
    }

    #[test]
    fn opening_and_reading_is_no_hint() {
        let modes = [AccessMode::Read, AccessMode::Any, AccessMode::Execute];
        let closes = modes.map(AccessKind::Close);
        let opens = modes.map(AccessKind::Open);
        for kind in closes.into_iter().chain(opens).chain([AccessKind::Read, AccessKind::Any]) {
            for path in ["/p", "/p/a.yaml"] {
                let event = event(EventKind::Access(kind), path);
                assert!(hear(&[("/p", Part::Content)], &[event]).is_empty(), "{kind:?} {path}");
            }
        }
    }

    #[test]
    fn lost_events_and_too_many_names_mean_to_look_at_everything() {
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(hear(&[("/p", Part::Content)], &[lost]).look);
        let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let many: Vec<Event> =
            (0..=MAX_HINTS).map(|number| event(to, &format!("/p/{number}.yaml"))).collect();
        let hints = hear(&[("/p", Part::Content)], &many);
        assert!(hints.look && hints.names.is_empty());
    }

    #[test]
    fn of_the_way_only_the_step_itself_matters() {
        let way = [("/etc/roost", Part::Way("pods.d".into()))];
        let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(hear(&way, &[event(to, "/etc/roost/pods.d")]).look);
        assert!(hear(&way, &[event(to, "/etc/roost")]).look);
        assert!(hear(&way, &[event(to, "/etc/roost/agent.toml")]).is_empty());
    }

    #[test]
    fn directories_near_the_root_are_not_watched() {
        let points = watch_points(0, Path::new("/etc"));
        assert_eq!(points.len(), 1, "the directory, but not its parent: {points:?}");
        let points = watch_points(0, Path::new("/etc/there-is-no-such-thing"));
        assert_eq!(points, []);
    }
}
