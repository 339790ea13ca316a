"""What onnxruntime computes by exported graphs.

usage: onnx_outputs.py FOLDER...
needs: onnx, onnxruntime, safetensors, numpy

FOLDER/model.onnx is checked, and run over one and over all images of FOLDER/pixels.safetensors (`pixels` [B, 3, S, S]);
FOLDER/outputs.safetensors has each output of both as NAME_1 and NAME_B.
"""

import pathlib
import sys

import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file

for folder in map(pathlib.Path, sys.argv[1:]):
    path = folder / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    assert onnx.load(path, load_external_data=False).opset_import[0].version == 17
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = load_file(folder / "pixels.safetensors")["pixels"]
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape) == ("pixel_values", ["batch", *pixels.shape[1:]]), taken
    names = [one.name for one in session.get_outputs()]
    found = {}
    for batch in (pixels[:1], pixels):
        for name, output in zip(names, session.run(names, {"pixel_values": batch})):
            found[f"{name}_{len(batch)}"] = output
    save_file(found, folder / "outputs.safetensors")
