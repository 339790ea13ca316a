# shellcheck shell=bash
# Compiled dependencies take minutes, so a clone's first build starts from a copy of those that
# another clone compiled. Sourced by setup.sh.
#
# A copy, and not one build folder for all (build.build-dir): cargo takes two clones for the same
# package, and would rebuild it at every change of clone, under the other's running tests.

# The copy lies in the user's cache, one for a version of Rust.
dependencies_copy() {
    printf '%s' "$cache/dependencies-$rust"
}

# How many compiled units this clone has, its own aside.
count_dependencies() {
    find "$target/release/.fingerprint" -mindepth 1 -maxdepth 1 ! -name 'distill-*' -printf . | wc -c
}

take_dependencies() {
    local copy
    copy=$(dependencies_copy)
    [ -d "$copy" ] && [ ! -d "$target/release" ] && [ -z "${CARGO_BUILD_BUILD_DIR:-}" ] || return 0
    mkdir -p "$target"
    rm -rf "$target/release.partial"
    (
        flock --shared 9
        cp --archive --reflink=auto "$copy" "$target/release.partial"
    ) 9>"$copy.lock"
    mv "$target/release.partial" "$target/release"
    count_dependencies >"$target/release/.given"
}

# Keeps this clone's dependencies for other clones where cargo has added to them.
give_dependencies() {
    local copy given=$target/release/.given
    copy=$(dependencies_copy)
    [ -d "$target/release/.fingerprint" ] || return 0
    [ "$(count_dependencies)" != "$(cat "$given" 2>/dev/null)" ] || return 0
    (
        # Another clone gives, or cargo builds here again: it can wait for the next time.
        flock --nonblock 9 && flock --nonblock --shared 8 || exit 0
        rm -rf "$copy.partial"
        mkdir "$copy.partial"
        cp --archive --reflink=auto "$target/release"/{.fingerprint,build,deps} "$copy.partial"
        # Without this clone's own program and tests.
        rm -rf "$copy.partial"/{.fingerprint,build}/distill-* \
            "$copy.partial"/deps/{distill,distill_*,libdistill,libdistill_*,integration}-*
        rm -rf "$copy"
        mv "$copy.partial" "$copy"
        count_dependencies >"$given"
    ) 9>"$copy.lock" 8>>"$target/release/.cargo-lock"
}
