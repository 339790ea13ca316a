"""Runs the loaders in turn on the same shards and shows their medians. Run by scripts/bench/data."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import data_processes

HERE = pathlib.Path(__file__).parent
SIDE = 256
WARM_UP_SECONDS = 3
MEMORY_INTERVAL_SECONDS = 1
# How long a loader may take beyond its measured time: starting, and a last batch of large pictures.
GRACE_SECONDS = 300
MOST_CHARACTERS_SHOWN = 3000


@dataclasses.dataclass(frozen=True)
class Loader:
    name: str
    command: list[str]


@dataclasses.dataclass(frozen=True)
class ShardSet:
    name: str
    folder: pathlib.Path

    def shards(self):
        return sorted(self.folder.glob("*.tar"))

    def pattern(self):
        """All shards as one brace expression."""
        shards = self.shards()
        return str(self.folder / f"{{{shards[0].stem}..{shards[-1].stem}}}.tar")


def read_arguments():
    def shard_set(text):
        name, folder = text.split("=", 1)
        return ShardSet(name, pathlib.Path(folder))

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", type=shard_set, help="NAME=FOLDER")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--patience", type=int, required=True)
    parser.add_argument("--distill", help="the program, if it is to be measured")
    parser.add_argument("--peers-python", help="the peers' Python, if they are to be measured")
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


def loaders_for(arguments, shard_set):
    seconds, workers = str(arguments.seconds), str(arguments.workers)
    loaders = []
    if arguments.distill:
        command = [arguments.distill, "bench", "data", "--shards", shard_set.pattern()]
        command += ["--size", str(SIDE), "--workers", workers, "--seconds", seconds, "--json"]
        loaders.append(Loader("distill", command))
    if arguments.peers_python:
        for name, script, pixels in [
            ("DALI", "data_dali.py", "float"),
            ("DALI, u8", "data_dali.py", "u8"),
            ("Python recipe", "data_recipe.py", "float"),
            ("Python recipe, u8", "data_recipe.py", "u8"),
        ]:
            command = [arguments.peers_python, str(HERE / script), *map(str, shard_set.shards())]
            command += ["--side", str(SIDE), "--workers", workers, "--seconds", seconds]
            command += ["--warm-up", str(WARM_UP_SECONDS), "--pixels", pixels]
            loaders.append(Loader(name, command))
    return loaders


def run(loader, seconds):
    """The loader's own figures, the most memory that its processes held together, and the share of
    the processors that other programs took meanwhile."""
    deadline = time.monotonic() + seconds + WARM_UP_SECONDS + GRACE_SECONDS
    peak = 0
    others = data_processes.OtherPrograms()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        # A group of its own, so that its workers can be ended with it.
        process = subprocess.Popen(
            loader.command, stdout=output, stderr=messages, start_new_session=True
        )
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    sys.exit(f"error: {loader.name} did not end in time")
                peak = max(peak, data_processes.tree_bytes(process.pid))
                wait_for(process, MEMORY_INTERVAL_SECONDS)
        finally:
            data_processes.end_group(process)
        output.seek(0)
        messages.seek(0)
        figures = last_json(output.read())
        if process.returncode != 0 or "images_per_s" not in figures:
            said = messages.read()[-MOST_CHARACTERS_SHOWN:]
            sys.exit(
                f"{said}\nerror: {loader.name} gave no figures (exit status {process.returncode}); "
                f"above is what it said. It was run by:\n{shlex.join(loader.command)}"
            )
    return {**figures, "process_tree_bytes": peak, "others_share": others.share()}


def run_undisturbed(loader, seconds, patience):
    """Measures again while other programs disturb and patience lasts; the least disturbed one."""
    deadline = time.monotonic() + patience
    least_disturbed = None
    while True:
        data_processes.wait_until_quiet(deadline)
        figures = run(loader, seconds)
        share = figures["others_share"]
        if least_disturbed is None or share < least_disturbed["others_share"]:
            least_disturbed = figures
        if share <= data_processes.DISTURBING_SHARE or time.monotonic() >= deadline:
            return least_disturbed


def wait_for(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def last_json(text):
    """The JSON object that the text ends with, on its last line or over several; else nothing."""
    lines = text.splitlines()
    for first in reversed(range(len(lines))):
        if lines[first].startswith("{"):
            try:
                return json.loads("\n".join(lines[first:]))
            except ValueError:
                break
    return {}


def measure_set(shard_set, arguments):
    """What the set holds, and for each loader its figures, round for round."""
    size = read_once(shard_set.shards())
    loaders = loaders_for(arguments, shard_set)
    rounds = {loader.name: [] for loader in loaders}
    for number in range(arguments.rounds):
        # In turn, so that what else the machine does meets all of them alike.
        for loader in loaders:
            figures = run_undisturbed(loader, arguments.seconds, arguments.patience)
            rounds[loader.name].append(figures)
            progress = (
                f"{shard_set.name}, round {number + 1} of {arguments.rounds}: "
                f"{loader.name} {figures['images_per_s']:.0f} images/s"
            )
            print(progress, file=sys.stderr, flush=True)
    return {
        "bytes": size,
        "loaders": {name: summary(figures) for name, figures in rounds.items()},
    }


def read_once(shards):
    """Reads the shards, so that they come from memory for all loaders alike; their bytes."""
    size = 0
    for shard in shards:
        with shard.open("rb") as file:
            while block := file.read(1 << 22):
                size += len(block)
    return size


def summary(rounds):
    speeds = [figures["images_per_s"] for figures in rounds]
    return {
        "images_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "process_tree_bytes": max(figures["process_tree_bytes"] for figures in rounds),
        "others_share": max(figures["others_share"] for figures in rounds),
        "rounds": rounds,
    }


def show(shard_set, measured, workers):
    loaders = measured["loaders"]
    ours = loaders.get("distill")
    of_workers = "1 worker" if workers == 1 else f"{workers} workers"
    print(f"\n{shard_set.name}, {of_workers}, {measured['bytes'] / 1e6:.0f} MB of shards")
    header = f"{'':<18} {'images/s':>9} {'lowest–highest':>15} {'memory':>9}"
    if ours:
        header += f" {'distill is':>12}"
    print(header)
    for name, figures in loaders.items():
        row = (
            f"{name:<18} {figures['images_per_s']:>9.0f}"
            f" {figures['lowest']:>7.0f}–{figures['highest']:<7.0f}"
            f" {figures['process_tree_bytes'] / 1e6:>6.0f} MB"
        )
        if ours and figures is not ours:
            row += f" {ours['images_per_s'] / figures['images_per_s']:>7.2f} × it"
        print(row)
    disturbed = max(figures["others_share"] for figures in loaders.values())
    if disturbed > data_processes.DISTURBING_SHARE:
        print(f"Other programs took up to {disturbed:.0%} of the processors: figures are too low.")


def machine():
    """The processor, without a name of this machine."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"processor": model, "cores": os.cpu_count()}


def stop(_signal, _frame):
    sys.exit("error: stopped")


def main():
    # Python would end at once, and leave a loader running.
    signal.signal(signal.SIGTERM, stop)
    arguments = read_arguments()
    results = {
        "machine": machine(),
        "size": SIDE,
        "workers": arguments.workers,
        "seconds": arguments.seconds,
        "sets": {},
    }
    for shard_set in arguments.sets:
        measured = measure_set(shard_set, arguments)
        results["sets"][shard_set.name] = measured
        show(shard_set, measured, arguments.workers)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
