"""How every peer is measured: its batches are drawn and let go, as a trainer faster than any loader
would do."""

import argparse
import json
import time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pixels", choices=["float", "u8"], default="float")
    return parser.parse_args()


def measure(draw_batch, workers, seconds, warm_up):
    """Images a second over at least `seconds`, where draw_batch() gives a batch's length.

    Workers that began together deliver together, so time is taken after whole rounds of workers:
    between two rounds just as much work is done as is delivered.
    """

    def draw_round():
        return sum(draw_batch() for _ in range(workers))

    start = time.monotonic()
    while True:
        draw_round()
        if time.monotonic() - start >= warm_up:
            break
    start = time.monotonic()
    images = 0
    while True:
        images += draw_round()
        elapsed = time.monotonic() - start
        if elapsed >= seconds:
            return {"images": images, "seconds": elapsed, "images_per_s": images / elapsed}


def report(figures, **versions):
    print(json.dumps({**figures, "versions": versions}), flush=True)
