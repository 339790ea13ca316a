"""Loads an export with the real transformers and writes what it computes.

usage: hf_reference.py EXPORT_DIR OUT_SAFETENSORS (--image FILE... | --pixels SAFETENSORS)
needs: torch, transformers, safetensors; pillow for --image

--image  runs the export's own image processor on the images first
--pixels takes the tensor `images` [B, 3, H, W] of a safetensors file as it is

Writes `pixel_values` [B, 3, H, W], `last_hidden_state` [B, T, D] and `class_mean` [B, D], the mean of
the class tokens before the last LayerNorm, float32. Fails if a weight of the model is missing from the
export, or the other way round.
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
    images = [Image.open(path) for path in options.image]
    return processor(images=images, return_tensors="pt")["pixel_values"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("export")
    parser.add_argument("out")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", nargs="+")
    source.add_argument("--pixels")
    options = parser.parse_args()
    model, report = AutoModel.from_pretrained(
        options.export, dtype=torch.float32, output_loading_info=True
    )
    # What stands for masked patches in pre-training, and what is computed of the class token, is no part of an encoder.
    beside = ("mask_token", "pooler.")
    is_beside = lambda name: any(part in name for part in beside)
    named = lambda found: sorted(str(name) for name in found if not is_beside(str(name)))
    problems = {kind: named(found) for kind, found in report.items() if found and named(found)}
    assert not problems, f"the export does not fit the model: {problems}"
    assert type(model).__module__.startswith("transformers.models."), type(model)
    pixel_values = pixels(options).float()
    more = {}
    if model.config.model_type == "vit_mae":
        # Nothing is masked, but patches are put into the order of this noise.
        patches = (pixel_values.shape[-1] // model.config.patch_size) ** 2
        more["noise"] = torch.arange(float(patches)).expand(len(pixel_values), -1)
    before_norm = []
    last = model.layernorm if hasattr(model, "layernorm") else model.norm
    last.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    with torch.no_grad():
        tokens = model.eval()(pixel_values, **more).last_hidden_state
    class_mean = before_norm[0][:, : getattr(model.config, "n_cls_tokens", 1)].mean(dim=1)
    tensors = {
        "pixel_values": pixel_values,
        "last_hidden_state": tokens,
        "class_mean": class_mean,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, options.out)


main()
