"""Writes state dicts in which an encoder is one of several things.

usage: make_parts.py PIXIO_SAFETENSORS OUT_DIR
needs: torch, safetensors
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    weights, out = load_file(options.source), options.out
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    below = lambda prefix, tensors: {f"{prefix}.{name}": one for name, one in tensors.items()}
    forms = {
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


main()
