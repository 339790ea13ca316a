# shellcheck shell=bash
# Pythons with pinned packages and the torch that cargo builds against. Sourced after setup.sh.

# ensure_python_packages NAME ARGUMENT...: sets packages_python to an executable that sees what pip
# installs for the arguments, and torch.
ensure_python_packages() {
    local name=$1 hash folder
    shift
    hash=$(printf '%s\n' "$@" "$torch_version" | sha256sum | cut -c1-12)
    folder=$cache/$name-$hash
    install_once "$torch" install_torch
    # The Python that it was made for may be gone after a system upgrade.
    [ ! -d "$folder" ] || "$folder/python" -c '' 2>/dev/null || rm -rf "$folder"
    install_once "$folder" install_python_packages "$name" "$@"
    packages_python=$folder/python
}

# Called by install_once, which adds the folder to the arguments.
install_python_packages() {
    local name=$1 folder=${*: -1}
    say "installing the Python packages of $name"
    mkdir "$folder/packages"
    pip_install "$folder/packages" "${@:2:$#-2}"
    # The folder is renamed after this, so the wrapper finds its packages beside itself.
    cat >"$folder/python" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$0")
PYTHONNOUSERSITE=1 PYTHONPATH="\$here/packages:$torch" exec "$python" "\$@"
WRAPPER
    chmod +x "$folder/python"
}
