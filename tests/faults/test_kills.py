"""Does a command that was killed at any moment, twenty times over, end as if it never had been?"""

import shutil
import signal
import subprocess
import time
import zlib

import fault_jobs
import numpy as np
import pytest

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.mark.parametrize("name", ["make_tfrecords", "train", "finetune", "embed", "export"])
def test_killed_twenty_times_at_random(name, jobs, undisturbed, tmp_path):
    job, whole = jobs[name], undisturbed(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kills = at_work = 0
    while kills < KILLS:
        since = time.time()
        process = job.start(tmp_path)
        # One in four at any moment, which is mostly before the work begins; the rest during it.
        if kills % 4 == 0:
            wait = rng.uniform(0, whole.start_seconds)
        else:
            fault_jobs.wait_for_work(job, process, tmp_path, since)
            wait = rng.uniform(0, whole.work_seconds)
        try:
            _, stderr = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            at_work += job.is_at_work(tmp_path, since)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            fault_jobs.injected[f"SIGKILL of {name}"] += 1
            job.intact(tmp_path, whole.root)
        else:  # it ended before it was killed: once more from the start
            assert process.returncode == 0, stderr
            job.assert_same(job.result(tmp_path), whole.result)
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert at_work >= KILLS // 4, "hardly any kill hit a run at work"
    job.assert_same(job.finish(tmp_path), whole.result)
