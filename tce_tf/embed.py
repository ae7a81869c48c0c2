r"""Embeds footage frame by frame, or looks in embedded footage for what is like a video or a picture.

    python -m tce_tf.embed --encoder=exported/a --input=videos --output=all.npz
    python -m tce_tf.embed --encoder=exported/a --input=videos --output=all.tfrecord
    python -m tce_tf.embed --encoder=exported/a --query=x.mp4 --collection=all.npz \
        --output=neighbours.png --top_k=10

--input is a video, a picture, a folder of videos, a frame folder, a CSV list or shards. A row a
frame, or a row a video with --pool=video. The .npz holds the arrays `features`, `embeddings`,
`names` and `timestamps` (microseconds); it is made in memory and written at the end, so a stopped run
starts again.

all.tfrecord is for large collections: shards all-00000.tfrecord, ... of one tf.train.Example a row
(`features`, `embeddings`, `name`, `timestamp`) and all.json, which lists them. The same command again
goes on where it was stopped, and embeds videos that were added to --input since.

--query asks: a video counts as the mean over its frames. What is printed are the most similar rows by
cosine, one a video unless --per_video says otherwise; --output draws them.
"""

import os

from absl import flags, logging

from tce_tf import command, config, errors, evaluate
from tce_tf.data import remote


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of embed."""
    common = {"flag_values": flag_values}
    evaluate.define_encoder_flags(flag_values)
    for name, text in (
        (
            "input",
            "Video, picture, folder of videos, frame folder, CSV list, or shards. With --query: "
            "where the footage of --collection lies now, if it was moved.",
        ),
        ("output", "File to write: .npz or .tfrecord; with --query a picture, .png."),
        ("query", "Video, picture or frame folder to look for in --collection."),
        ("collection", "What embed wrote: .npz, or .tfrecord for the shards of that name."),
    ):
        flags.DEFINE_string(name, "", text, **common)
    flags.DEFINE_enum("pool", "none", ("none", "video"), "One row a frame, or a video.", **common)
    flags.DEFINE_enum(
        "representation",
        "embeddings",
        ("embeddings", "features"),
        "What --query compares: embeddings after the projection head, or features before it.",
        **common,
    )
    for name, default, minimum, maximum, text in (
        ("batch_size", 32, 1, 2**20, "Frames encoded at once; fewer where they are very large."),
        (
            "rows_per_shard",
            20_000,
            1,
            config.MAX_COUNT,
            ".tfrecord: about so many rows a shard; a kill costs as many.",
        ),
        ("top_k", 10, 1, 1000, "--query: rows to show."),
        (
            "per_video",
            1,
            0,
            config.MAX_COUNT,
            "--query: at most so many rows of one video; 0 = any number.",
        ),
    ):
        bounds = {"lower_bound": minimum, "upper_bound": maximum}
        flags.DEFINE_integer(name, default, text, **bounds, **common)
    flags.DEFINE_float(
        "max_rejected_fraction",
        0.1,
        "Fail (keeping the rows of the others) when more of the videos than this cannot be read.",
        lower_bound=0.0,
        upper_bound=1.0,
        **common,
    )


def main(values: flags.FlagValues) -> None:
    """Embeds and says how much, or answers a query."""
    remote.require_local(values.output, "output", "a file")
    if values.query or values.collection:
        _answer(values)
    else:
        _embed(values)


def _embed(values: flags.FlagValues) -> None:
    if not values.input or not values.output:
        raise errors.FlagError("--input and --output are needed")
    if not values.output.endswith((".npz", ".tfrecord")):
        raise errors.FlagError(f"--output={values.output}: must end in .npz or .tfrecord")
    encoder = evaluate.load_encoder(values, values.encoder)

    from tce_tf.data import footage
    from tce_tf.evaluation import collection_writer, embedding
    from tce_tf.training import provenance

    found = footage.open_footage(values.input)
    description = collection_writer.describe(
        encoder,
        values.encoder,
        root=found.root,
        pool=values.pool,
        versions=provenance.versions(),
    )
    with collection_writer.open_writer(
        values.output, description, rows_per_shard=values.rows_per_shard
    ) as writer:
        rejected = embedding.embed(
            encoder,
            found,
            writer,
            pool=values.pool,
            batch_size=values.batch_size,
            max_rejected_fraction=values.max_rejected_fraction,
            show_progress=True,
        )
        features, embeddings = writer.widths
        print(
            f"{values.output}: {writer.num_rows} rows, features {features} wide, embeddings "
            f"{embeddings} wide; {len(rejected)} of {len(found.names) + len(found.rejected)} videos "
            "rejected"
        )


def _answer(values: flags.FlagValues) -> None:
    if not values.query or not values.collection:
        raise errors.FlagError("--query and --collection are needed, with --encoder")
    if not values.collection.endswith((".npz", ".tfrecord")):
        raise errors.FlagError(f"--collection={values.collection}: must end in .npz or .tfrecord")
    if values.output and not values.output.endswith(".png"):
        raise errors.FlagError(f"--output={values.output}: with --query it must end in .png")

    from tce_tf.data import footage
    from tce_tf.evaluation import collection, embedding, search

    asked = collection.open_collection(values.collection)
    found = footage.open_footage(values.query, flag="query")
    encoder = evaluate.load_encoder(values, values.encoder)
    search.require_encoder(asked, encoder)
    row = embedding.embed_one(encoder, found, batch_size=values.batch_size)
    items = search.nearest(
        asked,
        getattr(row, values.representation)[0],
        representation=values.representation,
        top_k=values.top_k,
        per_video=values.per_video,
    )
    print("\n".join(search.table(items)))
    if values.output:
        from tce_tf.visualization import neighbours_picture

        images, missing = neighbours_picture.thumbnails(asked, items, root=values.input)
        if missing:
            logging.warning("%s", missing)
        query = (os.path.basename(values.query), found.frame_at(0, int(row.timestamps[0])))
        neighbours_picture.write(values.output, query, items, images)
        print(f"{values.output}: drawn")


if __name__ == "__main__":
    command.run(main, define_flags)
