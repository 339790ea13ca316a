//! A real S3 server. Access is by environment variables, so each test runs a part of itself in a
//! process that has them.

use std::io::Read;
use std::path::PathBuf;

use distill::config::ConfigError;
use distill::data::source::ShardAddress;

use super::{Server, content, process, read, sources, succeeds, variable};

const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

fn url(text: &str) -> ShardAddress {
    ShardAddress::parse(text).unwrap()
}

/// Runs the ignored test `part` of this file with these variables and no other of S3's.
fn in_environment(part: &str, server: &Server, variables: &[(&str, &str)]) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = process(&format!("s3::{part}"));
    command.env("AWS_ENDPOINT_URL", &server.address).envs(variables.iter().copied());
    command.env("TEST_CACHE", cache.path()).env("TEST_FOLDER", server.folder.path());
    succeeds(&mut command);
}

fn folder(name: &str) -> PathBuf {
    variable(name).into()
}

fn server(script: &str) -> Server {
    let shards: Vec<_> = (0..4).map(|seed| content(150_000 + usize::from(seed), seed)).collect();
    let names = ["train/a-0.tar", "train/a-1.tar", "train/b-0.tar", "train/more/a-2.tar"];
    let files: Vec<_> = names.into_iter().zip(shards.iter().map(Vec::as_slice)).collect();
    Server::start(script, &files)
}

/// Protects reading shards from S3: found by pattern, and every byte as it was uploaded, with
/// credentials and, where the object is public, without.
#[test]
fn shards_on_s3_are_found_and_read() {
    let server = server("s3_server.py");
    let [id, secret] = CREDENTIALS;
    let http = ("AWS_ALLOW_HTTP", "true");
    in_environment("finds_and_reads", &server, &[id, secret, http]);
    in_environment("finds_and_reads", &server, &[("AWS_SKIP_SIGNATURE", "true"), http]);
}

#[test]
#[ignore = "a part of shards_on_s3_are_found_and_read"]
fn finds_and_reads() {
    let sources = sources(&folder("TEST_CACHE"), 1 << 30);
    let found = |pattern: &str| {
        let shards = sources.expand(&[pattern.to_string()], "data.shards").unwrap();
        shards.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        found("s3://shards/train/a-*.tar"),
        ["s3://shards/train/a-0.tar", "s3://shards/train/a-1.tar"]
    );
    assert_eq!(
        found("s3://shards/*/{b,a}-0.tar"),
        ["s3://shards/train/a-0.tar", "s3://shards/train/b-0.tar"]
    );
    assert_eq!(found("s3://shards/train/**/*-2.tar"), ["s3://shards/train/more/a-2.tar"]);
    let error = sources.expand(&["s3://shards/none/*.tar".into()], "data.shards").unwrap_err();
    assert!(error.is::<ConfigError>() && error.to_string().contains("matches no object"));

    for (name, seed) in [("a-0", 0), ("a-1", 1), ("b-0", 2), ("more/a-2", 3)] {
        let bytes = content(150_000 + usize::from(seed), seed);
        let shard = url(&format!("s3://shards/train/{name}.tar"));
        let stamp = sources.stamp(&shard).unwrap();
        assert_eq!(stamp.size, bytes.len() as u64);
        assert!(read(&sources, &shard, 0..stamp.size).unwrap() == bytes, "{shard}: located");
        let mut passed = Vec::new();
        sources.open(&shard).unwrap().read_to_end(&mut passed).unwrap();
        assert!(passed == bytes, "{shard}: in one pass");
    }

    for (shard, expected) in [
        ("s3://shards/train/a-9.tar", "no such object"),
        ("s3://absent/train/a-0.tar", "no such object"),
        ("s3://shards", "expected s3://BUCKET/KEY"),
    ] {
        let error = format!("{:#}", sources.stamp(&url(shard)).unwrap_err());
        assert!(error.contains(shard) && error.contains(expected), "{error}");
        assert!(!error.contains("gave up"), "retried in vain: {error}");
    }
    let error = sources.expand(&["s3://absent/*.tar".into()], "data.shards").unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("NoSuchBucket") && text.contains("data.shards"), "{text}");
}

