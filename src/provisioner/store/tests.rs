use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::layers::list;
use std::collections::BTreeSet;

use super::*;
use crate::clock::Millis;
use crate::provisioner::unpack::UnpackOptions;
use crate::provisioner::unpack::testing::{Tar, listing};

/// In a child: dies like by a power cut at the step of this number.
const CRASH_AT: &str = "ROOST_TEST_STORE_CRASH_AT";
const DIRECTORY: &str = "ROOST_TEST_STORE_DIRECTORY";
static ARMED: AtomicBool = AtomicBool::new(false);
static STEPS: AtomicU64 = AtomicU64::new(0);

pub(super) fn step() {
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    let at = STEPS.fetch_add(1, Ordering::Relaxed);
    if std::env::var(CRASH_AT).is_ok_and(|text| text == at.to_string()) {
        std::process::abort();
    }
}

fn digest(bytes: &[u8]) -> Digest {
    sha256(bytes)
}

/// An image with these layers, brought into the store.
fn put(store: &Store, name: &str, layers: &[Vec<u8>], pinned: bool) -> Arc<Image> {
    let ingest = store.ingest();
    put_by(&ingest, name, layers, pinned).unwrap()
}

fn put_by(
    ingest: &Ingest,
    name: &str,
    layers: &[Vec<u8>],
    pinned: bool,
) -> Result<Arc<Image>, StoreError> {
    let diffs: Vec<DiffId> = layers.iter().map(|layer| digest(layer).into()).collect();
    let config = format!("config of {diffs:?}");
    let manifest = format!("manifest of {diffs:?}");
    let (config_id, manifest_id) = (digest(config.as_bytes()), digest(manifest.as_bytes()));
    ingest.put_blob(manifest.as_bytes(), &manifest_id)?;
    ingest.put_blob(config.as_bytes(), &config_id)?;
    for (at, layer) in layers.iter().enumerate() {
        let chain = &diffs[..=at];
        if ingest.layer(chain)?.is_none() {
            let mut partial = ingest.partial(&digest(layer), layer.len() as u64)?;
            let from = usize::try_from(partial.len()).unwrap();
            for part in layer[from..].chunks(1000) {
                partial.append(part)?;
            }
            ingest.unpack_blob(chain, partial.finish()?, &UnpackOptions::default())?;
        }
    }
    let name = NewName { name: name.parse().unwrap(), target: manifest_id.clone(), pinned };
    ingest.commit(&NewImage {
        manifest: manifest_id,
        config: config_id,
        layers: diffs,
        names: vec![name],
    })
}

fn layers() -> Vec<Vec<u8>> {
    let below = Tar::new().file("d/a", b"a").file("d/b", &[1; 5000]).symlink("s", "d").end();
    let above = Tar::new().file("d/.wh.a", b"").link("d/c", "d/b").file("s/e", b"e").end();
    vec![below, above]
}

fn open(directory: &Path) -> Store {
    Store::open(directory, Contention::Refuse).unwrap()
}

fn tree(store: &Store, image: &Image) -> BTreeMap<String, String> {
    let target = tempfile::tempdir().unwrap();
    let layers: Vec<_> = image.layer_ids().map(|id| store.layer_fs(id)).collect();
    crate::provisioner::copy::merge(&layers, target.path()).unwrap();
    listing(target.path())
}

fn collect(store: &Store, keep: &[&Image], bytes: u64) -> Collected {
    let keep = keep.iter().map(|image| image.id.clone()).collect();
    store.collect(&Collection { keep: &keep, bytes, min_age: Millis(0) }).unwrap()
}

/// What lies in the store, but for what is only a hint.
fn count(store: &Store, name: &str) -> usize {
    list(&store.path(name)).unwrap().len()
}

