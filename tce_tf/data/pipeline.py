"""How do shards become batches? Every step is computed from its number: draw, read, decode, cut.

    inputs = pipeline.TrainingInput(reader, batch_size=100, frame_gap=(1, 1), seed=0)
    with pipeline.user_errors():
        for batch in inputs.dataset(start_step=0, num_steps=inputs.steps_per_epoch):
            ...

The dataset is a range of step numbers mapped through one numpy function per batch. That is faster
than a Python call per sample, leaves no state to save (a run resumes by starting at another step)
and knows no random op. What reaches the device is uint8; augmentation.py makes the views there.
"""

import contextlib
import re
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from tce_tf.data import decoding, sampling, shard_reader, steps
from tce_tf.errors import UserError

RESIZE_MODES = ("crop", "squash")


class TrainingInput:
    """Training batches of one worker, and the counts of what was odd on the way.

    Attributes:
      plan: which videos each step takes.
      steps_per_epoch: trainable videos // global batch size.
      num_skipped_videos: videos too short for a pair.
      count: samples read so far (prefetched ones included) and how many were unreadable.
      num_farthest_pairs: samples that took the farthest frame, the gap being longer than the video.
    """

    def __init__(
        self,
        reader: shard_reader.ShardReader,
        *,
        batch_size: int,
        frame_gap: tuple[int, int],
        seed: int,
        resize_mode: str = "crop",
        min_crop: float = sampling.MAX_CROP,
        own_crops: bool = False,
        max_bad_fraction: float = 0.01,
        worker_index: int = 0,
        num_workers: int = 1,
    ):
        """Plans the epochs.

        Args:
          reader: the shards.
          batch_size: global batch size.
          frame_gap: smallest and largest distance of a pair in frames.
          seed: seed of the permutations and of every draw.
          resize_mode: "crop" or "squash" (DESIGN section 2).
          min_crop: smallest side of the random square as a share of the short side; below 224/256
            each sample draws its side between the two.
          own_crops: whether the positive's square lies elsewhere than the anchor's.
          max_bad_fraction: share of unreadable samples above which the run fails, in [0, 1].
          worker_index: which slice of each global batch to read.
          num_workers: number of slices.

        Raises:
          UserError: the batch is larger than the data or does not divide among the workers.
        """
        if resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode {resize_mode!r} is not one of {RESIZE_MODES}")
        self._reader = reader
        self._frame_gap = frame_gap
        self._resize_mode, self._own_crops = resize_mode, own_crops
        self._min_crop = min_crop if resize_mode == "crop" else sampling.MAX_CROP
        self._videos = sampling.trainable_videos(reader.num_frames, frame_gap)
        self.plan = sampling.BatchPlan(
            seed, len(self._videos), batch_size, worker_index, num_workers
        )
        self.num_skipped_videos = len(reader.num_frames) - len(self._videos)
        if self.num_skipped_videos:
            logging.warning(
                "%d of %d videos have a single frame and are skipped (frame gap %d:%d)",
                self.num_skipped_videos, len(reader.num_frames), *frame_gap,
            )  # fmt: skip
        heights = np.asarray(reader.heights, np.int64)
        widths = np.asarray(reader.widths, np.int64)
        if resize_mode == "crop":
            heights = widths = sampling.crop_side(np.minimum(heights, widths))
        # What is cut from each video's frames, and the room for the largest: a static shape, so
        # that XLA compiles once.
        self._cut_sizes = np.stack([heights, widths], axis=1)
        used = self._cut_sizes[self._videos]
        self._canvas = tuple(int(side) for side in used.max(axis=0))
        self._is_padded = self._min_crop < sampling.MAX_CROP or bool(np.any(used != used[0]))
        self.count = steps.SampleCount(max_bad_fraction)
        self._lock = threading.Lock()
        self.num_farthest_pairs = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the videos."""
        return self.plan.steps_per_epoch

    @property
    def element_spec(self) -> dict[str, tf.TensorSpec]:
        """What a batch holds; B is this worker's share of the batch.

        - `anchor_frames`, `positive_frames`, `rotated_frames`: uint8 [B, H, W, 3], what was cut
          from the frames, at the upper left of a canvas of the same size for all batches;
        - `frame_sizes`: int32 [B, 2], its height and width; left out when all fill the canvas;
        - `draws`: float32 [B, NUM_DRAWS] in [0, 1), columns `sampling.VIEW_COLUMNS`;
        - `video_index`: int64 [B], bank rows.
        """
        batch = self.plan.worker_batch_size
        frames = tf.TensorSpec([batch, *self._canvas, 3], tf.uint8)
        spec = {f"{view}_frames": frames for view in sampling.VIEWS}
        spec["draws"] = tf.TensorSpec([batch, sampling.NUM_DRAWS], tf.float32)
        spec["video_index"] = tf.TensorSpec([batch], tf.int64)
        if self._is_padded:
            spec["frame_sizes"] = tf.TensorSpec([batch, 2], tf.int32)
        return spec

    def dataset(self, *, start_step: int = 0, num_steps: int) -> tf.data.Dataset:
        """Batches of the steps [start_step, start_step + num_steps), each as `element_spec`.

        Iterate inside `user_errors()` to get a `UserError` for what the user can mend.
        """
        return steps.steps_dataset(
            self.load_step, self.element_spec, start_step=start_step, num_steps=num_steps
        )

    def load_step(self, step: int) -> dict[str, np.ndarray]:
        """One batch as numpy arrays; see `element_spec`. Thread-safe.

        Raises:
          UserError: too many unreadable frames.
        """
        epoch, order = self.plan.at(step)
        videos = self._videos[order]
        rows = np.asarray(self._reader.rows, np.int64)[videos]
        host_draws, draws = sampling.uniform_draws(self.plan.seed, epoch, rows)
        lengths = np.asarray(self._reader.num_frames)[videos]
        anchor, positive, is_farthest = sampling.sample_pairs(host_draws, lengths, self._frame_gap)

        sizes = self._sizes(videos, host_draws)
        batch = self._allocate(sizes, draws, rows)
        place = self._placer(batch, videos, sizes, host_draws)
        count = len(videos)
        if self._frame_gap[1] == 0 and not self._own_crops:
            frame_problems = decoding.for_each_frame(self._reader, videos, anchor, place)
            batch["positive_frames"][:] = batch["anchor_frames"]
            problems = frame_problems
        else:
            frame_problems = decoding.for_each_frame(
                self._reader, np.tile(videos, 2), np.concatenate([anchor, positive]), place
            )
            problems = [frame_problems[i] or frame_problems[count + i] for i in range(count)]
        self.count.add(problems)
        with self._lock:
            self.num_farthest_pairs += int(is_farthest.sum())
        steps.replace_bad_samples(batch, np.array([problem is not None for problem in problems]))
        return batch

    def _sizes(self, videos, host_draws) -> np.ndarray:
        """Height and width cut from the frames of each sample, int64 [B, 2]."""
        sizes = self._cut_sizes[videos]
        if self._min_crop == sampling.MAX_CROP:
            return sizes
        short = np.minimum(self._reader.heights, self._reader.widths)[videos].astype(np.int64)
        sides = sampling.random_crop_sides(host_draws, sizes[:, 0], short, self._min_crop)
        return np.stack([sides, sides], axis=1)

    def _allocate(self, sizes, draws, rows) -> dict[str, np.ndarray]:
        """A batch whose frames are still to be filled in."""
        # Only padding needs the zeros: it must not differ between runs.
        new = np.zeros if self._is_padded else np.empty
        shape = (len(sizes), *self._canvas, 3)
        batch = {f"{view}_frames": new(shape, np.uint8) for view in sampling.VIEWS}
        batch["draws"] = draws
        batch["video_index"] = rows
        if self._is_padded:
            batch["frame_sizes"] = sizes.astype(np.int32)
        return batch

    def _placer(self, batch, videos, sizes, host_draws):
        """The function that cuts decoded frame i (anchors first, then positives) into the batch."""
        if self._resize_mode == "crop":
            room_y = np.asarray(self._reader.heights)[videos] - sizes[:, 0] + 1
            room_x = np.asarray(self._reader.widths)[videos] - sizes[:, 1] + 1
        else:
            room_y = room_x = 1

        def corners(top_column, left_column):
            top = host_draws[:, sampling.HOST_COLUMN[top_column]]
            left = host_draws[:, sampling.HOST_COLUMN[left_column]]
            return sampling.scaled_draw(top, room_y), sampling.scaled_draw(left, room_x)

        anchor_corners = corners("crop_top", "crop_left")
        positive_corners = anchor_corners
        if self._own_crops:
            positive_corners = corners("positive_top", "positive_left")
        rotated_corners = corners("rotated_top", "rotated_left")

        def cut(view, sample, pixels, view_corners):
            height, width = sizes[sample]
            top, left = view_corners[0][sample], view_corners[1][sample]
            window = pixels[top : top + height, left : left + width]
            batch[f"{view}_frames"][sample, :height, :width] = window

        def place(i, pixels):
            is_positive, sample = divmod(i, len(videos))
            if is_positive:
                cut("positive", sample, pixels, positive_corners)
            else:
                cut("anchor", sample, pixels, anchor_corners)
                cut("rotated", sample, pixels, rotated_corners)

        return place


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a `UserError` that tf.data has wrapped in an error of its own back into itself."""
    try:
        yield
    except tf.errors.OpError as error:
        wrapped = re.search(r"UserError: (.+)", error.message or "")
        if wrapped is None:
            raise
        raise UserError(wrapped.group(1).strip()) from None
