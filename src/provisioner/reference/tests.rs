//! The grammar of image names, by example and by chance.

use proptest::prelude::*;

use super::*;

const HEX: &str = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

#[track_caller]
fn check(text: &str, canonical: &str, familiar: &str) {
    let source: ImageSource = text.parse().unwrap();
    assert_eq!(source.to_string(), canonical);
    assert_eq!(source.familiar(), familiar);
    assert_eq!(canonical.parse::<ImageSource>().unwrap(), source);
    assert_eq!(familiar.parse::<ImageSource>().unwrap(), source);
}

#[track_caller]
fn refused(text: &str, part: &str) {
    let wrong = text.parse::<ImageSource>().unwrap_err().to_string();
    assert!(wrong.contains(part), "{wrong}");
}

#[test]
fn docker_hub_is_what_a_name_without_a_host_is_on() {
    check("nginx", "docker.io/library/nginx:latest", "nginx:latest");
    check("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27");
    check("nginx:5000", "docker.io/library/nginx:5000", "nginx:5000");
    check("grafana/loki", "docker.io/grafana/loki:latest", "grafana/loki:latest");
    check("index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest");
    check("docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest");
    for unclear in
        ["docker.io/localhost/web:1", "docker.io/library/a/b:1", "docker.io/library/oci:1"]
    {
        let short = unclear.parse::<ImageSource>().unwrap().familiar();
        check(unclear, unclear, &short);
    }
    let digest = format!("nginx@sha256:{HEX}");
    check(&digest, &format!("docker.io/library/{digest}"), &digest);
    let both = format!("nginx:1.27@sha256:{HEX}");
    check(&both, &format!("docker.io/library/{both}"), &both);
}

#[test]
fn the_first_part_is_a_host_if_it_looks_like_one() {
    for name in [
        "localhost/web:1",
        "localhost:5000/web:1",
        "ghcr.io/a/b/c__d.e---f:1_2.3-4",
        "127.0.0.1:5000/web:1",
        "[::1]/web:1",
        "[fd00::1]:5000/a/web:1",
        "host:1/web:1",
    ] {
        check(name, name, name);
    }
    check("GHCR.io/web:1", "ghcr.io/web:1", "ghcr.io/web:1");
    check("[0:0::1]:05000/web", "[::1]:5000/web:latest", "[::1]:5000/web:latest");
    let reference: Reference = "[::1]:5000/a/web:1".parse().unwrap();
    assert_eq!((reference.host(), reference.repository()), ("[::1]:5000", "a/web"));
    assert_eq!(reference.identifier(), "1");
}

#[test]
fn files_are_named_by_their_absolute_path() {
    check("oci:/srv/images/web", "oci:/srv/images/web", "oci:/srv/images/web");
    check("oci:/srv//web/./:v1", "oci:/srv/web:v1", "oci:/srv/web:v1");
    check("oci-archive:/w.tar:v1", "oci-archive:/w.tar:v1", "oci-archive:/w.tar:v1");
    check("oci:/a:ghcr.io/b/c:1", "oci:/a:ghcr.io/b/c:1", "oci:/a:ghcr.io/b/c:1");
    check(
        "docker-archive:/ä b.tar:nginx",
        "docker-archive:/ä b.tar:docker.io/library/nginx:latest",
        "docker-archive:/ä b.tar:nginx:latest",
    );
    let source: ImageSource = "oci:/a".parse().unwrap();
    assert_eq!(source.path(), Some(Path::new("/a")));
    assert_eq!(source.reference(), None);
}

