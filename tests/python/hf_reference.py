"""Loads an export with the real transformers and writes what it computes.

usage: hf_reference.py EXPORT_DIR OUT_SAFETENSORS (--image FILE | --pixels SAFETENSORS)
needs: torch, transformers, safetensors; pillow for --image

--image  runs the export's own image processor on the picture first
--pixels takes the tensor `images` [B, 3, H, W] of a safetensors file as it is

Writes `pixel_values` [B, 3, H, W] and `last_hidden_state` [B, T, D], float32. Fails if a weight of
the model is missing from the export, or the other way round.
"""

import argparse

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel


def pixels(options):
    if options.pixels:
        return load_file(options.pixels)["images"]
    from PIL import Image

    processor = AutoImageProcessor.from_pretrained(options.export)
    with Image.open(options.image) as picture:
        return processor(images=picture, return_tensors="pt")["pixel_values"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("export")
    parser.add_argument("out")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image")
    source.add_argument("--pixels")
    options = parser.parse_args()
    model, report = AutoModel.from_pretrained(
        options.export, dtype=torch.float32, output_loading_info=True
    )
    problems = {kind: sorted(map(str, found)) for kind, found in report.items() if found}
    assert not problems, f"the export does not fit the model: {problems}"
    assert type(model).__name__ == "PixioModel", type(model)
    pixel_values = pixels(options).float()
    with torch.no_grad():
        tokens = model.eval()(pixel_values).last_hidden_state
    tensors = {"pixel_values": pixel_values, "last_hidden_state": tokens}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, options.out)


main()
