"""Reads a folder of features as its users do, and writes them as one safetensors file, in the order of the data:
read_features.py FOLDER OUT."""

import json
import sys
from pathlib import Path

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

folder, out = Path(sys.argv[1]), sys.argv[2]
manifest = json.loads((folder / "features.json").read_text())
whole: dict[str, list] = {}
keys = []
for listed in sorted(folder.glob("part-*.jsonl")):
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    keys += [row["key"] for row in rows]
    stem = listed.name.removesuffix(".jsonl")
    part = {}
    if manifest["format"] == "npy":
        for path in folder.glob(f"{stem}.*.npy"):
            part[path.name.split(".")[1]] = numpy.load(path)
    else:
        with safe_open(folder / f"{stem}.safetensors", "numpy") as file:
            part = {name: file.get_tensor(name) for name in file.keys()}
    assert part["positions"].tolist() == [row["position"] for row in rows]
    labels = [-1 if row["label"] is None else row["label"] for row in rows]
    assert part["labels"].tolist() == labels, listed
    for name, values in part.items():
        assert len(values) == len(rows), (name, listed)
        whole.setdefault(name, []).append(values)
assert len(keys) == manifest["rows"], manifest
save_file({name: numpy.concatenate(values) for name, values in whole.items()}, out)
print(json.dumps(keys))
