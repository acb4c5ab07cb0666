//! Lints of the tree that no compiler does: which module may know which, who owns a crate, what
//! the pure modules must not touch, how long a file may get, and that no file is forgotten.
//!
//! Every rule is a function from the tree to what is wrong with it, tried on small trees first.
//! Code is compared without its comments and strings, and without `mod tests`.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{fmt, fs};

    const FILE_LINES_MAX: usize = 800;

    /// The modules of the first rank, what each may use of the others, and what not even so.
    /// A later issue that adds a module adds its line.
    const ARROWS: &[Arrow] = &[
        // A clone enters its cgroup itself, so `sys` knows by what.
        arrow("sys", &["cgroup::Entry"], &[]),
        arrow("clock", &["sys"], &[]),
        arrow("ids", &["clock", "sys"], &[]),
        arrow("errors", &[], &[]),
        arrow("metrics", &["ids", "state::record"], &[]),
        arrow(
            "config",
            // It reads numbers as manifests have them, and says as helpfully what is wrong.
            &[
                "clock",
                "ids",
                "state::paths",
                "executor::boot",
                "manifest::pod",
                "manifest::quantity",
                "manifest::closest",
                "reconciler::pressure",
                "network::subnet",
            ],
            &[],
        ),
        arrow(
            "manifest",
            &[
                "clock",
                "ids",
                "metrics",
                // How images are called, and which one it was.
                "provisioner::reference",
                "provisioner::store",
                "state::record",
                "sys",
            ],
            &["provisioner::store::Store"],
        ),
        arrow("state", &["clock", "ids", "manifest", "metrics", "sys"], &["manifest::watcher"]),
        // What executors say is part of what it decides on; how it is said is not.
        arrow(
            "reconciler",
            &[
                "clock",
                "ids",
                "manifest",
                "provisioner::reference",
                "provisioner::store::ImageId",
                "state::record",
                "executor::protocol",
            ],
            &["manifest::watcher"],
        ),
        arrow("cgroup", &["clock", "ids", "manifest::pod", "state::paths", "sys"], &[]),
        arrow(
            "containerizer",
            &[
                "cgroup",
                "clock",
                "ids",
                "manifest",
                "provisioner::copy",
                "provisioner::store::LayerId",
                "state",
                "sys",
            ],
            &["manifest::watcher", "state::store"],
        ),
        arrow(
            "executor",
            &["cgroup", "clock", "containerizer", "errors", "ids", "manifest", "state", "sys"],
            &["manifest::watcher", "state::store"],
        ),
        // Images can be loaded without an agent: of `state` only how one fact is kept in a file.
        arrow("provisioner", &["clock", "ids", "state::checkpoint", "sys"], &[]),
        arrow(
            "network",
            &[
                "cgroup",
                "clock",
                "errors",
                "ids",
                "manifest::pod",
                "state::checkpoint",
                "state::paths",
                "state::record",
                "sys",
            ],
            &[],
        ),
        // How a container is made, and what a pod does next, is the executor's to know.
        arrow(
            "agent",
            &[
                "cgroup",
                "clock",
                "config",
                "errors",
                "executor",
                "ids",
                "manifest",
                "metrics",
                "network",
                "provisioner",
                "reconciler",
                "state",
                "sys",
                // It has the API served; what that looks like is not its business.
                "api",
            ],
            &["executor::machine"],
        ),
        // Records are converted by hand: their form must be free to change.
        arrow(
            "api",
            &[
                "agent",
                "clock",
                "config",
                "errors",
                "ids",
                "manifest",
                "metrics",
                "state::paths",
                "sys",
            ],
            &[],
        ),
        arrow(
            "cli",
            &[
                "agent",
                "api",
                "clock",
                "config",
                "errors",
                "ids",
                "manifest",
                "provisioner::reference",
                "state::paths",
                "sys",
            ],
            &[],
        ),
    ];

    /// Decisions only: what they need of the world comes in as an argument.
    const PURE: &[&str] = &[
        "src/manifest",
        "src/reconciler",
        "src/state/record",
        "src/state/paths",
        "src/executor/machine",
        "src/executor/question",
        "src/executor/sessions",
        "src/network/config",
        "src/network/record",
        "src/network/request",
        "src/network/rules",
        "src/network/subnet",
        "src/provisioner/reference",
        "src/provisioner/image",
    ];
    const IMPURE: &[&str] = &["src/manifest/watcher"];
    const NOT_IN_PURE: &[&str] = &[
        "tokio",
        "nix",
        "rustix",
        "libc",
        "sled",
        "notify",
        "tracing",
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::os",
        "std::time::Instant",
        "std::time::SystemTime",
        "crate::sys",
    ];

    /// One file, or one module, knows the crate; everybody else knows the module.
    const OWNERS: &[(&str, &str)] = &[
        ("sled", "src/state/store/sled"),
        ("bincode", "src/state/codec"),
        ("notify", "src/manifest/watcher"),
        ("cgroups_rs", "src/cgroup/base.rs"),
        ("unsafe", "src/sys"),
    ];

    /// What may lie at the top; anything else there is a dotfile.
    const TOP: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "src",
        "specs",
        "state",
        "tests",
        "packaging",
        "benches",
        "target",
    ];

    // In two parts, so that this file does not find itself.
    const NOTES: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
    const MACHINE_PATHS: [&str; 3] =
        [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];

    #[test]
    fn every_module_uses_only_what_its_rank_may_know() {
        check(arrows);
    }

    #[test]
    fn pure_modules_touch_nothing_of_the_world() {
        check(purity);
    }

    #[test]
    fn each_crate_with_an_owner_is_used_by_its_owner_only() {
        check(owners);
    }

    #[test]
    fn no_source_file_is_longer_than_a_reader_can_hold() {
        check(lengths);
    }

    #[test]
    fn every_module_says_first_what_it_is_for() {
        check(module_docs);
    }

    #[test]
    fn nothing_sleeps_where_it_could_wait_for_a_condition() {
        check(sleeps);
    }

    #[test]
    fn notes_to_do_something_later_name_an_issue() {
        check(notes);
    }

    #[test]
    fn no_file_names_a_path_of_somebody_s_machine() {
        check(machine_paths);
    }

    #[test]
    fn every_sample_is_explained_and_every_machine_script_is_run() {
        check(forgotten_files);
    }

    #[test]
    fn the_top_level_holds_only_what_the_design_names() {
        check(top_level);
    }

    #[test]
    fn paths_are_found_in_use_trees_and_in_expressions() {
        let source = "use std::{fmt, fs::{self, File as F}};\nuse crate::ids::*;\n\
                      fn f() { tokio::spawn(x); a.fs(); \"std::net::IpAddr\"; Vec::<u8>::new() }\n\
                      // std::env::var\n";
        let found: Vec<_> =
            paths(source).into_iter().map(|(line, path)| (line, path.join("::"))).collect();
        let has = |line, path: &str| found.contains(&(line, path.to_owned()));
        assert!(has(1, "std::fmt") && has(1, "std::fs") && has(1, "std::fs::File"), "{found:?}");
        assert!(has(2, "crate::ids") && has(3, "tokio::spawn"), "{found:?}");
        let text = format!("{found:?}");
        assert!(!text.contains("IpAddr") && !text.contains("env"), "{found:?}");
    }

    #[test]
    fn comments_strings_and_lifetimes_are_told_from_code() {
        let source = "a /* x /* y */ z */ b // c\n\"d\\\"e\" r#\"f\"g\"# 'h' '\\'' &'i j b\"k\"";
        let code = code_of(source);
        let words: Vec<_> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "&'i", "j"], "{code}");
        assert_eq!(code.lines().count(), 2, "lines keep their numbers");
    }

    #[test]
    fn a_forbidden_arrow_is_found_in_each_form() {
        let arrow = |path, text| faults(arrows, &[(path, text)]);
        assert_eq!(arrow("src/ids.rs", "use crate::agent::Agent;"), ["src/ids.rs:1"]);
        assert_eq!(
            arrow("src/executor/x.rs", "\nuse crate::{state::store::S};"),
            ["src/executor/x.rs:2"]
        );
        assert_eq!(
            arrow("src/api/x.rs", "fn f() { super::super::state::record::g() }"),
            ["src/api/x.rs:1"]
        );
        assert_eq!(arrow("src/executor/x.rs", "use crate::state;"), ["src/executor/x.rs:1"]);
        assert_eq!(arrow("src/mystery.rs", ""), ["src/mystery.rs:1"]);
        assert_eq!(
            arrow("src/bin/roost-executor.rs", "use roost::state::store::S;"),
            ["src/bin/roost-executor.rs:1"]
        );
        assert!(
            arrow("src/api/x.rs", "use crate::agent::A;\nuse super::y;\nuse crate::api::z;")
                .is_empty()
        );
        assert!(
            arrow("src/ids.rs", "#[cfg(test)]\nmod tests {\n use crate::agent::A;\n}").is_empty()
        );
    }

    #[test]
    fn an_impure_use_is_found_where_it_counts() {
        let pure = |path, text| faults(purity, &[(path, text)]);
        assert_eq!(
            pure("src/reconciler/plan.rs", "use std::{fs, fmt};"),
            ["src/reconciler/plan.rs:1"]
        );
        assert_eq!(
            pure("src/executor/machine.rs", "\n\ntracing::info!()"),
            ["src/executor/machine.rs:3"]
        );
        assert_eq!(pure("src/manifest.rs", "use crate::sys;"), ["src/manifest.rs:1"]);
        assert_eq!(
            pure("src/state/record.rs", "crate::clock::WallTime::now()"),
            ["src/state/record.rs:1"]
        );
        assert!(pure("src/manifest/watcher.rs", "use std::fs;").is_empty());
        assert!(pure("src/manifest/x/tests.rs", "use std::fs;").is_empty());
        assert!(pure("src/agent.rs", "use std::fs;").is_empty());
    }

    #[test]
    fn every_small_rule_finds_its_fault() {
        let found = |rule: Rule, path, text: &str| faults(rule, &[(path, text)]);
        assert_eq!(found(owners, "src/agent.rs", "sled::open()"), ["src/agent.rs:1"]);
        assert_eq!(found(owners, "src/agent.rs", "\nunsafe { f() }"), ["src/agent.rs:2"]);
        assert!(found(owners, "src/agent.rs", "mod sled;\nuse sled::x;").is_empty());
        assert!(found(owners, "src/sys.rs", "unsafe { f() }").is_empty());
        assert!(found(owners, "src/agent.rs", "#[expect(unsafe_code)] // unsafe").is_empty());
        assert_eq!(found(lengths, "src/a.rs", &"\n".repeat(801)), ["src/a.rs:801"]);
        assert!(found(lengths, "src/a.rs", &"\n".repeat(800)).is_empty());
        assert_eq!(found(module_docs, "src/a.rs", "use b;\n//! late"), ["src/a.rs:1"]);
        assert_eq!(found(sleeps, "tests/a.rs", "\nthread::sleep(d)"), ["tests/a.rs:2"]);
        assert_eq!(found(sleeps, "src/a.rs", "use std::thread::sleep;"), ["src/a.rs:1"]);
        let [todo, _] = NOTES;
        assert_eq!(found(notes, "src/a.rs", &format!("\n// {todo}: later")), ["src/a.rs:2"]);
        assert!(found(notes, "src/a.rs", &format!("// {todo}(#12): later")).is_empty());
        let [_, root, _] = MACHINE_PATHS;
        assert_eq!(found(machine_paths, "src/a.rs", &format!("\"{root}x\"")), ["src/a.rs:1"]);
        assert!(found(machine_paths, "src/a.rs", &format!("image{root}x")).is_empty());
        assert_eq!(found(top_level, "notes.txt", ""), ["notes.txt:1"]);
        assert!(found(top_level, ".notes", "").is_empty());
    }

    #[test]
    fn a_forgotten_file_is_found() {
        let run = ("tests/run", "for script in tests/vm/*.sh; do");
        let readme = ("specs/README.md", "`a.yaml` shows all");
        let found =
            |files: &[(&str, &str)]| faults(forgotten_files, &[files, &[run, readme]].concat());
        assert_eq!(found(&[("specs/b.yaml", "")]), ["specs/b.yaml:1"]);
        assert_eq!(found(&[("specs/a.txt", "")]), ["specs/a.txt:1"]);
        assert_eq!(found(&[("specs/invalid/a.yaml", "")]), ["specs/invalid/a.yaml:1"]);
        assert_eq!(found(&[("specs/invalid/a.yaml.snap", "")]), ["specs/invalid/a.yaml.snap:1"]);
        assert_eq!(found(&[("tests/vm/notes", "")]), ["tests/vm/notes:1"]);
        assert!(found(&[("specs/a.yaml", ""), ("tests/vm/a.sh", "#!/bin/bash\n")]).is_empty());
        let never_run = [("tests/vm/a.sh", "#!/bin/bash\n"), ("tests/run", "")];
        assert_eq!(faults(forgotten_files, &never_run), ["tests/run:1"]);
    }

    fn arrows(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        for file in tree.under("src/") {
            let module = match file.path.as_str() {
                "src/lib.rs" | "src/main.rs" => continue,
                "src/bin/roost-executor.rs" => vec!["executor"],
                path => module_of(path),
            };
            let Some(arrow) = ARROWS.iter().find(|arrow| arrow.of == module[0]) else {
                faults.push(file.fault(1, "this module has no line in ARROWS of tests/tidy.rs"));
                continue;
            };
            for (line, path) in paths(file.tested_code()) {
                let Some(target) = absolute(&module, &path) else { continue };
                let first = target.split("::").next().unwrap_or_default();
                if first == arrow.of || !ARROWS.iter().any(|known| known.of == first) {
                    continue;
                }
                let named = |list: &[&str]| list.iter().any(|prefix| begins(&target, prefix));
                // `use crate::state;` opens everything below it, to paths that do not say so.
                let opens = arrow.not.iter().any(|refused| begins(refused, &target));
                if !named(arrow.may) || named(arrow.not) || opens {
                    faults
                        .push(file.fault(line, format!("`{}` must not know `{target}`", arrow.of)));
                }
            }
        }
        faults
    }

    fn purity(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        let within = |path: &str, roots: &[&str]| {
            roots.iter().any(|root| {
                path.strip_prefix(root).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            })
        };
        for file in tree.under("src/") {
            if !within(&file.path, PURE) || within(&file.path, IMPURE) {
                continue;
            }
            for (line, path) in paths(file.tested_code()) {
                let path = path.join("::");
                let reads_clock = path.starts_with("crate::clock") || path.contains("Time::");
                let banned = NOT_IN_PURE.iter().any(|banned| begins(&path, banned));
                if banned || (reads_clock && path.ends_with("::now")) {
                    faults.push(file.fault(line, format!("a pure module must not use `{path}`")));
                }
            }
        }
        faults
    }

    fn owners(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        for file in tree.under("src/") {
            for (line, path) in paths(file.tested_code()) {
                for (name, owner) in OWNERS.iter().filter(|(name, _)| path[0] == *name) {
                    let used = (*name == "unsafe" || path.len() > 1)
                        && !file.path.starts_with(owner)
                        && !file.text.contains(&format!("mod {name};"));
                    if used {
                        faults.push(file.fault(line, format!("`{name}` belongs to {owner}")));
                    }
                }
            }
        }
        faults
    }

    /// Whether a script for the test machine reads the file in.
    fn is_read_in(tree: &Tree, name: &str) -> bool {
        let line = format!("/tests/vm/{name}\n");
        let mut scripts = tree.files.iter().filter(|file| file.path.starts_with("tests/vm/"));
        scripts.any(|file| file.path.ends_with(".sh") && file.text.contains(&line))
    }

    fn lengths(tree: &Tree) -> Vec<Fault> {
        let long = tree.under("src/").filter(|file| file.text.lines().count() > FILE_LINES_MAX);
        long.map(|file| file.fault(FILE_LINES_MAX + 1, "the file is too long: split it")).collect()
    }

    fn module_docs(tree: &Tree) -> Vec<Fault> {
        let silent = tree.under("src/").filter(|file| {
            // What tests are for stands in the module that they test.
            !file.path.ends_with("/tests.rs")
                && !file.text.starts_with("//!")
                && !file.text.starts_with("#![doc = include_str!")
        });
        silent.map(|file| file.fault(1, "a module begins with `//!` and its purpose")).collect()
    }

    fn sleeps(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        for file in tree.under("src/").chain(tree.under("tests/")) {
            for (line, path) in paths(&file.text) {
                if path.ends_with(&["thread".to_owned(), "sleep".to_owned()]) {
                    faults.push(file.fault(line, "wait for the condition instead of sleeping"));
                }
            }
        }
        faults
    }

    fn notes(tree: &Tree) -> Vec<Fault> {
        let unnamed = |line: &str| {
            NOTES.iter().any(|note| {
                line.split_once(note).is_some_and(|(_, rest)| {
                    let digits = rest.strip_prefix("(#").unwrap_or_default();
                    !digits.starts_with(|c: char| c.is_ascii_digit())
                })
            })
        };
        tree.lines_with(unnamed, "a note for later names its issue, as in (#12)")
    }

    fn machine_paths(tree: &Tree) -> Vec<Fault> {
        // Only where a path begins: a part of a longer one with such a name is somebody else's.
        let absolute = |line: &str| {
            MACHINE_PATHS.iter().any(|path| {
                line.match_indices(path).any(|(at, _)| {
                    let before = line[..at].chars().next_back().unwrap_or(' ');
                    // Docker's credentials of root are there on every machine.
                    let is_docker_s = line[at..].starts_with(concat!("/", "root/.docker/"));
                    !(before.is_alphanumeric() || "_-.})>*".contains(before) || is_docker_s)
                })
            })
        };
        tree.lines_with(absolute, "this path exists on one machine only")
    }

    fn forgotten_files(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        let text_of = |path: &str| tree.files.iter().find(|file| file.path == path);
        let explained = text_of("specs/README.md").map_or("", |file| file.text.as_str());
        let mut scripts = 0;
        for file in &tree.files {
            let parts: Vec<_> = file.path.split('/').collect();
            let extension = file.path.rsplit('.').next().unwrap_or_default();
            match parts.as_slice() {
                ["specs", "README.md"] | ["specs", "invalid", "README.md"] => {}
                ["specs", "invalid", ..] if extension == "snap" => {
                    let manifest = text_of(file.path.trim_end_matches(".snap"));
                    let text = "the manifest that this is said of is missing";
                    faults.extend(manifest.is_none().then(|| file.fault(1, text)));
                }
                ["specs", ..] if !["yaml", "yml", "json"].contains(&extension) => {
                    faults.push(file.fault(1, "specs/ holds manifests only: nothing reads this"));
                }
                ["specs", "invalid", ..] => {
                    let snapshot = text_of(&format!("{}.snap", file.path));
                    let text = "what shall be said of it is missing: .snap";
                    faults.extend(snapshot.is_none().then(|| file.fault(1, text)));
                }
                ["specs", name, ..] if !explained.contains(name) => {
                    faults.push(file.fault(1, "specs/README.md does not name this sample"));
                }
                ["tests", "vm", "run"] => {}
                ["tests", "vm", ..]
                    if extension == "sh" && file.text.starts_with("#!/bin/bash") =>
                {
                    scripts += 1;
                }
                // What several scripts have in common.
                ["tests", "vm", name] if is_read_in(tree, name) => {}
                ["tests", "vm", ..] => {
                    faults
                        .push(file.fault(1, "tests/vm holds bash scripts only: nobody runs this"));
                }
                _ => {}
            }
        }
        let run = text_of("tests/run").filter(|run| !run.text.contains("tests/vm/*.sh"));
        if let Some(run) = run.filter(|_| scripts > 0) {
            faults.push(run.fault(1, "it must run every tests/vm/*.sh"));
        }
        faults
    }

    fn top_level(tree: &Tree) -> Vec<Fault> {
        let mut faults = Vec::new();
        for file in &tree.files {
            let top = file.path.split('/').next().unwrap_or_default();
            if !top.starts_with('.') && !TOP.contains(&top) {
                faults.push(file.fault(1, "the layout has no place for this at the top"));
            }
        }
        faults
    }

    /// The module path of a file, `["state", "paths"]` for `src/state/paths.rs`.
    fn module_of(path: &str) -> Vec<&str> {
        let path = path.trim_start_matches("src/").trim_end_matches(".rs");
        path.split('/').collect()
    }

    /// What a path in `module` means from the root of the crate; `None` for other crates.
    fn absolute(module: &[&str], path: &[String]) -> Option<String> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let base = match path[0].as_str() {
            "crate" | "roost" => return Some(path[1..].join("::")),
            "super" => &module[..module.len().saturating_sub(ups)],
            _ => return None,
        };
        let below = path[ups..].iter().map(String::as_str);
        Some(base.iter().copied().chain(below).collect::<Vec<_>>().join("::"))
    }

    /// Whether `path` is `prefix` or something in it.
    fn begins(path: &str, prefix: &str) -> bool {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    /// Every path in the code with its line; the trees of `use` are spread out.
    fn paths(source: &str) -> Vec<(usize, Vec<String>)> {
        let code: Vec<char> = code_of(source).chars().collect();
        let mut reader = Reader { code: &code, at: 0, line: 1, found: Vec::new() };
        while reader.at < code.len() {
            if reader.begins_word() {
                reader.path(&[]);
            } else {
                reader.step();
            }
        }
        reader.found
    }

    struct Reader<'a> {
        code: &'a [char],
        at: usize,
        line: usize,
        found: Vec<(usize, Vec<String>)>,
    }

    impl Reader<'_> {
        fn peek(&self) -> char {
            self.code.get(self.at).copied().unwrap_or('\0')
        }

        fn step(&mut self) {
            self.line += usize::from(self.peek() == '\n');
            self.at += 1;
        }

        fn begins_word(&self) -> bool {
            let before = self.at.checked_sub(1).map_or(' ', |at| self.code[at]);
            is_word(self.peek()) && !is_word(before) && before != '.'
        }

        fn word(&mut self) -> String {
            let mut word = String::new();
            while is_word(self.peek()) {
                word.push(self.peek());
                self.step();
            }
            word
        }

        /// One path after `prefix`; stands behind it afterwards.
        fn path(&mut self, prefix: &[String]) {
            let line = self.line;
            let mut path = prefix.to_vec();
            while is_word(self.peek()) {
                let word = self.word();
                // `fs::{self}` names `fs`.
                if word != "self" || path.is_empty() {
                    path.push(word);
                }
                if self.code[self.at..].starts_with(&[':', ':']) {
                    self.at += 2;
                } else {
                    break;
                }
            }
            if self.peek() == '{' && self.code[..self.at].ends_with(&[':', ':']) {
                self.step();
                self.group(&path);
            } else {
                self.found.push((line, path));
            }
        }

        fn group(&mut self, prefix: &[String]) {
            while self.at < self.code.len() && self.peek() != '}' {
                if is_word(self.peek()) {
                    self.path(prefix);
                    // An alias is a name of this file, not a path.
                    while !matches!(self.peek(), ',' | '}' | '\0') {
                        self.step();
                    }
                } else {
                    self.step();
                }
            }
            self.step();
        }
    }

    fn is_word(c: char) -> bool {
        c.is_alphanumeric() || c == '_'
    }

    /// The source with comments and literals blanked, line for line.
    fn code_of(source: &str) -> String {
        let chars: Vec<char> = source.chars().collect();
        let (mut code, mut at) = (String::new(), 0);
        while at < chars.len() {
            let end = blank_end(&chars, at);
            if end == at {
                code.push(chars[at]);
                at += 1;
            } else {
                code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
        }
        code
    }

    /// Where the comment or literal that begins at `at` ends; `at` if none begins.
    fn blank_end(chars: &[char], at: usize) -> usize {
        let rest = &chars[at..];
        let find = |from: usize, what: &[char]| {
            (from..chars.len()).find(|i| chars[*i..].starts_with(what)).unwrap_or(chars.len())
        };
        let inside_word = at > 0 && is_word(chars[at - 1]);
        let prefix = rest.iter().take_while(|c| matches!(c, 'b' | 'r' | 'c')).count();
        let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
        match rest {
            ['/', '/', ..] => find(at, &['\n']),
            ['/', '*', ..] => {
                let (mut depth, mut i) = (0_usize, at);
                while i < chars.len() {
                    match &chars[i..] {
                        ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
                        ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                i
            }
            ['\'', '\\', _, ..] => (find(at + 3, &['\'']) + 1).min(chars.len()),
            ['\'', _, '\'', ..] => at + 3,
            _ if inside_word || rest.get(prefix + hashes) != Some(&'"') => at,
            _ if rest[..prefix].contains(&'r') => {
                let close: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
                (find(at + prefix + hashes + 1, &close) + close.len()).min(chars.len())
            }
            _ if hashes > 0 => at,
            _ => {
                let mut i = at + prefix + 1;
                while i < chars.len() && chars[i] != '"' {
                    i += if chars[i] == '\\' { 2 } else { 1 };
                }
                (i + 1).min(chars.len())
            }
        }
    }

    struct Arrow {
        of: &'static str,
        may: &'static [&'static str],
        not: &'static [&'static str],
    }

    const fn arrow(
        of: &'static str,
        may: &'static [&'static str],
        not: &'static [&'static str],
    ) -> Arrow {
        Arrow { of, may, not }
    }

    type Rule = fn(&Tree) -> Vec<Fault>;

    struct Tree {
        files: Vec<File>,
    }

    struct File {
        path: String,
        text: String,
    }

    struct Fault {
        path: String,
        line: usize,
        what: String,
    }

    impl Tree {
        /// The checkout: every text file but what is built or belongs to a run.
        fn read() -> Self {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let (mut files, mut open) = (Vec::new(), vec![root.to_path_buf()]);
            while let Some(directory) = open.pop() {
                for entry in fs::read_dir(&directory).unwrap() {
                    let entry = entry.unwrap();
                    let path =
                        entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    let of_a_run = path.starts_with("state/")
                        && !path.starts_with("state/golden")
                        && path != "state/README.md";
                    // The last is what a property test that failed leaves: one failure, not two.
                    if ["target", ".git", "proptest-regressions"].contains(&path.as_str())
                        || of_a_run
                    {
                        continue;
                    }
                    if entry.file_type().unwrap().is_dir() {
                        open.push(entry.path());
                    } else if let Ok(text) = fs::read_to_string(entry.path()) {
                        files.push(File { path, text });
                    }
                }
            }
            assert!(files.iter().any(|file| file.path == "src/lib.rs"), "this is not the checkout");
            files.sort_by(|a, b| a.path.cmp(&b.path));
            Self { files }
        }

        /// The Rust files whose path begins so.
        fn under(&self, prefix: &'static str) -> impl Iterator<Item = &File> {
            self.files
                .iter()
                .filter(move |file| file.path.starts_with(prefix) && file.path.ends_with(".rs"))
        }

        /// What we write ourselves: the code, the scripts, the documents.
        fn lines_with(&self, wrong: impl Fn(&str) -> bool, what: &str) -> Vec<Fault> {
            let mut faults = Vec::new();
            let given = ["Cargo.lock", "LICENSE"];
            // Samples show whatever a user may write.
            let ours = |path: &str| !given.contains(&path) && !path.starts_with("specs/");
            for file in self.files.iter().filter(|file| ours(&file.path)) {
                let lines = file.text.lines().enumerate().filter(|(_, line)| wrong(line));
                faults.extend(lines.map(|(at, _)| file.fault(at + 1, what)));
            }
            faults
        }
    }

    impl File {
        fn fault(&self, line: usize, what: impl Into<String>) -> Fault {
            Fault { path: self.path.clone(), line, what: what.into() }
        }

        /// The text up to `mod tests`, which stands last; nothing of a file of tests.
        fn tested_code(&self) -> &str {
            if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
                return "";
            }
            self.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
        }
    }

    impl fmt::Display for Fault {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}:{}: {}", self.path, self.line, self.what)
        }
    }

    /// Holds the checkout to a rule.
    #[track_caller]
    fn check(rule: Rule) {
        let faults: Vec<_> = rule(&Tree::read()).iter().map(Fault::to_string).collect();
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    }

    /// Where a rule finds faults in a small tree.
    fn faults(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
        let file =
            |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
        let tree = Tree { files: files.iter().map(file).collect() };
        rule(&tree).iter().map(|fault| format!("{}:{}", fault.path, fault.line)).collect()
    }
}
