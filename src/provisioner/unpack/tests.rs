mod peers;

use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::testing::{Stack, Tar};
use super::*;
use crate::provisioner::store::sha256;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The error that a layer gives on top of others, as text with its cause.
#[track_caller]
fn refusal(below: &[Vec<u8>], tar: &[u8]) -> String {
    let error = Stack::of(below).push(tar).unwrap_err();
    let source = std::error::Error::source(&error);
    format!("{error}{}", source.map_or_else(String::new, |source| format!(": {source}")))
}

#[track_caller]
fn is_refused(tar: &[u8], why: &str) {
    let text = refusal(&[], tar);
    assert!(text.contains(why), "{text}");
}

/// One line of the merged tree.
#[track_caller]
fn line(stack: &Stack, path: &str) -> String {
    let tree = stack.merged();
    tree.get(path).unwrap_or_else(|| panic!("no {path} in {tree:#?}")).clone()
}

#[test]
fn each_kind_of_entry_comes_out_with_all_its_metadata() {
    let tar = Tar::new()
        .dir("./")
        .owner(1000, 2000)
        .dir("d/")
        .mode(0o4755)
        .file("d/setuid", b"x")
        .mtime(1)
        .symlink("d/s", "/etc/passwd")
        .mode(0o600)
        .entry(b'6', b"d/fifo", b"", b"")
        .device(b'3', "d/null", (1, 3))
        .device(b'4', "d/disk", (8, 1))
        .link("d/same", "d/setuid")
        .entry(b'7', b"d/contiguous", b"", b"c")
        .entry(0, b"old/", b"", b"");
    let stack = Stack::of(&[tar.end()]);
    let tree = stack.merged();
    let is = |path: &str, expected: &str| assert_eq!(tree[path], expected, "{path}");
    is("./d", "dir, 0755 1000:2000, 1000000000.000000000");
    is("./d/setuid", "file of 1: \"x\", 4755 1000:2000, 1000000000.000000000, one with ./d/same");
    assert!(tree["./d/same"].starts_with("file of 1: \"x\", 4755"));
    is("./d/s", "symlink to /etc/passwd, 0777 1000:2000, 1.000000000");
    is("./d/fifo", "fifo, 0600 1000:2000, 1.000000000");
    is("./d/null", "c 1:3, 0600 1000:2000, 1.000000000");
    is("./d/disk", "b 8:1, 0600 1000:2000, 1.000000000");
    assert!(tree["./d/contiguous"].starts_with("file of 1: \"c\""));
    assert!(tree["./old"].starts_with("dir, 0600"));
}

#[test]
fn every_compression_is_seen_from_the_first_bytes() {
    let tar = Tar::new().file("a", &[7; 100_000]).end();
    let diff = sha256(&tar);
    let parts = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
    for input in [tar.clone(), gzip(&tar), parts, zstd, skippable] {
        let mut stack = Stack::new();
        stack.push_as(&input, &diff, &UnpackOptions::default()).unwrap();
        assert!(line(&stack, "./a").starts_with("file of 100000"));
    }
    is_refused(b"BZh91AY&SY", "bzip2");
    is_refused(&[0xfd, b'7', b'z', b'X', b'Z', 0, 0], "xz");
    let mut damaged = gzip(&tar);
    damaged.truncate(60);
    is_refused(&damaged, "compression is damaged");
}

#[test]
fn a_layer_that_is_not_what_the_image_says_is_refused() {
    let tar = Tar::new().file("a", b"a").end();
    let mut stack = Stack::new();
    let other = sha256(b"other");
    let error = stack.push_as(&tar, &other, &UnpackOptions::default()).unwrap_err();
    assert!(matches!(error, UnpackError::WrongDiff { .. }), "{error}");
    // The digest is of everything, also of what follows the end.
    let longer = [tar.clone(), vec![1; 3000]].concat();
    stack.push(&longer).unwrap();
    let error = stack.push_as(&longer, &sha256(&tar), &UnpackOptions::default()).unwrap_err();
    assert!(error.is_content());
}

