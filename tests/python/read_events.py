"""Prints the scalars of a folder of TensorBoard event files, as TensorBoard itself reads them.

Usage: read_events.py FOLDER. The output is JSON: tag to a list of [step, value, wall time]; a value
that is not finite is the string "nan", "inf" or "-inf".
"""

import json
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def number(value):
    return value if math.isfinite(value) else str(value)


events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
scalars = {
    tag: [[point.step, number(point.value), point.wall_time] for point in events.Scalars(tag)]
    for tag in events.Tags()["scalars"]
}
json.dump(scalars, sys.stdout, allow_nan=False)
