"""One training step of a config's recipe in plain PyTorch, timed. The peer of `distill bench step`,
which prints the same figures; scripts/bench/step runs both. Needs PyTorch only.

    python step_peer.py --config scripts/bench/step_cpu.toml --device cpu --steps 10 --json

Variants: "eager" is what one would write first: float32 weights, the teacher's too, under autocast.
"compiled" has the teacher's matrices in bf16 and compiles the teacher and the students.
"""

import argparse
import json
import statistics
import sys
import time

import step_config
import step_recipe
import torch

# Host batches that the steps take in turn.
HOST_BATCHES = 4


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--variant", choices=["eager", "compiled"], default="eager")
    parser.add_argument(
        "--compile-scope",
        choices=["model", "block"],
        default="block",
        help="compile each kind of block once, and each student's head with its loss; or whole models,"
        " which takes many minutes for deep ones",
    )
    parser.add_argument("--compile-mode", default="default", help="mode of torch.compile")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


class Clock:
    """Times between marks: by events on a GPU, which do not stop it, by the processor's clock else."""

    def __init__(self, device):
        self.on_gpu = device.type == "cuda"
        self.steps = []

    def begin(self):
        self.steps.append([])
        self.mark("begin")

    def mark(self, name):
        if self.on_gpu:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self.steps[-1].append((name, moment))

    def medians(self):
        """Milliseconds that end with each mark, and of the whole step; after the device is done."""
        times = {}
        for marks in self.steps:
            for (_, before), (name, after) in zip(marks, marks[1:]):
                times.setdefault(name, []).append(self.between(before, after))
            times.setdefault("step", []).append(self.between(marks[0][1], marks[-1][1]))
        return {name: statistics.median(values) for name, values in times.items()}

    def between(self, before, after):
        return before.elapsed_time(after) if self.on_gpu else 1e3 * (after - before)


class Training:
    """Teacher, students, their optimizers, and pictures."""

    def __init__(self, config, device, arguments):
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.half = config.precision == "bf16"
        compiled = arguments.variant == "compiled"
        self.teacher = step_recipe.build(
            lambda: step_recipe.Encoder(config.teacher, config.grid),
            device,
            half_matrices=compiled and self.half,
        )
        self.teacher.eval().requires_grad_(False)
        self.students = [
            step_recipe.build(lambda student=student: step_recipe.Student(config, student), device)
            for student in config.students
        ]
        self.optimizers = [self.optimizer_of(student) for student in self.students]
        if compiled:
            self.compile(arguments)
        side = config.input_size
        pictures = torch.randint(
            0, 256, (HOST_BATCHES, config.batch_size, side, side, 3), dtype=torch.uint8
        )
        self.pictures = pictures.pin_memory() if device.type == "cuda" else pictures
        self.mean = 255 * torch.tensor(config.mean, device=device)
        self.std = 255 * torch.tensor(config.std, device=device)
        self.losses = []

    def optimizer_of(self, student):
        matrices = [p for p in student.parameters() if p.dim() > 1]
        vectors = [p for p in student.parameters() if p.dim() <= 1]
        options = self.config.optimizer
        groups = [
            {"params": matrices, "weight_decay": options.get("weight_decay", 0.05)},
            {"params": vectors, "weight_decay": 0.0},
        ]
        betas, eps = tuple(options.get("betas", (0.9, 0.95))), options.get("eps", 1e-8)
        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)

    def compile(self, arguments):
        options = {"mode": arguments.compile_mode, "dynamic": False}
        if arguments.compile_scope == "model":
            for module in (self.teacher, *self.students):
                module.compile(**options)
            return
        for student in self.students:
            student.head = torch.compile(student.head, **options)
        for module in (self.teacher, *self.students):
            for part in module.modules():
                if isinstance(part, step_recipe.Block):
                    part.compile(**options)

    def images(self, number):
        """A batch [B, 3, H, W], normalised on the device."""
        pictures = self.pictures[number % HOST_BATCHES].to(self.device, non_blocking=True)
        return ((pictures.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()

    def autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def step(self, number, clock):
        clock.begin()
        images = self.images(number)
        clock.mark("data")
        with torch.no_grad(), self.autocast():
            targets = self.teacher(images)
        clock.mark("teacher")
        losses = []
        for student in self.students:
            with self.autocast():
                loss = student(images, targets)
            clock.mark(f"{student.name} forward")
            loss.backward()
            clock.mark(f"{student.name} backward")
            losses.append(loss.detach())
        for student, optimizer in zip(self.students, self.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate(number)
            if limit := self.config.optimizer.get("clip_grad_norm"):
                torch.nn.utils.clip_grad_norm_(student.parameters(), limit)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        clock.mark("optimizer")
        self.losses = losses
        # A user looks at the losses now and then, which waits for the device.
        if (number + 1) % self.config.log_every == 0:
            for loss in losses:
                loss.item()


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(config, device, arguments):
    """The figures of the measured steps."""
    training = Training(config, device, arguments)
    for number in range(arguments.warmup):
        training.step(number, Clock(device))
    synchronise(device)
    clock = Clock(device)
    start = time.perf_counter()
    for number in range(arguments.steps):
        training.step(arguments.warmup + number, clock)
    synchronise(device)
    seconds = time.perf_counter() - start
    medians = clock.medians()
    return {
        "batch_size": config.batch_size,
        "steps": arguments.steps,
        "seconds": seconds,
        "images_per_s": config.batch_size * arguments.steps / seconds,
        "step_ms": medians["step"],
        "teacher_ms": medians["teacher"],
        "students": [
            {
                "name": student.name,
                "forward_ms": medians[f"{student.name} forward"],
                "backward_ms": medians[f"{student.name} backward"],
                "loss": loss.item(),
            }
            for student, loss in zip(training.students, training.losses)
        ],
        "optimizer_ms": medians["optimizer"],
        # The upload and the normalisation: there is no loader to wait for.
        "data_wait_ms": medians["data"],
        "communication_ms": 0.0,
        **peak_memory(device),
    }


def peak_memory(device):
    """On a GPU what tensors held at once, and what was taken from the device for them."""
    if device.type == "cuda":
        return {
            "peak_memory_bytes": torch.cuda.max_memory_allocated(),
            "peak_memory_reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return {"peak_memory_bytes": 1024 * int(line.split()[1])}
    return {"peak_memory_bytes": 0}


def describe(config, device, arguments):
    """What is measured, known before it is."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "precision": config.precision,
        "variant": arguments.variant,
        "torch": torch.__version__,
        "flops_per_image": step_recipe.flops_per_image(config),
        "peak": None,
        "mfu": None,
    }


def processor():
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "CPU"


def main():
    arguments = read_arguments()
    config = step_config.load(arguments.config, arguments.set)
    name = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU; --device cpu measures on the CPU")
    device = torch.device(name)
    if config.threads:
        torch.set_num_threads(config.threads)
    figures = describe(config, device, arguments)
    try:
        figures |= measure(config, device, arguments)
    except torch.OutOfMemoryError as error:
        message = str(error).splitlines()[0]
        figures |= {"out_of_memory": True, "message": message, **peak_memory(device)}
    if arguments.json:
        print(json.dumps(figures))
    elif "out_of_memory" in figures:
        print(f"out of memory: {figures['message']}")
    else:
        print(f"{figures['images_per_s']:.1f} images/s, {figures['step_ms']:.2f} ms a step")


if __name__ == "__main__":
    main()
