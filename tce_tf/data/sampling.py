"""Which videos, frames, crops and view draws make up step s? Pure arithmetic on (seed, epoch, row).

Nothing here has state: a batch is a function of the seed and the step number, so a resumed run
continues with the batches that the uninterrupted run would have seen, on any number of workers.

Random numbers come from the raw 64-bit stream of numpy's Philox generator, keyed with
(seed and epoch, bank row). NumPy promises that raw streams never change, while the methods of
`Generator` may between versions; the conversion to uniforms is therefore done here.
"""

import dataclasses
import functools

import numpy as np

from tce_tf import config
from tce_tf.errors import FlagError, UserError

# Side of the training and evaluation square relative to the short side of the frame.
# TCE config: images scaled to 256, crops of 224.
CROP_NUMERATOR, CROP_DENOMINATOR = 224, 256
MAX_CROP = CROP_NUMERATOR / CROP_DENOMINATOR

# Uniforms used on the host, float64 in [0, 1). A frame number is floor(draw * num_frames), which
# float32 cannot do without bias for long videos. `rotated_*` belong to the third view; `crop_side`,
# `positive_*` to crops that the published method does not have.
HOST_COLUMNS = (
    "frame", "gap", "direction", "crop_top", "crop_left", "rotated_top", "rotated_left",
    "crop_side", "positive_top", "positive_left",
)  # fmt: skip
HOST_COLUMN = {name: number for number, name in enumerate(HOST_COLUMNS)}
_FIRST_HOST_COLUMNS = HOST_COLUMN["crop_side"]

# Uniforms handed to the device for the views, float32 in [0, 1). `flip` is shared by anchor and
# positive; every view has its own grey and jitter draws.
VIEWS = ("anchor", "positive", "rotated")
COLOUR_COLUMNS = (
    "grey", "grey_channel", "order", "brightness", "contrast", "saturation", "hue",
)  # fmt: skip
VIEW_COLUMNS = ("flip", "rotated_flip", "rotation") + tuple(
    f"{view}_{colour}" for view in VIEWS for colour in COLOUR_COLUMNS
)
VIEW_COLUMN = {name: number for number, name in enumerate(VIEW_COLUMNS)}
NUM_DRAWS = len(VIEW_COLUMNS)

# Separate the streams of permutations, of samples and of segments.
_PERMUTATION_STREAM, _SAMPLE_STREAM, _SEGMENT_STREAM = 1, 2, 3


def parse_frame_gap(text: str | int) -> tuple[int, int]:
    """Smallest and largest frame gap from "g" or "min:max".

    Raises:
      FlagError: not of that form, negative, or min > max.
    """
    try:
        numbers = [int(part) for part in str(text).split(":")]
    except ValueError:
        numbers = []
    low, high = (numbers * 2)[:2] if len(numbers) in (1, 2) else (0, -1)
    if not 0 <= low <= high <= config.MAX_COUNT:
        raise FlagError(
            f"--frame_gap={text}: give a number of frames such as 1, or a range min:max such as "
            f"1:5, with 0 <= min <= max <= {config.MAX_COUNT}"
        )
    return low, high


