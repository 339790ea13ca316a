"""Draws small encoders of transformers and writes what they compute.

usage: make_families.py OUT
needs: torch, transformers, safetensors

For each of several models there is a folder OUT/NAME with
    model/       save_pretrained
    gradients/   the same with every parameter replaced by its gradient of sum(last_hidden_state * w), w as below
    outputs.safetensors   for every size S in pixels: `pixels_S` [2, 3, S, S], `last_hidden_state_S` [2, T, D] and
                          `pooled_S` [2, D]; the first size is the native one, and `w` [2, T, D]
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}


def dinov2(**more):
    return Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14, **more))


def with_registers(**more):
    config = Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14, **more)
    return Dinov2WithRegistersModel(config)


# Name, model, sizes: the native one, a larger and a smaller one.
MODELS = {
    "dinov2": (dinov2, (56, 84, 28)),
    "dinov2_gated": (lambda: dinov2(use_swiglu_ffn=True), (56, 84, 28)),
    "dinov2_with_registers": (lambda: with_registers(num_register_tokens=3), (56, 84, 28)),
    "dinov2_with_registers_gated": (lambda: with_registers(use_swiglu_ffn=True), (56, 84, 28)),
}


def waves(*shape):
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float64).square().sin().float().view(shape)


def draw(model):
    """Numbers that matter in every parameter: those of fresh models are often 0 or 1."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            near = 1.0 if "norm" in name and "weight" in name or "lambda" in name else 0.0
            parameter.copy_(near + 0.15 * torch.randn_like(parameter))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    for name, (make, sizes) in MODELS.items():
        model = make().eval()
        draw(model)
        folder = out / name
        model.save_pretrained(folder / "model")
        outputs = {}
        for size in sizes:
            pixels = waves(2, 3, size, size)
            with torch.no_grad():
                found = model(pixel_values=pixels)
            outputs[f"pixels_{size}"] = pixels
            outputs[f"last_hidden_state_{size}"] = found.last_hidden_state.contiguous()
            outputs[f"pooled_{size}"] = found.pooler_output.contiguous()
        tokens = model(pixel_values=outputs[f"pixels_{sizes[0]}"]).last_hidden_state
        outputs["w"] = waves(*tokens.shape)
        (tokens * outputs["w"]).sum().backward()
        save_file(outputs, folder / "outputs.safetensors")
        with torch.no_grad():
            for parameter in model.parameters():
                gradient = parameter.grad
                parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
        model.save_pretrained(folder / "gradients")


main()
