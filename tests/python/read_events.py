"""Prints a folder of TensorBoard event files as TensorBoard itself reads them.

Usage: read_events.py FOLDER [images]. The output is JSON: of scalars tag to a list of [step, value,
wall time], where a value that is not finite is the string "nan", "inf" or "-inf"; of images tag to a
list of [step, width, height, the encoded image in base64].
"""

import base64
import json
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def number(value):
    return value if math.isfinite(value) else str(value)


def scalars(events, tag):
    return [[point.step, number(point.value), point.wall_time] for point in events.Scalars(tag)]


def images(events, tag):
    return [
        [image.step, image.width, image.height, base64.b64encode(image.encoded_image_string).decode()]
        for image in events.Images(tag)
    ]


kind = sys.argv[2] if len(sys.argv) > 2 else "scalars"
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0}).Reload()
read = {"scalars": scalars, "images": images}[kind]
json.dump({tag: read(events, tag) for tag in events.Tags()[kind]}, sys.stdout, allow_nan=False)