#[test]
fn a_refusal_says_what_to_write_instead() {
    refused("", "is empty");
    refused("Nginx:1", "write `nginx:1`");
    refused("localhost:5000/Web", "write `localhost:5000/web`");
    refused("http://example.com/web", "write `example.com/web`");
    refused("docker://nginx", "write `nginx`");
    refused("nginx: 1.27", "did you mean `nginx:1.27`");
    refused("nginx:", "nothing follows");
    refused("nginx:-a", "the tag is wrong");
    refused(&format!("nginx:{}", "a".repeat(129)), "the tag is wrong");
    refused("nginx@sha256:12", "after `@`: a digest is `sha256:`");
    refused("nginx@md5:12", "kind md5");
    refused(&format!("nginx@sha256:{}", HEX.to_uppercase()), "after `@`");
    refused(HEX, "the id of an image");
    refused("a//b", "one `/`");
    refused("/a", "one `/`");
    refused("example.com/", "the repository is missing");
    refused("[::1]:5000", "names a host only");
    refused("[::x]/a", "is not a host");
    refused("[::1/a", "is not a host");
    refused("a..b/c", "is not a host");
    refused("host:0/a", "is not a port");
    refused("host:+5/a", "is not a port");
    refused("host:65536/a", "is not a port");
    refused("a___b", "is not the name of a repository");
    refused("-a", "is not the name of a repository");
    refused("nginx\u{7}", "can't be in a name");
    refused("nginx:ä", "can't be in a name");
    refused(&"a".repeat(300), "longer than 255");
    refused("oci:web", "must be absolute");
    refused("oci:", "must be absolute");
    refused("oci:/", "path is missing");
    refused("oci:/a/../b", "`..`");
    refused("oci:/a:", "nothing follows");
    refused("oci:/a:b c", "a tag in a layout");
    refused("oci:/a\n", "control character");
    refused(&format!("oci:/{}", "a".repeat(4095)), "the path is longer");
    refused(&format!("docker-archive:/{}:{}", "a".repeat(4090), "b".repeat(240)), "all its parts");
    refused("docker-archive:/a:B", "write `b`");
    refused(&format!("docker-archive:/a:b@sha256:{HEX}"), "know no digests");
    refused("containers-storage:a", "is not supported");
    refused(&"x y".repeat(10_000), "longer than 4352 bytes");
    let long = "x y".repeat(1_000).parse::<ImageSource>().unwrap_err();
    assert!(long.to_string().len() < 400, "{long}");
}

#[test]
fn what_moves_is_asked_for_each_time() {
    let policy = |text: &str| PullPolicy::default_for(&text.parse().unwrap());
    for moving in ["nginx", "nginx:latest", "oci:/a", "oci:/a:latest", "docker-archive:/a:b"] {
        assert_eq!(policy(moving), PullPolicy::Always, "{moving}");
    }
    let digest = format!("nginx@sha256:{HEX}");
    for fixed in ["nginx:1", &digest, "oci:/a:1", "docker-archive:/a:b:1"] {
        assert_eq!(policy(fixed), PullPolicy::IfNotPresent, "{fixed}");
    }
}

#[test]
fn a_reference_is_one_text_in_every_format() {
    let source: ImageSource = serde_json::from_str("\"nginx\"").unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), "\"docker.io/library/nginx:latest\"");
    serde_json::from_str::<Reference>("\"a b\"").unwrap_err();
}

proptest! {
    #[test]
    fn any_text_is_refused_or_means_itself(text in "\\PC{0,60}") {
        if let Ok(source) = text.parse::<ImageSource>() {
            prop_assert_eq!(&source.to_string().parse::<ImageSource>().unwrap(), &source);
            prop_assert_eq!(source.familiar().parse::<ImageSource>().unwrap(), source);
        }
    }

    #[test]
    fn what_looks_like_a_name_is_refused_or_means_itself(
        text in "(oci:|oci-archive:|docker-archive:)?[a-zA-Z0-9./:@_\\[\\]-]{0,40}(@sha256:[0-9a-f]{64})?"
    ) {
        if let Ok(source) = text.parse::<ImageSource>() {
            prop_assert_eq!(&source.to_string().parse::<ImageSource>().unwrap(), &source);
            prop_assert_eq!(source.familiar().parse::<ImageSource>().unwrap(), source);
        }
    }

    #[test]
    fn every_good_name_is_taken(
        host in "([a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\\.){1,3}[a-z]{2,5}(:[1-9][0-9]{0,3})?",
        path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,8}){0,3}",
        tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
    ) {
        prop_assume!(!host.starts_with("docker.io") && !host.ends_with(".docker.io"));
        let text = format!("{host}/{path}:{tag}");
        prop_assert_eq!(text.parse::<ImageSource>().unwrap().to_string(), text);
    }
}
