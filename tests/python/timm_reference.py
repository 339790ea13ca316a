"""Loads files of original names with the real timm and writes what it computes.

usage: timm_reference.py PIXELS_SAFETENSORS NAME FILE OUT_SAFETENSORS [NAME FILE OUT_SAFETENSORS]...
needs: torch, safetensors, and in the folder DISTILL_TIMM_PACKAGES timm and torchvision

NAME is one of MODELS below, which are the architectures of make_families.py in timm. PIXELS has `images` [B, 3, H, W].
Writes `tokens` [B, T, D] after the last norm. timm renames tensors as it does for the original checkpoints of these
architectures; fails if a weight is missing then, or too many.
"""

import functools
import os
import sys

sys.path.insert(0, os.environ["DISTILL_TIMM_PACKAGES"])

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn

SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0}
PLAIN = {"mlp_ratio": 2, "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-12)}
MODELS = {
    "vit": ("vit_base_patch16_224", PLAIN),
    "vit_mae": ("vit_base_patch16_224", PLAIN),
    "deit": ("deit_base_distilled_patch16_224", PLAIN),
    "dinov2": ("vit_base_patch14_dinov2", {}),
    "dinov2_gated": ("vit_giant_patch14_dinov2", {}),
    "dinov2_with_registers": ("vit_base_patch14_reg4_dinov2", {"reg_tokens": 3}),
    "dinov2_with_registers_gated": ("vit_giant_patch14_reg4_dinov2", {}),
}


def main():
    pixels, *rest = sys.argv[1:]
    images = load_file(pixels)["images"]
    for name, file, out in zip(rest[::3], rest[1::3], rest[2::3]):
        architecture, more = MODELS[name]
        model = timm.create_model(architecture, **SMALL, **more).eval()
        weights = load_file(file)
        # Plain ones are loaded as they are.
        if "gated" in name or "registers" in name:
            # By this timm tells DINOv2's.
            weights["mask_token"] = torch.zeros(1, SMALL["embed_dim"])
            weights = checkpoint_filter_fn(weights, model)
        model.load_state_dict(weights)
        with torch.no_grad():
            save_file({"tokens": model.forward_features(images).contiguous()}, out)


main()
