"""What do the fault tests share? The jobs with their undisturbed results, and the summary at the end."""

import dataclasses
import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fault_jobs


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A job's run without a fault: its folder, its result, and how many seconds it was at work."""

    root: pathlib.Path
    result: dict
    start_seconds: float
    work_seconds: float


@pytest.fixture(scope="session", name="jobs")
def _jobs(synthetic_shards, tmp_path_factory):
    clips = str(pathlib.Path(synthetic_shards["train"]).parent / "clips")
    run = tmp_path_factory.mktemp("trained")
    jobs = fault_jobs.make_jobs(synthetic_shards, clips, f"{run}/run")
    jobs["train"].finish(run)
    return jobs


@pytest.fixture(scope="session", name="undisturbed")
def _undisturbed(jobs, tmp_path_factory):
    """A function from a job's name to its undisturbed run, which is made once."""
    made = {}

    def run(name: str) -> Undisturbed:
        if name not in made:
            job, root = jobs[name], tmp_path_factory.mktemp(name)
            began = time.time()
            process = job.start(root)
            assert fault_jobs.wait_for_work(job, process, root, began), process.stderr.read()
            at_work = time.time()
            _, stderr = process.communicate(timeout=600)
            assert process.returncode == 0, stderr
            seconds = (at_work - began, time.time() - at_work)
            made[name] = Undisturbed(root, job.result(root), *seconds)
        return made[name]

    return run


def pytest_terminal_summary(terminalreporter):
    """Trials by kind of fault, and how many of the tests found a loss."""
    if not fault_jobs.injected:
        return
    failed = [
        report.nodeid
        for report in terminalreporter.stats.get("failed", [])
        if "/faults/" in report.nodeid
    ]
    terminalreporter.section("faults injected")
    for kind, count in sorted(fault_jobs.injected.items()):
        terminalreporter.write_line(f"{kind:<50} {count:>5}")
    terminalreporter.write_line(f"{'in all':<50} {sum(fault_jobs.injected.values()):>5}")
    terminalreporter.write_line(f"{'losses (tests that failed)':<50} {len(failed):>5}")
