"""How is a second run kept out of a place that one writes to? By a lock that ends with its process."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from absl import logging

from tce_tf import errors
from tce_tf.data import remote, storage

# What file systems without locks answer; a run there is the user's own care.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def exclusive(file: str, *, command: str, output: str, flag: str) -> Iterator[None]:
    """Holds a lock file for as long as the block runs; a killed process gives it back as well.

    Nothing locks an object store: two runs at once into one are not kept apart.

    Args:
      file: the lock file, made where there is none and left there; its folder is made too.
      command: what writes, for the message.
      output: where it writes to, for the message.
      flag: the flag that names it.

    Raises:
      errors.UserError: another process holds it, or the file cannot be written.
    """
    if remote.is_remote(file):
        yield
        return
    storage.make_folder(os.path.dirname(file) or ".")
    with contextlib.ExitStack() as held:
        try:
            opened = held.enter_context(open(file, "w"))  # noqa: SIM115 -- the stack closes it
        except OSError as error:
            raise errors.UserError(f"cannot write to {output}: {error.strerror}") from error
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.UserError(
                f"another {command} is writing to {output}; wait for it or choose another --{flag}"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise errors.UserError(f"cannot lock {file}: {error.strerror}") from error
            logging.warning("%s cannot be locked: let nothing else write there", output)
        yield
