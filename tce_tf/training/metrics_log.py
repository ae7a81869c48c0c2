"""Where do a run's numbers go? `metrics.jsonl`, TensorBoard, and a progress bar or log lines."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from tce_tf.data import storage

# What a log line has room for.
_SHOWN = {
    "loss": ".4f", "nce_loss": ".4f", "rotation_accuracy": ".2f", "accuracy": ".2f",
    "knn.top1": ".3f", "test.top1": ".3f",
}  # fmt: skip


class MetricsLog:
    """Writes one JSON object per logged step, the same scalars to TensorBoard, and progress.

    Args:
      workdir: the run's folder.
      start_step: steps already done; lines of `metrics.jsonl` after it are cut, because the run
        will write them again.
      total_steps: where the run will stop, for the time left.
    """

    def __init__(self, workdir: str, *, start_step: int, total_steps: int):
        self._path = os.path.join(workdir, "metrics.jsonl")
        cut_back(self._path, start_step)
        self._file = storage.Appender(self._path)
        self._events = os.path.join(workdir, "tensorboard")
        with storage.reported("write", self._events):
            self._summaries = tf.summary.create_file_writer(self._events)
        self._start_step, self._total_steps = start_step, total_steps
        self._started = time.monotonic()
        # A bar for a person who watches; lines for a log file.
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps, initial=start_step, unit="step", smoothing=0.05
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the scalars of a step."""
        self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
        with storage.reported("write", self._events), self._summaries.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def draw(self, step: int, name: str, image: np.ndarray, text: str) -> None:
        """Shows a picture of a step, uint8 [H, W, 3], and what is to be said of it, in TensorBoard."""
        with storage.reported("write", self._events), self._summaries.as_default(step=step):
            tf.summary.image(name, image[np.newaxis])
            tf.summary.text(name, text)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows progress, rate and time left."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix(
                loss=f"{values['loss']:.3f}", frames=f"{values['frames_per_second']:.0f}/s"
            )
            return
        seconds = (time.monotonic() - self._started) / max(step - self._start_step, 1)
        figures = "  ".join(
            f"{name.replace('_', ' ')} {values[name]:{form}}"
            for name, form in _SHOWN.items()
            if name in values
        )
        logging.info(
            "step %d/%d  %s  %.0f frames/s  input wait %.0f %%  %s left",
            step, self._total_steps, figures, values["frames_per_second"],
            100 * values["input_wait_fraction"],
            tqdm.tqdm.format_interval(seconds * (self._total_steps - step)),
        )  # fmt: skip

    def sync(self) -> None:
        """Sees the lines so far onto the disk: before the checkpoint that counts on them."""
        self._file.sync()

    def close(self) -> None:
        """Flushes and closes everything."""
        self._file.close()
        with storage.reported("write", self._events):
            self._summaries.close()
        if self._bar is not None:
            self._bar.close()


def read(path: str) -> list[dict]:
    """The whole lines of a metrics file, in order; none if there is no file."""
    return [content for _, content in _lines(path)]


def cut_back(path: str, step: int) -> None:
    """Drops the lines of a metrics file after a step, and those a dying process left unfinished."""
    if storage.size(path) is not None:
        kept = [line + b"\n" for line, content in _lines(path) if content["step"] <= step]
        storage.write_atomic(path, b"".join(kept))


def add(path: str, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars to the line of a step, which must be there."""
    found = [
        json.dumps(content | (dict(values) if content["step"] == step else {}))
        for _, content in _lines(path)
    ]
    storage.write_atomic(path, "".join(f"{line}\n" for line in found).encode())


def _lines(path: str) -> Iterator[tuple[bytes, dict]]:
    if storage.size(path) is None:
        return
    for line in storage.read_bytes(path).splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            continue
        if isinstance(content, dict) and isinstance(content.get("step"), int):
            yield line, content
