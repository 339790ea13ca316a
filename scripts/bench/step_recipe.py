"""The distillation recipe in plain PyTorch: encoder, student and loss, as one would write them."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens):
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        hidden = size.dim * size.mlp_ratio
        self.norm1 = nn.LayerNorm(size.dim, eps=1e-6)
        self.attn = Attention(size.dim, size.heads)
        self.norm2 = nn.LayerNorm(size.dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(size.dim, hidden), nn.GELU(), nn.Linear(hidden, size.dim)
        )

    def forward(self, tokens, scales=None):
        """`scales` [2, B, 1, 1] multiplies the branches picture by picture (drop path)."""
        attended = self.attn(self.norm1(tokens))
        if scales is not None:
            attended = attended * scales[0].to(attended.dtype)
        tokens = tokens + attended
        mixed = self.mlp(self.norm2(tokens))
        if scales is not None:
            mixed = mixed * scales[1].to(mixed.dtype)
        return tokens + mixed


class Encoder(nn.Module):
    """All tokens after the last block, class tokens first, before the final LayerNorm."""

    def __init__(self, size, grid, drop_path=0.0):
        super().__init__()
        self.class_tokens = size.class_tokens
        self.cls_token = nn.Parameter(torch.empty(1, size.class_tokens, size.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, size.class_tokens + grid**2, size.dim))
        self.patch_embed = nn.Conv2d(3, size.dim, size.patch_size, stride=size.patch_size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.dim, eps=1e-6)
        self.drop_path = drop_path

    def forward(self, images, keep=None):
        """`images` [B, 3, H, W]; `keep` [B, K] are the patches that stay, or none for all."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        patches = patches + self.pos_embed[:, self.class_tokens :]
        if keep is not None:
            patches = take(patches, keep)
        classes = self.cls_token + self.pos_embed[:, : self.class_tokens]
        tokens = torch.cat([classes.expand(len(patches), -1, -1), patches], dim=1)
        scales = self.draw_drop_path(len(images), images.device)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, None if scales is None else scales[index])
        return tokens

    def draw_drop_path(self, batch, device):
        """What each branch is multiplied by [depth, 2, B, 1, 1]: 0 where it is left out for a picture.
        The probability of that rises linearly to the last block."""
        if self.drop_path == 0 or not self.training:
            return None
        depth = len(self.blocks)
        kept = 1 - torch.linspace(0, self.drop_path, depth, device=device).view(depth, 1, 1, 1, 1)
        return torch.bernoulli(kept.expand(depth, 2, batch, 1, 1)) / kept


class Student(nn.Module):
    """An encoder with its mask, projector and loss."""

    def __init__(self, config, student):
        super().__init__()
        self.name = student.name
        self.grid, self.mask_grid = config.grid, student.mask_grid
        self.kept = config.kept_patches(student)
        self.masks = student.mask_ratio > 0
        self.loss = config.loss
        self.encoder = Encoder(student.size, config.grid, student.drop_path)
        dim, teacher_dim = student.size.dim, config.teacher.dim
        self.projector = nn.Sequential(
            nn.Linear(dim, teacher_dim),
            nn.LayerNorm(teacher_dim),
            nn.GELU(),
            nn.Linear(teacher_dim, teacher_dim),
        )

    def draw_mask(self, batch, device):
        """The patches that stay [B, K], ascending: those of the cells with the least noise."""
        cells = self.grid // self.mask_grid
        noise = torch.rand(batch, cells * cells, device=device)
        chosen = noise.argsort(dim=1)[:, : self.kept // self.mask_grid**2]
        within = torch.arange(self.mask_grid, device=device)
        inner = (within[:, None] * self.grid + within).flatten()
        first = chosen // cells * self.mask_grid * self.grid + chosen % cells * self.mask_grid
        return (first[:, :, None] + inner).flatten(1).sort(dim=1).values

    def forward(self, images, teacher_tokens):
        """The loss on `teacher_tokens` [B, C+N, D] of the same `images`."""
        keep = self.draw_mask(len(images), images.device) if self.masks else None
        return self.head(self.encoder(images, keep), teacher_tokens, keep)

    def head(self, tokens, teacher_tokens, keep):
        """From the encoder's tokens [B, C+K, d] to the loss."""
        tokens = self.projector(self.encoder.norm(tokens))
        classes = self.encoder.class_tokens
        class_targets, patch_targets = teacher_tokens[:, :classes], teacher_tokens[:, classes:]
        if keep is not None:
            patch_targets = take(patch_targets, keep)
        class_loss = distance(self.loss["class"], tokens[:, :classes], class_targets)
        patch_loss = distance(self.loss["patch"], tokens[:, classes:], patch_targets)
        if class_loss is None or patch_loss is None:
            return patch_loss if class_loss is None else class_loss
        share = 0.5 if self.loss["fuse"] == "avg" else classes / tokens.shape[1]
        return class_loss * share + patch_loss * (1 - share)


def take(tokens, ids):
    """Rows `ids` [B, K] of `tokens` [B, N, D]."""
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def distance(kind, student, teacher):
    """Averaged over everything, in float32."""
    student, teacher = student.float(), teacher.float()
    match kind:
        case "cosine":
            return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
        case "l1":
            return F.l1_loss(student, teacher)
        case "mse":
            return F.mse_loss(student, teacher)
        case "none":
            return None


def build(make, device, half_matrices=False):
    """The module of `make()` with initial weights, drawn where they stay: a large teacher's would
    take minutes on the host. `half_matrices` stores what takes part in products in bf16."""
    with torch.device("meta"):
        module = make()
    if half_matrices:
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.to(torch.bfloat16)
    module.to_empty(device=device)
    with torch.no_grad():
        for part in module.modules():
            initialise(part)
    return module


def initialise(module):
    if isinstance(module, nn.Linear | nn.Conv2d):
        # Seen as a matrix: a convolution's own fans would count its patch once more.
        nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Encoder):
        nn.init.normal_(module.cls_token, std=0.02)
        nn.init.trunc_normal_(module.pos_embed, std=0.02)


def flops_per_image(config):
    """What the recipe costs: the teacher's forward pass over all tokens, and three times a student's
    over its class tokens and kept patches, projector included. Products and attention only, 2 for a
    multiplication and an addition."""
    whole = encoder_flops(config.teacher, config.grid**2)
    width = config.teacher.dim
    for student in config.students:
        size, patches = student.size, config.kept_patches(student)
        tokens = size.class_tokens + patches
        projector = 2 * tokens * (size.dim * width + width * width)
        whole += 3 * (encoder_flops(size, patches) + projector)
    return float(whole)


def encoder_flops(size, patches):
    """A forward pass over class tokens and this many patches, which are embedded too."""
    tokens, dim = size.class_tokens + patches, size.dim
    products = 2 * tokens * (4 + 2 * size.mlp_ratio) * dim**2
    attention = 4 * tokens**2 * dim
    embedding = 2 * patches * 3 * size.patch_size**2 * dim
    return size.depth * (products + attention) + embedding
