"""Which failures are the user's to mend: they end a command with one line instead of a traceback."""


class UserError(Exception):
    """Bad input, a bad path or contradicting settings.

    The message is one line. It names the file, flag or record and says what to do. `command.run`
    prints it on stderr and exits 1; from Python it is an ordinary exception.
    """


class FlagError(UserError):
    """A setting outside its range, whatever the input: `command.run` exits 2."""
