"""Is the first signal noted and the second one as deadly as ever?"""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tce_tf import command, errors
from tce_tf.training import interruption


@pytest.fixture(name="hears_ctrl_c")
def _hears_ctrl_c():
    """A shell starts background jobs with SIGINT ignored, and so perhaps these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_handlers_come_back(number, hears_ctrl_c):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with interruption.stop_request() as request:
        assert request.number is None
        os.kill(os.getpid(), number)
        assert request.number == number
        assert {n: signal.getsignal(n) for n in before} == before  # the next one is not noted
    with interruption.stop_request():
        pass
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_signal_that_is_ignored_stays_ignored(hears_ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.stop_request() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.number is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_second_signal_ends_a_process_that_does_not_stop():
    program = (
        "import time\nfrom tce_tf.training import interruption\n"
        "with interruption.stop_request() as request:\n"
        "    print('ready', flush=True)\n"
        "    while request.number is None: time.sleep(0.01)\n"
        "    print('noted', flush=True)\n"
        "    time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for word in ("ready", "noted"):
        assert process.stdout.readline().strip() == word
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM


def test_other_threads_train_without_handlers():
    seen = []

    def body():
        with interruption.stop_request() as request:
            seen.append(request.number)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_stopped_command_exits_128_and_the_signal(capsys):
    def main(values):
        raise errors.Stopped("stopped by SIGINT at step 3", signal.SIGINT)

    with pytest.raises(SystemExit) as end:
        command.run(main, lambda values: None, [])
    assert end.value.code == 130
    assert capsys.readouterr().err == "error: stopped by SIGINT at step 3\n"
