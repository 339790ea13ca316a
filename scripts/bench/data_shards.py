"""Makes WebDataset shards (KEY.jpg, KEY.cls) that resemble ImageNet's from a few large photographs.

    data_shards.py PHOTOGRAPHS OUT --size standard|large --pictures N --shards N

Every picture is a random part of a photograph, reduced (never enlarged, which would leave JPEG with
less to encode than a camera's picture has) and saved with a random quality. The same arguments give
the same pictures.
"""

import argparse
import functools
import io
import pathlib
import random
import sys
import tarfile

from PIL import Image

# Width, height and how often: the sides that are most common in ImageNet.
STANDARD_SHAPES = [
    (500, 375, 55),
    (375, 500, 18),
    (500, 333, 14),
    (333, 500, 7),
    (500, 500, 6),
]
# How many times longer the sides are.
ENLARGEMENT = {"standard": 1, "large": 4}
QUALITIES = (88, 95)
CLASSES = 1000


@functools.cache
def size_of(path):
    with Image.open(path) as picture:
        return picture.size


@functools.cache
def photograph(path):
    return Image.open(path).convert("RGB")


def holds(size, shape):
    return size[0] >= shape[0] and size[1] >= shape[1]


def draw_picture(draws, paths, shapes):
    """A large part of a photograph, reduced: photographs are seldom seen in small parts."""
    weights = [often for _, _, often in shapes]
    width, height, _ = draws.choices(shapes, weights)[0]
    large_enough = [path for path in paths if holds(size_of(path), (width, height))]
    source = photograph(draws.choice(large_enough))
    largest_reduction = min(source.width / width, source.height / height)
    reduction = draws.uniform(max(1, largest_reduction / 2), largest_reduction)
    part = (width * reduction, height * reduction)
    left = draws.uniform(0, source.width - part[0])
    top = draws.uniform(0, source.height - part[1])
    right = min(left + part[0], source.width)
    bottom = min(top + part[1], source.height)
    box = (left, top, right, bottom)
    return source.resize((width, height), Image.Resampling.BICUBIC, box=box)


def encode(picture, quality):
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def add_member(shard, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--size", choices=ENLARGEMENT, required=True)
    parser.add_argument("--pictures", type=int, required=True)
    parser.add_argument("--shards", type=int, required=True)
    arguments = parser.parse_args()

    factor = ENLARGEMENT[arguments.size]
    shapes = [(width * factor, height * factor, often) for width, height, often in STANDARD_SHAPES]
    paths = sorted(arguments.photographs.iterdir())
    draws = random.Random(arguments.size)
    for index in range(arguments.shards):
        first = arguments.pictures * index // arguments.shards
        end = arguments.pictures * (index + 1) // arguments.shards
        with tarfile.open(arguments.out / f"{index:05}.tar", "w") as shard:
            for number in range(first, end):
                picture = draw_picture(draws, paths, shapes)
                add_member(shard, f"{number:07}.jpg", encode(picture, draws.randint(*QUALITIES)))
                add_member(shard, f"{number:07}.cls", str(draws.randrange(CLASSES)).encode())
        progress = f"{arguments.size}: {end} of {arguments.pictures} pictures"
        print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
