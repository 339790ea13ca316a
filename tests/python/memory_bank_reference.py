"""Segmentation by a memory bank, in plain PyTorch: features of the real transformers, neighbours in float64.

usage: memory_bank_reference.py EXPORT_DIR TRAIN_LIST TEST_LIST CLASSES NEIGHBOURS TEMPERATURE
needs: torch, transformers, pillow, numpy

Lists have lines `IMAGE MASK`, relative to the working directory, of squares of the encoder's own size. Every
patch of the training images that has a pixel other than 255 is in the bank. Prints mIoU over all classes,
pixel accuracy, and mIoU over the classes that occur.
"""

import sys

import numpy
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel

IGNORED = 255


def pairs(path):
    names = [line.split() for line in open(path)]
    images = [Image.open(image) for image, _ in names]
    masks = [torch.from_numpy(numpy.array(Image.open(mask))) for _, mask in names]
    return images, torch.stack(masks).long()


def main():
    export, train, test, *numbers = sys.argv[1:]
    classes, neighbours, temperature = int(numbers[0]), int(numbers[1]), float(numbers[2])
    model = AutoModel.from_pretrained(export, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(export)
    patch = model.config.patch_size

    def patches(images):
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].float()
        with torch.no_grad():
            tokens = model(pixels).last_hidden_state[:, model.config.n_cls_tokens :]
        return functional.normalize(tokens.double(), dim=-1)

    images, masks = pairs(train)
    features = patches(images).flatten(0, 1)
    squares = masks.unfold(1, patch, patch).unfold(2, patch, patch).flatten(3).flatten(0, 2)
    counts = torch.stack([(squares == one).sum(1) for one in range(classes)], 1).double()
    has_any = counts.sum(1) > 0
    assert not has_any.all(), "the case has patches that are left out"
    features, counts = features[has_any], counts[has_any]
    shares = counts / counts.sum(1, keepdim=True)

    images, masks = pairs(test)
    queries = patches(images)
    nearest = (queries @ features.T).topk(neighbours, dim=-1)
    weights = ((nearest.values - nearest.values[..., :1]) / temperature).exp()
    votes = (weights[..., None] * shares[nearest.indices]).sum(2) / weights.sum(-1, keepdim=True)
    side = masks.shape[-1] // patch
    votes = votes.transpose(1, 2).reshape(len(masks), classes, side, side)
    scores = functional.interpolate(votes, size=masks.shape[-2:], mode="bilinear")
    predicted, target = scores.argmax(1)[masks != IGNORED], masks[masks != IGNORED]
    both = [((predicted == one) & (target == one)).sum().item() for one in range(classes)]
    either = [((predicted == one) | (target == one)).sum().item() for one in range(classes)]
    overlap = [one / max(all_, 1) for one, all_ in zip(both, either)]
    present = [one for number, one in enumerate(overlap) if (target == number).any()]
    print(
        sum(overlap) / classes,
        (predicted == target).double().mean().item(),
        sum(present) / len(present),
    )


main()
