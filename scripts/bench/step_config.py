"""What the step bench's peer reads of a config: the same TOML file and `--set` overrides that
`distill` takes."""

import dataclasses
import math
import tomllib

# Width, depth and heads of the published encoders.
PUBLISHED = {
    "pixio_vitb16": (768, 12, 12),
    "pixio_vitl16": (1024, 24, 16),
    "pixio_vith16": (1280, 32, 16),
    "pixio_vit1b16": (1536, 48, 24),
    "pixio_vit5b16": (3072, 48, 32),
}
DISTANCES = ("cosine", "l1", "mse", "none")


@dataclasses.dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int
    patch_size: int = 16
    class_tokens: int = 8
    mlp_ratio: int = 4

    @staticmethod
    def of(value):
        """The size that stands in a config: a published name, or a table of numbers."""
        if isinstance(value, str):
            if value not in PUBLISHED:
                raise SystemExit(f"error: unknown encoder {value}: there are {', '.join(PUBLISHED)}")
            return Size(*PUBLISHED[value])
        return Size(**value)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    name: str
    size: Size
    mask_ratio: float
    mask_grid: int
    drop_path: float


@dataclasses.dataclass(frozen=True)
class StepConfig:
    seed: int
    precision: str
    threads: int
    teacher: Size
    students: tuple[StudentConfig, ...]
    input_size: int
    batch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    loss: dict
    optimizer: dict
    schedule: dict
    log_every: int

    @property
    def grid(self):
        """Patches along a side of the picture."""
        return self.input_size // self.teacher.patch_size

    def kept_patches(self, student):
        """Patch tokens that a student sees: whole cells, their number rounded down."""
        if student.mask_ratio == 0:
            return self.grid**2
        cells = (self.grid // student.mask_grid) ** 2
        return math.floor(cells * (1 - student.mask_ratio)) * student.mask_grid**2

    def learning_rate(self, step):
        """Linear warm-up from zero, then half a cosine. Without `steps_per_epoch`, which is then the
        data set's to say, an epoch has 1000 steps."""
        peak = self.optimizer.get("learning_rate")
        if peak is None:
            base = self.optimizer.get("base_learning_rate")
            peak = 1e-3 if base is None else base * self.batch_size / 256
        least = self.optimizer.get("min_learning_rate", 0.0)
        epochs, warmup = self.schedule["epochs"], self.schedule.get("warmup_epochs", 0)
        epoch = step / self.schedule.get("steps_per_epoch", 1000)
        if epoch < warmup:
            return peak * epoch / warmup
        done = min((epoch - warmup) / max(epochs - warmup, 1e-9), 1.0)
        return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * done))


def load(file, overrides):
    """Reads `file` and applies overrides of the form `data.batch_size=32`."""
    with open(file, "rb") as opened:
        table = tomllib.load(opened)
    for override in overrides:
        apply(table, override)
    run, data, log = (table.get(name, {}) for name in ("run", "data", "log"))
    loss = {"class": "cosine", "patch": "cosine", "fuse": "avg", **table.get("loss", {})}
    if not {loss["class"], loss["patch"]} <= set(DISTANCES) or loss["fuse"] not in ("avg", "sum"):
        raise SystemExit(f"error: unknown loss {loss}")
    return StepConfig(
        seed=table.get("seed", 0),
        precision=run.get("precision", "fp32"),
        threads=run.get("threads", 0),
        teacher=Size.of(table["teacher"]["model"]),
        students=tuple(student_of(student) for student in table["students"]),
        input_size=data.get("input_size", 256),
        batch_size=data.get("batch_size", 64),
        mean=tuple(data.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(data.get("std", (0.229, 0.224, 0.225))),
        loss=loss,
        optimizer=table.get("optimizer", {}),
        schedule=table["schedule"],
        log_every=log.get("every", 10),
    )


def student_of(table):
    return StudentConfig(
        name=table["name"],
        size=Size.of(table["model"]),
        mask_ratio=table.get("mask_ratio", 0.0),
        mask_grid=table.get("mask_grid", 4),
        drop_path=table.get("drop_path", 0.0),
    )


def apply(table, override):
    """Sets one value; a number in the key counts in a list, and what is no TOML value is text."""
    key, equals, text = override.partition("=")
    if not equals:
        raise SystemExit(f"error: --set {override}: expected KEY=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *folders, last = key.strip().split(".")
    try:
        for folder in folders:
            if isinstance(table, list):
                table = table[int(folder)]
            else:
                table = table.setdefault(folder, {})
        table[last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise SystemExit(f"error: --set {override}: there is no such key") from None
