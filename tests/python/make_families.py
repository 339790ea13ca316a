"""Draws small encoders of transformers and writes what they compute.

usage: make_families.py OUT
needs: torch, transformers, safetensors

For each of several models there is a folder OUT/NAME with
    model/       save_pretrained
    original.safetensors  of DINOv3: the same weights under the names of its original checkpoints
    gradients/   the same with every parameter replaced by its gradient of sum(last_hidden_state * w), w as below;
                 zeros where that gives none
    outputs.safetensors   for every size S in pixels: `pixels_S` [2, 3, S, S], `last_hidden_state_S` [2, T, D] and
                          `pooled_S` [2, D]; the first size is the native one, and `w` [2, T, D];
                          of fixed positions `positions` [1, T, D] as they are made
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}


def dinov2(**more):
    return Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14, **more))


def with_registers(**more):
    config = Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14, **more)
    return Dinov2WithRegistersModel(config)


def dinov3(**more):
    numbers = {"intermediate_size": 96, "image_size": 56, "patch_size": 14, "num_register_tokens": 3}
    return DINOv3ViTModel(DINOv3ViTConfig(**{**SMALL, **numbers, **more}))


def vit(make_config=ViTConfig, make_model=ViTModel, **more):
    numbers = {"intermediate_size": 96, "image_size": 56, "patch_size": 14}
    return make_model(make_config(**SMALL, **numbers, **more))


def tower(make_config=CLIPVisionConfig, make_model=CLIPVisionModel, **more):
    numbers = {"intermediate_size": 96, "image_size": 56, "patch_size": 14}
    return make_model(make_config(**{**SMALL, **numbers, **more}))


def whole(make_config=CLIPConfig, make_model=CLIPModel, **more):
    """A model of images and texts, whose tower of images is the encoder."""
    numbers = {"intermediate_size": 96, "image_size": 56, "patch_size": 14}
    texts = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return make_model(make_config(vision_config={**SMALL, **numbers, **more}, text_config={**texts, "vocab_size": 99}))


GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
FEW_BIASES = {"query_bias": False, "value_bias": False, "proj_bias": False, "mlp_bias": False}

# Name, model, sizes: the native one, a larger and a smaller one.
MODELS = {
    "dinov2": (dinov2, (56, 84, 28)),
    "dinov2_gated": (lambda: dinov2(use_swiglu_ffn=True), (56, 84, 28)),
    "dinov2_with_registers": (lambda: with_registers(num_register_tokens=3), (56, 84, 28)),
    "dinov2_with_registers_gated": (lambda: with_registers(use_swiglu_ffn=True), (56, 84, 28)),
    "dinov3_vit": (dinov3, (56, 84, 28)),
    "dinov3_vit_gated": (lambda: dinov3(**GATED), (56, 84, 28)),
    "dinov3_vit_all_biases": (lambda: dinov3(key_bias=True, rope_theta=50.0), (56, 84, 28)),
    "dinov3_vit_few_biases_gated": (
        lambda: dinov3(**GATED, **FEW_BIASES, num_register_tokens=0),
        (56, 84, 28),
    ),
    "vit": (vit, (56, 84, 28)),
    "vit_few_biases": (lambda: vit(qkv_bias=False), (56, 84, 28)),
    "vit_mae": (lambda: vit(ViTMAEConfig, ViTMAEModel, mask_ratio=0.0), (56, 84, 28)),
    "deit": (lambda: vit(DeiTConfig, DeiTModel), (56, 84, 28)),
    "clip": (tower, (56, 84, 28)),
    "clip_whole": (lambda: whole(hidden_act="gelu", intermediate_size=104), (56, 84, 28)),
    "siglip": (lambda: tower(SiglipVisionConfig, SiglipVisionModel, intermediate_size=104), (56, 84, 28)),
    "siglip_whole": (lambda: whole(SiglipConfig, SiglipModel), (56, 84, 28)),
}


def outputs_of(model, pixels):
    """All tokens, in their order, and the pooled vector: of ViTs the class token, whose pooler is no part of an encoder."""
    model = getattr(model, "vision_model", model)
    is_vit = isinstance(model, (ViTModel, ViTMAEModel, DeiTModel))
    is_resized = is_vit or isinstance(model, (CLIPVisionModel, SiglipVisionModel))
    more = {"interpolate_pos_encoding": True} if is_resized else {}
    if isinstance(model, ViTMAEModel):
        patches = (pixels.shape[-1] // model.config.patch_size) ** 2
        more["noise"] = torch.arange(float(patches)).expand(len(pixels), -1)
    found = model(pixel_values=pixels, **more)
    tokens = found.last_hidden_state
    return tokens, tokens[:, 0] if is_vit else found.pooler_output


def original(model):
    """DINOv3's state under the names of its original checkpoints, as its conversion to Hugging Face has them."""
    found = {}
    state = model.state_dict()
    plain = not model.config.use_gated_mlp
    names = {
        "register_tokens": "storage_tokens",
        "patch_embeddings": "patch_embed.proj",
        "model.layer": "blocks",
        "attention.o_proj": "attn.proj",
        "layer_scale": "ls",
        "lambda1": "gamma",
        "mlp.gate_proj": "mlp.w1",
        "mlp.up_proj": "mlp.fc1" if plain else "mlp.w2",
        "mlp.down_proj": "mlp.fc2" if plain else "mlp.w3",
    }
    for name, tensor in state.items():
        if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            continue
        own_name = name.removeprefix("embeddings.")
        for theirs, own in names.items():
            own_name = own_name.replace(theirs, own)
        found[own_name] = tensor
    for block in range(model.config.num_hidden_layers):
        theirs, own = f"model.layer.{block}.attention", f"blocks.{block}.attn.qkv"
        parts = [f"{theirs}.{part}_proj" for part in "qkv"]
        found[f"{own}.weight"] = torch.cat([state[f"{part}.weight"] for part in parts])
        # The bias of keys is a number that a mask leaves out.
        biases = [state.get(f"{part}.bias", torch.full((SMALL["hidden_size"],), 7.0)) for part in parts]
        found[f"{own}.bias"] = torch.cat(biases)
        width = len(biases[0])
        found[f"{own}.bias_mask"] = torch.cat([torch.ones(width), torch.zeros(width), torch.ones(width)])
    quarter = SMALL["hidden_size"] // SMALL["num_attention_heads"] // 4
    found["rope_embed.periods"] = model.config.rope_theta ** (torch.arange(quarter) / quarter)
    return found


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
        outputs = {}
        if isinstance(model, ViTMAEModel):
            # Of a fresh model this version of transformers takes the projection for one that is initialised already, and
            # leaves the positions zeros.
            model.embeddings.patch_embeddings.projection._is_hf_initialized = False
            model.embeddings.initialize_weights()
            outputs["positions"] = model.embeddings.position_embeddings.detach().clone()
        draw(model)
        folder = out / name
        model.save_pretrained(folder / "model")
        if isinstance(model, DINOv3ViTModel):
            save_file(original(model), folder / "original.safetensors")
        for size in sizes:
            pixels = waves(2, 3, size, size)
            with torch.no_grad():
                tokens, pooled = outputs_of(model, pixels)
            outputs[f"pixels_{size}"] = pixels
            outputs[f"last_hidden_state_{size}"] = tokens.contiguous()
            outputs[f"pooled_{size}"] = pooled.contiguous()
        tokens, _ = outputs_of(model, outputs[f"pixels_{sizes[0]}"])
        outputs["w"] = waves(*tokens.shape)
        (tokens * outputs["w"]).sum().backward()
        save_file(outputs, folder / "outputs.safetensors")
        with torch.no_grad():
            for parameter in model.parameters():
                gradient = parameter.grad
                parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
        model.save_pretrained(folder / "gradients")


main()
