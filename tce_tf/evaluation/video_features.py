"""What does an encoder make of a video? The mean over evenly spaced frames, or a run frame by frame."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tce_tf import errors
from tce_tf.data import pipeline, progress, shard_reader, video_frames

FRAMES_PER_VIDEO = 10


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """One row a video.

    Attributes:
      features: float32 [V, F], the mean over the frames.
      embeddings: float32 [V, D], the mean over the frames, of unit norm.
      labels: int64 [V], -1 for none.
    """

    features: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray


def stack_frames(encoder) -> int:
    """Consecutive frames that an encoder takes as one image: 1, or 6 where it sees differences."""
    return encoder.image_shape[0] if len(encoder.image_shape) == 4 else 1


def extract(
    encoder,
    reader: shard_reader.ShardReader,
    *,
    frames_per_video: int = FRAMES_PER_VIDEO,
    show_progress: bool = False,
) -> VideoFeatures:
    """Encodes evenly spaced images of every video, in the reader's order.

    Args:
      encoder: has `frames` and `image_shape`, as `serving.EncoderModule` or `loader.load_encoder`'s.
      reader: the shards.
      frames_per_video: images averaged; for an encoder of stacks so many stacks.
      show_progress: a bar on a terminal, log lines otherwise.

    Raises:
      errors.UserError: no video, or one without a readable frame.
    """
    outputs = _encode(encoder, reader, show_progress, frames_per_video=frames_per_video)
    means = {name: np.stack([x.mean(axis=0) for x in rows]) for name, rows in outputs.items()}
    norms = np.linalg.norm(means["embeddings"], axis=1, keepdims=True)
    return VideoFeatures(means["features"], means["embeddings"] / norms, reader.labels)


def extract_runs(
    encoder,
    reader: shard_reader.ShardReader,
    *,
    run_frames: int,
    max_videos: int | None = None,
    show_progress: bool = False,
) -> dict[str, list[np.ndarray]]:
    """Encodes consecutive frames from the middle of every video.

    Args:
      encoder: as in `extract`.
      reader: the shards.
      run_frames: T; shorter videos give what they have.
      max_videos: take only so many, spread evenly over the reader's list.
      show_progress: as in `extract`.

    Returns:
      `features`: one float32 [T, F] a video; `embeddings`: one float32 [T, D], rows of unit norm.

    Raises:
      errors.UserError: as `extract`.
    """
    total = len(reader.names)
    count = min(total, max_videos or total)
    videos = np.arange(count) * total // max(count, 1)
    return _encode(
        encoder,
        reader,
        show_progress,
        frames_per_video=run_frames,
        consecutive=True,
        videos=videos,
    )


def _encode(
    encoder, reader, show_progress, *, videos: Sequence[int] | None = None, **settings
) -> dict[str, list[np.ndarray]]:
    if not reader.names:
        raise errors.UserError(f"{','.join(reader.folders)}: holds no video to evaluate")
    rows: dict[str, list[np.ndarray]] = {"features": [], "embeddings": []}
    dataset = video_frames.frames_dataset(
        reader, stack_frames=stack_frames(encoder), videos=videos, **settings
    )
    shown = None
    if show_progress:
        shown = progress.Progress(len(reader.names if videos is None else videos), "videos")
    with pipeline.user_errors():
        for video in dataset:
            outputs = encoder.frames(video["frames"])
            for name, found in rows.items():
                found.append(outputs[name].numpy())
            if shown:
                shown.add(len(video["frames"]))
    if shown:
        shown.close()
    return rows
