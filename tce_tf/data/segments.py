"""Which frames does fine-tuning see? One from each of several equal parts of a video.

    inputs = segments.SegmentInput(reader, batch_size=100, num_segments=3, seed=0)

As in `pipeline`, a batch is a function of the seed and the step number. With stacks, a part gives
consecutive frames from a random one on.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tce_tf.data import augmentation, colours, decoding, pipeline, sampling, shard_reader, steps


class SegmentInput:
    """Labelled training batches of one worker.

    Attributes:
      plan: which videos each step takes.
      count: samples read so far and how many were unreadable.
    """

    def __init__(
        self,
        reader: shard_reader.ShardReader,
        *,
        batch_size: int,
        num_segments: int,
        seed: int,
        stack_frames: int = 1,
        resize_mode: str = "crop",
        augment: bool = False,
        max_bad_fraction: float = 0.01,
        worker_index: int = 0,
        num_workers: int = 1,
    ):
        """Plans the epochs.

        Args:
          reader: the shards; every video has a label.
          batch_size: global batch size, in videos.
          num_segments: S, parts of a video.
          seed: seed of the permutations and of every draw.
          stack_frames: T, consecutive frames a part gives.
          resize_mode: "crop" or "squash" (DESIGN section 2).
          augment: cut a random square instead of the central one (`crop` mode), and let
            `segment_views` flip and colour.
          max_bad_fraction: share of unreadable samples above which the run fails, in [0, 1].
          worker_index: which slice of each global batch to read.
          num_workers: number of slices.

        Raises:
          UserError: the batch is larger than the data or does not divide among the workers.
        """
        if resize_mode not in pipeline.RESIZE_MODES:
            raise ValueError(f"resize_mode {resize_mode!r} is not one of {pipeline.RESIZE_MODES}")
        self._reader = reader
        self._num_segments, self._stack_frames = num_segments, stack_frames
        self._resize_mode, self._augment = resize_mode, augment
        self.plan = sampling.BatchPlan(
            seed, len(reader.num_frames), batch_size, worker_index, num_workers
        )
        heights = np.asarray(reader.heights, np.int64)
        widths = np.asarray(reader.widths, np.int64)
        self._room = np.zeros([len(heights), 2], np.int64)
        if resize_mode == "crop":
            sides = sampling.crop_side(np.minimum(heights, widths))
            self._room = np.stack([heights - sides, widths - sides], axis=1)
            heights = widths = sides
        self._cut_sizes = np.stack([heights, widths], axis=1)
        self._canvas = tuple(int(side) for side in self._cut_sizes.max(axis=0))
        self._is_padded = bool(np.any(self._cut_sizes != self._cut_sizes[0]))
        self.count = steps.SampleCount(max_bad_fraction)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the videos."""
        return self.plan.steps_per_epoch

    @property
    def element_spec(self) -> dict[str, tf.TensorSpec]:
        """What a batch holds; B is this worker's share of the batch.

        - `frames`: uint8 [B, S, T, H, W, 3], what was cut from the frames, at the upper left of a
          canvas of the same size for all batches;
        - `frame_sizes`: int32 [B, 2], its height and width; left out when all fill the canvas;
        - `draws`: float32 [B, NUM_DRAWS] in [0, 1), columns `sampling.VIEW_COLUMNS`;
        - `label`: int64 [B].
        """
        batch = self.plan.worker_batch_size
        shape = [batch, self._num_segments, self._stack_frames, *self._canvas, 3]
        spec = {
            "frames": tf.TensorSpec(shape, tf.uint8),
            "draws": tf.TensorSpec([batch, sampling.NUM_DRAWS], tf.float32),
            "label": tf.TensorSpec([batch], tf.int64),
        }
        if self._is_padded:
            spec["frame_sizes"] = tf.TensorSpec([batch, 2], tf.int32)
        return spec

    def dataset(self, *, start_step: int = 0, num_steps: int) -> tf.data.Dataset:
        """Batches of the steps [start_step, start_step + num_steps), each as `element_spec`."""
        return steps.steps_dataset(
            self.load_step, self.element_spec, start_step=start_step, num_steps=num_steps
        )

    def load_step(self, step: int) -> dict[str, np.ndarray]:
        """One batch as numpy arrays; see `element_spec`. Thread-safe.

        Raises:
          UserError: too many unreadable videos.
        """
        epoch, videos = self.plan.at(step)
        rows = np.asarray(self._reader.rows, np.int64)[videos]
        host_draws, draws = sampling.uniform_draws(self.plan.seed, epoch, rows)
        lengths = np.asarray(self._reader.num_frames)[videos]
        starts = sampling.segment_frames(
            sampling.segment_draws(self.plan.seed, epoch, rows, self._num_segments),
            lengths,
            self._stack_frames,
        )
        # A video shorter than a stack gives its last frame again.
        numbers = starts[:, :, np.newaxis] + np.arange(self._stack_frames)
        numbers = np.minimum(numbers, lengths[:, np.newaxis, np.newaxis] - 1)

        batch = {"draws": draws, "label": np.asarray(self._reader.labels, np.int64)[videos]}
        # Only padding needs the zeros: it must not differ between runs.
        new = np.zeros if self._is_padded else np.empty
        batch["frames"] = new([*numbers.shape, *self._canvas, 3], np.uint8)
        sizes = self._cut_sizes[videos]
        if self._is_padded:
            batch["frame_sizes"] = sizes.astype(np.int32)
        corners = self._room[videos] // 2
        if self._augment:
            columns = [sampling.HOST_COLUMN[name] for name in ("crop_top", "crop_left")]
            corners = sampling.scaled_draw(host_draws[:, columns], self._room[videos] + 1)
        frames_each = self._num_segments * self._stack_frames
        flat = batch["frames"].reshape(-1, *self._canvas, 3)

        def place(i, pixels):
            sample = i // frames_each
            (top, left), (height, width) = corners[sample], sizes[sample]
            flat[i, :height, :width] = pixels[top : top + height, left : left + width]

        problems = decoding.for_each_frame(
            self._reader, np.repeat(videos, frames_each), numbers.reshape(-1), place
        )
        by_video = [
            next(filter(None, problems[first : first + frames_each]), None)
            for first in range(0, len(problems), frames_each)
        ]
        self.count.add(by_video)
        is_bad = np.array([problem is not None for problem in by_video])
        steps.replace_bad_samples(batch, is_bad)
        return batch


