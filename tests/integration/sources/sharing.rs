//! Several processes with one cache: each test runs a part of itself in processes of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use distill::data::source::ShardAddress;
use distill::draws::{Draws, Purpose};

use super::{Server, brisk, content, files_below, process, read, sources, variable};

const PIECES: u64 = 40;

fn server() -> Server {
    Server::start("object_server.py", &[("0.tar", &whole())])
}

fn whole() -> Vec<u8> {
    content((PIECES * brisk().piece_bytes) as usize, 7)
}

/// Starts the ignored test `part` of this file in a process of its own.
fn start(part: &str, shard: &ShardAddress, cache: &Path, pieces: u64, number: usize) -> Child {
    let ShardAddress::Url(url) = shard else { panic!("not a URL") };
    process(&format!("sharing::{part}"))
        .env("TEST_URL", url)
        .env("TEST_CACHE", cache)
        .env("TEST_CACHE_PIECES", pieces.to_string())
        .env("TEST_NUMBER", number.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What [`start`] hands on: the sources, the shard and the process's number.
fn started() -> (super::Sources, ShardAddress, u64) {
    let pieces: u64 = variable("TEST_CACHE_PIECES").parse().unwrap();
    let sources = sources(&PathBuf::from(variable("TEST_CACHE")), pieces * brisk().piece_bytes);
    (sources, ShardAddress::Url(variable("TEST_URL")), variable("TEST_NUMBER").parse().unwrap())
}

fn kept(cache: &Path) -> u64 {
    let piece =
        |path: &Path| path.parent() != Some(cache) && !path.parent().unwrap().ends_with("locks");
    files_below(cache).iter().filter(|(path, _)| piece(path)).map(|(_, size)| size).sum()
}

/// Protects the network and the server's bill: eight ranks of a machine read the same shard at the
/// same time, and every piece is fetched once.
#[test]
fn processes_fetch_each_piece_once() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    let shard = server.shard("0.tar");
    let children: Vec<_> =
        (0..4).map(|number| start("reads_all", &shard, cache.path(), 1000, number)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut log = server.log();
    assert_eq!(log.len() as u64, PIECES, "{log:?}");
    log.sort();
    log.dedup();
    assert_eq!(log.len() as u64, PIECES, "each piece once");
    let used: u64 = std::fs::read_to_string(cache.path().join("usage")).unwrap().parse().unwrap();
    assert_eq!(used, kept(cache.path()), "the count is what is there");
}

#[test]
#[ignore = "a part of processes_fetch_each_piece_once"]
fn reads_all() {
    let (sources, shard, number) = started();
    let whole = whole();
    let stamp = sources.stamp(&shard).unwrap();
    let piece = brisk().piece_bytes;
    let mut bytes = Vec::new();
    for step in 0..PIECES {
        // Each process in an order of its own, hinting at what comes next.
        let start = |step: u64| (step * (2 * number + 1)) % PIECES * piece;
        sources.prefetch(&shard, stamp, start(step + 1)..start(step + 1) + piece);
        let range = start(step)..start(step) + piece;
        sources.read(&shard, stamp, range.clone(), &mut bytes).unwrap();
        assert!(bytes == whole[range.start as usize..range.end as usize]);
    }
}

/// Protects the disk, and the bytes of whoever reads while others need the room: the cache stays
/// within its bound at every moment, and what is read is right.
#[test]
fn a_small_cache_stays_small_and_right() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    let bound = 16 * brisk().piece_bytes;
    let mut children: Vec<_> = (0..3)
        .map(|number| start("reads_at_random", &server.shard("0.tar"), cache.path(), 16, number))
        .collect();
    let mut most = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        most = most.max(kept(cache.path()));
        std::thread::sleep(Duration::from_millis(2));
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(most <= bound, "{most} bytes where {bound} are allowed");
    assert!(most > bound / 2, "the cache was hardly used: {most} bytes");
}

#[test]
#[ignore = "a part of a_small_cache_stays_small_and_right"]
fn reads_at_random() {
    let (sources, shard, number) = started();
    let whole = whole();
    let stamp = sources.stamp(&shard).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (sources, shard, whole) = (&sources, &shard, &whole);
            scope.spawn(move || {
                let mut bytes = Vec::new();
                for round in 0..150 {
                    let mut draws = Draws::new(number, Purpose::Crop, thread, round);
                    let start = (draws.uniform() * (stamp.size - 70_000) as f64) as u64;
                    let range = start..start + 70_000;
                    sources.prefetch(shard, stamp, range.clone());
                    sources.read(shard, stamp, range.clone(), &mut bytes).unwrap();
                    assert!(bytes == whole[range.start as usize..range.end as usize]);
                }
            });
        }
    });
}

/// Protects from what a killed rank leaves: its locks go with it, its unfinished piece is never
/// read, and its room is given back.
#[test]
fn a_killed_process_leaves_nothing_harmful() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    let slow = server.shard("slow.999999/0.tar");
    let mut child = start("reads_all", &slow, cache.path(), 16, 0);
    let unfinished = || {
        let parts = files_below(cache.path()).into_iter();
        parts.filter(|(path, _)| path.extension().is_some()).count()
    };
    let start = Instant::now();
    while unfinished() == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing was fetched");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(unfinished() > 0, "it was killed too late");

    let sources = sources(cache.path(), 16 * brisk().piece_bytes);
    let whole = whole();
    let piece = brisk().piece_bytes as usize;
    for part in 0..PIECES as usize {
        let range = part * piece..(part + 1) * piece;
        let bytes = read(&sources, &server.shard("0.tar"), range.start as u64..range.end as u64);
        assert!(bytes.unwrap() == whole[range]);
        assert!(kept(cache.path()) <= 16 * brisk().piece_bytes);
    }
    assert_eq!(unfinished(), 0, "what the killed process left is still there");
}

/// Protects a long run from a cache that somebody empties under it.
#[test]
fn an_emptied_cache_is_filled_again() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("deep/cache");
    let sources = sources(&folder, 1 << 30);
    let shard = server.shard("0.tar");
    let before = read(&sources, &shard, 0..10).unwrap();
    std::fs::remove_dir_all(cache.path().join("deep")).unwrap();
    assert_eq!(read(&sources, &shard, 0..10).unwrap(), before);
}

/// Protects users from a range that a small cache can never hold at once.
#[test]
fn a_range_larger_than_the_cache_is_refused() {
    let server = server();
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), 16 * brisk().piece_bytes);
    let error = read(&sources, &server.shard("0.tar"), 0..9 * brisk().piece_bytes).unwrap_err();
    assert!(error.to_string().contains("data.cache_gigabytes"), "{error}");
    assert!(server.log().is_empty());
}
