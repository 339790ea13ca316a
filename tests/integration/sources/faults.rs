//! Servers and networks that fail: the right bytes in the end, or one clear error.

use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use distill::data::source::{Segment, ShardAddress, Stamp};
use proptest::prelude::*;

use super::{Server, content, read, sources};

const LARGE: u64 = 1 << 30;

fn server() -> (Server, Vec<u8>) {
    let bytes = content(300_000, 1);
    (Server::start("object_server.py", &[("0.tar", &bytes)]), bytes)
}

/// Protects training from what networks do every day: each of these faults, met once or twice in a
/// row, costs a little time and nothing else.
#[test]
fn passing_faults_do_not_show() {
    let (server, bytes) = server();
    let faults = [
        "cut.2",
        "503.2",
        "500.2",
        "429.2",
        "408.2",
        "slow.2",
        "stalls.2",
        "trickles.1",
        "announcesmore.2",
        "announcesless.2",
        "endsearly.2",
        "goeson.2",
        "norange.2",
        "moved.2",
        "nohead.2",
    ];
    std::thread::scope(|scope| {
        for fault in faults {
            let (server, bytes) = (&server, &bytes);
            scope.spawn(move || {
                let cache = tempfile::tempdir().unwrap();
                let sources = sources(cache.path(), LARGE);
                let shard = server.shard(&format!("{fault}/0.tar"));
                let range = 50_000..250_000;
                let found = read(&sources, &shard, range)
                    .unwrap_or_else(|error| panic!("{fault}: {error:#}"));
                assert!(found == bytes[50_000..250_000], "{fault}: wrong bytes");
            });
        }
    });
}

/// Protects users from retries without end and from errors that do not say which shard, what, and
/// what to do.
#[test]
fn a_fault_that_stays_is_one_clear_error() {
    let (server, _) = server();
    std::thread::scope(|scope| {
        for (fault, tries, expected) in [
            ("503", true, "status 503"),
            ("endsearly", true, "broke off at byte"),
            ("announcesless", true, "another length"),
            ("goeson", true, "goes on after byte"),
            ("403", false, "access is denied"),
            ("404", false, "no such object"),
            ("400", false, "status 400"),
        ] {
            let server = &server;
            scope.spawn(move || {
                let cache = tempfile::tempdir().unwrap();
                let sources = sources(cache.path(), LARGE);
                let path = format!("{fault}.999999/0.tar");
                let shard = server.shard(&format!("{path}?token=secret"));
                let error = read(&sources, &shard, 0..65_536).unwrap_err();
                let text = format!("{error:#}");
                assert!(text.contains(expected), "{fault}: {text}");
                let shown = format!("{}/{path}", server.address);
                assert_eq!(text.matches(&shown).count(), 1, "{fault}: {text}");
                assert!(!text.contains("secret"), "{fault}: {text}");
                assert_eq!(text.contains("gave up after 5 tries"), tries, "{fault}: {text}");
                let gets = server
                    .log()
                    .iter()
                    .filter(|line| line.starts_with(&format!("/{path}")))
                    .count();
                assert_eq!(gets, if tries { 5 } else { 1 }, "{fault}: requests");
                let left = super::files_below(cache.path());
                assert!(left.iter().all(|(path, _)| path.extension().is_none()), "{left:?}");
            });
        }
    });
}

/// Protects users from waiting for a server that is not there, and tells which one.
#[test]
fn a_server_that_is_away_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    let shard = ShardAddress::Url("http://user:secret@127.0.0.1:9/0.tar".into());
    let text = format!("{:#}", sources.stamp(&shard).unwrap_err());
    assert!(text.contains("http://127.0.0.1:9/0.tar: gave up after 5 tries"), "{text}");
    assert!(text.contains("onnect") && !text.contains("secret"), "{text}");
}

/// Protects a run from mixing two states of a shard: pieces of the old one stay what they are, and
/// the new one is refused by its old stamp.
#[test]
fn an_object_that_changes_is_noticed() {
    let (server, bytes) = server();
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    let shard = server.shard("0.tar");
    let before = sources.stamp(&shard).unwrap();
    let mut found = Vec::new();
    sources.read(&shard, before, 0..10, &mut found).unwrap();
    let mut reader = sources.open(&shard).unwrap();
    reader.read_exact(&mut [0]).unwrap();

    let changed = content(300_000, 2);
    std::fs::write(server.folder.path().join("0.tar"), &changed).unwrap();
    sources.read(&shard, before, 0..10, &mut found).unwrap();
    assert_eq!(found, bytes[..10], "a piece that is here already");
    let error = sources.read(&shard, before, 250_000..250_010, &mut found).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("changed") && text.contains("/0.tar"), "{text}");
    reader.seek(SeekFrom::Start(250_000)).unwrap();
    let error = reader.read_exact(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("0.tar"), "{error}");

    let after = sources.stamp(&shard).unwrap();
    assert_ne!(before, after);
    sources.read(&shard, after, 0..10, &mut found).unwrap();
    assert_eq!(found, changed[..10], "the new state by its own stamp");
    let error = sources.locate(&shard, after, 0..300_001).unwrap_err();
    assert!(error.to_string().contains("beyond its end at 300000"), "{error}");
}

