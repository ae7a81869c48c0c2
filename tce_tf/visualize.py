r"""Shows the space that an encoder learned: the frames of videos as paths in a plane.

    python -m tce_tf.visualize --encoder=random --encoder=exported/a --input=video.mp4 --output=space.png
    python -m tce_tf.visualize --encoder=exported/a --input=video.mp4 --output=space.mp4
    python -m tce_tf.visualize --encoder=exported/a --input=videos --output=space.html

Frames that an encoder finds alike lie together; a video's frames are joined in order. t-SNE keeps
neighbours, --projection=pca keeps distances: there one sees how far a path leads and how it bends. Every
--encoder has a panel of its own, with figures of how its vectors follow time (see evaluate's protocol
coherence). .png is a picture, .gif and .mp4 show the current frame beside its moving marker,
.html is a page to walk through: frames under the mouse, videos that play along their path, search by
name, neighbours.

--input is a video, a folder of videos, a frame folder, a CSV list or shards. Long videos are streamed:
of too many frames every n-th is taken.
"""

import os

from absl import flags

from tce_tf import command, errors, evaluate
from tce_tf.data import remote

# Frames shown by default: what a picture of each kind can bear.
_MAX_FRAMES = {".png": 1000, ".gif": 300, ".mp4": 1000, ".html": 5000}
_THUMBNAIL_SIDE = {".png": 32, ".gif": 320, ".mp4": 640, ".html": 64}  # px


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of visualize."""
    common = {"flag_values": flag_values}
    evaluate.define_encoder_flags(flag_values, several=True)
    flags.DEFINE_string(
        "input", "", "Video, folder of videos, frame folder, CSV list, or shards.", **common
    )
    flags.DEFINE_string("output", "", "File to write: .png, .gif, .mp4 or .html.", **common)
    flags.DEFINE_enum(
        "representation",
        "features",
        ("features", "embeddings"),
        "Features before the projection head, or embeddings after it.",
        **common,
    )
    flags.DEFINE_integer(
        "max_frames",
        0,
        "Frames shown at most, of all videos together; 0 = "
        + ", ".join(f"{count} for {kind}" for kind, count in _MAX_FRAMES.items())
        + ".",
        lower_bound=0,
        upper_bound=10**6,
        **common,
    )
    flags.DEFINE_enum(
        "projection",
        "tsne",
        ("tsne", "pca"),
        "What makes a plane of the vectors: t-SNE, which keeps neighbours together, or the first two "
        "principal components, which keep distances.",
        **common,
    )
    flags.DEFINE_float(
        "variance",
        0.95,
        "Share of the variance that the vectors keep before t-SNE, in (0, 1].",
        **common,
    )
    flags.DEFINE_float(
        "perplexity",
        30.0,
        "t-SNE: about how many neighbours of a point count; at most a third of the points.",
        lower_bound=1.0,
        upper_bound=1e6,
        **common,
    )
    flags.DEFINE_integer(
        "batch_size",
        32,
        "Frames encoded at once; fewer where they are very large.",
        lower_bound=1,
        upper_bound=2**20,
        **common,
    )


def main(values: flags.FlagValues) -> None:
    """Draws the picture and prints the figures that stand in it."""
    kind = _kind(values)

    from tce_tf.data import footage
    from tce_tf.evaluation import report
    from tce_tf.visualization import collection, projection, space_panel

    found = footage.open_footage(values.input)
    report.check_output(values.output)
    encoders = {name: evaluate.load_encoder(values, _weights(name)) for name in values.encoder}
    collections = collection.collect(
        encoders,
        found,
        max_frames=values.max_frames or _MAX_FRAMES[kind],
        representation=values.representation,
        thumbnail_side=_THUMBNAIL_SIDE[kind],
        batch_size=values.batch_size,
        show_progress=True,
    )
    places = [
        projection.principal_plane(part.vectors)
        if values.projection == "pca"
        else projection.project(
            part.vectors,
            seed=values.seed,
            variance=values.variance,
            perplexity=values.perplexity,
        )
        for part in collections
    ]
    _write(kind, values.output, collections, places)
    for part in collections:
        print(f"{part.encoder}: {space_panel.figures_line(space_panel.figures(part))}")
    print(f"{values.output}: {space_panel.heading(collections[0])}")


def _write(kind: str, path: str, collections, places) -> None:
    from tce_tf.visualization import results_page, space_animation, space_page, space_picture

    if kind == ".html":
        results_page.write(path, space_page.space_page(collections, places))
        return
    if kind == ".png":
        space_picture.write(path, collections, places)
        return
    animation = space_animation.Animation(collections, places)
    (space_animation.write_gif if kind == ".gif" else space_animation.write_mp4)(path, animation)


def _weights(encoder: str) -> str:
    """What `load_encoder` calls the encoder that --encoder names."""
    return "none" if encoder == "random" else encoder.removeprefix("imagenet:")


def _kind(values: flags.FlagValues) -> str:
    """The kind of --output, after a look at flags that need no file."""
    if not values.input or not values.output:
        raise errors.FlagError("--input and --output are needed")
    kind = os.path.splitext(values.output)[1].lower()
    if kind not in _MAX_FRAMES:
        raise errors.FlagError(f"--output={values.output}: must end in {', '.join(_MAX_FRAMES)}")
    remote.require_local(values.output, "output", "a file")
    if not values.encoder or not all(values.encoder):
        raise errors.FlagError("--encoder is needed: random, imagenet:FILE, an export or a workdir")
    if len(set(values.encoder)) < len(values.encoder):
        raise errors.FlagError(f"--encoder={','.join(values.encoder)}: names one twice")
    if not 0 < values.variance <= 1:
        raise errors.FlagError(f"--variance={values.variance}: must be above 0 and at most 1")
    return kind


if __name__ == "__main__":
    command.run(main, define_flags)
