"""What does `embed` write of some footage? For tests, with encoders of their own."""

import numpy as np

from tce_tf.data import footage
from tce_tf.evaluation import collection, collection_writer, embedding


def open_writer(encoder, found, path, *, pool="none", **settings):
    description = collection_writer.describe(
        encoder, "test", root=found.root, pool=pool, versions={}
    )
    return collection_writer.open_writer(str(path), description, **settings)


def embed(encoder, source, path, *, pool="none", **settings):
    """Embeds a path or opened footage into `path`; returns all rows as `collection.load` does."""
    found = footage.open_footage(str(source)) if isinstance(source, str) else source
    shards = {k: settings.pop(k) for k in ("rows_per_shard",) if k in settings}
    with open_writer(encoder, found, path, pool=pool, **shards) as writer:
        embedding.embed(encoder, found, writer, pool=pool, **settings)
    return collection.load(str(path))


class Frames:
    """Footage of videos of so many frames; frame t, at t microseconds, has all levels 10 t mod 250."""

    root, rejected = "/nowhere", []

    def __init__(self, num_frames):
        self._num_frames = num_frames
        self.names = [f"video {i}" for i in range(len(num_frames))]
        self.sources = [f"{name}.mp4" for name in self.names]

    def frames(self, number):
        for t in range(self._num_frames[number]):
            yield t, np.full((8, 8, 3), 10 * t % 250, np.uint8)
        if not self._num_frames[number]:
            raise footage.VideoError("it has no frames")

    def num_frames(self, number):
        return self._num_frames[number]

    def stamp(self, number):
        return [self._num_frames[number]]


class Levels:
    """An encoder without TensorFlow whose feature is the level of the frame's first pixel, and 1."""

    image_shape = (None, None, 3)
    config = None

    def __init__(self, weight=1.0):
        self.variables = [_Variable(weight)]

    def frames(self, frames):
        level = frames[:, 0, 0, :1].astype(np.float32) * self.variables[0].numpy()
        features = np.concatenate([level, np.ones_like(level)], axis=1)
        return {
            "features": features,
            "embeddings": features / np.linalg.norm(features, axis=1, keepdims=True),
        }


class _Variable:
    def __init__(self, value):
        self._value = np.float32(value)

    def numpy(self):
        return self._value
