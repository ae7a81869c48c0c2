"""Which failures are the user's to mend? They end a command with one line instead of a traceback."""


class UserError(Exception):
    """Bad input, a bad path or contradicting settings.

    The message is one line. It names the file, flag or record and says what to do. `command.run`
    prints it on stderr and exits 1; from Python it is an ordinary exception.
    """


class FlagError(UserError):
    """A setting outside its range, whatever the input: `command.run` exits 2."""


def printable(text: str) -> str:
    r"""Text for a terminal: what names of files may hold to move its cursor or forge lines is escaped.

    A line break becomes `\n`, an escape sequence `\x1b[...`; letters of any language stay.
    """
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


class Stopped(Exception):
    """A signal asked the run to stop and it did, with its state saved; the message says where.

    `command.run` prints it and exits 128 + the signal's number.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
