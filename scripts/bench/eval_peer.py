"""The linear depth head on a frozen encoder in plain PyTorch, as a user would write it: the peer of
scripts/bench/eval. Prints images/s of training, seconds of each test, and peak memory as JSON.

Fair: the encoder has no gradient, windows of an image are one batch, decoding is in worker processes,
mixed precision by autocast, batch of the same size.
"""

import argparse
import json
import pathlib
import resource
import statistics
import time

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModel

SIZE, STEP, MOST, LEAST = 256, 170, 10.0, 0.001
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, folder, is_training):
        self.images = sorted(folder.glob("*/rgb_*.jpg"))
        self.is_training = is_training

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        path = self.images[index]
        target = path.with_name(path.name.replace("rgb_", "sync_depth_")).with_suffix(".png")
        image = numpy.asarray(Image.open(path).convert("RGB"))[45:471, 41:601]
        depth = numpy.asarray(Image.open(target)).astype(numpy.float32)[45:471, 41:601] / 1000
        if self.is_training:
            top = torch.randint(image.shape[0] - SIZE + 1, ()).item()
            left = torch.randint(image.shape[1] - SIZE + 1, ()).item()
            image = image[top : top + SIZE, left : left + SIZE]
            depth = depth[top : top + SIZE, left : left + SIZE]
            if torch.rand(()) < 0.5:
                image, depth = image[:, ::-1], depth[:, ::-1]
        image = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        return (image - MEAN) / STD, torch.from_numpy(depth.copy())


class Head(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels)
        self.predict = torch.nn.Conv2d(channels, 1, 1)

    def forward(self, features):
        output = self.predict(self.norm(features)).float()
        output = F.interpolate(output, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        return output.sigmoid()


@torch.no_grad()
def features(encoder, images):
    tokens = encoder(images).last_hidden_state
    count = encoder.config.n_cls_tokens
    side = SIZE // encoder.config.patch_size
    patches = tokens[:, count:].transpose(1, 2).unflatten(2, (side, side))
    mean = tokens[:, :count].mean(1)[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat([patches, mean], 1)


def loss_of(prediction, target):
    valid = (target >= LEAST) & (target <= MOST)
    d = target[valid].log() - prediction[valid].clamp(min=LEAST).log()
    return ((d**2).mean() - 0.5 * d.mean() ** 2).sqrt()


def cut(image):
    _, height, width = image.shape
    places = [(t, l) for t in range(0, height, STEP) for l in range(0, width, STEP)]
    windows = []
    for top, left in places:
        part = image[:, top : top + SIZE, left : left + SIZE]
        windows.append(F.pad(part, (0, SIZE - part.shape[2], 0, SIZE - part.shape[1])))
    return places, torch.stack(windows)


@torch.no_grad()
def test(encoder, head, loader, device, autocast):
    head.eval()
    shares = []
    for image, target in loader:
        image, target = image[0].to(device), target[0].to(device)
        places, windows = cut(image)
        with autocast():
            scores = head(features(encoder, windows))
        total, count = torch.zeros_like(target), torch.zeros_like(target)
        for (top, left), score in zip(places, scores[:, 0]):
            part = total[top : top + SIZE, left : left + SIZE]
            part += score[: part.shape[0], : part.shape[1]]
            count[top : top + SIZE, left : left + SIZE] += 1
        prediction = total / count * MOST
        valid = (target >= LEAST) & (target <= MOST)
        ratio = torch.maximum(prediction / target, target / prediction)[valid]
        shares.append((ratio < 1.25).float().mean().item())
    head.train()
    return statistics.mean(shares)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path)
    parser.add_argument("--encoder")
    parser.add_argument("--device")
    parser.add_argument("--precision")
    for name in ("epochs", "updates", "batch", "workers"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    device = torch.device(options.device)
    encoder = AutoModel.from_pretrained(options.encoder).to(device).eval().requires_grad_(False)
    head = Head(2 * encoder.config.hidden_size).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-4, weight_decay=0.01, fused=True)
    bf16 = options.precision == "bf16"
    autocast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    more = dict(num_workers=options.workers, persistent_workers=True, pin_memory=device.type == "cuda")
    training = torch.utils.data.DataLoader(
        Pairs(options.root / "sync", True), options.batch, shuffle=True, drop_last=True, **more
    )
    testing = torch.utils.data.DataLoader(
        Pairs(options.root / "official_splits/test", False), 1, **more
    )
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    rates, tests = [], []
    for epoch in range(options.epochs):
        begun = time.monotonic()
        for images, targets in training:
            images, targets = images.to(device), targets.to(device)
            with autocast():
                prediction = head(features(encoder, images))[:, 0] * MOST
            loss = loss_of(prediction, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        sync()
        if epoch:
            rates.append(options.batch * options.updates / (time.monotonic() - begun))
        begun = time.monotonic()
        test(encoder, head, testing, device, autocast)
        sync()
        tests.append(time.monotonic() - begun)
    memory = (
        torch.cuda.max_memory_reserved()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(json.dumps({"images_per_s": statistics.median(rates), "tests": tests, "memory": memory}))


main()
