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
    frame_gap: str = setting(
        "1", "Distance of the positive frame: a number, a range min:max, or 0 for the same frame."
    )
    batch_size: int = setting(100, "Global batch size, over all replicas.")
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
        "sgd", "sgd as published, or adamw for short runs on little data.", ("sgd", "adamw")
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
    momentum: float = setting(0.9, "Momentum of sgd.")
    weight_decay: float = setting(
        1e-4, "Weight decay on every weight: added to the gradient by sgd, decoupled in adamw."
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
        "XLA. auto: views and loss, and the network too on GPUs. on: all. off: nothing.",
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
    eval_train: str = setting("", "Labelled shards that the kNN monitor votes with.")
    eval_test: str = setting("", "Labelled shards that the kNN monitor scores.")
    eval_every: int = setting(0, "Steps between kNN scores; 0 means at the end only.")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices = field.metadata["choices"]
            if choices:
                check(value in choices, field.name, value, f"one of {', '.join(choices)}")
        for name in ("batch_size", "epochs", "num_negatives", "image_size", "embedding_width",
                     "log_every", "keep"):  # fmt: skip
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.image_size >= 32, "image_size", self.image_size, "at least 32")
        for name in ("steps", "checkpoint_every", "eval_every", "seed", "warmup_epochs",
                     "rotation_weight", "weight_decay", "mining_rate"):  # fmt: skip
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.seed < 2**63, "seed", self.seed, "below 2^63")
        for name in ("temperature", "learning_rate", "decay_factor"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("max_hard_fraction", "z_momentum", "max_bad_fraction"):
            check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        check(self.warmup_epochs < self.epochs, "warmup_epochs", self.warmup_epochs,
              f"below --epochs={self.epochs}")  # fmt: skip
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
        ascending = all(a < b for a, b in zip([0, *epochs], epochs, strict=False))
        check(ascending, "decay_epochs", self.decay_epochs, "ascending epochs from 1, as in 25,40")
        return epochs


def split_paths(paths: str) -> list[str]:
    """A comma-separated list of paths, without empty entries."""
    return [path.strip() for path in paths.split(",") if path.strip()]
