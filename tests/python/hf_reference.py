"""Loads exports with the real transformers and writes what they compute.

usage: hf_reference.py EXPORT_DIR OUT_SAFETENSORS (--image FILE... | --pixels SAFETENSORS | both) [--also EXPORT_DIR OUT_SAFETENSORS]...
needs: torch, transformers, safetensors; pillow for --image

--image  runs the export's own image processor on the images first
--pixels takes the tensor `images` [B, 3, H, W] of a safetensors file as it is; with --image beside it, what the image
         processor makes is `processed`, and the model does not see it
--also   another export, with the same images

Writes `pixel_values` [B, 3, H, W], `last_hidden_state` [B, T, D], and `class_mean` [B, D], the mean of
the class tokens before the last LayerNorm where that takes all tokens, float32. Fails if a weight of the model is
missing from the export, or the other way round.
"""

import argparse

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel


def processed(export, images):
    from PIL import Image

    processor = AutoImageProcessor.from_pretrained(export)
    images = [Image.open(path) for path in images]
    return processor(images=images, return_tensors="pt")["pixel_values"]


def reference(export, out, options):
    model, report = AutoModel.from_pretrained(export, dtype=torch.float32, output_loading_info=True)
    # What stands for masked patches in pre-training, and what is computed of the class token, is no part of an encoder.
    beside = ("mask_token", "pooler.")
    is_beside = lambda name: any(part in name for part in beside)
    named = lambda found: sorted(str(name) for name in found if not is_beside(str(name)))
    problems = {kind: named(found) for kind, found in report.items() if found and named(found)}
    assert not problems, f"the export does not fit the model: {problems}"
    assert type(model).__module__.startswith("transformers.models."), type(model)
    of_images = processed(export, options.image).float() if options.image else None
    pixel_values = load_file(options.pixels)["images"].float() if options.pixels else of_images
    more = {}
    if model.config.model_type == "vit_mae":
        # Nothing is masked, but patches are put into the order of this noise.
        patches = (pixel_values.shape[-1] // model.config.patch_size) ** 2
        more["noise"] = torch.arange(float(patches)).expand(len(pixel_values), -1)
    before_norm = []
    last = next(getattr(model, name) for name in ("layernorm", "norm", "post_layernorm") if hasattr(model, name))
    last.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    with torch.no_grad():
        tokens = model.eval()(pixel_values, **more).last_hidden_state
    tensors = {"pixel_values": pixel_values, "last_hidden_state": tokens}
    if before_norm[0].dim() == 3:
        tensors["class_mean"] = before_norm[0][:, : getattr(model.config, "n_cls_tokens", 1)].mean(dim=1)
    if options.image and options.pixels:
        tensors["processed"] = of_images
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("export")
    parser.add_argument("out")
    parser.add_argument("--image", nargs="+")
    parser.add_argument("--pixels")
    parser.add_argument("--also", nargs=2, action="append", default=[])
    options = parser.parse_args()
    assert options.image or options.pixels, "--image or --pixels is needed"
    for export, out in [(options.export, options.out), *options.also]:
        reference(export, out, options)


main()
