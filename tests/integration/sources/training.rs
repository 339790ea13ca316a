//! Whole runs on shards behind URLs.

use super::Server;
use crate::support::workshop::{Finished, Workshop};

fn server(workshop: &Workshop, script: &str) -> Server {
    let read = |name| std::fs::read(workshop.path(name)).unwrap();
    let (first, second) = (read("shards/0.tar"), read("shards/1.tar"));
    Server::start(script, &[("0.tar", &first), ("1.tar", &second)])
}

/// Trains on these shards in the directory `run`, with a cache of its own.
fn train(workshop: &Workshop, run: &str, shards: &str, variables: &[(&str, &str)]) -> Finished {
    let run = format!("run.dir={run}");
    let shards = format!("data.shards={shards}");
    let mut command = workshop.training(&[
        run.as_str(),
        shards.as_str(),
        "data.cache_dir=cache",
        "data.index_dir=index",
    ]);
    Finished::of(command.envs(variables.iter().copied()).output().unwrap())
}

/// Where shards lie does not matter: a run on files, one on S3 and one on an HTTP server that
/// fails again and again end with the same weights.
#[test]
fn weights_are_the_same_wherever_shards_lie() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=files"]).succeeds();
    let expected = workshop.checkpoint("files", 8);

    let http = server(&workshop, "object_server.py");
    let urls = format!("['{0}/cut.1/0.tar', '{0}/503.2/1.tar']", http.address);
    train(&workshop, "http", &urls, &[]).succeeds();
    assert_eq!(workshop.checkpoint("http", 8), expected);

    let s3 = server(&workshop, "s3_server.py");
    let variables = [
        ("AWS_ENDPOINT_URL", s3.address.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    train(&workshop, "s3", "['s3://shards/*.tar']", &variables).succeeds();
    assert_eq!(workshop.checkpoint("s3", 8), expected);
}

/// A shard that is not there is told before training, once, with its address.
#[test]
fn a_missing_object_ends_a_run_with_one_error() {
    let workshop = Workshop::new();
    let http = server(&workshop, "object_server.py");
    let urls = format!("['{0}/0.tar', '{0}/7.tar']", http.address);
    let error = train(&workshop, "missing", &urls, &[]).fails(1, &["/7.tar"]);
    assert_eq!(error.stderr.matches("7.tar").count(), 1, "{}", error.stderr);
}
