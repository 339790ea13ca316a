//! Places that lack something: what a file system or a machine does not have costs that, and not the run.

use std::fs;
use std::process::Command;

use crate::support::workshop::{Finished, Workshop};

/// A library that takes operations away from the files of a workshop.
const LACKING: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
int fsync(int file) {
    struct stat found;
    if (!fstat(file, &found) && S_ISDIR(found.st_mode)) { errno = EINVAL; return -1; }
    return 0;
}
static int is_weights(int file) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (file < 0 || length < 0) return 0;
    path[length] = 0;
    return strstr(path, ".safetensors") != 0;
}
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t from) {
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
    if (is_weights(file)) { errno = ENODEV; return MAP_FAILED; }
    return real(at, size, protection, flags, file, from);
}
void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t from) {
    return mmap(at, size, protection, flags, file, from);
}
"#;

/// Folders that cannot be brought to the disk and files that cannot be mapped change no weight.
#[test]
fn a_poor_file_system_costs_no_run() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=usual"]).succeeds();
    fs::write(workshop.path("lacking.c"), LACKING).unwrap();
    let library = workshop.path("lacking.so");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(workshop.path("lacking.c"));
    assert!(compile.arg("-ldl").status().unwrap().success());
    let poor = workshop.training(&["run.dir=poor"]).env("LD_PRELOAD", &library).output().unwrap();
    let poor = Finished::of(poor).succeeds();
    assert!(poor.stderr.contains("maps no files"), "{}", poor.stderr);
    assert_eq!(workshop.checkpoint("usual", 8), workshop.checkpoint("poor", 8));
    let weights =
        |run: &str| fs::read(workshop.path(run).join("exports/one/model.safetensors")).unwrap();
    assert_eq!(weights("usual"), weights("poor"));
}

/// A limit of a file's size is an error that names the file, and no silent death by SIGXFSZ.
#[test]
fn a_limit_of_files_is_told() {
    let workshop = Workshop::new();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 64; exec \"$0\" --config config.toml"]);
    limited.arg(env!("CARGO_BIN_EXE_distill")).current_dir(workshop.path(""));
    Finished::of(limited.output().unwrap()).fails(1, &["cannot save the checkpoint", "step-2"]);
}

/// What keeps processes from meeting is said soon, and named.
#[test]
fn what_keeps_ranks_from_meeting_is_named() {
    let workshop = Workshop::new();
    let first = |host: &str, script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(env!("CARGO_BIN_EXE_distill"));
        command.current_dir(workshop.path("")).env("MASTER_ADDR", host).env("MASTER_PORT", "29517");
        for (name, value) in
            [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")]
        {
            command.env(name, value);
        }
        Finished::of(command.output().unwrap())
    };
    let run = "exec \"$0\" --config config.toml";
    first("no-such-host.invalid", run).fails(1, &["MASTER_ADDR", "no host `no-such-host.invalid`"]);
    first("127.0.0.1", &format!("ulimit -n 20; {run}")).fails(1, &["raise ulimit -n (now 20)"]);
}
