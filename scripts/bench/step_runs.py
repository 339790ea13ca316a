"""Who runs in the step bench, and a turn of each: a process of its own, so that nothing of one is in
another's memory."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import tomllib

import data_processes
import step_config

HERE = pathlib.Path(__file__).parent
# Where a batch does not fit, smaller ones are tried: these shares of it.
SMALLER_BATCHES = (1.0, 0.75, 0.5, 0.25)
MOST_CHARACTERS_SHOWN = 2000
NO_TIME = "no time left for it (--limit)"


@dataclasses.dataclass(frozen=True)
class Lever:
    """A switch of ours that is not on by default. `is_option` says that it makes a step faster, so that
    "distill, options" has it."""

    name: str
    settings: tuple[str, ...]
    on_cpu: bool = True
    in_fp32: bool = True
    is_option: bool = True


# The options of "distill, options", and the rows of --levers. `students.*` stands for every student,
# {half_depth} for half of its blocks.
LEVERS = (
    Lever("bf16 residual", ("teacher.residual=bf16",), in_fp32=False),
    Lever("skipped paths", ("students.*.drop_path_mode=skip",)),
    Lever("FP8 teacher", ("teacher.precision=fp8",), on_cpu=False, in_fp32=False),
    Lever("FP8 students", ("students.*.precision=fp8",), on_cpu=False, in_fp32=False),
    # What is on by default, for comparison.
    Lever(
        "no fused kernels",
        ("teacher.fused_kernels=false",),
        on_cpu=False,
        in_fp32=False,
        is_option=False,
    ),
    Lever("CUDA graph", ("teacher.cuda_graph=true",), on_cpu=False, is_option=False),
    Lever("half recomputed", ("students.*.recompute_blocks={half_depth}",), is_option=False),
)


@dataclasses.dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]
    settings: tuple[str, ...] = ()


class Bench:
    """What all turns have in common, and the time that is left for them."""

    def __init__(self, arguments, device):
        self.arguments, self.device = arguments, device
        with open(arguments.config, "rb") as file:
            table = tomllib.load(file)
        for setting in arguments.set:
            step_config.apply(table, setting)
        self.batch_size = table.get("data", {}).get("batch_size", 64)
        self.depths = [step_config.Size.of(each["model"]).depth for each in table["students"]]
        single = table.get("run", {}).get("precision", "fp32") == "fp32"
        self.levers = [
            lever
            for lever in LEVERS
            if (lever.on_cpu or device == "cuda") and (lever.in_fp32 or not single)
        ]
        self.options = [lever for lever in self.levers if lever.is_option]
        self.deadline = time.monotonic() + arguments.limit if arguments.limit else None
        self.longest = {}
        self.batches = {}

    def ours(self, name="distill", levers=()):
        program = self.arguments.program
        if not os.access(program, os.X_OK):
            sys.exit(f"error: there is no program {program}: build it, or say where: --program PATH")
        command = [program, "bench", "step"]
        if self.arguments.peak:
            command += ["--peak", self.arguments.peak]
        settings = [setting for lever in levers for setting in lever.settings]
        return Contender(
            name,
            tuple(command),
            tuple(each for setting in settings for each in self.of_students(setting)),
        )

    def peer(self, variant):
        command = [sys.executable, "-B", str(HERE / "step_peer.py"), "--variant", variant]
        if variant == "compiled":
            command += ["--compile-scope", self.arguments.compile_scope]
            command += ["--compile-mode", self.arguments.compile_mode]
        return Contender(f"PyTorch, {variant}", tuple(command))

    def of_students(self, setting):
        key, star, rest = setting.partition("students.*.")
        if not star:
            return [setting]
        return [
            f"{key}students.{number}.{rest.format(half_depth=depth // 2)}"
            for number, depth in enumerate(self.depths)
        ]

    def remaining(self):
        return None if self.deadline is None else self.deadline - time.monotonic()

    def has_time_for(self, contender):
        remaining = self.remaining()
        return remaining is None or remaining > max(10, self.longest.get(contender.name, 0) * 1.1)

    def turn(self, contender):
        """The figures of one turn, at the configured batch or the largest of the smaller ones that
        fits; what went wrong is in `failed`."""
        for share in SMALLER_BATCHES:
            batch = max(1, int(self.batch_size * share))
            if batch > self.batches.get(contender.name, batch):
                continue
            if not self.has_time_for(contender):
                return {"failed": NO_TIME, "batch_size": batch, "whole_seconds": 0.0}
            figures = self.run_undisturbed(contender, batch)
            if not figures.get("out_of_memory"):
                break
            self.say(f"{contender.name}: out of memory at batch {batch}")
        self.batches[contender.name] = batch
        return figures

    def run_undisturbed(self, contender, batch):
        """On a CPU other programs take from a measurement: it is repeated while they do and patience
        lasts; the least disturbed one counts."""
        if self.device != "cpu" or not self.arguments.patience:
            return self.run(contender, batch)
        deadline = time.monotonic() + self.arguments.patience
        least_disturbed = None
        while True:
            data_processes.wait_until_quiet(deadline)
            others = data_processes.OtherPrograms()
            figures = {**self.run(contender, batch), "others_share": others.share()}
            share = figures["others_share"]
            if least_disturbed is None or share < least_disturbed["others_share"]:
                least_disturbed = figures
            quiet = share <= data_processes.DISTURBING_SHARE
            if quiet or "images_per_s" not in figures or time.monotonic() >= deadline:
                return least_disturbed

    def run(self, contender, batch, steps=None, warmup=None):
        """The figures of one run, whatever it is that it ends with."""
        arguments = self.arguments
        command = [*contender.command, "--config", arguments.config, "--json"]
        command += ["--device", self.device]
        command += ["--steps", str(steps or arguments.steps)]
        command += ["--warmup", str(arguments.warmup if warmup is None else warmup)]
        settings = [*arguments.set, *contender.settings]
        if batch != self.batch_size:
            settings += [f"data.batch_size={batch}", f"data.global_batch_size={batch}"]
        for setting in settings:
            command += ["--set", setting]
        start = time.monotonic()
        figures = outcome_of(command, self.remaining())
        seconds = time.monotonic() - start
        self.longest[contender.name] = max(seconds, self.longest.get(contender.name, 0))
        return {**figures, "batch_size": batch, "whole_seconds": seconds}

    @staticmethod
    def say(text):
        print(text, file=sys.stderr, flush=True)


def outcome_of(command, seconds):
    """The JSON object that the command prints, `out_of_memory`, or what it `failed` with."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            command, stdout=output, stderr=messages, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done in {seconds:.0f} s (--limit)"}
        finally:
            # A compiler's workers go with it.
            data_processes.end_group(process)
        output.seek(0)
        messages.seek(0)
        said = messages.read()
        if process.returncode == 0:
            lines = output.read().splitlines()
            if lines and lines[-1].startswith("{"):
                return json.loads(lines[-1])
            return {"failed": "it printed no figures"}
    if any(words in said.lower() for words in ("out of memory", "can't allocate memory")):
        return {"out_of_memory": True}
    Bench.say(said[-MOST_CHARACTERS_SHOWN:])
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    return {"failed": f"exit status {process.returncode}: {last[0]}"}


def largest_batch(fits, start, most, grain):
    """The largest batch up to `most` for which `fits(batch)` holds, or 0: by doubling from `start`, then
    by halving the gap, on multiples of `grain`, until there is none in it."""
    good, bad = 0, None
    batch = min(start, most)
    while batch > good:
        if fits(batch):
            good = batch
        else:
            bad = batch
        if bad is None:
            batch = min(2 * good, most)
        elif good:
            batch = (good + bad) // 2 // grain * grain
        else:
            batch = bad // 2
    return good
