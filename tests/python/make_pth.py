"""Writes state dicts as real programs save them, and some that no program should.

usage: make_pth.py PIXIO_SAFETENSORS OUT_DIR
needs: torch, safetensors
"""

import argparse
import os
import pickle
import sys
from collections import OrderedDict

import torch
from safetensors.torch import load_file


class Evil:
    """Leaves a file behind when a pickle that holds it is executed."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


def shared_storage(weights):
    """The same tensors, all of them views of one storage."""
    flat = torch.cat([tensor.flatten() for tensor in weights.values()])
    views, start = OrderedDict(), 0
    for name, tensor in weights.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return views


def transposed(weights):
    """The same tensors, stored with their dimensions in reverse order."""
    dims = lambda tensor: tuple(reversed(range(tensor.ndim)))
    return {k: v.permute(dims(v)).contiguous().permute(dims(v)) for k, v in weights.items()}


def spread(weights):
    """The same tensors, as every second column of a storage twice as large."""
    wide = lambda tensor: torch.stack([tensor, torch.full_like(tensor, float("nan"))], -1)
    return {k: wide(v)[..., 0] for k, v in weights.items()}


def save_good(weights, path):
    parameters = OrderedDict((k, torch.nn.Parameter(v.clone())) for k, v in weights.items())
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3)
    torch.stack([p.square().mean() for p in parameters.values()]).sum().backward()
    optimizer.step()
    parameters = OrderedDict((k, torch.nn.Parameter(v)) for k, v in weights.items())
    arguments = argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), model="pixio", seen={1, 2}, big=2**80)
    training = {"model": parameters, "optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments}
    module = torch.nn.Linear(2, 2)
    module.state_dict()  # carries _metadata, as every real state dict does
    with_metadata = OrderedDict(weights)
    with_metadata._metadata = OrderedDict(version=1)
    torch.save(dict(weights), path("plain"))
    torch.save({"model": with_metadata}, path("under_model"))
    torch.save({"epoch": 1, "state_dict": dict(weights)}, path("under_state_dict"))
    torch.save(training, path("training"))
    few = {k: parameters[k] for k in ("cls_token", "norm.weight", "norm.bias")}
    for protocol in (2, 4):
        few_training = {**training, "model": few, "optimizer": None}
        torch.save(few_training, path(f"few{protocol}"), pickle_protocol=protocol)
    torch.save({f"module.{k}": v for k, v in weights.items()}, path("wrapped"))
    torch.save(dict(weights), path("protocol4"), pickle_protocol=4)
    torch.save(shared_storage(weights), path("shared"))
    torch.save(transposed(weights), path("transposed"))
    torch.save(spread(weights), path("spread"))
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        torch.save({k: v.to(kind) for k, v in weights.items()}, path(str(kind).removeprefix("torch.")))


def save_bad(weights, path, out):
    trace = os.path.join(out, "executed")
    torch.save({"model": dict(weights), "args": Evil(trace)}, path("evil_beside"))
    torch.save({**weights, "norm.weight": Evil(trace)}, path("evil_within"))
    torch.save(Evil(trace), path("evil_whole"))
    torch.save(torch.nn.Linear(2, 2), path("module"))
    torch.save([1, 2], path("list"))
    torch.save({**weights, "norm.weight": torch.ones(64, dtype=torch.int64)}, path("integers"))
    torch.save({**weights, "norm.weight": torch.ones(64).to_sparse()}, path("sparse"))
    torch.save(dict(weights), path("legacy"), _use_new_zipfile_serialization=False)
    with open(path("pickle_only"), "wb") as file:
        pickle.dump(Evil(trace), file)


def main():
    weights, out = load_file(sys.argv[1]), sys.argv[2]
    os.makedirs(out, exist_ok=True)
    path = lambda name: os.path.join(out, f"{name}.pth")
    save_good(weights, path)
    save_bad(weights, path, out)


main()
