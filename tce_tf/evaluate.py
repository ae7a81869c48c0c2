"""Scores an encoder on labelled videos: k-nearest-neighbour classification of frozen features.

    python -m tce_tf.evaluate --encoder=exported/a --train=shards/train --test=shards/test

Each video is the mean feature of evenly spaced frames; its class is voted by the most similar
training videos. `--encoder=none` scores random weights, the floor to compare with.
"""

import json
import os

from absl import flags, logging

from tce_tf import command, config, errors
from tce_tf.data import remote

PROTOCOLS = ("knn",)


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of evaluate."""
    define_encoder_flags(flag_values)
    flags.DEFINE_string("train", "", "Labelled shards that vote.", flag_values=flag_values)
    flags.DEFINE_string("test", "", "Labelled shards to score.", flag_values=flag_values)
    flags.DEFINE_enum("protocol", "knn", PROTOCOLS, "What to score.", flag_values=flag_values)
    flags.DEFINE_integer(
        "knn_k", 1, "Neighbours that vote.", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_integer(
        "frames_per_video",
        8,
        "Evenly spaced frames averaged for a video.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string("output", "", "JSON file for the scores.", flag_values=flag_values)


def define_encoder_flags(flag_values: flags.FlagValues) -> None:
    """Defines `--encoder` and what it needs, the same in every command."""
    flags.DEFINE_string(
        "encoder",
        "",
        "SavedModel folder with or without its version, training workdir, or none = random weights.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "backbone",
        "resnet18",
        config.BACKBONES,
        "Backbone of --encoder=none.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "image_size",
        224,
        "Image size of --encoder=none, in pixels.",
        lower_bound=32,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of --encoder=none.", lower_bound=0, flag_values=flag_values
    )


def load_encoder(values: flags.FlagValues):
    """The encoder that the flags of `define_encoder_flags` name."""
    from tce_tf.serving import encoder_module, loader

    if not values.encoder:
        raise errors.FlagError("--encoder is needed: a SavedModel, a workdir or none")
    fallback = encoder_module.EncoderConfig(backbone=values.backbone, image_size=values.image_size)
    encoder = loader.load_encoder(values.encoder, fallback=fallback, seed=values.seed)
    loader.check_takes_frames(values.encoder)
    return encoder


def main(values: flags.FlagValues) -> None:
    """Prints the scores, and writes them as JSON when asked."""
    if not values.train or not values.test:
        raise errors.FlagError("--train and --test are needed: labelled shard folders")
    remote.require_local(values.output, "output", "a file")
    encoder = load_encoder(values)

    from tce_tf.data import shard_reader
    from tce_tf.evaluation import video_features

    train, test = (
        shard_reader.ShardReader(config.split_paths(paths)) for paths in (values.train, values.test)
    )
    if values.output:  # now, not after the work
        os.makedirs(os.path.dirname(values.output) or ".", exist_ok=True)
        if os.path.isdir(values.output):
            raise errors.UserError(f"--output={values.output}: is a folder, give a file")
    logging.info("%d training and %d test videos", len(train.names), len(test.names))
    scores = video_features.evaluate_knn(
        encoder, train=train, test=test, k=values.knn_k, frames_per_video=values.frames_per_video
    )
    print(f"{values.encoder}: kNN top-1 {100 * scores['knn.top1']:.1f} %, "
          f"top-5 {100 * scores['knn.top5']:.1f} %")  # fmt: skip
    for name, top1 in scores["per_dataset"].items():
        print(f"  {name}: top-1 {100 * top1:.1f} %")
    if values.output:
        settings = {
            name: values[name].value
            for name in ("encoder", "backbone", "image_size", "seed", "train", "test", "knn_k",
                         "frames_per_video")
        }  # fmt: skip
        with open(f"{values.output}.tmp", "w", encoding="utf-8") as file:
            json.dump(scores | {"settings": settings}, file, indent=2)
        os.replace(f"{values.output}.tmp", values.output)


if __name__ == "__main__":
    command.run(main, define_flags)