/// Protects the index of a shard from wrong offsets: what is read in one pass, with jumps of all
/// sizes, through faults, is what lies there; and it leaves the cache empty.
#[test]
fn one_pass_reads_what_is_there() {
    let bytes = content(1_000_000, 3);
    let server = Server::start("object_server.py", &[("0.tar", &bytes)]);
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    for path in ["cut.3/0.tar", "goeson.3/0.tar"] {
        let mut whole = Vec::new();
        sources.open(&server.shard(path)).unwrap().read_to_end(&mut whole).unwrap();
        assert!(whole == bytes, "{path} from begin to end");
    }
    let mut reader = sources.open(&server.shard("0.tar")).unwrap();
    for (place, jump) in [(0, 512), (10_000, 60_000), (66_000, 300_000), (400_000, -350_000)] {
        let start = reader.seek(SeekFrom::Start(place)).unwrap() as usize;
        let mut block = [0; 512];
        reader.read_exact(&mut block).unwrap();
        assert!(block == bytes[start..start + 512], "at {start}");
        let start = reader.seek(SeekFrom::Current(jump)).unwrap() as usize;
        reader.read_exact(&mut block).unwrap();
        assert!(block == bytes[start..start + 512], "at {start}");
    }
    reader.seek(SeekFrom::End(-10)).unwrap();
    assert_eq!(reader.read(&mut [0; 20]).unwrap(), 10);
    assert_eq!(reader.read(&mut [0; 20]).unwrap(), 0);
    let kept: Vec<_> = super::files_below(cache.path());
    assert!(kept.is_empty(), "{kept:?}");
}

/// Protects training from waiting where it could have fetched ahead, and from hints that wait
/// themselves: what is hinted comes in the background, and more hints than can be queued, for a
/// server that does not answer, cost no time.
#[test]
fn hints_fetch_ahead_and_never_wait() {
    let (server, bytes) = server();
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    let shard = server.shard("0.tar");
    let stamp = sources.stamp(&shard).unwrap();
    sources.prefetch(&shard, stamp, 100_000..200_000);
    let start = Instant::now();
    let pieces =
        || super::files_below(cache.path()).iter().filter(|(_, size)| *size == 65_536).count();
    while pieces() < 3 {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing was fetched ahead");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut found = Vec::new();
    sources.read(&shard, stamp, 100_000..190_000, &mut found).unwrap();
    assert!(found == bytes[100_000..190_000]);
    assert_eq!(server.log().len(), 3, "each piece was fetched once");

    let silent = Stamp { size: 1 << 30, ..stamp };
    let start = Instant::now();
    sources.prefetch(&server.shard("stalls.9/0.tar"), silent, 0..silent.size);
    drop(sources);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// Protects those who have their shards on a disk from threads, folders and copies.
#[test]
fn files_are_read_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = (folder.path().join("0.tar"), content(10_000, 4));
    std::fs::write(&path, &bytes).unwrap();
    let cache = folder.path().join("cache");
    let sources = sources(&cache, LARGE);
    let pattern = folder.path().join("*.tar").to_str().unwrap().to_string();
    let shards = sources.expand(&[pattern], "data.shards").unwrap();
    assert_eq!(shards, [ShardAddress::File(path.clone())]);
    let stamp = sources.stamp(&shards[0]).unwrap();
    sources.prefetch(&shards[0], stamp, 10..20);
    let segments = sources.locate(&shards[0], stamp, 10..20).unwrap();
    assert_eq!(segments, [Segment { path: path.as_path().into(), offset: 10, length: 10 }]);
    assert!(read(&sources, &shards[0], 10..20).unwrap() == bytes[10..20]);
    let mut whole = Vec::new();
    sources.open(&shards[0]).unwrap().read_to_end(&mut whole).unwrap();
    assert!(whole == bytes);
    assert!(!cache.exists(), "a cache was made for files");
    let absent = ShardAddress::File(folder.path().join("1.tar"));
    assert!(format!("{:#}", sources.stamp(&absent).unwrap_err()).contains("1.tar"));
}

/// Protects memory and the network from a server without byte ranges and a large shard.
#[test]
fn a_large_object_without_ranges_is_refused() {
    let (server, _) = server();
    let large = std::fs::File::create(server.folder.path().join("large.tar")).unwrap();
    large.set_len(65 << 20).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    let start = Instant::now();
    let error = read(&sources, &server.shard("norange.99/large.tar"), 0..10).unwrap_err();
    assert!(format!("{error:#}").contains("knows no byte ranges"), "{error:#}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// Protects images from a byte too many, too few or from elsewhere: any range, in pieces of any
/// alignment, is exactly its bytes.
#[test]
fn any_range_is_its_bytes() {
    let (server, bytes) = server();
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), LARGE);
    let shard = server.shard("0.tar");
    let stamp = sources.stamp(&shard).unwrap();
    let size = bytes.len() as u64;
    let near_edge =
        (0..6u64, 0..9u64).prop_map(|(piece, off)| (piece * (64 << 10) + off).saturating_sub(4));
    let place = prop_oneof![0..=size, near_edge.prop_map(move |place| place.min(size))];
    proptest!(ProptestConfig::with_cases(300), |(a in place.clone(), b in place)| {
        let range = a.min(b)..a.max(b);
        let mut found = Vec::new();
        sources.prefetch(&shard, stamp, range.clone());
        sources.read(&shard, stamp, range.clone(), &mut found).unwrap();
        prop_assert!(found == bytes[range.start as usize..range.end as usize]);
        let segments = sources.locate(&shard, stamp, range.clone()).unwrap();
        let length: u64 = segments.iter().map(|segment| segment.length).sum();
        prop_assert_eq!(length, range.end - range.start);
        prop_assert!(segments.iter().all(|segment| segment.length > 0));
    });
    assert_eq!(server.log().len(), 5, "each piece was fetched once");
}
