"""Writes state dicts in which an encoder is one of several things.

usage: make_parts.py PIXIO_SAFETENSORS OUT_DIR
needs: torch, safetensors
"""

import argparse
import json
import pathlib
import re
import warnings

import torch
import torch.distributed.checkpoint as checkpoint
from safetensors.torch import load_file, save_file


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    weights, out = load_file(options.source), options.out
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    below = lambda prefix, tensors: {f"{prefix}.{name}": one for name, one in tensors.items()}
    def wrapped(tensors):
        """Blocks as checkpointing wraps them, and all as torch.compile and data parallel training do."""
        found = {}
        for name, one in tensors.items():
            inner = re.sub(r"(blocks\.\d+)\.", r"\1._checkpoint_wrapped_module.", name)
            found[f"module._orig_mod.{inner}"] = one
        return found

    forms = {
        "wrapped": {"state_dict": wrapped(weights)},
        "wrapped_two": {
            "model": {
                **below("student.backbone", wrapped(zeros)),
                **below("teacher.backbone", wrapped(weights)),
            },
        },
        "plain": weights,
        "above": {"ema": {"module": weights}, "model": zeros},
        "dino": {"student": below("backbone", zeros), "teacher": below("backbone", weights)},
        "loose": {"model": weights, "rng": torch.get_rng_state(), "loss": torch.zeros(())},
        "two": {"model": zeros, "model_ema": weights},
    }
    for name, tensors in forms.items():
        torch.save(tensors, out / f"{name}.pth")
    save_file(weights, out / "plain.safetensors")
    folder = out / "old"
    folder.mkdir()
    names = sorted(weights)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in halves.items():
        torch.save({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with warnings.catch_warnings(action="ignore"):
        checkpoint.save({"model": weights}, checkpoint_id=out / "dcp", no_dist=True)


main()
