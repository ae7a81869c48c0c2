"""How does a crash, a hang or an endless file of one video cost that video only?

Decoders are large C libraries fed with files from anywhere. Every video is therefore decoded in a
worker process; when a worker dies or takes too long, its one task fails and the pool goes on.
`concurrent.futures` would declare the whole pool broken, so this is pebble's pool.
"""

import concurrent.futures
import multiprocessing
import os

import pebble
from absl import logging

from tce_tf import errors
from tce_tf.data.pictures import VideoError

# A worker is replaced after this many videos: what a decoder leaks does not pile up.
_TASKS_PER_WORKER = 500


class DecodePool:
    """Worker processes that run one task a video.

    They start from a fork server, never by forking this process: it may hold threads and
    TensorFlow, neither of which survives a fork.
    """

    def __init__(self, num_workers: int = 0):
        """Starts nothing yet; workers start with the first task.

        Args:
          num_workers: processes, 0 = one a core this process may use.
        """
        self.num_workers = num_workers or len(os.sched_getaffinity(0))
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if context.get_start_method() == "forkserver":
            # Imported once in the server, so that a worker is there in milliseconds.
            context.set_forkserver_preload(["tce_tf.data.conversion"])
        self._pool = pebble.ProcessPool(
            max_workers=self.num_workers, max_tasks=_TASKS_PER_WORKER, context=context
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()

    def stop(self) -> None:
        """Ends the workers now; tasks that are not done are cancelled."""
        self._pool.stop()

    def submit(self, function, *args, timeout_seconds: float):
        """Schedules `function(*args)` (importable, picklable) and returns its future."""
        future = self._pool.schedule(function, args=args, timeout=timeout_seconds)
        future.timeout_seconds = timeout_seconds
        return future

    def result(self, future):
        """Waits for a task.

        Raises:
          VideoError: the task raised it, crashed its process, took too long, or hit an error this
            program did not foresee (which is logged in full): the reason this video is left out.
          errors.UserError: the task raised it (a full disk, ...): going on makes no sense.
        """
        try:
            return future.result()
        except (VideoError, errors.UserError, concurrent.futures.CancelledError):
            raise
        except concurrent.futures.TimeoutError as error:
            raise VideoError(f"decoding took more than {future.timeout_seconds:g} s") from error
        except pebble.ProcessExpired as error:
            raise VideoError(f"its decoder crashed (exit code {error.exitcode})") from error
        except MemoryError as error:
            raise VideoError("not enough memory to decode it") from error
        except Exception as error:
            logging.exception("unforeseen error in a decoding worker")
            raise VideoError(f"internal error: {type(error).__name__}: {error}") from error
