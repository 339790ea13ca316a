"""Images a second of the loader that Python recipes use, as one JSON object: webdataset, Pillow,
torchvision, and torch's DataLoader."""

import PIL
import torch
import torchvision
import webdataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import data_measure

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_DEVIATION = [0.229, 0.224, 0.225]


def crops(side, pixels):
    crop = transforms.RandomResizedCrop(
        side, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC
    )
    if pixels == "u8":
        return transforms.Compose([crop, transforms.PILToTensor()])
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_DEVIATION)
    return transforms.Compose([crop, transforms.ToTensor(), normalize])


def main():
    arguments = data_measure.arguments()
    # Endless, as runs on the web's shards are, so that no worker waits at the end of an epoch.
    samples = (
        webdataset.WebDataset(arguments.shards, resampled=True)
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(crops(arguments.side, arguments.pixels))
    )
    loader = torch.utils.data.DataLoader(
        samples, batch_size=arguments.batch, num_workers=arguments.workers
    )
    batches = iter(loader)

    def draw_batch():
        images, _labels = next(batches)
        return len(images)

    figures = data_measure.measure(
        draw_batch, arguments.workers, arguments.seconds, arguments.warm_up
    )
    data_measure.report(
        figures,
        webdataset=webdataset.__version__,
        pillow=PIL.__version__,
        torchvision=torchvision.__version__,
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
