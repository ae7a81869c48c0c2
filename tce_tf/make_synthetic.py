r"""Makes labelled procedural clips: small videos for a demo or a test when no data set is at hand.

    python -m tce_tf.make_synthetic --output=clips --num_videos=96
    python -m tce_tf.make_tfrecords --input=clips --output=shards/train \
        --split_dir=clips/splits --subset=train

The class of a clip is the pattern of the thing that moves in it; colours, light, background, place,
size and camera motion tell nothing about it. Names, groups (a group is one scene) and split lists are
UCF101's, and no scene is in both lists. The same seed gives the same clips; a clip does not depend on
how many are made. A re-run, or one with a larger --num_videos, leaves finished clips alone.
"""

import re

from absl import flags

from tce_tf import command, config


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    common = {"flag_values": flag_values}
    flags.DEFINE_string("output", None, "Folder for the clips.", required=True, **common)
    flags.DEFINE_integer(
        "num_videos",
        96,
        "Number of clips. With 8 classes, 16 give each a training and a test scene.",
        lower_bound=1,
        upper_bound=10**6,
        **common,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "What all randomness comes from.",
        lower_bound=0,
        upper_bound=config.MAX_SEED,
        **common,
    )
    flags.DEFINE_integer(
        "num_classes", 8, "Number of classes.", lower_bound=2, upper_bound=8, **common
    )
    flags.DEFINE_integer(
        "num_frames", 32, "Frames a clip, 25 a second.", lower_bound=1, upper_bound=10000, **common
    )
    flags.DEFINE_string("size", "96x128", "Frame size HxW in pixels, even numbers.", **common)
    flags.register_validator(
        "size",
        lambda value: re.fullmatch("[0-9]{2,4}x[0-9]{2,4}", value) is not None,
        "must be HxW in pixels, as 96x128",
        flag_values,
    )


def main(values: flags.FlagValues) -> None:
    """Makes the clips."""
    from tce_tf.data import synthetic

    synthetic.make_clips(
        values.output,
        num_videos=values.num_videos,
        seed=values.seed,
        num_classes=values.num_classes,
        num_frames=values.num_frames,
        size=tuple(int(side) for side in values.size.split("x")),
    )


if __name__ == "__main__":
    command.run(main, define_flags)
