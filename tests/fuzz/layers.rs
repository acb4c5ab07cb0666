//! Random layers, sound and damaged, into a store: nothing is made outside it, it ends without a
//! panic, what fails leaves nothing, and a copy of what succeeds is what overlayfs shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use roost::clock::Millis;
use roost::provisioner::copy::merge;
use roost::provisioner::store::{
    Collection, Contention, DiffId, LayerId, Store, StoreError, sha256,
};
use roost::provisioner::unpack::UnpackOptions;

use super::tests::{Random, plan, spent};

/// Inputs without `ROOST_FUZZ_SECS`.
const INPUTS: u64 = 150;
const LAYERS_MAX: usize = 3;
const ENTRIES_MAX: usize = 14;

const PARTS: &[&str] = &["a", "b", "c", ".", "..", "", "a", "b", "proc", "outside", "victim"];
const WHITEOUTS: &[&str] =
    &[".wh.a", ".wh.b", ".wh..wh..opq", ".wh..wh.x", ".wh.", ".wh..", ".wh...", ".wh.c"];
const RECORDS: &[(&str, &[u8])] = &[
    ("path", b"a/b/c"),
    ("path", b"\xff\n"),
    ("linkpath", b"../../outside/victim"),
    ("size", b"3"),
    ("size", b"18446744073709551615"),
    ("uid", b"7"),
    ("mtime", b"-1.5"),
    ("mtime", b"99999999999999"),
    ("SCHILY.xattr.user.a", b"\n\0="),
    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ("SCHILY.xattr.trusted.overlay.redirect", b"/outside"),
    ("GNU.sparse.map", b"0,1,4,2"),
    ("GNU.sparse.size", b"9"),
    ("GNU.sparse.size", b"9000000000000000000"),
    ("GNU.sparse.major", b"1"),
    ("GNU.sparse.name", b"../outside/sparse"),
];

fn path(random: &mut Random, outside: &str) -> Vec<u8> {
    if random.below(12) == 0 {
        return [outside, "/victim"].concat().into_bytes();
    }
    let mut parts: Vec<&str> =
        (0..=random.below(4)).map(|_| PARTS[random.below(PARTS.len())]).collect();
    if random.below(8) == 0 {
        parts.push(WHITEOUTS[random.below(WHITEOUTS.len())]);
    }
    if random.below(8) == 0 {
        parts.insert(0, "");
    }
    parts.join("/").into_bytes()
}