#[test]
fn a_reader_that_fails_ends_it_with_its_own_error() {
    struct Cancelled;
    impl Read for Cancelled {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("nobody waits any more"))
        }
    }
    let tar = Tar::new().file("a", &[7; 1_000_000]).end();
    for whole in [tar.clone(), gzip(&tar)] {
        let directory = tempfile::tempdir().unwrap();
        let input = whole[..whole.len() / 2].chain(Cancelled);
        let options = UnpackOptions::default();
        let error = unpack(directory.path(), &[], input, &sha256(&tar), &options).unwrap_err();
        assert!(matches!(error, UnpackError::Input { .. }), "{error}");
        assert!(!error.is_content());
    }
}

#[test]
fn names_that_lead_out_are_normalised_into_the_root() {
    let tar = Tar::new()
        .file("../outside/victim", b"1")
        .file("/etc/absolute", b"2")
        .file("a/../../../b", b"3")
        .file("./c//./d/", b"")
        .link("e", "../../b")
        .link("f", "/etc/absolute");
    let tree = Stack::of(&[tar.end()]).merged();
    let names: Vec<_> = tree.keys().map(String::as_str).collect();
    let expected = [
        ".",
        "./b",
        "./c",
        "./c/d",
        "./e",
        "./etc",
        "./etc/absolute",
        "./f",
        "./outside",
        "./outside/victim",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_directory_that_became_a_link_between_two_entries_does_not_lead_out() {
    for target in ["../outside", "../../outside", "/outside", "/../outside", "d2/../../outside"] {
        let tar = Tar::new()
            .dir("outside")
            .dir("d")
            .file("d/a", b"before")
            .symlink("d", target)
            .dir("d2")
            .file("d/victim", b"after")
            .link("stolen", "d/victim");
        let stack = Stack::of(&[tar.end()]);
        let tree = stack.merged();
        assert!(tree["./outside/victim"].contains("after"), "{tree:#?}");
        assert!(!tree.contains_key("./d/a"));
    }
}

#[test]
fn links_to_the_host_are_only_text() {
    let stack = Stack::new();
    let outside = stack.directory.path().join("outside");
    let outside = outside.to_str().unwrap();
    let below = Tar::new().symlink("way", outside).symlink("victim", "way/victim").end();
    let mut stack = Stack::of(&[below]);
    stack.push(&Tar::new().file("way/victim", b"inside").file("victim", b"too").end()).unwrap();
    let inside = format!(".{}/victim", stack.directory.path().join("x").display());
    // Within the tree there is the whole path now.
    assert!(stack.merged().keys().any(|name| name.ends_with("/outside/victim")), "{inside}");
    let tar = Tar::new().link("a", &format!("{outside}/victim2")).end();
    assert!(refusal(&[], &tar).contains("is not there"));
    // A magic link of the kernel is one of the tree like any other.
    Stack::of(&[Tar::new().symlink("p", "/proc/self/root").file("p/x", b"").end()]);
}

#[test]
fn links_in_a_circle_and_files_as_directories_are_refused() {
    let tar = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").end();
    is_refused(&tar, "too many symbolic links");
    is_refused(&Tar::new().file("a", b"").file("a/x", b"").end(), "not a directory");
    is_refused(&Tar::new().symlink(".", "x").end(), "root can only be a directory");
    is_refused(&Tar::new().dir("d").link("a", "d").end(), "can't lead to a directory");
    is_refused(&Tar::new().link("a", "gone").end(), "is not there");
    is_refused(&Tar::new().symlink("a", "").end(), "needs a target");
}

#[test]
fn of_two_entries_with_one_name_the_later_counts() {
    let tar = Tar::new()
        .dir("a")
        .file("a/x", b"x")
        .file("a", b"file")
        .file("b", b"first")
        .link("c", "b")
        .file("b", b"second")
        .symlink("e", "b")
        .dir("e")
        .dir("f")
        .file("f/kept", b"")
        .mode(0o700)
        .entry(b'5', b"f", b"", b"")
        .link("b", "b");
    let tree = Stack::of(&[tar.end()]).merged();
    assert!(tree["./a"].contains("file"));
    assert!(tree["./b"].contains("second") && tree["./c"].contains("first"), "{tree:#?}");
    assert!(tree["./e"].starts_with("dir"));
    assert!(tree["./f"].contains("0700") && tree.contains_key("./f/kept"));
}

#[test]
fn long_and_odd_names_are_kept_byte_for_byte() {
    let long = "d/".repeat(90) + &"n".repeat(200);
    let tar = Tar::new()
        .pax(&[("path", long.as_bytes())])
        .file("short", b"pax")
        .entry(b'L', b"././@LongLink", b"", format!("g{long}\0").as_bytes())
        .file("short", b"gnu")
        .entry(b'K', b"././@LongLink", b"", long.as_bytes())
        .symlink("to", "short")
        .pax(&[("path", b"not\xffutf8\n")])
        .file("short", b"");
    let stack = Stack::of(&[tar.end()]);
    let tree = stack.merged();
    assert!(tree[&format!("./{long}")].contains("pax"));
    assert!(tree[&format!("./g{long}")].contains("gnu"));
    assert!(tree["./to"].starts_with(&format!("symlink to {long}")));
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not\xffutf8\n");
    assert!(stack.layers[0].join(Path::new(name)).exists());
}

#[test]
fn names_have_limits() {
    let named = |name: String| Tar::new().pax(&[("path", name.as_bytes())]).file("x", b"").end();
    is_refused(&named("a".repeat(256)), "longer than 255");
    is_refused(&named("a/".repeat(257)), "deeper than 256");
    is_refused(&named("aaaaaaaaa/".repeat(400)), "longer than 3840");
    is_refused(&named("a\0b".to_owned()), "null byte");
    // Each name is short, but each goes on where the one before it ended.
    let (mut tar, mut name) = (Tar::new(), "l".to_owned());
    for _ in 0..20 {
        tar = tar.symlink(&name, &"d/".repeat(20));
        name.push_str("/l");
    }
    is_refused(&tar.end(), "deeper than a path may be");
}

#[test]
fn capabilities_are_kept_even_with_a_line_feed_in_them() {
    let capability = [1, 0, 0, 2, b'\n', 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .owner(5, 5)
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .file("ping", b"")
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.user.kept", b"1"),
        ])
        .dir("d");
    let mut stack = Stack::new();
    let report = stack.push(&tar.end()).unwrap();
    assert_eq!(report.ignored.len(), 3, "{:?}", report.ignored);
    let text = format!("security.capability={capability:?}");
    assert!(line(&stack, "./ping").contains(&text), "{}", line(&stack, "./ping"));
    assert!(line(&stack, "./d").contains("user.kept=[49]"));
    assert!(!line(&stack, "./d").contains("overlay"));
}

#[test]
fn a_directory_that_is_not_mentioned_is_the_one_below() {
    let below = Tar::new()
        .owner(7, 8)
        .mtime(5)
        .pax(&[("SCHILY.xattr.user.a", b"1")])
        .dir("a")
        .mode(0o700)
        .entry(b'5', b"a/b", b"", b"")
        .file("a/b/old", b"");
    let below = below.end();
    let stack = Stack::of(&[below.clone(), Tar::new().file("a/b/new", b"").end()]);
    assert_eq!(stack.top()["./a"], "dir, 0755 7:8, 5.000000000, user.a=[49]");
    assert_eq!(stack.top()["./a/b"], "dir, 0700 7:8, 5.000000000");
    assert!(stack.merged().contains_key("./a/b/old"));
    // Where there is none, it is the same every time.
    let stack = Stack::of(&[Tar::new().mtime(77).file("x/y", b"").end()]);
    assert_eq!(stack.top()["./x"], "dir, 0755 0:0, 77.000000000");
}

#[test]
fn a_link_of_a_layer_below_leads_to_where_it_leads_there() {
    let below = Tar::new().dir("usr").dir("usr/lib").symlink("lib", "usr/lib").end();
    let tar = Tar::new().file("lib/so", b"1").link("lib/so.1", "lib/so").end();
    let stack = Stack::of(&[below, tar]);
    assert!(line(&stack, "./lib").starts_with("symlink"));
    assert!(line(&stack, "./usr/lib/so.1").contains("one with ./usr/lib/so"));
}

#[test]
fn a_hard_link_to_a_file_below_is_one_with_it() {
    let below = Tar::new().dir("d").owner(3, 4).file("d/f", b"content").symlink("s", "x").end();
    let stack = Stack::of(&[below, Tar::new().link("g", "d/f").link("t", "s").end()]);
    assert!(line(&stack, "./g").contains("content"));
    assert!(line(&stack, "./g").ends_with("3:4, 1000000000.000000000, one with ./d/f"));
    assert!(line(&stack, "./t").starts_with("symlink to x"));
    // What is only there to be linked to is hidden as what is below, be it before or after.
    let below = [Tar::new().file("d/f", b"content").end()];
    for hidden in ["d/.wh.f", "d/.wh..wh..opq", ".wh.d"] {
        let tar = Tar::new().link("g", "d/f").file(hidden, b"").end();
        let stack = Stack::of(&[below[0].clone(), tar]);
        assert!(line(&stack, "./g").contains("content"), "{hidden}");
        assert!(!stack.merged().contains_key("./d/f"), "{hidden}");
    }
    let hidden = Tar::new().entry(b'0', b"d/.wh.f", b"", b"").link("g", "d/f").end();
    let below = Tar::new().file("d/f", b"").end();
    assert!(refusal(&[below], &hidden).contains("is not there"));
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let below = Tar::new().file("a", b"").file("d/x", b"").file("d/y", b"").file("e/z", b"").end();
    let tar = Tar::new()
        .file("d/x", b"mine")
        .file(".wh.a", b"")
        .file(".wh.d", b"")
        .file(".wh.never", b"")
        .file(".wh.e", b"")
        .file("e/new", b"")
        .end();
    let stack = Stack::of(&[below.clone(), tar]);
    let names: Vec<_> = stack.merged().into_keys().collect();
    assert_eq!(names, [".", "./d", "./d/x", "./e", "./e/new"]);
    assert!(!stack.top().contains_key("./never"), "overlayfs would show it");
    for bad in [".wh.", "d/.wh..", ".wh..."] {
        assert!(refusal(&[], &Tar::new().file(bad, b"").end()).contains("whiteout of nothing"));
    }
}

#[test]
fn an_opaque_directory_shows_only_what_its_layer_has() {
    let below = Tar::new().file("d/x", b"").file("d/s/y", b"").file("top", b"").end();
    let second = Tar::new().file("d/.wh.x", b"").file("d/s/w", b"").end();
    for names in [["d/n", "d/.wh..wh..opq", "d/.wh.s"], ["d/.wh.s", "d/.wh..wh..opq", "d/n"]] {
        let tar = names.iter().fold(Tar::new(), |tar, name| tar.file(name, b""));
        let stack = Stack::of(&[below.clone(), second.clone(), tar.end()]);
        let names: Vec<_> = stack.merged().into_keys().collect();
        assert_eq!(names, [".", "./d", "./d/n", "./top"]);
        assert!(!stack.top().values().any(|line| line.starts_with("c 0:0")), "{:?}", stack.top());
    }
    let tar = Tar::new().file("d/k", b"").file(".wh..wh..opq", b"").file("new", b"").end();
    let names: Vec<_> = Stack::of(&[below, tar]).merged().into_keys().collect();
    assert_eq!(names, [".", "./d", "./d/k", "./new"]);
}

#[test]
fn a_directory_instead_of_something_else_hides_what_was_below_that() {
    let below = Tar::new().file("d/x", b"").end();
    for first in [Tar::new().file("d", b""), Tar::new().file(".wh.d", b"")] {
        let stack = Stack::of(&[below.clone(), first.dir("d").file("d/y", b"").end()]);
        let names: Vec<_> = stack.merged().into_keys().collect();
        assert_eq!(names, [".", "./d", "./d/y"]);
    }
}

#[test]
fn what_overlayfs_would_take_for_its_own_is_refused_or_left_out() {
    is_refused(&Tar::new().device(b'3', "w", (0, 0)).end(), "whiteout");
    let mut stack = Stack::new();
    let tar = Tar::new().file(".wh..wh.plnk", b"").dir(".wh..wh.orph").file("a", b"").end();
    assert_eq!(stack.push(&tar).unwrap().ignored.len(), 1);
    assert_eq!(stack.merged().len(), 2);
    let options = UnpackOptions { devices: Devices::Refuse, ..UnpackOptions::default() };
    let tar = Tar::new().device(b'3', "null", (1, 3)).end();
    let error = stack.push_as(&tar, &sha256(&tar), &options).unwrap_err();
    assert!(error.to_string().contains("devices are not allowed"), "{error}");
}

#[test]
fn sparse_files_have_their_holes() {
    let size = 10 << 20;
    let tail = b"end";
    let offset = size - tail.len();
    let (size_text, map) = (size.to_string(), format!("0,4,{offset},3"));
    let data = b"headend";
    let expected = {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(b"head");
        bytes[offset..].copy_from_slice(tail);
        sha256(&bytes).to_string()
    };
    let old = {
        let tar = Tar::new();
        let mut header = tar.header(b'S', b"old", b"", 7);
        header[257..265].copy_from_slice(b"ustar  \0");
        let numbers = format!("{:011o}\0{:011o}\0{offset:011o}\0{:011o}\0", 0, 4, 3);
        header[386..386 + numbers.len()].copy_from_slice(numbers.as_bytes());
        header[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        tar.with(header, data)
    };
    let in_data = [format!("2\n0\n4\n{offset}\n3\n").as_bytes(), &[0; 512]].concat();
    let in_data = [&in_data[..512], data].concat();
    let text = |text: &'static str| text.as_bytes();
    let offset_text = offset.to_string();
    let tar = old
        .pax(&[("GNU.sparse.size", size_text.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
        .file("p01", data)
        .pax(&[
            ("GNU.sparse.size", size_text.as_bytes()),
            ("GNU.sparse.offset", text("0")),
            ("GNU.sparse.numbytes", text("4")),
            ("GNU.sparse.offset", offset_text.as_bytes()),
            ("GNU.sparse.numbytes", text("3")),
        ])
        .file("p00", data)
        .pax(&[
            ("GNU.sparse.major", text("1")),
            ("GNU.sparse.minor", text("0")),
            ("GNU.sparse.name", text("p10")),
            ("GNU.sparse.realsize", size_text.as_bytes()),
        ])
        .file("GNUSparseFile.1/p10", &in_data)
        .file("after", b"after");
    let mut stack = Stack::new();
    let report = stack.push(&tar.end()).unwrap();
    assert!(report.size < 200_000, "{}", report.size);
    let tree = stack.merged();
    for name in ["./old", "./p01", "./p00", "./p10"] {
        assert!(tree[name].contains(&expected), "{name}: {}", tree[name]);
    }
    assert!(tree.contains_key("./after"));
    let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    assert!(blocks(&stack.layers[0].join("p10")) < 100);
    let target = tempfile::tempdir().unwrap();
    crate::provisioner::copy::merge(&stack.layers, target.path()).unwrap();
    assert!(blocks(&target.path().join("p10")) < 100, "a copy has the holes too");
}

#[test]
fn what_fills_up_the_last_block_may_be_missing() {
    // `umoci insert` ends a layer with the last byte of its last file.
    let whole = Tar::new().file("a", &[1; 700]).open_end();
    for len in [512 + 700, 512 + 701, 512 + 1023] {
        assert!(line(&Stack::of(&[whole[..len].to_vec()]), "./a").starts_with("file of 700"));
    }
    is_refused(&whole[..512 + 699], "ends in the middle of a file");
    let header = Tar::new().pax(&[("path", b"a")]).open_end();
    is_refused(&header[..512 + 9], "ends with an extended header");
}

#[test]
fn a_tar_file_that_is_not_sound_is_refused() {
    is_refused(b"<html>not found</html>", "ends in the middle of a header");
    is_refused(&[b'<'; 512], "checksum");
    let whole = Tar::new().file("a", &[1; 2000]).open_end();
    is_refused(&whole[..1024], "ends in the middle of a file");
    is_refused(&Tar::new().entry(b'M', b"a", b"", b"").end(), "unknown type");
    is_refused(&Tar::new().pax(&[("path", b"a")]).end(), "ends with an extended header");
    is_refused(&Tar::new().entry(b'x', b"", b"", b"nonsense").file("a", b"").end(), "malformed");
    is_refused(&Tar::new().pax(&[("uid", b"4294967295")]).file("a", b"").end(), "owner");
    is_refused(&Tar::new().pax(&[("size", b"99999999999")]).file("a", b"").end(), "middle of");
    is_refused(
        &Tar::new().pax(&[("size", b"18446744073709551615")]).file("a", b"").end(),
        "longer",
    );
    let many = (0..40).fold(Tar::new(), |tar, _| tar.pax(&[("comment", b"x")]));
    is_refused(&many.file("a", b"").end(), "too many extended headers");
    let huge = Tar::new();
    let header = huge.header(b'x', b"pax", b"", 1 << 32);
    is_refused(&huge.with(header, b"").end(), "bytes of an extended header");
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    let map = |map: &[u8], size: &[u8]| {
        let records = [("GNU.sparse.size", size), ("GNU.sparse.map", map)];
        Tar::new().pax(&records).file("a", b"data").end()
    };
    is_refused(&map(b"0,4", b"3"), "after its end");
    is_refused(&map(b"0,5", b"9"), "as much data");
    is_refused(&map(b"0,2,1,2", b"9"), "not in order");
    is_refused(&map(b"0,4,1", b"9"), "odd number");
    is_refused(&map(b"0,-4", b"9"), "malformed");
    is_refused(&map(b"0,18446744073709551615", b"9"), "after its end");
    is_refused(&map(b"0,4", b"9223372036854775807"), "length of");
}

#[test]
fn too_much_of_anything_is_refused() {
    let options = UnpackOptions { bytes_max: 1 << 20, entries_max: 3, ..UnpackOptions::default() };
    let check = |tar: Vec<u8>, what: &str| {
        let mut stack = Stack::new();
        let error = stack.push_as(&gzip(&tar), &sha256(&tar), &options).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.is_content());
    };
    check(Tar::new().file("a", &vec![0; 2 << 20]).end(), "1048576 bytes");
    check(["a", "b", "c", "d"].iter().fold(Tar::new(), |t, n| t.file(n, b"")).end(), "3 entries");
    let mut stack = Stack::of(&[Tar::new().file("big", &vec![1; 2 << 20]).end()]);
    let tar = Tar::new().link("a", "big").end();
    let error = stack.push_as(&tar, &sha256(&tar), &options).unwrap_err();
    assert!(error.to_string().contains("files below"), "{error}");
    let names: Vec<_> = (0..200).map(|n| format!("SCHILY.xattr.user.a{n}")).collect();
    let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    is_refused(&Tar::new().pax(&records).file("a", b"").end(), "128 extended attributes");
    let long = vec![b'x'; (64 << 10) + 1];
    let tar = Tar::new().pax(&[("SCHILY.xattr.user.a", &long)]).file("a", b"").end();
    is_refused(&tar, "longer than the kernel allows");
}

/// Zeros without end, as a zstd frame that repeats.
#[test]
fn a_decompression_bomb_is_noticed_before_it_fills_the_disk() {
    let header = Tar::new().header(b'0', b"bomb", b"", 7 << 30);
    let head = Tar::new().with(header, b"").open_end();
    let zeros = zstd::encode_all(io::repeat(0).take(64 << 20), 3).unwrap();
    let frames = zstd::encode_all(&head[..], 3).unwrap();
    let input = [frames, zeros.repeat(40)].concat();
    let mut stack = Stack::new();
    let error = stack.push_as(&input, &sha256(b""), &UnpackOptions::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Bomb { .. }), "{error}");
}
