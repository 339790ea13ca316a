# shellcheck shell=bash
# A Python with the data loaders that scripts/bench/data compares with. Sourced after setup.sh.

# shellcheck source-path=SCRIPTDIR
source "$root/scripts/lib/python_packages.sh"

# Without their dependencies: torchvision's would be a second torch, DALI's the decoders that only
# GPUs use. Those that they do need are in the list.
loader_requirements=(
    --no-deps
    'nvidia-dali-cuda120==2.4.0'
    'nvidia-nvimgcodec-cu12==0.9.0.20'
    'astunparse==1.6.3'
    'gast==0.7.0'
    'libcst==1.9.0'
    'makefun==1.16.0'
    'nvtx==0.2.17'
    'optree==0.20.0'
    'packaging==26.3'
    'pyyaml==6.0.3'
    'six==1.17.0'
    'typing-extensions==4.16.0'
    'webdataset==1.0.2'
    'braceexpand==0.1.7'
    'torchvision==0.26.0'
    'pillow==13.0.0'
    'numpy==2.2.6; python_version < "3.11"'
    'numpy==2.4.6; python_version >= "3.11"'
)

# Sets loader_python to an executable that sees the loaders and torch.
ensure_loader_python() {
    ensure_python_packages loader-peers "${loader_requirements[@]}"
    # shellcheck disable=SC2034  # for the scripts that source this
    loader_python=$packages_python
}
