//! Who may not, what is not there, and hubs that cannot be reached: one message, which says what to do.

use std::fs;

use super::{FIRST, Hub};
use crate::support::workshop::Workshop;

/// The token of the environment or of `hf auth login`'s file goes to the hub, and nowhere else.
#[test]
fn a_token_opens_what_is_closed() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    for mark in ["private", "gated"] {
        fs::write(hub.repository("lab/small").join(mark), "").unwrap();
    }
    // The hub's other host refuses whoever brings a token.
    hub.export(&workshop, "hf://lab/small", &[("HF_TOKEN", "good")]).succeeds();
    fs::remove_dir_all(hub.cache()).unwrap();
    fs::write(hub.home.path().join("token"), "good\n").unwrap();
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    assert!(hub.asked("GET /api").iter().all(|line| line.ends_with(" good")));
    assert!(hub.asked("GET /kept").iter().all(|line| line.ends_with("None ")));
}

#[test]
fn closed_models_say_how_they_open() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let gated = hub.repository("lab/small").join("gated");
    fs::write(&gated, "").unwrap();
    let page = format!("{}/lab/small", hub.server.address);
    let without = hub.export(&workshop, "hf://lab/small", &[]);
    without.fails(1, &["is gated", &page, "hf auth login", "HF_TOKEN", "status 401"]);
    let with = hub.export(&workshop, "hf://lab/small", &[("HF_TOKEN", "another")]);
    let with = with.fails(1, &["is gated", &page, "in place of that of HF_TOKEN", "status 403"]);
    assert!(!with.stderr.contains("another"), "a token was printed");
    let expired = hub.export(&workshop, "hf://lab/small", &[("HF_TOKEN", "expired")]);
    expired.fails(1, &["the token of HF_TOKEN is not accepted", "make a new one"]);
    fs::rename(&gated, hub.repository("lab/small").join("private")).unwrap();
    let private = hub.export(&workshop, "hf://lab/small", &[]);
    private.fails(1, &["no model lab/small", "or it is private", "hf auth login"]);
}

#[test]
fn what_is_not_there_is_named() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    let export = |address: &str| hub.export(&workshop, address, &[]);
    let token = [("HF_TOKEN", "good")];
    let unknown = hub.export(&workshop, "hf://lab/large", &token);
    unknown.fails(1, &["hf://lab/large", "there is no model lab/large", "check the name", "404"]);
    export("hf://lab/small@v2").fails(1, &["lab/small has no revision `v2`", "commits/main"]);
    for odd in ["hf://small", "hf://lab/small/model.safetensors", "hf://lab/small@"] {
        export(odd).fails(1, &[odd, "expected hf://OWNER/NAME"]);
    }
    let repository = hub.repository("lab/small").join(FIRST);
    fs::remove_file(repository.join("model.safetensors")).unwrap();
    export("hf://lab/small").fails(1, &["it has no weights that are read", "README.md"]);
    for name in ["a.pth", "b.pth"] {
        fs::write(repository.join(name), "").unwrap();
    }
    export("hf://lab/small").fails(1, &["2 files of weights", "a.pth, b.pth", "name its path"]);
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let (mut hub, workshop) = (Hub::new(), Workshop::new());
    let offline = hub.export(&workshop, "hf://lab/small", &[("HF_HUB_OFFLINE", "1")]);
    offline.fails(1, &["is not in", "HF_HUB_OFFLINE forbids", "hf download lab/small"]);
    let nowhere = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    let unreachable = hub.export(&workshop, "hf://lab/small", &nowhere);
    unreachable.fails(1, &["is there a network?", "http://127.0.0.1:1 cannot be reached"]);
    assert!(hub.server.log().is_empty());
    hub.server.tell("status 503 2");
    hub.export(&workshop, "hf://lab/small", &[]).succeeds();
    let unnamed = hub.export(&workshop, "hf://lab/other", &[("HF_ENDPOINT", "hub.lab")]);
    unnamed.fails(1, &["HF_ENDPOINT is `hub.lab`", "expected https://"]);
    // A server that knows no hub.
    let other = format!("{}/log?", hub.server.address);
    let other = hub.export(&workshop, "hf://lab/other", &[("HF_ENDPOINT", &*other)]);
    other.fails(1, &["hf://lab/other", "there is no model lab/other", "status 404"]);
}

/// A licence of its own is told once to each user.
#[test]
fn a_licence_is_told_once() {
    let (hub, workshop) = (Hub::new(), Workshop::new());
    fs::write(hub.repository("lab/small").join("licence"), "research-only").unwrap();
    let told = |expected: bool| {
        let finished = hub.export(&workshop, "hf://lab/small", &[]).succeeds();
        let told = finished.stderr.contains("a licence of its own (`research-only`");
        assert_eq!(told, expected, "{}", finished.stderr);
    };
    told(true);
    told(false);
    fs::remove_dir_all(hub.cache()).unwrap();
    told(false);
    fs::write(hub.repository("lab/small").join("licence"), "apache-2.0").unwrap();
    fs::remove_dir_all(hub.home.path().join("cache/distill")).unwrap();
    told(false);
}
