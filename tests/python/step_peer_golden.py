"""Replays a golden case of distillation steps with the step bench's PyTorch peer, and fails where its
losses are not the case's. Called with the folder of the peer and that of the case."""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, sys.argv[1])

import step_config
import step_peer
import torch
from safetensors.torch import load_file

TOLERANCE = 1e-4
# Names of the published checkpoints, where the peer's own differ.
RENAMED = {
    "patch_embed.proj.": "patch_embed.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.2.",
    "last_proj.": "projector.",
}


def weights(file, encoder):
    renamed = {}
    for name, tensor in load_file(file).items():
        for published, own in RENAMED.items():
            name = name.replace(published, own)
        renamed[name if name.startswith("projector.") else encoder + name] = tensor
    return renamed


def config_of(case):
    def size(numbers):
        return step_config.Size(*numbers, case["patch_size"], case["n_cls_tokens"])

    return step_config.StepConfig(
        seed=0,
        precision="fp32",
        threads=0,
        teacher=size(case["teacher"]),
        students=tuple(
            step_config.StudentConfig(
                str(number), size(numbers), case["mask_ratio"], case["mask_grid"], 0.0
            )
            for number, numbers in enumerate(case["students"])
        ),
        input_size=case["input_size"],
        batch_size=case["batch_size"],
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        loss={
            "class": case["loss_fn_cls"],
            "patch": case["loss_fn_patch"],
            "fuse": case["loss_fuse"],
        },
        optimizer={
            "learning_rate": case["lr"],
            "min_learning_rate": case["min_lr"],
            "weight_decay": case["weight_decay"],
            "betas": case["betas"],
        },
        schedule={
            "epochs": case["epochs"],
            "warmup_epochs": case["warmup_epochs"],
            "steps_per_epoch": case["iters_per_epoch"],
        },
        log_every=1000,
    )


def check_draws(student):
    """The peer's own masks keep whole cells, the right number, all equally often; its drop path keeps
    the expectation, and the first block."""
    batch, side, grid = 2000, student.grid, student.mask_grid
    kept = torch.zeros(batch, side * side).scatter_(1, student.draw_mask(batch, "cpu"), 1.0)
    assert (kept.sum(1) == student.kept).all(), "every image keeps as many patches"
    cells = kept.view(batch, side // grid, grid, side // grid, grid).sum((2, 4))
    assert ((cells == 0) | (cells == grid**2)).all(), "cells stay whole"
    share = student.kept / side**2
    assert (kept.mean(0) - share).abs().max() < 0.06, "each stays as often as any other"
    student.encoder.drop_path = 0.4
    scales = student.encoder.draw_drop_path(batch, "cpu")
    student.encoder.drop_path = 0.0
    assert (scales[0] == 1).all(), "nothing is dropped in the first block"
    assert (scales.mean((1, 2)) - 1).abs().max() < 0.06, "what stays is scaled up"
    dropped = (scales[-1] == 0).float().mean()
    assert (dropped - 0.4).abs() < 0.03, f"of the last block's branches {dropped} are dropped"


def main():
    folder = pathlib.Path(sys.argv[2])
    case = json.loads((folder / "case.json").read_text())
    batch, expected = load_file(folder / "batch.safetensors"), load_file(folder / "expected.safetensors")
    device = torch.device("cpu")
    training = step_peer.Training(config_of(case), device, argparse.Namespace(variant="eager"))
    training.teacher.load_state_dict(weights(folder / "teacher.safetensors", ""))
    for number, student in enumerate(training.students):
        student.load_state_dict(weights(folder / f"student{number}.init.safetensors", "encoder."))
        check_draws(student)
    # The case's own images and masks, where the peer would draw some.
    training.images = lambda step: batch[f"images.{step}"]
    worst = 0.0
    for step in range(case["steps"]):
        for number, student in enumerate(training.students):
            student.draw_mask = lambda *_, key=f"ids_keep.{number}.{step}": batch[key]
        training.step(step, step_peer.Clock(device))
        for number, loss in enumerate(training.losses):
            right = expected[f"loss.{number}.{step}"].item()
            error = abs(loss.item() - right) / abs(right)
            worst = max(worst, error)
            if not error <= TOLERANCE:
                sys.exit(f"student {number}, step {step}: loss {loss.item()}, {right} is right")
    print(f"{case['steps']} steps of {len(training.students)} students, losses within {worst:.1e}")


if __name__ == "__main__":
    main()
