"""Writes an encoder anew, in several files or as torch's pickle.

usage: split_weights.py MODEL OUT safetensors|bin
needs: torch, transformers
"""

import pathlib
import sys

import torch
from transformers import AutoModel

source, out, form = sys.argv[1:]
model = AutoModel.from_pretrained(source)
if form == "safetensors":
    model.save_pretrained(out, max_shard_size="200KB")
else:
    model.config.save_pretrained(out)
    torch.save(model.state_dict(), pathlib.Path(out) / "pytorch_model.bin")