/// Protects a run from mixing two states of an object: S3's answers tell which one they are of.
#[test]
fn an_object_that_changes_on_s3_is_noticed() {
    let mut server = server("s3_server.py");
    let [id, secret] = CREDENTIALS;
    let sources_see = |server: &Server, part| {
        in_environment(part, server, &[id, secret, ("AWS_ALLOW_HTTP", "true")]);
    };
    sources_see(&server, "keeps_a_stamp");
    std::fs::write(server.folder.path().join("train/a-0.tar"), content(150_000, 9)).unwrap();
    server.tell("train/a-0.tar");
    sources_see(&server, "meets_another_state");
    std::fs::write(server.folder.path().join("train/a-0.tar"), content(9, 9)).unwrap();
    server.tell("train/a-0.tar");
    sources_see(&server, "meets_a_shorter_state");
}

const CHANGING: &str = "s3://shards/train/a-0.tar";

#[test]
#[ignore = "a part of an_object_that_changes_on_s3_is_noticed"]
fn keeps_a_stamp() {
    let stamp = sources(&folder("TEST_CACHE"), 1 << 30).stamp(&url(CHANGING)).unwrap();
    std::fs::write(folder("TEST_FOLDER").join("stamp"), stamp.version.to_string()).unwrap();
}

/// What reading the last bytes of the first state says now.
fn fails_now() -> String {
    let sources = sources(&folder("TEST_CACHE"), 1 << 30);
    let version = std::fs::read_to_string(folder("TEST_FOLDER").join("stamp")).unwrap();
    let stamp = distill::data::source::Stamp { size: 150_000, version: version.parse().unwrap() };
    let range = 149_000..149_010;
    format!("{:#}", sources.read(&url(CHANGING), stamp, range, &mut Vec::new()).unwrap_err())
}

#[test]
#[ignore = "a part of an_object_that_changes_on_s3_is_noticed"]
fn meets_another_state() {
    let text = fails_now();
    assert!(text.contains(CHANGING) && text.contains("changed since"), "{text}");
}

#[test]
#[ignore = "a part of an_object_that_changes_on_s3_is_noticed"]
fn meets_a_shorter_state() {
    let text = fails_now();
    assert!(text.contains(CHANGING) && text.contains("did it change"), "{text}");
    assert!(!text.contains("gave up"), "retried in vain: {text}");
}

/// Protects users from guessing: a server that refuses says so at once, with what to set.
#[test]
fn missing_access_is_explained() {
    let server = server("s3_server.py --locked");
    let [id, secret] = CREDENTIALS;
    let http = ("AWS_ALLOW_HTTP", "true");
    in_environment("is_denied", &server, &[id, secret, http]);
    in_environment(
        "has_no_credentials",
        &server,
        &[http, ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")],
    );
    in_environment("may_not_use_http", &server, &[id, secret]);
}

fn denied() -> String {
    let sources = sources(&folder("TEST_CACHE"), 1 << 30);
    let error = sources.stamp(&url(CHANGING)).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(CHANGING), "{text}");
    text
}

#[test]
#[ignore = "a part of missing_access_is_explained"]
fn is_denied() {
    let text = denied();
    assert!(text.contains("access is denied") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    assert!(!text.contains("gave up"), "retried in vain: {text}");
}

#[test]
#[ignore = "a part of missing_access_is_explained"]
fn has_no_credentials() {
    let text = denied();
    assert!(text.contains("no credentials") && text.contains("AWS_SKIP_SIGNATURE"), "{text}");
}

#[test]
#[ignore = "a part of missing_access_is_explained"]
fn may_not_use_http() {
    let text = denied();
    assert!(text.contains("AWS_ALLOW_HTTP=true"), "{text}");
    assert!(!text.contains("gave up"), "retried in vain: {text}");
}
