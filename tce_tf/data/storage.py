"""How are whole files read, listed and atomically replaced, on local disks and behind `s3://`, `gs://`?

Local paths never import TensorFlow, so that the decoding workers and `make_tfrecords` stay light;
remote ones go through `tf.io.gfile`.
"""

import os
import tempfile

from tce_tf import errors


def is_remote(path: str) -> bool:
    """Whether the path names a remote file system (`s3://`, `gs://`, ...)."""
    return "://" in path


def gfile():
    """`tf.io.gfile`, imported only when a remote path is used."""
    import tensorflow as tf

    return tf.io.gfile


def _remote_errors():
    import tensorflow as tf

    return tf.errors.OpError


def join(folder: str, name: str) -> str:
    """A file's path in a local or remote folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def read_bytes(path: str) -> bytes:
    """The whole content of a file.

    Raises:
      errors.UserError: the file is missing or cannot be read.
    """
    try:
        if is_remote(path):
            with gfile().GFile(path, "rb") as file:
                return file.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        raise _as_user_error(path, error) from error


def size(path: str) -> int | None:
    """The file's length in bytes; None when there is no such file.

    Raises:
      errors.UserError: the file may exist but cannot be looked at.
    """
    try:
        if is_remote(path):
            return gfile().stat(path).length if gfile().exists(path) else None
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        raise _as_user_error(path, error) from error


def sizes(folder: str) -> dict[str, int]:
    """Length in bytes of every file directly in a folder, by name.

    One listing instead of one `stat` a file: a Kinetics folder has thousands of shards.

    Raises:
      errors.UserError: no such folder, or it cannot be listed.
    """
    try:
        if is_remote(folder):
            if not gfile().isdir(folder):
                raise FileNotFoundError(2, "no such folder", folder)
            names = [name for name in gfile().listdir(folder) if not name.endswith("/")]
            return {name: gfile().stat(join(folder, name)).length for name in names}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except OSError as error:
        raise errors.UserError(f"cannot read folder {folder}: {error.strerror or error}") from error
    except Exception as error:
        raise _as_user_error(folder, error) from error


def make_folder(folder: str) -> None:
    """Makes a folder and its parents; an existing one is fine.

    Raises:
      errors.UserError: it cannot be made.
    """
    try:
        if is_remote(folder):
            gfile().makedirs(folder)
        else:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"cannot make folder {folder}: {error.strerror or error}") from error
    except Exception as error:
        raise _as_user_error(folder, error) from error


def write_atomic(path: str, content: bytes) -> None:
    """Writes a file under a temporary name, then renames it: it is there whole or not at all.

    Raises:
      errors.UserError: the disk is full, the folder is not writable, ...
    """
    try:
        if is_remote(path):
            # Object stores make an object visible only when its upload is complete.
            with gfile().GFile(path, "wb") as file:
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
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:
        raise _as_user_error(path, error) from error


def publish(temporary: str, path: str) -> None:
    """Moves a finished local file to its final place, on the same disk or a remote one.

    Args:
      temporary: local file; gone afterwards.
      path: its final name, local (same file system) or remote.

    Raises:
      OSError: the disk is full or the folder is not writable.
    """
    if is_remote(path):
        gfile().copy(temporary, path, overwrite=True)
        os.unlink(temporary)
        return
    # Contents reach the disk before the name does: a power cut leaves no empty file behind.
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp gives 0600; others may read the shards
    os.replace(temporary, path)


def _as_user_error(path: str, error: Exception) -> Exception:
    """A remote file system's error as one clear line; any other error unchanged."""
    if is_remote(path) and isinstance(error, _remote_errors()):
        reason = str(error.message).splitlines()[0] if error.message else type(error).__name__
        return errors.UserError(f"cannot use {path}: {reason}")
    return error
