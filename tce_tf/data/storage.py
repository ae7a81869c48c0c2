"""How are whole files read, listed and atomically replaced, on local disks and behind `s3://`, `gs://`?

Local paths never import TensorFlow, so that the decoding workers and `make_tfrecords` stay light;
remote ones go through `tf.io.gfile`. Object stores have no rename: an object is there when its upload
is complete, so what several files make up is committed by the one written last.
"""

import concurrent.futures
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from tce_tf import errors
from tce_tf.data.remote import as_os_errors, gfile, is_remote

# Requests to an object store in flight at once: each waits some 10-50 ms. The S3 client has 25
# connections.
REMOTE_THREADS = 24
_UPLOAD_SECONDS = 30.0


def join(folder: str, name: str) -> str:
    """A file's path in a local or remote folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


@contextlib.contextmanager
def reported(doing: str, path: str) -> Iterator[None]:
    """Turns what a disk or a store refuses, TensorFlow too, into a `UserError` of one line.

    Args:
      doing: what is being done, as in `write`.
      path: what it is done to.
    """
    try:
        with as_os_errors(path):
            yield
    except OSError as error:
        raise errors.UserError(f"cannot {doing} {path}: {error.strerror or error}") from error


def read_bytes(path: str) -> bytes:
    """The whole content of a file.

    Raises:
      errors.UserError: the file is missing or cannot be read.
    """
    with reported("read", path):
        with open_to_read(path) as file:
            return file.read()


def open_to_read(path: str) -> BinaryIO:
    """An open file, to be read from front to back; see `remote.as_os_errors` for its errors."""
    return gfile(path).GFile(path, "rb") if is_remote(path) else open(path, "rb")


def size(path: str) -> int | None:
    """The file's length in bytes; None when there is no such file.

    Raises:
      errors.UserError: the file may exist but cannot be looked at.
    """
    with reported("read", path):
        try:
            with as_os_errors(path):
                return gfile(path).stat(path).length if is_remote(path) else os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None


def exists(path: str) -> bool:
    """Whether there is a file or a folder of that name; in a store a folder is what holds an object."""
    with reported("read", path):
        return gfile(path).exists(path) if is_remote(path) else os.path.exists(path)


def same_folder(first: str, second: str) -> bool:
    """Whether two paths, which need not exist, lead to one folder."""
    if is_remote(first) or is_remote(second):
        return first.rstrip("/") == second.rstrip("/")
    return os.path.realpath(first) == os.path.realpath(second)


def names(folder: str) -> list[str]:
    """Names of files and folders in a folder, sorted; none where there is no such folder."""
    with reported("read folder", folder):
        if not is_remote(folder):
            return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        if not gfile(folder).isdir(folder):
            return []
        return sorted(name.rstrip("/") for name in gfile(folder).listdir(folder))


def sizes(folder: str) -> dict[str, int]:
    """Length in bytes of every file directly in a folder, by name.

    One listing instead of one `stat` a file: a Kinetics folder has thousands of shards.

    Raises:
      errors.UserError: no such folder, or it cannot be listed.
    """
    with reported("read folder", folder):
        if is_remote(folder):
            if not gfile(folder).isdir(folder):
                raise FileNotFoundError(2, "no such folder", folder)
            names = gfile(folder).listdir(folder)
            with concurrent.futures.ThreadPoolExecutor(REMOTE_THREADS) as threads:
                found = threads.map(lambda name: gfile(folder).stat(join(folder, name)), names)
                listed = zip(names, found, strict=True)
                return {name: stat.length for name, stat in listed if not stat.is_directory}
        with os.scandir(folder) as entries:
            # `isfile` and not the entry's own: that one fails on a link to itself.
            files = [entry for entry in entries if os.path.isfile(entry.path)]
            return {entry.name: entry.stat().st_size for entry in files}


def make_folder(folder: str) -> None:
    """Makes a folder and its parents; an existing one is fine.

    Raises:
      errors.UserError: it cannot be made.
    """
    with reported("make folder", folder):
        if is_remote(folder):
            gfile(folder).makedirs(folder)
        else:
            os.makedirs(folder, exist_ok=True)


def write_atomic(path: str, content: bytes) -> None:
    """Writes a file under a temporary name, then renames it: it is there whole or not at all.

    Raises:
      errors.UserError: the disk is full, the folder is not writable, ...
    """
    with reported("write", path):
        if is_remote(path):
            # Object stores make an object visible only when its upload is complete.
            with gfile(path).GFile(path, "wb") as file:
                file.write(content)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=os.path.dirname(path) or ".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            publish(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def publish(temporary: str, path: str) -> None:
    """Moves a finished local file to its final place, on the same disk or a remote one.

    Args:
      temporary: local file; gone afterwards.
      path: its final name, local (same file system) or remote.

    Raises:
      OSError: the disk is full or the folder is not writable.
    """
    if is_remote(path):
        with as_os_errors(path):
            gfile(path).copy(temporary, path, overwrite=True)
        os.unlink(temporary)
        return
    # Contents reach the disk before the name does: a power cut leaves no empty file behind.
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp gives 0600; others may read the shards
    os.replace(temporary, path)


def sync(folder: str, prefix: str) -> None:
    """Sees the files of a folder that begin with a prefix, and their names, onto the disk.

    Remote objects are safe once written.

    Raises:
      errors.UserError: the disk is full or gone.
    """
    if is_remote(folder):
        return
    with reported("write", folder):
        names = [name for name in os.listdir(folder) if name.startswith(prefix)]
        for path in [*(os.path.join(folder, name) for name in names), folder]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove(folder: str, prefix: str) -> None:
    """Removes the files of a folder that begin with a prefix.

    Raises:
      errors.UserError: the folder is not writable.
    """
    with reported("remove files of", folder):
        if is_remote(folder):
            with as_os_errors(folder):
                for name in gfile(folder).listdir(folder):
                    if name.startswith(prefix):
                        gfile(folder).remove(join(folder, name))
            return
        for name in os.listdir(folder):
            if name.startswith(prefix):
                os.unlink(os.path.join(folder, name))


def publish_folder(temporary: str, folder: str, last: str) -> None:
    """Moves a finished local folder to its final place, whole or not at all.

    Args:
      temporary: local folder; gone afterwards.
      folder: its final name, new; local (same file system) or remote.
      last: the file without which readers take the folder for nothing: the last to be uploaded.

    Raises:
      errors.UserError: it cannot be written.
    """
    with reported("write", folder):
        if not is_remote(folder):
            os.chmod(temporary, 0o755)  # mkdtemp's folders are private
            os.rename(temporary, folder)
            return
        found = [
            os.path.relpath(os.path.join(root, name), temporary)
            for root, _, files in os.walk(temporary)
            for name in files
        ]
        for name in sorted(found, key=lambda name: (name == last, name)):
            publish(os.path.join(temporary, name), join(folder, name))
        shutil.rmtree(temporary)


class Appender:
    """A text file that grows by lines and is readable at any time.

    A store cannot append: there the file is written anew, every half minute and when synced.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic):
        """Opens a file, new or not, at its end.

        Args:
          path: local or remote.
          clock: seconds; tests pass their own.
        """
        self._path, self._clock = path, clock
        self._file = None
        with reported("write", path):
            if is_remote(path):
                self._text = b"" if size(path) is None else read_bytes(path)
                self._written, self._last = len(self._text), clock()
            else:
                self._file = open(path, "ab")

    def write(self, text: str) -> None:
        """Adds text."""
        if self._file is not None:
            with reported("write", self._path):
                self._file.write(text.encode())
                self._file.flush()
            return
        self._text += text.encode()
        if self._clock() - self._last >= _UPLOAD_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Returns when all that was written is safe: on the disk, or in the store."""
        if self._file is not None:
            with reported("write", self._path):
                os.fsync(self._file.fileno())
        elif self._written < len(self._text):
            write_atomic(self._path, self._text)
            self._written, self._last = len(self._text), self._clock()

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        if self._file is not None:
            self._file.close()