def trainable_videos(num_frames: np.ndarray, frame_gap: tuple[int, int]) -> np.ndarray:
    """Positions (int64, ascending) of the videos that can give a pair.

    A video of one frame has no neighbour; it takes part only when the gap is 0.
    """
    shortest = 1 if frame_gap[1] == 0 else 2
    return np.flatnonzero(np.asarray(num_frames) >= shortest)


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Which of `num_videos` videos belong to which step, for one worker.

    Step s covers positions [s * batch_size, (s + 1) * batch_size) of its epoch's permutation,
    where s counts within the epoch; a short last batch is dropped. Each worker takes its
    contiguous share of every global batch.

    Attributes:
      seed: run seed, any integer (taken modulo 2^64).
      num_videos: number of trainable videos.
      batch_size: global batch size.
      worker_index: this worker, 0 <= worker_index < num_workers.
      num_workers: workers that share each global batch equally.
    """

    seed: int
    num_videos: int
    batch_size: int
    worker_index: int = 0
    num_workers: int = 1

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: must be at least 1")
        if self.batch_size > self.num_videos:
            raise UserError(
                f"--batch_size={self.batch_size} is more than the {self.num_videos} videos that "
                "can be trained on: reduce it or add data"
            )
        if self.batch_size % self.num_workers:
            raise UserError(
                f"--batch_size={self.batch_size} does not divide among {self.num_workers} workers"
            )
        if not 0 <= self.worker_index < self.num_workers:
            raise ValueError(f"worker {self.worker_index} of {self.num_workers}")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the videos."""
        return self.num_videos // self.batch_size

    @property
    def worker_batch_size(self) -> int:
        """Samples of each global batch that this worker reads."""
        return self.batch_size // self.num_workers

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch of a step, and this worker's videos in it, int64 [batch_size / num_workers]."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        first = step_in_epoch * self.batch_size + self.worker_index * self.worker_batch_size
        order = epoch_permutation(self.seed, epoch, self.num_videos)
        return epoch, order[first : first + self.worker_batch_size]


# Two epochs are in flight at most; a permutation of 10^6 videos takes some 100 ms to make.
@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """Order of the videos in an epoch: a read-only permutation of 0..num_videos-1, int64."""
    keys = np.random.Philox(key=_stream_key(_PERMUTATION_STREAM, seed, epoch))
    order = np.argsort(keys.random_raw(num_videos), kind="stable")
    order.flags.writeable = False
    return order


