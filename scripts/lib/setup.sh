# shellcheck shell=bash
# What every script stands on: where things are, and how missing ones are brought. Sourced.
#
# Nothing is installed twice: torch and the test Python go to folders of the user's cache that all
# clones share, made under another name and renamed when complete.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/distill
target=${CARGO_TARGET_DIR:-$root/target}
torch_version=2.11.0
torch=$cache/torch-$torch_version
cuda_version=13.0
cuda_headers=$cache/cuda-headers-$cuda_version

# shellcheck source-path=SCRIPTDIR
source "$root/scripts/lib/dependencies.sh"

# Debian packages that the build needs, each with programs or files that come with it. libtorch has
# Gloo inside, but not its headers.
build_packages=('g++ cc c++' 'cmake cmake' 'nasm nasm' 'libgloo-dev /usr/include/gloo/config.h')

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

# Installs Debian packages, or says how to.
install_packages() {
    command -v apt-get >/dev/null ||
        die "missing: $*; install what your system has for these Debian packages"
    say "installing $* with apt-get"
    {
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -qq -y --no-install-recommends "$@"
    } >&2 || die "missing: $*; install with: sudo apt-get update && sudo apt-get install $*"
}

# ensure_packages ENTRY...: each entry a Debian package, and programs or files that come with it.
ensure_packages() {
    local entry package program programs missing=()
    for entry; do
        read -r package programs <<<"$entry"
        for program in $programs; do
            if ! command -v "$program" >/dev/null && [ ! -e "$program" ]; then
                missing+=("$package")
                break
            fi
        done
    done
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# Sets `python` to a Python that has pip and that torch has wheels for.
ensure_python() {
    local tried
    for tried in 1 2; do
        for python in python3 /usr/bin/python3; do
            "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
                continue
            python=$("$python" -c 'import sys; print(sys.executable)')
            return
        done
        [ "$tried" = 2 ] || install_packages python3 python3-pip
    done
    die "no Python of 3.10 or later with pip: install python3 and python3-pip"
}

# Sets `rust` to the version of the Rust that builds.
ensure_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo is missing; install Rust with rustup, rustup.rs"
    local needed
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    rust=$(cargo --version) || die "cargo does not run (above it says why)"
    rust=$(cut -d' ' -f2 <<<"$rust")
    printf '%s\n' "$needed" "$rust" | sort --check=quiet --version-sort ||
        die "Rust $rust is too old: $needed or later is needed (rustup update)"
}

# install_once FOLDER COMMAND...: runs COMMAND with a new folder's name added, and gives the
# folder its name when it is complete. Others that want the same folder wait.
install_once() {
    local folder=$1
    shift
    [ -d "$folder" ] && return
    mkdir -p "$cache"
    (
        flock --nonblock 9 || {
            say "waiting for another process that brings $folder"
            flock 9
        }
        [ -d "$folder" ] && exit
        rm -rf "$folder.partial"
        mkdir "$folder.partial"
        "$@" "$folder.partial"
        mv "$folder.partial" "$folder"
    ) 9>"$folder.lock"
}

# pip_install FOLDER ARGUMENT...: no virtual environment, and the system's Python is left alone.
pip_install() {
    local folder=$1 loudness=--quiet
    shift
    [ ! -t 2 ] || loudness=
    ensure_python
    # pip unpacks in TMPDIR first, and /tmp is often memory, or too small for torch.
    mkdir "$folder/tmp"
    TMPDIR=$folder/tmp PIP_ROOT_USER_ACTION=ignore "$python" -m pip install $loudness \
        --disable-pip-version-check --only-binary :all: --no-compile --target "$folder" "$@" >&2 ||
        die "pip could not install $*"
    rm -rf "$folder/tmp"
}

install_torch() {
    local free
    free=$(df --output=avail --block-size=1G "$1" | tail -n 1)
    [ "$free" -ge 9 ] || die "torch needs 9 GB in $cache while it installs; $((free)) GB are free \
(XDG_CACHE_HOME=FOLDER takes another place)"
    say "installing torch $torch_version to $torch (5 GB, once for all clones)"
    pip_install "$1" "torch==$torch_version"
}

# The libtorch that cargo builds against. A user's own choice stands.
ensure_libtorch() {
    if [ -z "${LIBTORCH:-}${LIBTORCH_USE_PYTORCH:-}" ]; then
        install_once "$torch" install_torch
        export LIBTORCH=$torch/torch
    fi
}

install_cuda_headers() {
    say "installing headers of CUDA $cuda_version to $cuda_headers (for NCCL)"
    pip_install "$1" --no-deps "nvidia-cuda-crt==$cuda_version.*" "nvidia-cuda-cccl==$cuda_version.*"
}

# The headers that NCCL's process group needs beside those that come with torch.
ensure_cuda_headers() {
    if [ -z "${DISTILL_CUDA_HEADERS:-}" ]; then
        install_once "$cuda_headers" install_cuda_headers
        export DISTILL_CUDA_HEADERS=$cuda_headers
    fi
}

# Everything that cargo needs.
ensure_build() {
    ensure_packages "${build_packages[@]}"
    ensure_cargo
    ensure_libtorch
    ensure_cuda_headers
    take_dependencies
    # What `distill --version` tells; a tree without git tells none.
    DISTILL_COMMIT=$(git -C "$root" describe --always --dirty --abbrev=10 --exclude '*' 2>/dev/null || true)
    export DISTILL_COMMIT
}

# Builds the program, and sets `program` to it.
build() {
    local quiet=()
    ensure_build
    program=$target/release/distill
    # Nothing to say where nothing is to do.
    if [ -x "$program" ] &&
        [ -z "$(find "$root"/{Cargo.*,build.rs,src} -newer "$program" -print -quit)" ]; then
        quiet=(--quiet)
    fi
    cargo build --release "${quiet[@]}" --manifest-path "$root/Cargo.toml" --target-dir "$target"
    give_dependencies
}
