# shellcheck shell=bash
# Pictures from Debian packages, unpacked in the user's cache without installing the packages.
# Sourced after setup.sh.

packages=$cache/debian

# Wallpaper packages, and which of their pictures are photographs.
photographs=(
    'lomiri-wallpapers-16.04 */backgrounds/*.jpg'
    'lomiri-wallpapers-20.04 */Kleiber*.jpg'
    'mate-backgrounds */nature/*.jpg'
    'plasma-workspace-wallpapers */contents/images/2560x1600.jpg'
)

# ensure_debian_tools ADVICE: stops with the advice where Debian packages cannot be had.
ensure_debian_tools() {
    local tool
    for tool in apt-get dpkg-deb; do
        command -v "$tool" >/dev/null ||
            die "$tool is missing: the pictures come from Debian packages. $1"
    done
    mkdir -p "$packages"
}

download() {
    local options=()
    # Root's downloads are otherwise handed to a user who cannot write to this folder.
    [ "$(id -u)" != 0 ] || options=(-o APT::Sandbox::User=root)
    (cd "$1" && apt-get "${options[@]}" download -qq "$2" >&2)
}

# unpack PACKAGE: the package's files in $packages/PACKAGE.
unpack() {
    install_once "$packages/$1" unpack_to "$1"
}

unpack_to() {
    local package=$1 folder=$2
    say "downloading the Debian package $package"
    mkdir "$folder/archive"
    download "$folder/archive" "$package" 2>/dev/null || {
        as_root apt-get update -qq >&2 || true
        download "$folder/archive" "$package" ||
            die "cannot download $package; its list may be old: sudo apt-get update"
    }
    dpkg-deb -x "$folder"/archive/*.deb "$folder"
    rm -r "$folder/archive"
}

# link_photographs FOLDER: links to every photograph, named after its package and its path there.
link_photographs() {
    local folder=$1 entry package pattern picture name
    for entry in "${photographs[@]}"; do
        read -r package pattern <<<"$entry"
        unpack "$package"
        while IFS= read -r -d '' picture; do
            name=${picture#"$packages/$package/usr/share/"}
            ln -s "$picture" "$folder/$package-${name//\//-}"
        done < <(find "$packages/$package" -type f -path "$pattern" -print0)
    done
}
