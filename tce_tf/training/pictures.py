"""What does a run look at? Its views and the negatives it mines, as pictures for TensorBoard."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tce_tf.data import augmentation, decoding, sampling, shard_reader
from tce_tf.modeling import tce_model
from tce_tf.serving import encoder_module

_SAMPLES = 8  # rows of the grid of views
_ANCHORS, _MINED = 6, 8  # rows and columns of the grid of mined negatives
_GAP = 2  # px between tiles
_WHITE = 255


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a step: uint8 [H, W, 3] in [0, 255], and what it shows, in Markdown."""

    name: str
    image: np.ndarray
    text: str


class Pictures:
    """The pictures of a run: views at its first step here, mined negatives after epochs 1, 2, 4, 8, ...

    Args:
      model: the model in training.
      encoder_of: gives its encoder as it is now, free of any strategy: reading batch norm's statistics
        where they are would make every worker take part.
      reader: the shards that it trains on.
      image_size: side of the views in px.
      steps_per_epoch: steps an epoch.
      first_step: the first step of this start.
    """

    def __init__(
        self,
        model: tce_model.TCEModel,
        encoder_of: Callable[[], encoder_module.EncoderModule],
        reader: shard_reader.ShardReader,
        *,
        image_size: int,
        steps_per_epoch: int,
        first_step: int,
    ):
        self._model, self._encoder_of = model, encoder_of
        self._reader, self._image_size = reader, image_size
        self._steps_per_epoch, self._first_step = steps_per_epoch, first_step
        self._video_of_row = {int(row): video for video, row in enumerate(reader.rows)}

    def due(self, step: int) -> bool:
        """Whether `draw` has something to show of a step (the first is 1)."""
        return step == self._first_step or self._mines(step)

    def _mines(self, step):
        epochs, rest = divmod(step, self._steps_per_epoch)
        # A power of two has one bit.
        return self._model.objective.mining and not rest and epochs & (epochs - 1) == 0

    def draw(self, step: int, batch: Mapping[str, tf.Tensor]) -> list[Picture]:
        """The pictures that are due after a step.

        Args:
          step: as in `due`.
          batch: what the step was given, as `pipeline.TrainingInput.element_spec`.
        """
        views = augmentation.training_views(
            {name: value[:_SAMPLES] for name, value in batch.items()}, image_size=self._image_size
        )
        pictures = []
        if step == self._first_step:
            pictures.append(views_picture(views))
        if self._mines(step):
            pictures.append(self._mined(step, views))
        return pictures

    def _mined(self, step: int, views) -> Picture:
        """Anchors of a batch, each beside the most similar of the negatives mined for it."""
        anchors, rows = views["anchor"][:_ANCHORS], views["video_index"][:_ANCHORS]
        backbone, projection = self._encoder_of().layers
        embeddings = projection(backbone(anchors, training=False))
        bank = self._model.bank.lookup()
        similarity = tf.matmul(tf.cast(embeddings, bank.dtype), bank, transpose_b=True)
        chosen, counts = self._model.contrast.choose_negatives(
            similarity, rows, tf.convert_to_tensor(step, tf.int64)
        )
        similarity, chosen, counts = similarity.numpy(), chosen.numpy(), counts.numpy()
        tiles, lines = [], []
        for anchor, row, cosines, negatives, count in zip(
            _pixels(anchors), rows.numpy(), similarity, chosen, counts, strict=True
        ):
            mined = negatives[:count]
            mined = mined[np.argsort(-cosines[mined], kind="stable")][:_MINED]
            shown = [self._thumbnail(int(negative)) for negative in mined]
            tiles.append([anchor, *shown, *[_blank(self._image_size)] * (_MINED - len(shown))])
            named = [f"{self._name(int(n))} ({cosines[n]:.2f})" for n in mined]
            lines.append("| " + " | ".join([self._name(int(row)), str(count), *named]) + " |")
        threshold = float(self._model.objective.mining_threshold(step))
        head = "| anchor | mined | " + " | ".join(["most similar"] * _MINED) + " |"
        rule = "|---" * (_MINED + 2) + "|"
        text = f"Threshold {threshold:.3f}; cosine in brackets.\n\n" + "\n".join(
            [head, rule, *lines]
        )
        return Picture("mined_negatives", grid(tiles), text)

    def _name(self, row: int) -> str:
        # A name may hold anything, and this is Markdown.
        name = self._reader.names[self._video_of_row[row]]
        return "".join(c if c.isalnum() or c in "-_./ " else "?" for c in name)

    def _thumbnail(self, row: int) -> np.ndarray:
        """The middle frame of a bank row's video; grey where it cannot be read."""
        video = self._video_of_row[row]
        frame = sampling.evenly_spaced_frames(int(self._reader.num_frames[video]), 1)
        found: list[np.ndarray] = []
        (problem,) = decoding.for_each_frame(
            self._reader, [video], frame, lambda _, pixels: found.append(pixels)
        )
        if problem is not None:  # the run counts and names it when it comes to train on it
            return _blank(self._image_size) // 2
        square = augmentation.preprocess_evaluation(
            found[0][np.newaxis], image_size=self._image_size
        )
        return np.rint(square[0].numpy() * _WHITE).astype(np.uint8)


def views_picture(views: Mapping[str, tf.Tensor]) -> Picture:
    """The first samples of a batch of `augmentation.training_views`, a row each."""
    columns = [_pixels(views[view][:_SAMPLES]) for view in sampling.VIEWS]
    turns = ", ".join(str(90 * int(label)) for label in views["rotation_label"][:_SAMPLES])
    text = f"A sample a row: {', '.join(sampling.VIEWS)}; turned by {turns} degrees."
    return Picture("views", grid(list(zip(*columns, strict=True))), text)


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Images uint8 [S, S, 3] in rows of equal length, with white between them."""
    padded = [
        [np.pad(tile, [(0, _GAP), (0, _GAP), (0, 0)], constant_values=_WHITE) for tile in row]
        for row in rows
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in padded])[:-_GAP, :-_GAP]


def _pixels(images: tf.Tensor) -> np.ndarray:
    """Normalised images back to uint8."""
    values = images.numpy() * augmentation.IMAGENET_STD + augmentation.IMAGENET_MEAN
    return np.rint(np.clip(values, 0, 1) * _WHITE).astype(np.uint8)


def _blank(side: int) -> np.ndarray:
    return np.full([side, side, 3], _WHITE, np.uint8)
