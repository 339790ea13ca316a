"""Tar files as Python's tarfile writes them, in each of its formats, with names that are long, odd
or no UTF-8: FOLDER/FORMAT.tar. Each image's content is its number."""

import io
import sys
import tarfile
from pathlib import Path

NAMES = [
    b"plain.jpg",
    b"/absolute/path.jpg",
    b"../../above.jpg",
    b"deep/" * 12 + b"name.jpeg",
    b"n" * 90 + b".png",
    "\u00fcber/stra\u00dfe.webp".encode(),
    b"not_\xff_utf8.jpg",
    b"not_\xfe_utf8.jpg",
    b"new\nline=1.jpg",
]
LONG_NAMES = [b"l" * 150 + b".jpg", b"folder" * 50 + b"/" + b"name" * 50 + b".jpg"]

for name, form, names in (
    ("ustar", tarfile.USTAR_FORMAT, NAMES),
    ("gnu", tarfile.GNU_FORMAT, NAMES + LONG_NAMES),
    ("pax", tarfile.PAX_FORMAT, NAMES + LONG_NAMES),
):
    path = Path(sys.argv[1]) / f"{name}.tar"
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for number, member in enumerate(names):
            info = tarfile.TarInfo(member.decode("utf-8", "surrogateescape"))
            content = str(number).encode()
            info.size, info.mtime = len(content), 1234567890.125
            tar.addfile(info, io.BytesIO(content))
