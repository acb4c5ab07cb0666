use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::*;

/// What was done, in order.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Loaded(String),
    Complained(String),
}

/// Takes each file that says `image`.
#[derive(Clone)]
struct Fake {
    done: mpsc::UnboundedSender<Done>,
    here: Arc<Mutex<bool>>,
}

fn id() -> ImageId {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

impl Loader for Fake {
    async fn load(&self, path: &Path) -> Result<Vec<ImageId>, Fault> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text =
            fs::read_to_string(if path.is_dir() { path.join("index.json") } else { path.into() });
        if text.is_ok_and(|text| text.ends_with("image")) {
            self.done.send(Done::Loaded(name)).unwrap();
            return Ok(vec![id()]);
        }
        Err(Fault { text: format!("{name} is faulty"), may_pass: false })
    }

    fn has(&self, _image: &ImageId) -> bool {
        *self.here.lock().unwrap()
    }

    async fn complain(&self, text: String) {
        self.done.send(Done::Complained(text)).unwrap();
    }
}

struct World {
    root: tempfile::TempDir,
    here: Arc<Mutex<bool>>,
    done: mpsc::UnboundedReceiver<Done>,
    sender: mpsc::UnboundedSender<Done>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    fn new() -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        let root = tempfile::tempdir().unwrap();
        Self { root, here: Arc::new(Mutex::new(true)), done, sender, task: None }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("etc/images.d")
    }

    fn start(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let fake = Fake { done: self.sender.clone(), here: self.here.clone() };
        let checkpoint = self.root.path().join("image-files.json");
        self.task = Some(tokio::spawn(keep(fake, vec![self.dir()], checkpoint)));
    }

    async fn next(&mut self) -> Done {
        let limit = Duration::from_secs(20);
        timeout(limit, self.done.recv()).await.expect("something is done").unwrap()
    }

    /// The checkpoint is written after what it is about.
    async fn remembered(&self, count: usize) {
        let path = self.root.path().join("image-files.json");
        let read = || checkpoint::read::<ImageFiles>(&path).unwrap();
        while read().is_none_or(|read| read.files.len() != count) {
            tokio::task::yield_now().await;
        }
    }
}

fn loaded(name: &str) -> Done {
    Done::Loaded(name.to_owned())
}

#[tokio::test]
async fn what_lies_there_is_loaded_and_what_comes_too_once_it_is_closed() {
    let mut world = World::new();
    fs::create_dir_all(world.dir()).unwrap();
    fs::write(world.dir().join("a.tar"), "image").unwrap();
    for other in ["notes.txt", ".b.tar"] {
        fs::write(world.dir().join(other), "image").unwrap();
    }
    world.start();
    assert_eq!(world.next().await, loaded("a.tar"));
    let mut slow = fs::File::create(world.dir().join("slow.tar.gz")).unwrap();
    slow.write_all(b"half of an ").unwrap();
    // Renamed into place meanwhile, and loaded without the other one.
    fs::write(world.dir().join(".tmp"), "image").unwrap();
    fs::rename(world.dir().join(".tmp"), world.dir().join("c.tgz")).unwrap();
    assert_eq!(world.next().await, loaded("c.tgz"));
    slow.write_all(b"image").unwrap();
    drop(slow);
    assert_eq!(world.next().await, loaded("slow.tar.gz"));
}

#[tokio::test]
async fn a_start_loads_again_only_what_changed_or_is_not_here_any_more() {
    let mut world = World::new();
    fs::create_dir_all(world.dir()).unwrap();
    fs::write(world.dir().join("a.tar"), "image").unwrap();
    world.start();
    assert_eq!(world.next().await, loaded("a.tar"));
    world.remembered(1).await;
    fs::write(world.dir().join("b.tar"), "image").unwrap();
    world.start();
    assert_eq!(world.next().await, loaded("b.tar"), "a.tar is known");
    world.remembered(2).await;
    *world.here.lock().unwrap() = false;
    world.start();
    assert_eq!(world.next().await, loaded("a.tar"));
    assert_eq!(world.next().await, loaded("b.tar"));
    world.remembered(2).await;
    fs::remove_file(world.dir().join("a.tar")).unwrap();
    world.remembered(1).await;
}

#[tokio::test]
async fn a_faulty_file_is_told_of_once_and_tried_again_when_it_changes() {
    let mut world = World::new();
    fs::create_dir_all(world.dir()).unwrap();
    fs::write(world.dir().join("a.tar"), "rubbish").unwrap();
    world.start();
    assert_eq!(world.next().await, Done::Complained("a.tar is faulty".to_owned()));
    // Looks again, and says nothing of the same.
    fs::write(world.dir().join("b.tar"), "image").unwrap();
    assert_eq!(world.next().await, loaded("b.tar"));
    fs::write(world.dir().join("a.tar"), "an image").unwrap();
    assert_eq!(world.next().await, loaded("a.tar"));
}

#[tokio::test]
async fn a_directory_may_come_later_and_have_layouts_in_it() {
    let mut world = World::new();
    world.start();
    let layout = world.dir().join("web");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("oci-layout"), "{}").unwrap();
    fs::write(layout.join("index.json"), "image").unwrap();
    loop {
        match world.next().await {
            Done::Loaded(name) => break assert_eq!(name, "web"),
            // It was seen before it was whole.
            Done::Complained(text) => assert_eq!(text, "web is faulty"),
        }
    }
}

#[test]
fn what_may_still_be_written_is_waited_for_and_what_passes_is_tried_with_the_relist() {
    let print = |size| vec![Print { inode: 1, size, mtime: 2, mtime_nanos: 3 }];
    let found = |size| BTreeMap::from([(PathBuf::from("/d/a.tar"), print(size))]);
    let mut book = Book::new(PathBuf::new());
    let mut due = |size, relisted, whole| {
        let due = book.due(found(size), relisted, |_| whole);
        (due.paths.len(), due.is_settling)
    };
    assert_eq!(due(1, false, Whole::Unknown), (0, true));
    assert_eq!(due(2, false, Whole::Unknown), (0, true), "it grew");
    assert_eq!(due(2, false, Whole::No), (0, false));
    assert_eq!(due(2, false, Whole::Unknown), (1, false));
    assert_eq!(due(3, false, Whole::Yes), (1, false));
    for (may_pass, relisted, expected) in
        [(true, false, 0), (true, true, 1), (false, true, 0), (false, false, 0)]
    {
        let fault = Fault { text: String::new(), may_pass };
        book.failed.insert("/d/a.tar".into(), (print(3), fault));
        assert_eq!(book.due(found(3), relisted, |_| Whole::Unknown).paths.len(), expected);
    }
    assert_eq!(book.due(found(4), false, |_| Whole::Yes).paths.len(), 1, "it changed");
}

#[test]
fn the_golden_checkpoint_is_read_and_written_as_ever() {
    let print = Print { inode: 7, size: 8, mtime: 1_700_000_000, mtime_nanos: 9 };
    let path = PathBuf::from("/etc/roost/images.d/web.tar");
    let loaded = Loaded { path, prints: vec![print], images: vec![id()] };
    let value = ImageFiles { format: Format, files: vec![loaded] };
    let mut fresh = serde_json::to_vec(&value).unwrap();
    fresh.push(b'\n');
    let kept = crate::state::samples::golden("v1/image-files.json", &fresh);
    assert_eq!(serde_json::from_slice::<ImageFiles>(&kept).unwrap(), value);
    assert_eq!(String::from_utf8(kept), String::from_utf8(fresh));
}