#[test]
fn an_image_that_was_put_in_is_there_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let image = put(&store, "a:1", &layers(), true);
    assert_eq!(count(&store, PARTIAL), 0, "compressed layers are not kept");
    let names = store.names();
    let before = tree(&store, &image);
    assert!(before["./d/c"].contains("one with ./d/b") && before.contains_key("./d/e"));
    assert!(!before.contains_key("./d/a"));
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.images(), std::slice::from_ref(&image));
    assert_eq!(store.names(), names);
    let (entry, found) = store.by_name(&"a:1".parse().unwrap()).unwrap();
    assert!(entry.pinned && entry.used.is_some() && found == image);
    store.verify(&image.id).unwrap();
    assert_eq!(tree(&store, &image), before);
    assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn one_process_has_the_store_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    drop(store);
    let refused = Store::open(directory.path(), Contention::Refuse).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    let path = directory.path().to_owned();
    let waiter = std::thread::spawn(move || Store::open(&path, Contention::Wait).map(drop));
    drop(ingest);
    waiter.join().unwrap().unwrap();
}

#[test]
fn a_blob_is_what_its_digest_says_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    let id = digest(b"{}");
    let wrong = ingest.put_blob(b"{ }", &id).unwrap_err();
    assert!(matches!(wrong, StoreError::WrongDigest { .. }), "{wrong}");
    let md5 = "md5:99914b932bd37a50b983c5e7c90ae93b".parse().unwrap();
    let unknown = ingest.put_blob(b"{}", &md5).unwrap_err();
    assert!(matches!(unknown, StoreError::UnknownAlgorithm { .. }), "{unknown}");
    ingest.put_blob(b"{}", &id).unwrap();
    assert_eq!(store.blob(&id).unwrap().unwrap(), b"{}");
    fs::write(store.blob_path(&id), b"[]").unwrap();
    assert_eq!(store.blob(&id).unwrap(), None);
    ingest.put_blob(b"{}", &id).unwrap();
    assert_eq!(store.blob(&id).unwrap().unwrap(), b"{}");
}

#[test]
fn a_download_is_resumed_verified_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    let (data, id) = (b"0123456789", digest(b"0123456789"));
    let mut partial = ingest.partial(&id, 10).unwrap();
    partial.append(&data[..4]).unwrap();
    let second = ingest.partial(&id, 10).unwrap_err();
    assert!(matches!(second, StoreError::Fetching { .. }), "{second}");
    let short = partial.finish().unwrap_err();
    assert!(matches!(short, StoreError::Truncated { found: 4, expected: 10, .. }), "{short}");
    drop(ingest);
    drop(store);
    let store = open(directory.path());
    let mut partial = store.ingest().partial(&id, 10).unwrap();
    assert_eq!(partial.len(), 4);
    partial.append(&data[4..]).unwrap();
    let long = partial.append(b"x").unwrap_err();
    assert!(matches!(long, StoreError::TooLong { limit: 10, .. }), "{long}");
    assert_eq!(partial.len(), 0);
    partial.append(data).unwrap();
    partial.finish().unwrap().discard().unwrap();
    // What a power cut left may be anything.
    fs::write(store.path(PARTIAL).join(id.digest()), b"garbage").unwrap();
    let mut partial = store.ingest().partial(&id, 10).unwrap();
    partial.append(&data[7..]).unwrap();
    let wrong = partial.finish().unwrap_err();
    assert!(matches!(wrong, StoreError::WrongDigest { .. }), "{wrong}");
    assert_eq!(count(&store, PARTIAL), 0);
    fs::write(store.path(PARTIAL).join(id.digest()), b"longer than it may be").unwrap();
    assert_eq!(store.ingest().partial(&id, 10).unwrap().len(), 0);
}

#[test]
fn a_download_that_nobody_needs_is_removed_unless_somebody_fetches_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    let id = digest(b"0123456789");
    ingest.forget_partial(&id).unwrap();
    let mut partial = ingest.partial(&id, 10).unwrap();
    partial.append(b"0123").unwrap();
    ingest.forget_partial(&id).unwrap();
    assert_eq!(count(&store, PARTIAL), 1);
    drop(partial);
    ingest.forget_partial(&id).unwrap();
    assert_eq!(count(&store, PARTIAL), 0);
}

#[test]
fn a_layer_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    let bad = Tar::new().file("a", &[1; 100_000]).link("b", "gone").end();
    let failed = put_by(&ingest, "bad", std::slice::from_ref(&bad), false).unwrap_err();
    assert!(matches!(failed, StoreError::Unpack { .. }), "{failed}");
    for name in [LAYERS, PARTIAL, TRASH, IMAGES, NAMES] {
        assert_eq!(count(&store, name), 0, "{name}");
    }
    let second = [digest(b"below").into(), digest(&bad).into()];
    let missing = ingest.unpack(&second, &bad[..], &UnpackOptions::default()).unwrap_err();
    assert!(matches!(missing, StoreError::NoLayer { .. }), "{missing}");
}

