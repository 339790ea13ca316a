"""Images a second of NVIDIA DALI's CPU pipeline, as one JSON object."""

import nvidia.dali
from nvidia.dali import fn, pipeline_def, types

import data_measure

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_DEVIATION = [0.229, 0.224, 0.225]


@pipeline_def
def crops(shards, side, pixels):
    jpeg, _label = fn.readers.webdataset(
        paths=shards, ext=["jpg", "cls"], random_shuffle=True, missing_component_behavior="error"
    )
    images = fn.decoders.image_random_crop(
        jpeg,
        device="cpu",
        output_type=types.RGB,
        random_area=[0.2, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
    )
    images = fn.resize(images, size=[side, side], interp_type=types.INTERP_CUBIC, antialias=True)
    if pixels == "u8":
        return images
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_DEVIATION],
    )


def main():
    arguments = data_measure.arguments()
    pipeline = crops(
        arguments.shards,
        arguments.side,
        arguments.pixels,
        batch_size=arguments.batch,
        num_threads=arguments.workers,
        device_id=None,
        seed=0,
    )
    pipeline.build()

    def draw_batch():
        (images,) = pipeline.run()
        return len(images)

    # Its threads share each batch: a batch is a round.
    figures = data_measure.measure(draw_batch, 1, arguments.seconds, arguments.warm_up)
    data_measure.report(figures, dali=nvidia.dali.__version__)


if __name__ == "__main__":
    main()
