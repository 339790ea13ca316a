//! HTTPS with a certificate that only whoever is told trusts.

use distill::data::source::ShardAddress;

use super::{Server, content, process, read, sources, succeeds, variable};

/// Protects shards from whoever stands in between: a server is believed by its certificate alone,
/// and one that the system does not know is refused at once.
#[test]
fn https_is_verified() {
    let server = Server::start("object_server.py --tls", &[("0.tar", &content(300_000, 5))]);
    let authority = server.folder.path().join("authority.pem");
    let start = |part| {
        let mut command = process(part);
        command.env("TEST_URL", format!("{}/0.tar", server.address));
        command
    };
    succeeds(start("tls::reads_what_is_trusted").env("SSL_CERT_FILE", authority));
    succeeds(start("tls::refuses_what_is_not").env_remove("SSL_CERT_FILE"));
}

#[test]
#[ignore = "a part of https_is_verified"]
fn reads_what_is_trusted() {
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), 1 << 30);
    let shard = ShardAddress::Url(variable("TEST_URL"));
    assert!(read(&sources, &shard, 0..300_000).unwrap() == content(300_000, 5));
}

#[test]
#[ignore = "a part of https_is_verified"]
fn refuses_what_is_not() {
    let cache = tempfile::tempdir().unwrap();
    let sources = sources(cache.path(), 1 << 30);
    let shard = ShardAddress::Url(variable("TEST_URL"));
    let text = format!("{:#}", sources.stamp(&shard).unwrap_err());
    assert!(text.contains("certificate") && text.contains("SSL_CERT_FILE"), "{text}");
    assert!(!text.contains("gave up"), "retried in vain: {text}");
}
