"""Images in every form that Pillow writes or that PNG's standard allows, each with the pixels
that Pillow's convert("RGB") gives: FOLDER/NAME and FOLDER/NAME.expected.png."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 50, 37
folder = Path(sys.argv[1])


def write(name, encoded, expected=None):
    (folder / name).write_bytes(encoded)
    if expected is None:
        expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    expected.info.clear()  # of which only a palette has use
    expected.save(folder / f"{name}.expected.png")


def save(name, image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    write(name, buffer.getvalue())


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def packed(samples, depth):
    """Rows of a PNG image [height, width * channels], each behind its filter byte."""
    rows = []
    for row in samples:
        if depth == 16:
            content = row.astype(">u2").tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            content = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        rows.append(b"\0" + content)
    return b"".join(rows)


# Where each pass of an interlaced PNG begins and how far its pixels lie apart: x, y, dx, dy.
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, color, depth, interlaced=False, palette=None, transparency=None):
    height, width, channels = samples.shape
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES]
    else:
        passes = [samples]
    content = b"".join(
        packed(part.reshape(part.shape[0], -1), depth) for part in passes if part.size
    )
    chunks = [chunk(b"IHDR", head)]
    if palette is not None:
        chunks.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
    if transparency is not None:
        chunks.append(chunk(b"tRNS", transparency))
    chunks += [chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def smooth(channels, top):
    """An image without sharp edges, values up to `top`."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / (9 + 3 * c) + c) * np.cos(y / (7 + 2 * c)) for c in range(channels)]
    return np.round((np.stack(waves, -1) * 0.5 + 0.5) * top).astype(np.uint32)


def high_bytes(samples):
    return Image.fromarray((samples >> 8).astype(np.uint8).squeeze()).convert("RGB")


def write_pngs():
    write("grey8.png", png(smooth(1, 255), 0, 8))
    for depth in (1, 2, 4):
        samples = smooth(1, 2**depth - 1)
        write(f"grey{depth}.png", png(samples, 0, depth))
        mark = struct.pack(">H", 1)
        write(f"grey{depth}_transparent.png", png(samples, 0, depth, transparency=mark))
    # Pillow clips such images to white; this project keeps the high byte.
    wide = smooth(1, 65535)
    write("grey16.png", png(wide, 0, 16), high_bytes(wide))
    for name, color, channels in (("rgb", 2, 3), ("grey_alpha", 4, 2), ("rgba", 6, 4)):
        for depth in (8, 16):
            samples = smooth(channels, 2**depth - 1)
            write(f"{name}{depth}.png", png(samples, color, depth))
            write(f"{name}{depth}_interlaced.png", png(samples, color, depth, interlaced=True))
    samples = smooth(3, 255)
    mark = struct.pack(">HHH", *samples[3, 5])
    write("rgb8_transparent.png", png(samples, 2, 8, transparency=mark))
    for depth in (1, 2, 4, 8):
        colors = 2**depth
        palette = smooth(3, 255).reshape(-1, 3)[:: WIDTH * HEIGHT // colors][:colors]
        samples = smooth(1, colors - 1)
        write(f"palette{depth}.png", png(samples, 3, depth, palette=palette))
        write(
            f"palette{depth}_transparent.png",
            png(samples, 3, depth, True, palette, bytes([0, 128][:colors])),
        )
    frames = [Image.fromarray(smooth(3, top).astype(np.uint8)) for top in (255, 40)]
    save("animated.png", frames[0], "PNG", save_all=True, append_images=frames[1:])


def write_jpegs(rgb):
    save("plain.jpg", rgb, "JPEG", quality=95)
    save("grey.jpg", rgb.convert("L"), "JPEG", quality=95)
    save("progressive.jpg", rgb, "JPEG", quality=95, progressive=True)
    save("restart.jpg", rgb, "JPEG", quality=95, restart_marker_blocks=1)
    save("restart_rows.jpg", rgb, "JPEG", quality=95, restart_marker_rows=1, progressive=True)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    save("rotated.jpg", rgb, "JPEG", quality=95, exif=rotated)
    save("several.jpg", rgb, "MPO", quality=95, save_all=True, append_images=[rgb.rotate(180)])
    plain = (folder / "plain.jpg").read_bytes()
    write("garbage_behind.jpg", plain + bytes(range(256)) * 20)
    write("second_behind.jpg", plain + plain)
    cmyk = Image.fromarray(smooth(4, 255).astype(np.uint8), "CMYK")
    save("cmyk.jpg", cmyk, "JPEG", quality=95)
    cmyk = (folder / "cmyk.jpg").read_bytes()
    adobe = cmyk.index(b"Adobe")
    # The marker's last byte tells how channels were transformed: 2 means YCCK.
    write("ycck.jpg", cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :])


def write_webps(rgb):
    rgba = Image.fromarray(smooth(4, 255).astype(np.uint8), "RGBA")
    save("lossy.webp", rgb, "WEBP", quality=95)
    save("lossless.webp", rgb, "WEBP", lossless=True)
    save("lossy_alpha.webp", rgba, "WEBP", quality=95, exact=True)
    save("lossless_alpha.webp", rgba, "WEBP", lossless=True, exact=True)
    other = rgb.rotate(180)
    save("animated.webp", rgb, "WEBP", quality=95, save_all=True, append_images=[other])
    save("animated_lossless.webp", rgb, "WEBP", lossless=True, save_all=True, append_images=[other])


write_pngs()
rgb = Image.fromarray(smooth(3, 255).astype(np.uint8))
write_jpegs(rgb)
write_webps(rgb)
