"""Cuts the central square of images as torchvision's Resize and CenterCrop do with Pillow.

usage: central_crops.py SIDE OUT_FILE IMAGE...
needs: pillow

Resize(SIDE, BICUBIC) brings the shorter side to SIDE and cuts the fraction off the longer one;
CenterCrop(SIDE) rounds half a pixel to the even number. Writes the squares' bytes, [N, SIDE, SIDE, 3].
"""

import sys

from PIL import Image


def central(path, side):
    with Image.open(path) as image:
        image = image.convert("RGB")
    width, height = image.size
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (int(round((length - side) / 2.0)) for length in size)
    return image.crop((left, top, left + side, top + side)).tobytes()


def main():
    side, out, *images = sys.argv[1:]
    with open(out, "wb") as file:
        for path in images:
            file.write(central(path, int(side)))


main()