#[test]
fn a_damaged_layer_is_reported_and_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let image = put(&store, "a", &layers(), false);
    let before = tree(&store, &image);
    let top = store.layer_path(&image.layers[1].id);
    fs::write(top.join("layer.json"), b"").unwrap();
    let damaged = store.verify(&image.id).unwrap_err();
    assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    put(&store, "a", &layers(), false);
    store.verify(&image.id).unwrap();
    assert_eq!(tree(&store, &image), before);
    fs::remove_dir_all(store.layer_path(&image.layers[0].id)).unwrap();
    store.verify(&image.id).unwrap_err();
    put(&store, "a", &layers(), false);
    assert_eq!(tree(&store, &image), before);
}

#[test]
fn layers_with_one_short_name_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let image = put(&store, "a", &layers(), false);
    let (one, two) = (&image.layers[0], &image.layers[1]);
    let other = fs::read(store.layer_path(&two.id).join("layer.json")).unwrap();
    fs::write(store.layer_path(&one.id).join("layer.json"), other).unwrap();
    let collision = store.ingest().layer(std::slice::from_ref(&one.diff)).unwrap_err();
    assert!(matches!(collision, StoreError::Collision { .. }), "{collision}");
}

#[test]
fn files_that_a_disk_made_unreadable_do_not_keep_the_others_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let image = put(&store, "a", &layers(), false);
    put(&store, "b", &layers()[..1], false);
    drop(store);
    for name in [NAMES, IMAGES, USED] {
        fs::write(directory.path().join(name).join("x.json"), b"{").unwrap();
        fs::write(directory.path().join(name).join("y"), b"").unwrap();
    }
    let hex = image.id.digest().digest();
    fs::write(directory.path().join(IMAGES).join(format!("{hex}.json")), b"").unwrap();
    let store = open(directory.path());
    assert_eq!(store.images().len(), 1);
    assert!(store.by_name(&"a".parse().unwrap()).is_none(), "its image is gone");
    assert!(store.by_name(&"b".parse().unwrap()).is_some());
    put(&store, "a", &layers(), false);
    store.verify(&image.id).unwrap();
}

#[test]
fn what_is_used_least_recently_goes_first_and_what_is_kept_never() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let layer = |n: u8| vec![Tar::new().file("a", &vec![n; 100_000]).end()];
    let [old, pinned, kept, young] =
        [1, 2, 3, 4].map(|n| put(&store, &format!("image:{n}"), &layer(n), n == 2));
    let unused = store.unused(&BTreeSet::from([kept.id.clone()]));
    assert_eq!(unused.len(), 2);
    assert_eq!(collect(&store, &[&kept], 0), Collected::default());
    let keep = BTreeSet::new();
    let by_age = Collection { keep: &keep, bytes: u64::MAX, min_age: Millis::from_secs(1 << 40) };
    assert_eq!(store.collect(&by_age).unwrap(), Collected::default());
    store.touch(&old.id);
    let collected = collect(&store, &[&kept], 1);
    assert_eq!(collected.images, std::slice::from_ref(&young.id));
    assert!(collected.freed >= 100_000);
    assert_eq!(collect(&store, &[&kept], u64::MAX).images, std::slice::from_ref(&old.id));
    for image in [&pinned, &kept] {
        store.verify(&image.id).unwrap();
    }
    assert_eq!((count(&store, LAYERS), count(&store, TRASH)), (2, 0));
    assert_eq!(count(&store, "blobs/sha256"), 4);
    drop(store);
    assert_eq!(open(directory.path()).images().len(), 2);
}

