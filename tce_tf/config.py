"""What can be set for a training run? One frozen dataclass: its fields are the flags of `train`.

From Python:

    training.run.train(config.TrainConfig(data="shards/", workdir="runs/a", epochs=3))

Each field carries its flag's help text, so that flags, defaults and validation have one source.
"""

import dataclasses
from collections.abc import Sequence

from tce_tf import errors


def setting(default, help: str, choices: Sequence[str] = ()):
    """A dataclass field that becomes a flag."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices)})


def check(condition: bool, name: str, value, wanted: str) -> None:
    """Raises `errors.FlagError` in one form for every setting out of range."""
    if not condition:
        raise errors.FlagError(f"--{name}={value}: must be {wanted}")


# What no setting exceeds: of those that take memory by themselves a bound far beyond any use, of the
# others what the arithmetic holds.
MAX_COUNT = 2**31 - 1
MAX_SEED = 2**32 - 1  # of what is drawn with scikit-learn; training's own draws take 2^63
MAX_IMAGE_SIZE = 8192
_LARGEST = {
    "image_size": MAX_IMAGE_SIZE,
    "embedding_width": 2**16,
    "batch_size": 2**20,
    "num_negatives": 2**24,
    "num_segments": 1000,
    "test_frames": 1000,
    "seed": 2**63 - 1,
}
_LARGEST_FLOAT = 1e38  # float32's

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a pre-training run; the defaults are the paper's (Kinetics400, ResNet-18).

    Raises (on construction):
      errors.FlagError: a value out of range.
    """

    data: str = setting("", "Shard folders made by make_tfrecords, comma-separated.")
    workdir: str = setting("", "Folder for checkpoints, logs and config; resumes if it has any.")
    backbone: str = setting("resnet18", "Backbone.", BACKBONES)
    embedding_width: int = setting(128, "Width D of the embeddings and the memory bank.")
    image_size: int = setting(224, "Side of the square images the network sees, in pixels.")
    resize_mode: str = setting(
        "crop",
        "crop: a random square of side 224/256 of the short side. squash: the whole frame.",
        ("crop", "squash"),
    )
    min_crop: float = setting(
        0.875,
        "Smallest side of the random square as a share of the short side, with --resize_mode=crop; "
        "0.875 is the published crop, less draws a side for each sample.",
    )
    own_crops: bool = setting(
        False, "The positive is cut elsewhere than the anchor, with --resize_mode=crop."
    )
    frame_gap: str = setting(
        "1", "Distance of the positive frame: a number, a range min:max, or 0 for the same frame."
    )
    batch_size: int = setting(100, "Global batch size, over all replicas.")
    accumulate_steps: int = setting(
        1,
        "Parts of each replica's batch that are taken one after the other, so that one fits into "
        "memory: the same step, but with batch norm over each part.",
    )
    epochs: int = setting(50, "Passes over the videos; one anchor a video in each.")
    steps: int = setting(
        0, "Stop at this step; schedules still follow --epochs. 0 runs to the end."
    )
    num_negatives: int = setting(8192, "Negatives K for each anchor.")
    temperature: float = setting(0.07, "Temperature T of the similarity scores.")
    loss: str = setting("nce", "Contrastive loss.", ("nce", "infonce"))
    mining: bool = setting(True, "Mine hard negatives; otherwise all are random.")
    mining_low: float = setting(-1.0, "Mining threshold at the start.")
    mining_high: float = setting(1.0, "Mining threshold approached at the end.")
    mining_rate: float = setting(5.0, "How fast the mining threshold rises.")
    max_hard_fraction: float = setting(1.0, "At most this share of the negatives is mined.")
    z_momentum: float = setting(
        1.0, "1 keeps the NCE normaliser Z of the first batch; less makes it a moving average."
    )
    rotation_weight: float = setting(1.0, "Weight of the rotation loss; 0 leaves it out.")
    optimizer: str = setting(
        "sgd",
        "sgd as published, adamw for short runs on little data, lamb for batches of thousands.",
        ("sgd", "adamw", "lamb"),
    )
    learning_rate: float = setting(0.03, "Learning rate before the first drop.")
    warmup_epochs: int = setting(0, "Epochs over which the rate rises from 0, linearly.")
    schedule: str = setting(
        "steps",
        "steps: drops after --decay_epochs. cosine: down to 0 at the end.",
        ("steps", "cosine"),
    )
    decay_epochs: str = setting("25", "Epochs after which the rate drops, comma-separated.")
    decay_factor: float = setting(0.1, "What the rate is multiplied by at each drop.")
    momentum: float = setting(0.9, "Momentum of sgd; adamw and lamb use betas 0.9 and 0.999.")
    weight_decay: float = setting(
        1e-4,
        "Weight decay on every weight: added to the gradient by sgd, decoupled in adamw and lamb "
        "(there within the trust ratio with tensorflow-addons, beside it with Keras 3).",
    )
    strategy: str = setting(
        "auto",
        "auto: mirrored over the GPUs if there are several, else one device.",
        ("auto", "one_device", "mirrored", "multi_worker"),
    )
    sync_batch_norm: bool = setting(
        False,
        "Batch norm over the whole batch of all replicas; otherwise each uses its own, as published.",
    )
    precision: str = setting(
        "float32",
        "Arithmetic of the network; loss and bank stay in float32.",
        ("float32", "mixed_float16", "mixed_bfloat16"),
    )
    jit: str = setting(
        "auto",
        "XLA. auto: views and loss, and the network too on GPUs. on: all; of several replicas views "
        "and loss alone. off: nothing.",
        ("auto", "on", "off"),
    )
    deterministic: str = setting(
        "auto",
        "Whether a run repeats bit for bit on one device, resumed or not. auto: on without GPUs, "
        "where it costs next to nothing.",
        ("auto", "on", "off"),
    )
    seed: int = setting(0, "Seed of weights, epochs, frames, views and negatives.")
    log_every: int = setting(10, "Steps between lines of metrics.jsonl.")
    checkpoint_every: int = setting(0, "Steps between checkpoints; 0 makes one each epoch.")
    keep: int = setting(3, "How many checkpoints stay.")
    max_bad_fraction: float = setting(
        0.01, "The run fails when more than this share of the samples read is unreadable."
    )
    export_dir: str = setting("", "Export the encoder here (under a new version) at the end.")
    eval_train: str = setting("", "Labelled shards that vote in the monitor's kNN.")
    eval_test: str = setting("", "Labelled shards that the monitor scores: kNN and coherence.")
    eval_every: int = setting(0, "Steps between the monitor's scores; 0 means at the end only.")

    def __post_init__(self):
        _check_ranges(
            self,
            at_least_1=("batch_size", "accumulate_steps", "epochs", "num_negatives",
                        "embedding_width", "log_every", "keep"),
            at_least_0=("steps", "checkpoint_every", "eval_every", "seed", "warmup_epochs",
                        "rotation_weight", "weight_decay", "mining_rate"),
            above_0=("temperature", "learning_rate", "decay_factor"),
            fractions=("max_hard_fraction", "z_momentum", "max_bad_fraction"),
        )  # fmt: skip
        check(self.image_size >= 32, "image_size", self.image_size, "at least 32")
        check(
            self.accumulate_steps == 1 or not self.sync_batch_norm,
            "accumulate_steps",
            self.accumulate_steps,
            "1 with --sync_batch_norm, which needs the whole batch at once",
        )
        check(0 < self.min_crop <= 0.875, "min_crop", self.min_crop, "above 0 and at most 0.875")
        check(
            self.resize_mode == "crop" or (self.min_crop == 0.875 and not self.own_crops),
            "resize_mode",
            self.resize_mode,
            "crop with --min_crop or --own_crops",
        )
        check(self.mining_low <= self.mining_high, "mining_low", self.mining_low,
              f"at most --mining_high={self.mining_high}")  # fmt: skip
        check(bool(self.eval_train) == bool(self.eval_test), "eval_test", self.eval_test,
              "given together with --eval_train")  # fmt: skip

    @property
    def decay_epoch_list(self) -> list[int]:
        """`decay_epochs` as numbers.

        Raises:
          errors.FlagError: not a comma-separated list of ascending epochs from 1.
        """
        try:
            epochs = [int(part) for part in self.decay_epochs.split(",") if part.strip()]
        except ValueError:
            epochs = [0]
        bounds = zip([0, *epochs], [*epochs, MAX_COUNT], strict=True)
        ascending = all(a < b for a, b in bounds)
        check(ascending, "decay_epochs", self.decay_epochs, "ascending epochs from 1, as in 25,40")
        return epochs


