"""Cuts masks as Pillow does: nearest_crops.py JOBS, whose JSON is a list of
{"mask": FILE, "box": [left, top, right, bottom], "size": PIXELS, "out": FILE}."""

import json
import sys

from PIL import Image

with open(sys.argv[1]) as jobs:
    for job in json.load(jobs):
        size = (job["size"], job["size"])
        mask = Image.open(job["mask"]).resize(size, Image.Resampling.NEAREST, box=job["box"])
        with open(job["out"], "wb") as out:
            out.write(mask.tobytes())
