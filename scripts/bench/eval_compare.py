"""Lets `distill eval depth` and eval_peer.py take turns on generated data; see scripts/bench/eval."""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

WIDTH, HEIGHT = 640, 480


def make_data(folder, train, test):
    """Pairs in NYUv2's layout: smooth images with noise as JPEGs, depth in millimetres as 16-bit PNGs."""
    import numpy
    from PIL import Image

    draws = numpy.random.default_rng(0)
    ys, xs = numpy.mgrid[0:HEIGHT, 0:WIDTH]
    for part, count in (("sync", train), ("official_splits/test", test)):
        scene = folder / part / "scene"
        scene.mkdir(parents=True)
        for number in range(count):
            a, b, c = draws.uniform(0.004, 0.03, 3)
            wave = numpy.stack([numpy.sin(xs * a), numpy.cos(ys * b), numpy.sin((xs + ys) * c)], -1)
            image = 127 + 90 * wave + draws.normal(0, 6, wave.shape)
            depth = 2500 + 1500 * numpy.sin(xs * a) + 800 * numpy.cos(ys * b)
            pixels = image.clip(0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).save(scene / f"rgb_{number:05}.jpg", quality=92)
            Image.fromarray(depth.astype(numpy.uint16)).save(scene / f"sync_depth_{number:05}.png")


def make_encoder(folder, dim, depth):
    import torch
    from transformers import PixioConfig, PixioModel

    torch.manual_seed(0)
    config = PixioConfig(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=dim // 64)
    PixioModel(config).save_pretrained(folder)


def run(command, **more):
    """Runs a contender; gives what it printed."""
    process = subprocess.run(command, capture_output=True, text=True, **more)
    if process.returncode:
        sys.exit(f"error: {command[0]} failed:\n{process.stderr[-3000:]}")
    return process


def ours(options, data, encoder, out):
    command = [options.program, "eval", "depth", "--dataset", "nyuv2"]
    command += ["--root", data, "--weights", encoder, "--head", options.head, "--out", out]
    command += ["--epochs", str(options.epochs), "--device", options.device]
    command += ["--precision", options.precision]
    for key in (
        f"training.global_batch_size={options.batch}",
        f"training.images_per_loss={options.batch}",
        f"training.workers={options.workers}",
        "log.every=1",
        "log.tensorboard=false",
    ):
        command += ["--set", key]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    process = run(command, env=environment)
    lines = (pathlib.Path(out) / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    # Epochs after the first, whole: numbers of an update are read while the next one runs.
    seconds = [
        sum(m["step_seconds"] for m in metrics if (m["step"] - 1) // options.updates == epoch)
        for epoch in range(1, options.epochs)
    ]
    rates = [options.batch * options.updates / one for one in seconds]
    tests = [float(found) for found in re.findall(r"test_seconds=([0-9.]+)", process.stderr)]
    return {
        "images_per_s": statistics.median(rates),
        "tests": tests,
        "memory": max(m.get("peak_memory_bytes") or 0 for m in metrics),
    }


def theirs(options, data, encoder):
    peer = pathlib.Path(__file__).with_name("eval_peer.py")
    command = [sys.executable, "-B", peer, "--root", data, "--encoder", encoder]
    for name in ("epochs", "updates", "batch", "workers", "device", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    process = run(command)
    return json.loads(process.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--head", default="linear", choices=["linear"])
    for name, default in dict(
        rounds=2, updates=4, epochs=3, batch=32, test=4, dim=384, depth=12, workers=2
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json")
    options = parser.parse_args()
    found = {"distill": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data, encoder = folder / "data", folder / "encoder"
        make_data(data, options.batch * options.updates, options.test)
        make_encoder(encoder, options.dim, options.depth)
        for number in range(options.rounds):
            out = folder / f"run-{number}"
            found["distill"].append(ours(options, data, encoder, out))
            found["PyTorch"].append(theirs(options, data, encoder))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    table = {}
    for name, rounds in found.items():
        table[name] = {
            "images_per_s": statistics.median(one["images_per_s"] for one in rounds),
            "first_test_s": statistics.median(one["tests"][0] for one in rounds),
            "later_tests_s": statistics.median(t for one in rounds for t in one["tests"][1:]),
            "memory_gb": statistics.median(one["memory"] for one in rounds) / 1e9,
        }
    print(f"\n{'':10}{'images/s':>10}{'first test':>12}{'later tests':>13}{'memory':>10}")
    for name, row in table.items():
        print(
            f"{name:10}{row['images_per_s']:10.2f}{row['first_test_s']:10.2f} s"
            f"{row['later_tests_s']:11.2f} s{row['memory_gb']:7.2f} GB"
        )
    ours_, theirs_ = table["distill"], table["PyTorch"]
    print(f"\ntraining {ours_['images_per_s'] / theirs_['images_per_s']:.2f} × (goal 1.3)")
    print(f"later tests {theirs_['later_tests_s'] / ours_['later_tests_s']:.2f} × (goal 3)")
    print(f"memory {ours_['memory_gb'] / theirs_['memory_gb']:.2f} (goal at most 1)")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"table": table, "rounds": found}))


main()
