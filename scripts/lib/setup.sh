# shellcheck shell=bash
# What every script stands on: where things are, and how missing ones are brought. Sourced.
#
# Nothing is installed twice: torch and the test Python go to folders of the user's cache that all
# clones share, made under another name and renamed when complete.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/distill
torch_version=2.11.0
torch=$cache/torch-$torch_version

# Debian packages that the build needs, each with a command that shows it is there.
debian_packages=(
    'g++: command -v g++'
    'python3: command -v python3'
    'python3-pip: python3 -m pip --version'
)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# Runs a command as root where that needs no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif sudo -n true 2>/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

# Installs the missing ones of the Debian packages that the build needs, or says how to.
ensure_debian_packages() {
    local entry missing=()
    for entry in "${debian_packages[@]}"; do
        bash -c "${entry#*: }" >/dev/null 2>&1 || missing+=("${entry%%:*}")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null ||
        die "missing: ${missing[*]}; install them with your system's package manager"
    say "installing ${missing[*]} with apt-get"
    { as_root apt-get update -qq && as_root apt-get install -qq -y "${missing[@]}"; } >&2 ||
        die "missing: ${missing[*]}; install them: sudo apt-get install ${missing[*]}"
}

ensure_cargo() {
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing; install Rust with rustup"
}

# install_once FOLDER COMMAND...: runs COMMAND with a new folder's name added, and gives the
# folder its name when it is complete. Others that want the same folder wait.
install_once() {
    local folder=$1
    shift
    [ -d "$folder" ] && return
    mkdir -p "$cache"
    (
        flock 9
        [ -d "$folder" ] && exit
        rm -rf "$folder.partial"
        mkdir "$folder.partial"
        "$@" "$folder.partial"
        mv "$folder.partial" "$folder"
    ) 9>"$folder.lock"
}

pip_install() {
    local folder=${!#}
    set -- "${@:1:$#-1}"
    # --target needs no virtual environment and leaves the system's Python alone.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --no-warn-conflicts --target "$folder" "$@" >&2
}

install_torch() {
    say "installing torch $torch_version to $torch (about 5 GB, once for all clones)"
    pip_install "torch==$torch_version" "$1"
}

# The libtorch that cargo builds against. A user's own choice stands.
ensure_libtorch() {
    if [ -z "${LIBTORCH:-}${LIBTORCH_USE_PYTORCH:-}" ]; then
        install_once "$torch" install_torch
        export LIBTORCH=$torch/torch
    fi
}

# Everything that `cargo build` needs.
ensure_build() {
    ensure_debian_packages
    ensure_cargo
    ensure_libtorch
    # Compiled dependencies are shared by all clones; programs stay in each clone's target/. Cargo
    # tells clones apart by this variable (see build.rs).
    export CARGO_BUILD_BUILD_DIR=${CARGO_BUILD_BUILD_DIR:-$cache/build}
    export DISTILL_CLONE=$root
}

build() {
    ensure_build
    cargo build --release --manifest-path "$root/Cargo.toml"
    program=${CARGO_TARGET_DIR:-$root/target}/release/distill
}
