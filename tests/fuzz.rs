//! What comes from outside, mutated: layers of images against the store (`fuzz/layers.rs`), and
//! manifests against the parser: it must end soon, in bounded memory, without a panic, and
//! what comes out must hang together.
//!
//! A bounded number of inputs, the same ones every time; for `ROOST_FUZZ_SECS` seconds with a seed of
//! its own if that is set (`-- --nocapture` shows the summary). A finding names its seed (`ROOST_FUZZ_SEED`) and shows its input.

#[cfg(test)]
#[path = "fuzz/layers.rs"]
mod layers;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::hash::{BuildHasher as _, RandomState};
    use std::panic::catch_unwind;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use roost::manifest::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Snippet};
    use roost::manifest::file::{ParseOptions, ParsedFile, parse, parse_with};

    /// Inputs without `ROOST_FUZZ_SECS`.
    const INPUTS: u64 = 1500;
    /// Most processor time for one input, in a build without optimization.
    const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
    /// Largest input made from the samples; the limits of files have their own tests.
    const INPUT_LEN_MAX: usize = 200_000;
    /// Most memory of the whole program.
    const MEMORY_KIB_MAX: u64 = 768 << 10;

    /// What mutations put in.
    const PIECES: &[&str] = &[
        "\n",
        "\t",
        " ",
        "  ",
        ": ",
        "- ",
        "&a ",
        "*a",
        "<<: *a\n",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "|\n",
        ">-\n",
        "#",
        "? ",
        "!!str ",
        "!!int ",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "\r",
        "null",
        "~",
        "-1",
        "0777",
        "0o17",
        "1e999",
        ".inf",
        "yes",
        "\\",
        ", ",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "ä",
        "\u{1f600}",
        "\0",
        "\u{1b}",
        "$(A)",
        "$$",
        "$(",
        "kind: Secret\n",
        "kind: List\nitems:\n- ",
        "18446744073709551616",
        "9223372036854775807",
        "1Ei",
        "1n",
        "0x",
        "spec:\n",
        "containers:\n",
        "name: a\n",
        "metadata: {name: a}\n",
        "hostPort: 1\n",
        "affinity: {nodeAffinity: [1]}\n",
        "livenessProbe: {exec: 1}\n",
        "\"\\ud83d\"",
        "\\u",
    ];

    /// splitmix64: good enough, and the same everywhere.
    pub(super) struct Random(pub(super) u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(super) fn below(&mut self, most: usize) -> usize {
            let most = u64::try_from(most.max(1)).unwrap();
            usize::try_from(self.next() % most).unwrap()
        }
    }

    fn corpus(directory: &Path, found: &mut Vec<Vec<u8>>) {
        let mut paths: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            if path.is_dir() {
                corpus(&path, found);
            } else if ["yaml", "yml", "json"].contains(&kind) {
                let text = fs::read(&path).unwrap();
                found.extend((text.len() < INPUT_LEN_MAX).then_some(text));
            }
        }
    }

    fn mutate(text: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(80)).min(text.len());
        match random.below(9) {
            0 | 1 => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
            2 => drop(text.drain(at..end)),
            3 => text.extend_from_within(at..end),
            4 => {
                let copy: Vec<u8> = text[at..end].to_vec();
                let to = random.below(text.len() + 1);
                text.splice(to..to, copy);
            }
            5 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(400)).min(other.len());
                text.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                let piece = PIECES[random.below(PIECES.len())].repeat(random.below(200));
                text.splice(at..at, piece.into_bytes());
            }
            _ => {
                // A line somewhere else, or twice.
                let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
                let line =
                    lines.get(random.below(lines.len())).map_or(vec![], |line| line.to_vec());
                let before = random.below(lines.len() + 1);
                let to: usize = lines.iter().take(before).map(|line| line.len()).sum();
                text.splice(to..to, line);
            }
        }
        text.truncate(INPUT_LEN_MAX);
    }

    /// What must hold whatever the text is.
    fn check(text: &[u8]) {
        let parsed = parse(text);
        assert_eq!(parsed, parse(text), "the same text means the same");
        hangs_together(&parsed);
        let strict = parse_with(text, ParseOptions { strict: true });
        hangs_together(&strict);
        assert!(parsed.complete || !strict.complete);
        assert!(strict.pods.len() <= parsed.pods.len());
    }

    fn hangs_together(parsed: &ParsedFile) {
        assert_eq!(parsed.complete, !parsed.diagnostics.iter().any(Diagnostic::is_error));
        assert!(parsed.diagnostics.len() <= 2 * DIAGNOSTICS_MAX + 2);
        let names: BTreeSet<_> = parsed.pods.iter().map(|pod| &pod.name).collect();
        assert_eq!(names.len(), parsed.pods.len());
        assert!(parsed.faulty.iter().all(|name| !names.contains(name)));
        for diagnostic in &parsed.diagnostics {
            assert!(diagnostic.position.line >= 1 && diagnostic.position.column >= 1);
            let shown = diagnostic.in_file(&"a.yaml").to_string();
            assert!(shown.len() < 20_000, "{} bytes", shown.len());
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
            if let Some(Snippet { text, before, marked }) = &diagnostic.snippet {
                let length = text.chars().count();
                assert!(*marked >= 1 && before + marked <= length + 120, "{shown}");
            }
        }
        for pod in &parsed.pods {
            let json = serde_json::to_string(&pod.spec).unwrap();
            assert_eq!(*pod.spec, serde_json::from_str(&json).unwrap());
        }
    }

    /// How long, and from where on.
    #[derive(Debug)]
    pub(super) struct Plan {
        pub(super) seed: u64,
        seconds: Option<u64>,
        start: Instant,
    }

    impl Plan {
        /// Whether there is one more after `count`; `inputs` of them if no time is set.
        pub(super) fn goes_on(&self, count: u64, inputs: u64) -> bool {
            match self.seconds {
                Some(seconds) => self.start.elapsed() < Duration::from_secs(seconds),
                None => count < inputs,
            }
        }
    }

    /// Processor time of this thread: a busy machine makes no finding.
    pub(super) fn spent() -> Duration {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        spent.try_into().unwrap()
    }

    /// What the environment says.
    pub(super) fn plan() -> Plan {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let seconds = number("ROOST_FUZZ_SECS");
        let fixed = if seconds.is_some() { RandomState::new().hash_one(0) } else { 1 };
        let seed = number("ROOST_FUZZ_SEED").unwrap_or(fixed);
        Plan { seed, seconds, start: Instant::now() }
    }

    /// The most memory that the program has had, proc_pid_status(5).
    fn memory_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the summary of a long run")]
    fn no_mutated_manifest_is_too_much() {
        let plan = plan();
        let mut samples = Vec::new();
        corpus(&Path::new(env!("CARGO_MANIFEST_DIR")).join("specs"), &mut samples);
        assert!(samples.len() > 40);
        let (mut count, mut slowest, mut good) = (0_u64, Duration::ZERO, 0_u64);
        while plan.goes_on(count, INPUTS) {
            let mut random = Random(plan.seed.wrapping_add(count));
            let mut text = samples[random.below(samples.len())].clone();
            for _ in 0..=random.below(3) * random.below(4) {
                mutate(&mut text, &samples, &mut random);
            }
            let began = spent();
            let found = catch_unwind(|| check(&text));
            let took = spent() - began;
            let input = || String::from_utf8_lossy(&text).into_owned();
            assert!(
                found.is_ok(),
                "ROOST_FUZZ_SEED={} finds\n{:?}",
                plan.seed.wrapping_add(count),
                input()
            );
            assert!(
                took < INPUT_TIME_MAX,
                "seed {}: {took:?}\n{:?}",
                plan.seed.wrapping_add(count),
                input()
            );
            slowest = slowest.max(took);
            good += u64::from(parse(&text).complete);
            count += 1;
        }
        let memory = memory_kib();
        println!(
            "{count} inputs from {} samples in {:?}, {good} of them good; slowest {slowest:?}; \
             at most {memory} KiB; seed {}",
            samples.len(),
            plan.start.elapsed(),
            plan.seed,
        );
        assert!(memory < MEMORY_KIB_MAX, "{memory} KiB");
    }

    /// What images are called and say of themselves, before it is mutated.
    const IMAGE_SAMPLES: &[&str] = &[
        "nginx",
        "localhost:5000/team/web:1.2",
        "[fd00::1]:5000/web@sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b",
        "oci:/srv/images/web:1",
        "docker-archive:/srv/web.tar:web:1",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b","size":7},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b","size":9}]}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b","size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}"#,
        r#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":{"Entrypoint":["/e"],"Cmd":null,"Env":["A=1"],"User":"a:b","Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":["sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b"]}}"#,
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"*.a.com/b":{"identitytoken":"t"}},"credHelpers":{"c.com":"d"}}"#,
    ];

    /// What must hold whatever an image says.
    fn check_image(text: &[u8]) {
        use roost::provisioner::auth::Credentials;
        use roost::provisioner::image::{Configuration, Manifest};
        use roost::provisioner::platform::Platform;
        use roost::provisioner::reference::ImageSource;
        if let Ok(Manifest::Index(entries)) = Manifest::parse(text, None) {
            drop(Platform::current().choose(&entries));
        }
        drop(Configuration::parse(text));
        let Ok(text) = std::str::from_utf8(text) else { return };
        match text.parse::<ImageSource>() {
            Ok(source) => {
                assert_eq!(source.to_string().parse::<ImageSource>().as_ref(), Ok(&source));
                assert_eq!(source.familiar().parse::<ImageSource>(), Ok(source));
            }
            Err(wrong) => {
                let shown = wrong.to_string();
                assert!(shown.len() < 20_000, "{} bytes", shown.len());
                assert!(!shown.contains(char::is_control), "{shown:?}");
            }
        }
        let mut credentials = Credentials::default();
        if credentials.add("a", text).is_ok() {
            drop(credentials.logins("docker.io", "library/nginx"));
        }
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the summary of a long run")]
    fn nothing_that_an_image_says_is_too_much() {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let seconds = number("ROOST_FUZZ_SECS");
        let fixed = if seconds.is_some() { RandomState::new().hash_one(1) } else { 1 };
        let seed = number("ROOST_FUZZ_SEED").unwrap_or(fixed);
        let samples: Vec<Vec<u8>> =
            IMAGE_SAMPLES.iter().map(|text| text.as_bytes().to_vec()).collect();
        let (start, mut count) = (Instant::now(), 0_u64);
        while seconds.map_or(count < 20_000, |most| start.elapsed().as_secs() < most) {
            let mut random = Random(seed.wrapping_add(count));
            let mut text = samples[random.below(samples.len())].clone();
            for _ in 0..=random.below(4) {
                mutate(&mut text, &samples, &mut random);
            }
            let found = catch_unwind(|| check_image(&text));
            let input = || String::from_utf8_lossy(&text).into_owned();
            assert!(
                found.is_ok(),
                "ROOST_FUZZ_SEED={} finds\n{:?}",
                seed.wrapping_add(count),
                input()
            );
            count += 1;
        }
        println!("{count} inputs in {:?}; seed {seed}", start.elapsed());
    }
}
