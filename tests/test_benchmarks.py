"""Benchmarks run, and end with the JSON line that is read by others; the harness measures right."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "experiments" / "benchmarks"
sys.path.insert(0, str(FOLDER))
import harness  # noqa: E402 -- not part of the package

BENCHMARKS = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_runs_and_ends_with_a_json_line(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--quick"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert {"python", "tensorflow", "numpy"} <= set(document["versions"])
    assert document["goals"] and set(document["goals"]) == set(document["met"])
    assert set(document["goals"]) <= set(document["ratios"])
    if name != "bench_real_video":  # percentages, which may be 0 on a handful of clips
        assert all(value > 0 for value in document["ratios"].values()), document["ratios"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_says_what_is_measured(name):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.benchmarks.{name}", "--help"],
        cwd=FOLDER.parent.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "--quick" in done.stdout, done.stderr


def test_the_readmes_table_is_that_of_the_kept_cells(tmp_path):
    work = tmp_path / "work"
    shutil.copytree(FOLDER.parent / "results" / "real_video", work)
    done = subprocess.run(
        [sys.executable, str(FOLDER / "bench_real_video.py"), "--data=nowhere", f"--work={work}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def tables(text):
        """Lines of the tables by what stands above each, without the padding of cells."""
        found, title = {}, ""
        for line in text.splitlines():
            if line.startswith("|"):
                found.setdefault(title, []).append(re.sub(r" *\| *", "|", re.sub("-+", "-", line)))
            elif line or title in found:  # a table ends with an empty line
                title = line
        return found

    printed = tables(done.stdout)
    in_readme = tables((FOLDER.parent.parent / "README.md").read_text(encoding="utf-8"))
    titles = [title for title in printed if title.startswith(("ucf101: ", "ut_interaction: "))]
    assert len(titles) == 2
    for title in titles:
        assert len(printed[title]) == 9 and in_readme[title] == printed[title]


def test_contenders_take_turns_and_their_ratio_is_found():
    order = []

    def contender(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    timings = harness.interleave(
        {"slow": contender("a", 0.04), "fast": contender("b", 0.01)}, rounds=3, warmup=1
    )
    assert order == ["a", "b"] * 4
    assert 2 < harness.ratio(timings["slow"], timings["fast"]) < 5
    assert timings["slow"].median_cpu < 0.02 <= timings["slow"].median


def test_a_fresh_process_reports_its_memory():
    small, large = (harness.in_process(bytes_taken, 2**20 * mb) for mb in (1, 200))
    assert small.value == 2**20
    assert large.peak_bytes - small.peak_bytes > 150 * 2**20
    with pytest.raises(RuntimeError, match="ended without a result"):
        harness.in_process(bytes_taken, -1)


def bytes_taken(count):
    return len(b"x" * count) if count > 0 else sys.exit(3)


def test_the_last_line_says_what_was_met(capsys):
    harness.finish({"a": 2.0, "b": 0.5, "c": 1.0}, {"a": 3, "b": 0.6}, at_most={"b"}, more=1)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["met"] == {"a": False, "b": True} and document["more"] == 1
    assert document["ratios"] == {"a": 2.0, "b": 0.5, "c": 1.0}


@pytest.mark.slow
def test_a_step_with_a_million_videos_fits_into_8_gigabytes():
    import bench_scale

    # Every step mines; 4.6 GB measured, of which the bank and a matrix of scores are 0.9.
    usage = harness.in_process(bench_scale.whole_step, 1_000_000, 8192, "hard", 2, 100)
    assert usage.value > 0 and usage.peak_bytes < 8e9
