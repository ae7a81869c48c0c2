r"""Makes shards from videos or frame folders.

    python -m tce_tf.make_tfrecords --input=UCF-101 --output=shards/train \
        --split_dir=ucfTrainTestlist --split=1 --subset=train
    python -m tce_tf.make_tfrecords --input=videos --output=shards/own --short_side=128
    python -m tce_tf.make_tfrecords --input=clips.csv --output=shards/own --fps=10
    python -m tce_tf.make_tfrecords --input=/mnt/videos --output=gs://bucket/shards --runner=beam \
        --beam_options='--runner=FlinkRunner --flink_master=host:8081 --parallelism=64'

The input is a folder of videos, a folder of frame folders, or a CSV file `path,label,group` (label
and group optional). A folder of TFRecord files made by other programs (MediaSequence/DMVR keys) is
indexed in place when given as both --input and --output. A run that was interrupted is finished by
the same command; what is done is left alone. Clips that cannot be used are listed with the reason
in rejected.csv.
"""

import re

from absl import flags

from tce_tf import command, errors


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    from tce_tf.data import layouts, pictures, splits

    common = {"flag_values": flag_values}
    flags.DEFINE_string(
        "input",
        None,
        "Folder of videos or of frame folders, or a CSV file.",
        required=True,
        **common,
    )
    flags.DEFINE_string(
        "output", None, "Folder for the shards, local or s3://, gs://.", required=True, **common
    )
    flags.DEFINE_enum(
        "layout",
        "auto",
        list(layouts.LAYOUTS),
        "Where classes and groups come from: folder names, or nothing (flat).",
        **common,
    )
    flags.DEFINE_string(
        "split_dir",
        None,
        "Folder with the official split lists (UCF101 or HMDB51), or with a classInd.txt alone.",
        **common,
    )
    flags.DEFINE_integer(
        "split", 1, "Which official split.", lower_bound=1, upper_bound=3, **common
    )
    flags.DEFINE_enum("subset", "all", list(splits.SUBSETS), "Part of the split to make.", **common)
    flags.DEFINE_integer(
        "short_side",
        256,
        "Stored frames' short side in pixels; 0 keeps every video's size.",
        lower_bound=0,
        upper_bound=8192,
        **common,
    )
    flags.DEFINE_string(
        "size", None, "Stored frames' exact size HxW instead, as 240x320.", **common
    )
    flags.DEFINE_float(
        "fps",
        0.0,
        "Frames kept a second at most; 0 keeps all. Frame folders count as 25.",
        lower_bound=0.0,
        upper_bound=1000.0,
        **common,
    )
    flags.DEFINE_integer(
        "jpeg_quality", 90, "Of re-encoded frames.", lower_bound=1, upper_bound=100, **common
    )
    flags.DEFINE_integer(
        "num_shards",
        0,
        "Number of shards; 0 = some 256 MB each.",
        lower_bound=0,
        upper_bound=99_999,
        **common,
    )
    flags.DEFINE_integer(
        "num_workers",
        0,
        "Decoding processes; 0 = one a core. With --runner=beam of each Beam worker, 0 = one.",
        lower_bound=0,
        upper_bound=1024,
        **common,
    )
    flags.DEFINE_enum(
        "runner",
        "local",
        ["local", "beam"],
        "Where shards are made: here, or by Apache Beam (pip install -r requirements.txt apache-beam).",
        **common,
    )
    flags.DEFINE_string(
        "beam_options",
        "",
        "Beam's own flags with --runner=beam, as '--runner=FlinkRunner --flink_master=host:8081'. "
        "Its workers need this package and see the input under the same path.",
        **common,
    )
    flags.DEFINE_float(
        "clip_seconds",
        0.0,
        "Cut long footage into clips of about this length, each with its own row; 0 = do not cut.",
        **common,
    )
    flags.register_validator(
        "clip_seconds",
        lambda seconds: seconds == 0 or 0.1 <= seconds <= 1e6,
        "must be 0, or from 0.1 to a million",
        flag_values,
    )
    flags.DEFINE_float(
        "max_rejected_fraction",
        0.1,
        "Fail (keeping the good shards) when more of the clips than this are unusable.",
        lower_bound=0.0,
        upper_bound=1.0,
        **common,
    )

    def is_size(value: str | None) -> bool:
        sides = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value) if value else None
        pixels = int(sides[1]) * int(sides[2]) if sides else 0
        return value is None or 1 <= pixels <= pictures.MAX_SOURCE_PIXELS

    text = f"must be HxW in pixels, as 240x320, at most {pictures.MAX_SOURCE_PIXELS} in all"
    flags.register_validator("size", is_size, text, flag_values)


def main(values: flags.FlagValues) -> None:
    """Makes, finishes or indexes a shard folder."""
    from tce_tf.data import conversion, foreign_shards, plan

    if values.beam_options and values.runner != "beam":
        raise errors.FlagError("--beam_options goes with --runner=beam")
    if foreign_shards.is_asked_for(values.input, values.output):
        foreign_shards.index_folder(values.input)
        return
    options = plan.Options(
        input=values.input,
        output=values.output,
        layout=values.layout,
        split_dir=values.split_dir,
        split=values.split,
        subset=values.subset,
        short_side=values.short_side,
        size=tuple(map(int, values.size.split("x"))) if values.size else None,
        fps=values.fps,
        jpeg_quality=values.jpeg_quality,
        num_shards=values.num_shards,
        clip_seconds=values.clip_seconds,
    )
    shared = {
        "num_workers": values.num_workers,
        "max_rejected_fraction": values.max_rejected_fraction,
    }
    if values.runner == "beam":
        from tce_tf.data import beam_runner

        beam_runner.make_tfrecords(options, beam_options=values.beam_options, **shared)
    else:
        conversion.make_tfrecords(options, **shared)


if __name__ == "__main__":
    command.run(main, define_flags)
