"""Embeds the frames of a video, a folder of videos, a frame folder or shards.

    python -m tce_tf.embed --encoder=exported/a --input=video.mp4 --output=video.npz

The .npz holds `features`, `embeddings`, `names` and `timestamps` (microseconds), a row a frame, or a
row a video with --pool=video.
"""

import sys

from absl import flags

from tce_tf import command, errors, evaluate
from tce_tf.data import remote


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of embed."""
    evaluate.define_encoder_flags(flag_values)
    flags.DEFINE_string(
        "input", "", "Video, folder of videos, frame folder, or shards.", flag_values=flag_values
    )
    flags.DEFINE_string("output", "", "File to write, .npz.", flag_values=flag_values)
    flags.DEFINE_enum(
        "pool", "none", ("none", "video"), "One row a frame, or a video.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Frames encoded at once.", lower_bound=1, flag_values=flag_values
    )


def main(values: flags.FlagValues) -> None:
    """Embeds and says how much."""
    if not values.input or not values.output:
        raise errors.FlagError("--input and --output are needed")
    if not values.output.endswith(".npz"):
        raise errors.FlagError(f"--output={values.output}: must end in .npz")
    remote.require_local(values.output, "output", "a file")
    encoder = evaluate.load_encoder(values, values.encoder)

    from tce_tf.evaluation import embedding

    arrays = embedding.embed(
        encoder,
        values.input,
        pool=values.pool,
        batch_size=values.batch_size,
        progress=sys.stderr.isatty(),
    )
    embedding.save(values.output, arrays)
    print(
        f"{values.output}: {len(arrays['names'])} rows, features {arrays['features'].shape[1]} "
        f"wide, embeddings {arrays['embeddings'].shape[1]} wide"
    )


if __name__ == "__main__":
    command.run(main, define_flags)
