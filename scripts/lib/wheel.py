"""Puts the two programs into a wheel, of which pip makes an environment's `distill`. Called by scripts/package."""

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

PROGRAMS = ("distill", "distill-worker")
# Versions of Python that torch has wheels for.
PYTHONS = range(10, 15)


def library_path() -> str:
    """Where libtorch and NVRTC are, seen from an environment's bin/: virtual environments and --user installations
    have lib/python3.N/site-packages, Debian's own Python dist-packages."""
    places = []
    for minor in PYTHONS:
        for packages in ("site-packages", "dist-packages"):
            site = f"$ORIGIN/../lib/python3.{minor}/{packages}"
            places += [f"{site}/torch/lib", f"{site}/nvidia/cu13/lib"]
    return ":".join(places)


def newest_glibc(programs: list[Path]) -> str:
    """The glibc that the programs need, as wheels' tags name it: 2_34."""
    needed = set()
    for program in programs:
        symbols = subprocess.run(["objdump", "-T", program], check=True, capture_output=True, text=True).stdout
        needed |= {tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", symbols)}
    return "_".join(map(str, max(needed)))


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--torch", required=True)
    parser.add_argument("--patchelf", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cargo = (arguments.root / "Cargo.toml").read_text()
    version = re.search(r'\[workspace\.package\]\nversion = "([^"]+)"', cargo)[1]
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for name in PROGRAMS:
            copy = Path(folder) / name
            shutil.copy(arguments.programs / name, copy)
            subprocess.run(["strip", "--strip-debug", copy], check=True)
            # The worker needs no libtorch; the builder's own paths stay with the builder.
            change = ["--set-rpath", library_path()] if name == "distill" else ["--remove-rpath"]
            subprocess.run([arguments.patchelf, *change, copy], check=True)
            copies.append(copy)
        machine = subprocess.run(["uname", "-m"], check=True, capture_output=True, text=True).stdout.strip()
        tag = f"py3-none-manylinux_{newest_glibc(copies)}_{machine}"
        info = f"distill-{version}.dist-info"
        files = {f"distill-{version}.data/scripts/{copy.name}": copy.read_bytes() for copy in copies}
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: distill\nVersion: {version}\n"
        "Summary: Distil a frozen vision encoder into several smaller ones at once\n"
        f"License: Apache-2.0\nRequires-Python: >=3.{PYTHONS[0]}\nRequires-Dist: torch=={arguments.torch}\n"
    ).encode()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: distill-package\nRoot-Is-Purelib: false\nTag: {tag}\n"
    ).encode()
    files[f"{info}/LICENSE"] = (arguments.root / "LICENSE").read_bytes()
    record = [f"{name},{digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = arguments.out / f"distill-{version}-{tag}.whl"
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # One date for all: the same programs make the same wheel.
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    partial.rename(wheel)
    print(wheel)


if __name__ == "__main__":
    main()