#[test]
fn an_image_that_lost_its_name_goes_unless_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = put(&store, "a:latest", &layers()[..1], true);
    let second = put(&store, "a:latest", &layers(), false);
    let (entry, image) = store.by_name(&"a:latest".parse().unwrap()).unwrap();
    assert!(image == second && !entry.pinned, "who pinned the old one did not pin this one");
    assert!(collect(&store, &[&first], 0).images.is_empty());
    assert_eq!(collect(&store, &[], 0).images, std::slice::from_ref(&first.id));
    // Its layer is also one of the other image.
    store.verify(&second.id).unwrap();
    assert!(store.remove_name(&"a:latest".parse().unwrap()).unwrap());
    assert!(!store.remove_name(&"a:latest".parse().unwrap()).unwrap());
    assert!(collect(&store, &[], 0).freed > 0);
    assert_eq!((store.images().len(), count(&store, LAYERS)), (0, 0));
}

#[test]
fn what_is_on_its_way_in_is_not_collected() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let ingest = store.ingest();
    let layers = layers();
    let chain = [DiffId::from(digest(&layers[0]))];
    ingest.unpack(&chain, &layers[0][..], &UnpackOptions::default()).unwrap();
    ingest.put_blob(b"{}", &digest(b"{}")).unwrap();
    let mut partial = ingest.partial(&digest(b"0123"), 4).unwrap();
    partial.append(b"01").unwrap();
    collect(&store, &[], u64::MAX);
    assert!(ingest.layer(&chain).unwrap().is_some());
    assert!(store.blob(&digest(b"{}")).unwrap().is_some());
    drop(partial);
    assert_eq!(ingest.partial(&digest(b"0123"), 4).unwrap().len(), 2);
    drop(ingest);
    assert!(collect(&store, &[], u64::MAX).freed > 0);
    assert_eq!(store.usage().unwrap(), Usage::default());
}

#[test]
fn images_that_share_layers_may_come_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let layers = layers();
    let chain: Vec<DiffId> = layers.iter().map(|layer| digest(layer).into()).collect();
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let ingest = store.ingest();
                    let options = UnpackOptions::default();
                    let first = ingest.unpack(&chain[..1], &layers[0][..], &options).unwrap();
                    ingest.unpack(&chain, &layers[1][..], &options).unwrap();
                    first.report.entries > 0
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "unpacked once");
    assert_eq!(count(&store, LAYERS), 2);
}

#[test]
fn an_image_may_have_more_than_100_layers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let layer = |n: usize| match n % 3 {
        0 => Tar::new().file(&format!("a/b/{n}"), b"").end(),
        1 => Tar::new().file(&format!("a/b/.wh.{}", n - 1), b"").end(),
        _ => Tar::new().link(&format!("a/{n}"), "a/b/120").file("x", &[1; 10]).end(),
    };
    let mut layers: Vec<_> = (0..LAYERS_MAX - 1).map(layer).collect();
    layers[0] = Tar::new().owner(9, 9).dir("a").file("a/b/120", b"linked").end();
    // The last of them is a hard link into the lowest.
    layers.truncate(120);
    let image = put(&store, "deep", &layers, false);
    let tree = tree(&store, &image);
    assert!(tree["./a"].contains("9:9"));
    assert!(tree["./a/119"].contains("linked") && tree["./a/119"].contains("one with"));
    assert_eq!(tree.keys().filter(|name| name.starts_with("./a/b/")).count(), 1);
}

/// Run in a child by the test below.
#[test]
fn child_that_puts_an_image_in_and_collects_another() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = open(Path::new(&directory));
    ARMED.store(true, Ordering::Relaxed);
    put(&store, "new", &layers(), false);
    let new = store.by_name(&"new".parse().unwrap()).unwrap().1;
    collect(&store, &[&new], u64::MAX);
}

#[test]
fn whatever_step_a_crash_comes_at_the_next_try_succeeds() {
    let expected = {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        tree(&store, &put(&store, "new", &layers(), false))
    };
    let child = "provisioner::store::tests::child_that_puts_an_image_in_and_collects_another";
    let mut crashes = 0;
    for at in 0.. {
        let directory = tempfile::tempdir().unwrap();
        put(&open(directory.path()), "old", &[Tar::new().file("old", &[1; 100]).end()], false);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .env(CRASH_AT, at.to_string())
            .output()
            .unwrap()
            .status;
        if status.success() {
            break;
        }
        crashes += 1;
        let store = open(directory.path());
        for image in store.images() {
            store.verify(&image.id).unwrap();
        }
        for name in store.names() {
            assert!(store.image(&name.image).is_some());
        }
        let image = put(&store, "new", &layers(), false);
        assert_eq!(tree(&store, &image), expected, "after a crash at step {at}");
        collect(&store, &[&image], u64::MAX);
        assert_eq!(count(&store, LAYERS), 2, "after a crash at step {at}");
        assert_eq!((count(&store, TRASH), count(&store, PARTIAL)), (0, 0));
        assert_eq!(store.images().len(), 1);
    }
    assert!(crashes > 20, "only {crashes} steps were tried");
}

