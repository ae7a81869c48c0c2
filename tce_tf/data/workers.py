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


class WorkerDied(VideoError):
    """The task's process ended under it: the decoder crashed, or something outside killed it."""


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
        self._stopped = False
        self._pool = pebble.ProcessPool(
            max_workers=self.num_workers, max_tasks=_TASKS_PER_WORKER, context=context
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._pool.close()
        else:
            self.stop()
        self.join()

    def stop(self) -> None:
        """Ends the workers now. Whoever waits for a result gets CancelledError."""
        self._stopped = True
        self._pool.stop()

    def join(self) -> None:
        """Waits until the stopped workers are gone."""
        self._pool.join()

    def submit(self, function, *args, timeout_seconds: float):
        """Schedules `function(*args)` (importable, picklable) and returns its future."""
        if self._stopped:
            raise concurrent.futures.CancelledError
        future = self._pool.schedule(function, args=args, timeout=timeout_seconds)
        future.timeout_seconds = timeout_seconds
        return future

    def result(self, future):
        """Waits for a task.

        Raises:
          VideoError: the task raised it, took too long, or hit an error this program did not
            foresee (which is logged in full): the reason this video is left out.
          WorkerDied: a VideoError too.
          errors.UserError: the task raised it (a full disk, ...): going on makes no sense.
          concurrent.futures.CancelledError: the pool was stopped.
        """
        # A stopped pool leaves some futures undone for ever and gives others errors of its own,
        # which must not pass for a fault of the video.
        while not concurrent.futures.wait([future], timeout=0.5).done and not self._stopped:
            pass
        if self._stopped:
            raise concurrent.futures.CancelledError
        try:
            return future.result()
        except (VideoError, errors.UserError):
            raise
        except concurrent.futures.BrokenExecutor as error:
            raise errors.UserError(
                f"the decoding processes were ended from outside ({error.__cause__ or error}); "
                "run the same command again to go on"
            ) from error
        except concurrent.futures.TimeoutError as error:
            raise VideoError(f"decoding took more than {future.timeout_seconds:g} s") from error
        except pebble.ProcessExpired as error:
            raise WorkerDied(f"its decoder crashed (exit code {error.exitcode})") from error
        except MemoryError as error:
            raise VideoError("not enough memory to decode it") from error
        except Exception as error:
            logging.exception("unforeseen error in a decoding worker")
            raise VideoError(f"internal error: {type(error).__name__}: {error}") from error
