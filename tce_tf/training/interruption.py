"""How is a run asked to stop? SIGTERM, or SIGINT (Ctrl-C), lets it finish its step and save."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a signal has come.

    Attributes:
      number: of the signal; None while none has come.
    """

    def __init__(self):
        self.number: int | None = None


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Notes the first SIGTERM or SIGINT during its body; a second one acts as it did before.

    Outside a process's main thread, where Python allows no signal handlers, none is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore():
        for number, handler in before.items():
            # None: not installed from Python, which can only be left as it is.
            if handler is not None:
                signal.signal(number, handler)

    def note(number, frame):
        request.number = number
        restore()

    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:  # a run under nohup or in the background
            signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