def _as_in_training(name: str, default=None):
    """A field that means what it means in `TrainConfig`, perhaps with another default."""
    field = TrainConfig.__dataclass_fields__[name]
    value = field.default if default is None else default
    return dataclasses.field(default=value, metadata=field.metadata)


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning run; the defaults are the paper's (UCF101).

    Raises (on construction):
      errors.FlagError: a value out of range.
    """

    train: str = setting("", "Labelled shard folders to learn from, comma-separated.")
    test: str = setting("", "Labelled shard folders to score, comma-separated.")
    workdir: str = _as_in_training("workdir")
    encoder: str = setting(
        "",
        "What to start from: SavedModel folder with or without its version, training workdir, .pth "
        "file, or none = scratch.",
    )
    backbone: str = setting("resnet18", "Backbone of --encoder=none.", BACKBONES)
    input_mode: str = setting(
        "rgb",
        "rgb: single frames. stack_of_differences: 5 differences of 6 consecutive ones; the first "
        "convolution of an rgb encoder is inflated by its mean.",
        ("rgb", "stack_of_differences"),
    )
    image_size: int = setting(0, "Side of the images in pixels; 0 is the encoder's, or 224.")
    resize_mode: str = setting(
        "auto",
        "crop: the central square of side 224/256 of the short side. squash: the whole frame. auto: "
        "as the encoder was trained.",
        ("auto", "crop", "squash"),
    )
    num_segments: int = setting(
        3, "Equal parts of a video that give a frame (or stack) each; their logits are summed."
    )
    test_frames: int = setting(
        19, "Evenly spaced frames (or stacks) of a test video whose logits are summed."
    )
    freeze_backbone: bool = setting(False, "Learn the linear layer alone (linear probe).")
    dropout: float = setting(0.0, "Share of the features dropped in training.")
    augment: bool = setting(
        False, "Random crop, flip and colour jitter in training, all frames of a video alike."
    )
    batch_size: int = setting(100, "Global batch size in videos, over all replicas.")
    epochs: int = setting(900, "Passes over the training videos.")
    steps: int = _as_in_training("steps")
    optimizer: str = _as_in_training("optimizer")
    learning_rate: float = _as_in_training("learning_rate", 0.05)
    warmup_epochs: int = _as_in_training("warmup_epochs")
    schedule: str = _as_in_training("schedule")
    decay_epochs: str = _as_in_training("decay_epochs", "375")
    decay_factor: float = _as_in_training("decay_factor")
    momentum: float = _as_in_training("momentum")
    weight_decay: float = _as_in_training("weight_decay", 0.0)
    strategy: str = setting(
        "auto",
        "auto: mirrored over the GPUs if there are several, else one device.",
        ("auto", "one_device", "mirrored"),
    )
    sync_batch_norm: bool = _as_in_training("sync_batch_norm")
    precision: str = _as_in_training("precision")
    jit: str = _as_in_training("jit")
    deterministic: str = _as_in_training("deterministic")
    seed: int = _as_in_training("seed")
    log_every: int = _as_in_training("log_every")
    checkpoint_every: int = _as_in_training("checkpoint_every")
    keep: int = _as_in_training("keep")
    max_bad_fraction: float = _as_in_training("max_bad_fraction")
    eval_every: int = setting(
        0,
        "Steps between scores on the test videos, by which the best checkpoint is chosen; 0 means at "
        "the end only.",
    )
    export_dir: str = setting("", "Export the classifier here (under a new version) at the end.")

    def __post_init__(self):
        _check_ranges(
            self,
            at_least_1=("batch_size", "epochs", "num_segments", "test_frames", "log_every", "keep"),
            at_least_0=("steps", "checkpoint_every", "eval_every", "seed", "warmup_epochs",
                        "weight_decay"),
            above_0=("learning_rate", "decay_factor"),
            fractions=("max_bad_fraction",),
        )  # fmt: skip
        check(self.image_size == 0 or self.image_size >= 32, "image_size", self.image_size,
              "at least 32, or 0")  # fmt: skip
        check(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")

    decay_epoch_list = TrainConfig.decay_epoch_list


def _check_ranges(config, *, at_least_1, at_least_0, above_0, fractions) -> None:
    """The checks that the settings of all runs share."""
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata["choices"]
        if choices:
            check(value in choices, field.name, value, f"one of {', '.join(choices)}")
        elif type(field.default) is int:
            largest = _LARGEST.get(field.name, MAX_COUNT)
            check(value <= largest, field.name, value, f"at most {largest}")
        elif type(field.default) is float:  # nan, too, is not within
            within = abs(value) <= _LARGEST_FLOAT
            check(within, field.name, value, f"from {-_LARGEST_FLOAT:g} to {_LARGEST_FLOAT:g}")
        elif type(field.default) is str:  # flags.txt has a line a setting
            check("\n" not in value and "\r" not in value, field.name, repr(value), "one line")
    for names, fits, wanted in (
        (at_least_1, lambda value: value >= 1, "at least 1"),
        (at_least_0, lambda value: value >= 0, "0 or more"),
        (above_0, lambda value: value > 0, "above 0"),
        (fractions, lambda value: 0 <= value <= 1, "from 0 to 1"),
    ):
        for name in names:
            check(fits(getattr(config, name)), name, getattr(config, name), wanted)
    check(0 <= config.momentum < 1, "momentum", config.momentum, "from 0 to below 1")
    _ = config.decay_epoch_list  # raises
    check(config.warmup_epochs < config.epochs, "warmup_epochs", config.warmup_epochs,
          f"below --epochs={config.epochs}")  # fmt: skip


def split_paths(paths: str) -> list[str]:
    """A comma-separated list of paths, without empty entries."""
    return [path.strip() for path in paths.split(",") if path.strip()]
