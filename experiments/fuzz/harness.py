"""How is a reader fuzzed? Coverage-guided, from a few good files, until a time is over.

    python3.11 -m venv /tmp/fuzzenv
    /tmp/fuzzenv/bin/pip install -r requirements.txt atheris
    /tmp/fuzzenv/bin/python -m experiments.fuzz.fuzz_index -max_total_time=600
    /tmp/fuzzenv/bin/python -m experiments.fuzz.fuzz_manifest -max_total_time=600
    /tmp/fuzzenv/bin/python -m experiments.fuzz.fuzz_splits -max_total_time=600

Every argument is libFuzzer's (`-runs=`, `-rss_limit_mb=`, a file to try again). An input that raises
what its reader does not promise ends the run with its traceback and is written to `crash-...` in the
current folder.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence

import atheris


def run(test_one: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Fuzzes until libFuzzer's limits are reached; does not return.

    Args:
      test_one: reads one input; whatever it raises is a finding.
      seeds: good inputs that others are made from.
    """
    corpus = tempfile.mkdtemp(prefix="fuzz-")
    for number, seed in enumerate(seeds):
        with open(os.path.join(corpus, f"seed{number}"), "wb") as file:
            file.write(seed)
    is_repeat = any(os.path.isfile(argument) for argument in sys.argv[1:])
    atheris.Setup([*sys.argv, *([] if is_repeat else [corpus])], test_one)
    atheris.Fuzz()


def fast_folder() -> str:
    """A new folder, in memory where the system has such a disk."""
    return tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