#[test]
fn a_full_disk_is_given_back_and_the_next_try_succeeds() {
    use nix::mount::{MsFlags, mount};
    let directory = tempfile::tempdir().unwrap();
    let big = vec![Tar::new().file("small", b"").file("big", &[1; 6 << 20]).end()];
    let small = layers();
    let fill = || {
        // The mount namespace is that of the thread, and ends with it.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let (kind, size) = (Some("tmpfs"), Some("size=8m"));
        mount(Some("t"), directory.path(), kind, MsFlags::empty(), size).unwrap();
        let store = open(directory.path());
        let ingest = store.ingest();
        // The download fits, what is in it does not any more.
        let StoreError::Unpack { source, .. } = put_by(&ingest, "big", &big, false).unwrap_err()
        else {
            panic!("it is the layer that has no room")
        };
        assert!(source.is_disk_full() && !source.is_content(), "{source}");
        assert_eq!((count(&store, LAYERS), count(&store, TRASH)), (0, 0));
        assert_eq!(count(&store, PARTIAL), 1, "it need not be fetched again");
        let mut other = ingest.partial(&digest(b"other"), 4 << 20).unwrap();
        let full = other.append(&[2; 4 << 20]).unwrap_err();
        assert!(matches!(full, StoreError::Io { .. }) && other.len() == 0, "{full}");
        drop((other, ingest));
        assert!(collect(&store, &[], u64::MAX).freed > 6 << 20);
        store.verify(&put(&store, "small", &small, false).id).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(fill).join().unwrap());
}

/// A small file of the store, as it was written when its format was new.
#[track_caller]
fn check_golden<T>(name: &str, sample: &str)
where
    T: checkpoint::Checkpoint + PartialEq + std::fmt::Debug,
{
    let value: T = serde_json::from_str(sample).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fact.json");
    checkpoint::write(&path, &value).unwrap();
    let fresh = fs::read(&path).unwrap();
    let kept = crate::state::samples::golden(name, &fresh);
    fs::write(&path, &kept).unwrap();
    assert_eq!(checkpoint::read::<T>(&path).unwrap(), Some(value), "{name}");
    let [fresh, kept] = [fresh, kept].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(fresh, kept, "{name}: the format changed, its number did not");
}

#[test]
fn the_golden_files_of_the_store_are_read_and_written_as_ever() {
    let hex = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";
    let layer = format!(r#""chain": "sha256:{hex}", "diff": "sha256:{hex}", "size": 4096"#);
    let diff: DiffId = format!("sha256:{hex}").parse::<Digest>().unwrap().into();
    let id = LayerId::from(&ChainId::of(&[diff]).unwrap());
    check_golden::<super::layers::LayerFile>(
        "v1/image-layer.json",
        &format!(r#"{{"format": 1, {layer}, "entries": 3}}"#),
    );
    check_golden::<super::images::ImageFile>(
        "v1/image.json",
        &format!(
            r#"{{"format": 1, "id": "sha256:{hex}", "manifest": "sha256:{hex}",
                "layers": [{{"id": "{id}", {layer}}}], "made": 1700000000000}}"#
        ),
    );
    check_golden::<super::images::NameFile>(
        "v1/image-name.json",
        &format!(
            r#"{{"format": 1, "name": "docker.io/library/nginx:latest", "image": "sha256:{hex}",
                "target": "sha256:{hex}", "pinned": true, "made": 1700000000000}}"#
        ),
    );
    check_golden::<super::images::UsedFile>(
        "v1/image-used.json",
        r#"{"format": 1, "order": 7, "boot": "0123456789abcdef0123456789abcdef", "at": 1000,
            "wall": 1700000000000}"#,
    );
}
