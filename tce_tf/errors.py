"""Which failures are the user's to mend: they end a command with one line instead of a traceback."""


class UserError(Exception):
    """Bad input, a bad path or contradicting settings.

    The message is one line. It names the file, flag or record and says what to do. `command.run`
    prints it on stderr and exits 1; from Python it is an ordinary exception.
    """


class FlagError(UserError):
    """A setting outside its range, whatever the input: `command.run` exits 2."""


class Stopped(Exception):
    """A signal asked the run to stop and it did, with its state saved; the message says where.

    `command.run` prints it and exits 128 + the signal's number.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