def segment_views(
    batch: Mapping[str, tf.Tensor], *, image_size: int, augment: bool = False
) -> dict[str, tf.Tensor]:
    """What the network sees of a batch of `SegmentInput`.

    Args:
      batch: as `SegmentInput.element_spec`; H and W known statically.
      image_size: side of the squares.
      augment: flip and jitter colours, all frames of a video alike.

    Returns:
      `images`: float32 [B, S, side, side, C], ImageNet-normalised; C is 3, or 3 (T - 1) for stacks
      (`augmentation.stack_of_differences`). `label` int64 [B] passes through.
    """
    frames = batch["frames"]
    each = frames.shape[1] * frames.shape[2]
    sizes = batch.get("frame_sizes")
    images = augmentation.resize_to_square(
        tf.reshape(frames, [-1, *frames.shape[3:]]),
        image_size,
        None if sizes is None else tf.repeat(sizes, each, axis=0),
    )
    if augment:
        draws = tf.repeat(batch["draws"], each, axis=0)
        images = augmentation.flip(images, draws[:, sampling.VIEW_COLUMN["flip"]] < 0.5)
        colour_draws = {
            name: draws[:, sampling.VIEW_COLUMN[f"anchor_{name}"]]
            for name in sampling.COLOUR_COLUMNS
        }
        images = colours.jitter_colours(images, colour_draws)
    else:
        images = tf.cast(images, tf.float32) / 255
    images = augmentation.normalize(images)
    num_videos, num_segments, stack = tf.shape(frames)[0], frames.shape[1], frames.shape[2]
    if stack > 1:
        stacks = tf.reshape(images, [-1, stack, image_size, image_size, 3])
        images = augmentation.stack_of_differences(stacks)
    shape = [num_videos, num_segments, image_size, image_size, images.shape[-1]]
    return {"images": tf.reshape(images, shape), "label": batch["label"]}
