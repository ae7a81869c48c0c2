"""What does `import tce_tf` set before TensorFlow starts?"""

import os
import platform
import subprocess
import sys

import pytest

SEES = """
import tce_tf
from tensorflow.python.util import _pywrap_util_port
from tce_tf.training import provenance
print(_pywrap_util_port.IsMklEnabled(), provenance.versions()["onednn"])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="left to TensorFlow elsewhere")
@pytest.mark.parametrize(("given", "seen"), [(None, "True 1"), ("0", "False 0")])
def test_onednn_is_on_unless_the_user_takes_it_off(given, seen):
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    if given is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = given
    done = subprocess.run(
        [sys.executable, "-c", SEES],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == seen, done.stderr
