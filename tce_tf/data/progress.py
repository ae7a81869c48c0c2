"""How far is a long job? A bar on a terminal, a log line every few seconds otherwise."""

import sys
import threading
import time

import tqdm
from absl import logging

# tqdm's own, which would show all digits of 2.3 items.
_BAR_WITH_PARTS = (
    "{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


class Progress:
    """Counts items and frames; shows both rates and the time left. Safe from several threads."""

    def __init__(
        self, total: int, unit: str, *, interval_seconds: float = 10.0, clock=time.monotonic
    ):
        """Starts the clock.

        Args:
          total: items to do.
          unit: what an item is, plural: `clips`.
          interval_seconds: between log lines.
          clock: seconds; tests pass their own.
        """
        self._total, self._unit = total, unit
        self._interval, self._clock = interval_seconds, clock
        self._started = self._last_shown = clock()
        self._done = self._frames = 0
        self._lock = threading.Lock()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, smoothing=0.05)

    def add(self, frames: int, items: float = 1) -> None:
        """Notes one more item done, or a part of one, with its number of frames."""
        with self._lock:
            self._done += items
            self._frames += frames
            now = self._clock()
            if self._bar is not None:
                rate = self._frames / max(now - self._started, 1e-9)
                self._bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
                if items != 1:
                    self._bar.bar_format = _BAR_WITH_PARTS
                self._bar.update(items)
            elif now - self._last_shown >= self._interval:
                self._last_shown = now
                logging.info("%s", self.line())

    def line(self) -> str:
        """The state in words: `12/50 clips, 3.1 clips/s, 612 frames/s, 12 s left`."""
        seconds = max(self._clock() - self._started, 1e-9)
        rate = self._done / seconds
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left unknown"
        return (
            f"{_number(self._done)}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s, "
            f"{self._frames / seconds:.0f} frames/s, {left}"
        )

    def close(self) -> None:
        """Ends the bar, or logs the final state."""
        if self._bar is not None:
            self._bar.close()
        else:
            logging.info("%s", self.line())


def _number(items: float) -> str:
    return f"{items:.1f}".removesuffix(".0")