fn header(kind: u8, name: &[u8], link: &[u8], size: usize, random: &mut Random) -> [u8; 512] {
    let mut header = [0; 512];
    let put = |header: &mut [u8; 512], at: usize, len: usize, bytes: &[u8]| {
        let len = bytes.len().min(len);
        header[at..at + len].copy_from_slice(&bytes[..len]);
    };
    put(&mut header, 0, 100, name);
    put(&mut header, 100, 8, format!("{:07o}\0", random.below(0o10000)).as_bytes());
    put(&mut header, 108, 8, b"0000001\0");
    put(&mut header, 116, 8, b"0000002\0");
    put(&mut header, 124, 12, format!("{size:011o}\0").as_bytes());
    put(&mut header, 136, 12, format!("{:011o}\0", random.below(1 << 30)).as_bytes());
    header[156] = kind;
    put(&mut header, 157, 100, link);
    put(&mut header, 257, 8, if random.below(9) == 0 { b"ustar  \0" } else { b"ustar\x0000" });
    put(&mut header, 329, 8, format!("{:07o}\0", random.below(3)).as_bytes());
    put(&mut header, 337, 8, format!("{:07o}\0", random.below(3)).as_bytes());
    if random.below(80) == 0 {
        header[random.below(512)] = u8::try_from(random.below(256)).unwrap();
    }
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    put(&mut header, 148, 8, format!("{sum:06o}\0 ").as_bytes());
    header
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (rest + 1..rest + 4).find(|len| *len == rest + len.to_string().len()).unwrap();
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A tar file, mostly sound.
fn layer(random: &mut Random, outside: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut add = |header: [u8; 512], data: &[u8]| {
        tar.extend_from_slice(&header);
        tar.extend_from_slice(data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    for _ in 0..random.below(ENTRIES_MAX) {
        if random.below(8) == 0 {
            let records: Vec<u8> = (0..=random.below(3))
                .flat_map(|_| {
                    let (key, value) = RECORDS[random.below(RECORDS.len())];
                    record(key, value)
                })
                .collect();
            add(header(b'x', b"pax", b"", records.len(), random), &records);
        }
        let kind = b"0000005555552222113467LK"[random.below(24)];
        let (name, link) = (path(random, outside), path(random, outside));
        let data = if matches!(kind, b'0' | b'7' | b'L' | b'K') {
            path(random, outside)
        } else {
            Vec::new()
        };
        add(header(kind, &name, &link, data.len(), random), &data);
    }
    tar.resize(tar.len() + 1024, 0);
    if random.below(6) == 0 {
        let at = random.below(tar.len());
        match random.below(3) {
            0 => tar.truncate(at),
            1 => tar[at] ^= 1 << random.below(8),
            _ => drop(tar.drain(at..(at + random.below(700)).min(at + (tar.len() - at)))),
        }
    }
    tar
}

/// Type, mode, owner, length and time of everything in a tree, and the text of links.
fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    use std::os::unix::ffi::OsStrExt as _;
    let (mut all, mut open) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(path) = open.pop() {
        let found = path.symlink_metadata().unwrap();
        let kind = found.file_type();
        let text = if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if kind.is_file() && found.len() < 1000 {
            format!("{:?}", fs::read(&path).unwrap())
        } else {
            format!("{} {} {}", kind.is_fifo(), found.rdev(), found.len())
        };
        let (mode, uid, time) = (found.mode(), found.uid(), found.mtime());
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        all.insert(name, format!("{mode:o} {uid} {time} {text}"));
    }
    all
}

/// How many of its layers were sound, and how many not.
fn check(directory: &Path, random: &mut Random, mounts: bool) -> [u64; 2] {
    let outside = directory.join("outside");
    let store = Store::open(&directory.join("store"), Contention::Refuse).unwrap();
    let ingest = store.ingest();
    let mut chain: Vec<DiffId> = Vec::new();
    let mut ids: Vec<LayerId> = Vec::new();
    let mut refused = 0;
    for _ in 0..=random.below(LAYERS_MAX) {
        let tar = layer(random, outside.to_str().unwrap());
        chain.push(sha256(&tar).into());
        let options = UnpackOptions { bytes_max: 1 << 20, ..UnpackOptions::default() };
        match ingest.unpack(&chain, &tar[..], &options) {
            Ok(unpacked) => ids.push(unpacked.id),
            Err(StoreError::Unpack { .. }) => {
                chain.pop();
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        let there = fs::read_dir(store.layers_directory()).unwrap().count();
        assert_eq!(there, ids.iter().collect::<BTreeSet<_>>().len(), "what failed left something");
    }
    let layers: Vec<_> = ids.iter().map(|id| store.layer_fs(id)).collect();
    let copy = directory.join("copy");
    fs::create_dir(&copy).unwrap();
    merge(&layers, &copy).unwrap();
    if mounts && !layers.is_empty() {
        let lower: Vec<_> = layers.iter().rev().map(|path| path.to_str().unwrap()).collect();
        // Overlay wants two, or one and a place to write.
        let empty = directory.join("empty");
        fs::create_dir_all(&empty).unwrap();
        let options = format!("lowerdir={}:{}", lower.join(":"), empty.display());
        let shown = directory.join("shown");
        fs::create_dir_all(&shown).unwrap();
        let flags = MsFlags::MS_RDONLY;
        mount(Some("o"), &shown, Some("overlay"), flags, Some(options.as_str())).unwrap();
        let (theirs, ours) = (listing(&shown), listing(&copy));
        umount2(&shown, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(ours, theirs);
    }
    fs::remove_dir_all(&copy).unwrap();
    drop(ingest);
    let keep = BTreeSet::new();
    store.collect(&Collection { keep: &keep, bytes: u64::MAX, min_age: Millis(0) }).unwrap();
    for name in ["layers", "trash", "partial"] {
        let left = fs::read_dir(store.directory().join(name)).unwrap().count();
        assert_eq!(left, 0, "{name} was not given back");
    }
    assert_eq!(listing(&outside).len(), 2, "something was made outside");
    let victim = outside.join("victim");
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(victim.metadata().unwrap().nlink(), 1);
    [u64::try_from(ids.len()).unwrap(), refused]
}

#[test]
#[expect(clippy::print_stdout, reason = "the summary of a long run")]
fn no_layer_leads_out_or_leaves_anything() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let plan = plan();
    let base = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let directory = tempfile::tempdir_in(base).unwrap();
    fs::create_dir(directory.path().join("outside")).unwrap();
    fs::write(directory.path().join("outside/victim"), b"untouched").unwrap();
    // A mount namespace of this thread: nobody sees its mounts, and they end with it.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let mounts = unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && mount(None::<&str>, "/", None::<&str>, private, None::<&str>).is_ok();
    let (mut count, mut layers, mut slowest) = (0_u64, [0, 0], Duration::ZERO);
    while plan.goes_on(count, INPUTS) {
        let seed = plan.seed.wrapping_add(count);
        let began = spent();
        let path = directory.path();
        let found = catch_unwind(AssertUnwindSafe(|| check(path, &mut Random(seed), mounts)));
        let Ok([sound, refused]) = found else { panic!("ROOST_FUZZ_SEED={seed} finds something") };
        slowest = slowest.max(spent() - began);
        layers = [layers[0] + sound, layers[1] + refused];
        count += 1;
    }
    let [sound, refused] = layers;
    println!(
        "{count} images, {sound} layers sound and {refused} refused; compared with overlayfs: \
         {mounts}; slowest {slowest:?}; {plan:?}"
    );
    assert!(sound > count / 4 && refused > count / 4, "{sound} sound, {refused} refused");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}
