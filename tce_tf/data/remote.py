"""Which remote file systems can this process use, and how does it end after using one?

TensorFlow itself brings `gs://`; `s3://`, `az://` and `hdfs://` come with tensorflow-io, which the
current stack has not. Everything goes through `tf.io.gfile`, so one code path serves all of them.

S3 takes its settings from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_REGION,
and S3_ENDPOINT (with its `http://`) for a store that is not Amazon's.
"""

import contextlib
import ctypes
import functools
import re
import sys
from collections.abc import Iterator

from tce_tf import errors


def is_remote(path: str) -> bool:
    """Whether the path names a remote file system (`s3://`, `gs://`, ...)."""
    return "://" in path


def require(path: str) -> None:
    """Makes a remote path's file system usable, also for TensorFlow's own readers and writers.

    Raises:
      errors.UserError: nothing here can read it.
    """
    _register(path.partition("://")[0])


def require_local(path: str, flag: str, wanted: str) -> None:
    """Refuses a remote path where only a local one works.

    Raises:
      errors.UserError: it names the flag.
    """
    if is_remote(path):
        raise errors.UserError(f"--{flag}={path}: must be {wanted} on a local disk")


def gfile(path: str):
    """`tf.io.gfile`, ready for the path.

    Raises:
      errors.UserError: nothing here can read it.
    """
    import tensorflow as tf

    require(path)
    return tf.io.gfile


@functools.cache
def _register(scheme: str) -> None:
    import tensorflow as tf

    if scheme in tf.io.gfile.get_registered_schemes():
        return
    try:
        import tensorflow_io  # noqa: F401 -- registers its file systems
    except ImportError as error:
        raise errors.UserError(
            f"{scheme}:// paths need tensorflow-io, which this environment has not (it works on "
            f"Python 3.11 with tensorflow 2.15: {error}); use a local path or gs://"
        ) from error
    # Its destructors crash every process that used s3:// (upstream io#1912, fixed only after the
    # last release). glibc runs this handler before them, after Python's own: the process ends at
    # once, with the exit code it was given.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)
    if scheme not in tf.io.gfile.get_registered_schemes():
        known = ", ".join(f"{s}://" for s in sorted(tf.io.gfile.get_registered_schemes()) if s)
        raise errors.UserError(f"{scheme}:// is no file system known here; known are {known}")


@contextlib.contextmanager
def as_os_errors(path: str) -> Iterator[None]:
    """Turns an error of TensorFlow's file systems, the local one too, into an `OSError` of one line."""
    try:
        yield
    except Exception as error:
        tf = sys.modules.get("tensorflow")  # local paths that it does not touch never import it
        if tf is None or not isinstance(error, tf.errors.OpError):
            raise
        if isinstance(error, tf.errors.NotFoundError):
            raise FileNotFoundError(2, _reason(error), path) from error
        raise OSError(5, _reason(error), path) from error


def _reason(error) -> str:
    """What the system said: the first line, without the operation and the path around it."""
    if not error.message:
        return type(error).__name__
    first = str(error.message).splitlines()[0]
    return re.sub(r"^(\{\{.*?\}\} )?(/\S*; )?| \[Op:\w+\]$", "", first)