def uniform_draws(seed: int, epoch: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All random numbers of some samples; a sample's depend on (seed, epoch, row) alone.

    Args:
      seed: run seed.
      epoch: epoch number from 0.
      rows: int64 [B], bank rows of the videos.

    Returns:
      float64 [B, len(HOST_COLUMNS)] and float32 [B, NUM_DRAWS], uniform in [0, 1).
    """
    epoch_key = _stream_key(_SAMPLE_STREAM, seed, epoch)
    num_host = len(HOST_COLUMNS)
    raw = _raw_draws(epoch_key, rows, num_host + NUM_DRAWS)
    # Columns that came later stand last in the stream: the others keep their draws.
    columns = np.r_[:_FIRST_HOST_COLUMNS, _FIRST_HOST_COLUMNS + NUM_DRAWS : raw.shape[1]]
    in_views = slice(_FIRST_HOST_COLUMNS, _FIRST_HOST_COLUMNS + NUM_DRAWS)
    # The top 53 and 24 bits: every value is exact, so none is rounded up to 1.
    host = (raw[:, columns] >> np.uint64(11)) * 2.0**-53
    views = (raw[:, in_views] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return host, views


def segment_draws(seed: int, epoch: int, rows: np.ndarray, num_segments: int) -> np.ndarray:
    """Uniforms in [0, 1), float64 [B, num_segments]; a sample's depend on (seed, epoch, row) alone."""
    raw = _raw_draws(_stream_key(_SEGMENT_STREAM, seed, epoch), rows, num_segments)
    return (raw >> np.uint64(11)) * 2.0**-53


def segment_frames(draws: np.ndarray, num_frames: np.ndarray, stack_frames: int = 1) -> np.ndarray:
    """The frame, or the first of a stack, that each of S equal parts of a video gives.

    Part s of n frames is [s n // S, (s + 1) n // S). A stack starts in its part and may reach
    beyond it, but not beyond the video where the video is long enough.

    Args:
      draws: float64 [B, S] in [0, 1).
      num_frames: int64 [B], at least 1.
      stack_frames: consecutive frames taken from there on.

    Returns:
      int64 [B, S].
    """
    num_segments = draws.shape[1]
    num_frames = np.asarray(num_frames, np.int64)[:, np.newaxis]
    last_start = np.maximum(num_frames - stack_frames, 0)
    part = np.arange(num_segments)
    first = np.minimum(part * num_frames // num_segments, last_start)
    last = np.minimum((part + 1) * num_frames // num_segments - 1, last_start)
    # A video of fewer frames than parts has empty ones.
    return first + scaled_draw(draws, np.maximum(last - first, 0) + 1)


def sample_pairs(
    host_draws: np.ndarray, num_frames: np.ndarray, frame_gap: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An anchor frame and its temporal neighbour for each sample.

    The anchor frame t is uniform over the video, the gap g uniform over the range, the direction
    a fair coin. Where the neighbour falls outside the video the other direction is taken; where
    neither fits, the frame farthest from t.

    Args:
      host_draws: float64 [B, len(HOST_COLUMNS)] from `uniform_draws`.
      num_frames: int64 [B], lengths of the videos, at least 1.
      frame_gap: smallest and largest gap.

    Returns:
      anchor frame numbers int64 [B]; positive frame numbers int64 [B]; bool [B], True where
      neither direction held the gap.
    """
    low, high = frame_gap
    num_frames = np.asarray(num_frames, np.int64)
    anchor = scaled_draw(host_draws[:, HOST_COLUMN["frame"]], num_frames)
    gap = low + scaled_draw(host_draws[:, HOST_COLUMN["gap"]], high - low + 1)
    forward = host_draws[:, HOST_COLUMN["direction"]] < 0.5
    offset = np.where(forward, gap, -gap)

    def inside(frame):
        return (frame >= 0) & (frame < num_frames)

    first_fits, second_fits = inside(anchor + offset), inside(anchor - offset)
    farthest = np.where(2 * anchor >= num_frames, 0, num_frames - 1)
    positive = np.where(
        first_fits, anchor + offset, np.where(second_fits, anchor - offset, farthest)
    )
    return anchor, positive, ~first_fits & ~second_fits


def scaled_draw(draws: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Uniforms in [0, 1) to integers in [0, count), int64."""
    return (draws * count).astype(np.int64)


def random_crop_sides(
    host_draws: np.ndarray, sides: np.ndarray, short_sides: np.ndarray, min_crop: float
) -> np.ndarray:
    """Sides of the squares cut from some samples' frames, one for all views of a sample.

    Args:
      host_draws: float64 [B, len(HOST_COLUMNS)] from `uniform_draws`.
      sides: int64 [B], the largest: `crop_side` of the short sides.
      short_sides: int64 [B], of the frames in pixels.
      min_crop: the smallest side as a share of the short side, at most 224/256.

    Returns:
      int64 [B], uniform from the smallest to the largest.
    """
    smallest = np.clip((min_crop * short_sides).astype(np.int64), 1, sides)
    return smallest + scaled_draw(host_draws[:, HOST_COLUMN["crop_side"]], sides - smallest + 1)


def crop_side(short_side):
    """Side of the square cut from a frame: 224/256 of its short side, rounded half up.

    Works alike on int, numpy integers and integer tensors, so that training (numpy, on the host)
    and evaluation (tensors, in the exported graph) cannot disagree.
    """
    return (short_side * CROP_NUMERATOR + CROP_DENOMINATOR // 2) // CROP_DENOMINATOR


def evenly_spaced_frames(num_frames: int, count: int) -> np.ndarray:
    """The middle frames of `count` equal stretches of a video: int64 [count], ascending.

    A video of fewer frames gives some of them more than once.

    Raises:
      ValueError: an empty video or count < 1.
    """
    if num_frames < 1 or count < 1:
        raise ValueError(f"{count} frames of a video of {num_frames}")
    return (2 * np.arange(count, dtype=np.int64) + 1) * num_frames // (2 * count)


def _raw_draws(stream_key: np.uint64, rows: np.ndarray, count: int) -> np.ndarray:
    raw = np.empty([len(rows), count], np.uint64)
    for sample, row in enumerate(rows):
        key = np.array([stream_key, row], np.uint64)
        raw[sample] = np.random.Philox(key=key).random_raw(count)
    return raw


def _stream_key(stream: int, seed: int, epoch: int) -> np.uint64:
    """A well mixed 64-bit key; SeedSequence's hash is fixed by NumPy's compatibility promise."""
    entropy = [stream, epoch, seed % 2**64]
    return np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
