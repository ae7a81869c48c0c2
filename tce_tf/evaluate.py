r"""Scores an encoder on labelled videos, with its weights frozen.

    python -m tce_tf.evaluate --encoder=exported/a --train=shards/train --test=shards/test \
        --protocol=knn,linear,retrieval,few_shot,coherence --output=scores.json
    python -m tce_tf.evaluate --encoder='runs/split{split}' --splits=1,2,3 \
        --train='shards/train{split}' --test='shards/test{split}'

A video is the mean feature of evenly spaced frames. knn: its class is voted by the most similar
training videos. linear: logistic regression. retrieval: whether a training video of its class is among
the k most similar. few_shot: nearest class mean of a few training videos. coherence: how smoothly
features follow time, without labels and from --test alone. `--encoder=none` scores random weights, the
floor to compare with. --output gives figures per class and data set as well, with confusion matrices as
CSV and PNG and one HTML page beside it.
"""

import re

from absl import flags, logging

from tce_tf import command, config, errors
from tce_tf.data import remote

PROTOCOLS = ("knn", "linear", "retrieval", "few_shot", "coherence")
_SPLIT = "{split}"


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of evaluate."""
    common = {"flag_values": flag_values}
    define_encoder_flags(flag_values)
    flags.DEFINE_enum(
        "input_mode",
        "rgb",
        ("rgb", "stack_of_differences"),
        "What --encoder=none takes; other encoders know it.",
        **common,
    )
    flags.DEFINE_string("train", "", "Labelled shards to learn from.", **common)
    flags.DEFINE_string("test", "", "Shards to score, labelled but for coherence alone.", **common)
    flags.DEFINE_string(
        "splits",
        "",
        "Score several splits, as 1,2,3: each takes the place of {split} in --train, --test and "
        "--encoder. The output holds mean, standard deviation and each split's scores.",
        **common,
    )
    flags.DEFINE_string(
        "protocol", "knn", f"What to score: all, or a list of {', '.join(PROTOCOLS)}.", **common
    )
    flags.DEFINE_enum(
        "representation",
        "features",
        ("features", "embeddings"),
        "Features before the projection head, or embeddings after it.",
        **common,
    )
    flags.DEFINE_integer(
        "frames_per_video",
        10,
        "Evenly spaced frames averaged for a video.",
        lower_bound=1,
        upper_bound=1000,
        **common,
    )
    flags.DEFINE_integer(
        "knn_k",
        1,
        "knn: neighbours that vote.",
        lower_bound=1,
        upper_bound=config.MAX_COUNT,
        **common,
    )
    flags.DEFINE_enum(
        "linear_solver",
        "auto",
        ("auto", "lbfgs", "sgd"),
        "linear: lbfgs is exact, sgd faster on very many videos; auto takes it above 50,000.",
        **common,
    )
    flags.DEFINE_string("shots", "1,5,10,20", "few_shot: training videos a class.", **common)
    flags.DEFINE_integer(
        "few_shot_draws",
        10,
        "few_shot: how often they are drawn.",
        lower_bound=2,
        upper_bound=10_000,
        **common,
    )
    flags.DEFINE_integer(
        "coherence_frames",
        33,
        "coherence: consecutive frames looked at, from the middle of each test video.",
        lower_bound=2,
        upper_bound=1000,
        **common,
    )
    flags.DEFINE_string(
        "output", "", "JSON file for the scores; confusion matrices go beside it.", **common
    )


def define_encoder_flags(flag_values: flags.FlagValues, *, several: bool = False) -> None:
    """Defines `--encoder` and what it needs, the same in every command that takes one."""
    common = {"flag_values": flag_values}
    text = (
        "SavedModel folder with or without its version, training workdir, PyTorch file (.pth), or "
    )
    if several:
        text += "random; imagenet:FILE is a .pth under that name. May be given several times."
        flags.DEFINE_multi_string("encoder", [], text, **common)
    else:
        flags.DEFINE_string("encoder", "", text + "none = random weights.", **common)
    flags.DEFINE_enum(
        "backbone", "resnet18", config.BACKBONES, "Backbone of --encoder=none.", **common
    )
    flags.DEFINE_integer(
        "image_size",
        224,
        "Image size of --encoder=none and of a .pth, in pixels.",
        lower_bound=32,
        upper_bound=config.MAX_IMAGE_SIZE,
        **common,
    )
    flags.DEFINE_enum(
        "resize_mode",
        "auto",
        ("auto", "crop", "squash"),
        "How --encoder=none and a .pth see a frame: its central square, or all of it squashed. auto: "
        "a .pth as it was trained (TCE's squash, torchvision's crop), none as crop.",
        **common,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of random weights, and of whatever is drawn.",
        lower_bound=0,
        upper_bound=config.MAX_SEED,
        **common,
    )


def load_encoder(values: flags.FlagValues, encoder: str, *, input_mode: str = "rgb"):
    """The encoder that a path or `none` names, with the flags of `define_encoder_flags`."""
    from tce_tf.serving import encoder_module, loader

    if not encoder:
        raise errors.FlagError("--encoder is needed: a SavedModel, a workdir, a .pth or none")
    fallback = encoder_module.EncoderConfig(
        backbone=values.backbone,
        image_size=values.image_size,
        resize_mode=values.resize_mode,
        input_mode=input_mode,
    )
    return loader.load_encoder(encoder, fallback=fallback, seed=values.seed)


def main(values: flags.FlagValues) -> None:
    """Prints the scores, and writes them when asked."""
    chosen = _protocols(values.protocol)
    splits = _splits(values)
    needs_train = bool(set(chosen) - {"coherence"})
    if not values.test or needs_train and not values.train:
        raise errors.FlagError("--train and --test are needed: labelled shard folders")
    remote.require_local(values.output, "output", "a file")

    from tce_tf.evaluation import protocols, report
    from tce_tf.visualization import results_page

    settings = protocols.Settings(
        protocols=chosen,
        representation=values.representation,
        frames_per_video=values.frames_per_video,
        knn_k=values.knn_k,
        linear_solver=values.linear_solver,
        shots=_numbers("shots", values.shots),
        few_shot_draws=values.few_shot_draws,
        coherence_frames=values.coherence_frames,
        seed=values.seed,
    )
    if values.output:
        report.check_output(values.output)
    # All of them before the first is scored, which may take hours.
    inputs = {split: _open(values, split, needs_train) for split in splits}
    class_names = inputs[splits[0]][-1].class_names
    if any(test.class_names != class_names for *_, test in inputs.values()):
        raise errors.UserError(f"--splits={values.splits}: their class lists differ")
    results, matrices = {}, {}
    for split, (paths, encoder, train, test) in inputs.items():
        logging.info(
            "%s: %d training and %d test videos",
            f"split {split}" if split else paths["encoder"],
            len(train.names) if train else 0,
            len(test.names),
        )
        found = protocols.evaluate(
            encoder, train=train, test=test, settings=settings, show_progress=True
        )
        results[split] = found.scores | {
            "settings": _provenance(values, paths, encoder, train, test)
        }
        if split:
            print(f"split {split}:", *report.lines(found.scores), sep="\n  ")
        for name, counts in found.confusion.items():
            matrices[name] = matrices.get(name, 0) + counts
    if values.splits:
        scores = protocols.average(results) | {"settings": _flags(values)}
        print(f"{values.encoder}: mean (standard deviation) over splits {', '.join(splits)}, %")
    else:
        scores = results[""]
        print(f"{values.encoder}:")
    for line in report.lines(scores):
        print(line)
    if values.output:
        written = report.write(values.output, scores, matrices, class_names)
        page = values.output.removesuffix(".json") + ".html"
        results_page.write(page, results_page.evaluation_page(scores, matrices, class_names))
        written.append(page)
        logging.info("wrote %s", ", ".join(written))


def _open(values: flags.FlagValues, split: str, needs_train: bool) -> tuple:
    """What a split is scored on: the paths by their flags, the encoder, readers of train and test."""
    from tce_tf.data import shard_reader
    from tce_tf.evaluation import protocols

    paths = {
        name: values[name].value.replace(_SPLIT, split) for name in ("encoder", "train", "test")
    }
    encoder = load_encoder(values, paths["encoder"], input_mode=values.input_mode)
    train, test = (
        shard_reader.ShardReader(config.split_paths(paths[name])) if wanted else None
        for name, wanted in (("train", needs_train), ("test", True))
    )
    if needs_train:
        protocols.check_labelled(train, test, is_quiet=True)  # evaluate says what is to be said
    return paths, encoder, train, test


def _protocols(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return PROTOCOLS
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        raise errors.FlagError(
            f"--protocol={text}: must be all, or a list of {', '.join(PROTOCOLS)}"
        )
    return tuple(dict.fromkeys(names))


def _splits(values: flags.FlagValues) -> list[str]:
    """What takes the place of {split}; one empty text without --splits."""
    paths = [values.encoder, values.train, values.test]
    splits = list(dict.fromkeys(part.strip() for part in values.splits.split(",")))
    if not values.splits:
        if any(_SPLIT in path for path in paths):
            raise errors.FlagError("--splits is needed, as 1,2,3: a path holds {split}")
        return [""]
    if len(splits) < 2 or not all(splits):
        raise errors.FlagError(f"--splits={values.splits}: must be two or more, as 1,2,3")
    if _SPLIT not in values.test:
        raise errors.FlagError(f"--test={values.test}: holds no {{split}} for --splits to fill in")
    return splits


def _numbers(name: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    config.check(
        all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts),
        name, text, "numbers from 1, as in 1,5,10",
    )  # fmt: skip
    return tuple(sorted({int(part) for part in parts}))


def _flags(values: flags.FlagValues) -> dict:
    """All flags and versions: what the scores depend on, but for the files that flags name."""
    import sklearn

    from tce_tf.training import provenance

    return {name: values[name].value for name in values if name != "output"} | {
        "versions": provenance.versions() | {"scikit-learn": sklearn.__version__}
    }


def _provenance(values, paths, encoder, train, test) -> dict:
    """`_flags`, and which files they named: manifests and weights by their digests."""
    import dataclasses

    from tce_tf.serving import loader
    from tce_tf.training import provenance

    data = {
        name: provenance.data_manifests(reader.folders)
        for name, reader in (("train", train), ("test", test))
        if reader
    }
    return (
        _flags(values)
        | paths
        | {
            "data": data,
            "encoder_config": dataclasses.asdict(encoder.config) if encoder.config else None,
            "encoder_weights": loader.weights_digest(encoder),
        }
    )


if __name__ == "__main__":
    command.run(main, define_flags)
