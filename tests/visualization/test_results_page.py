"""Is the results page whole, safe and true? Figures, published rows, escaping, no links out."""

import html.parser
import re

import numpy as np
import pytest

from tce_tf.visualization import results_page

NASTY = "<script>alert('x')</script>&\"'"


def results(best=True):
    return {
        "top1": 0.5, "top5": 0.75, "videos": 8, "step": 20,
        "best": {"step": 10, "top1": 0.625, "top5": 0.875, "checkpoint": "best/ckpt-10"}
        if best else None,
        "per_class": {NASTY: {"top1": 0.25, "videos": 4}, "b": {"top1": 0.75, "videos": 4}},
        "per_dataset": {},
        "confusion": [[1, 3], [1, 3]],
        "classifier": {"class_names": [NASTY, "b"]},
        "settings": {"encoder": NASTY, "learning_rate": 0.05},
        "versions": {"numpy": "1"},
        "data": [{"folder": NASTY, "manifest": "abc"}],
    }  # fmt: skip


METRICS = [
    {"step": step, "loss": 1 / step, "accuracy": 0.1, "learning_rate": 0.05} for step in (1, 2)
] + [{"step": 3, "loss": 0.2, "accuracy": 0.5, "learning_rate": 0.05, "test.top1": 0.5}]


class Checker(html.parser.HTMLParser):
    """Collects tags, attributes and text, and sees that tags close."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("best", [True, False])
def test_a_run_stands_beside_the_published_rows(best):
    page = Checker(results_page.finetuning_page(results(best), METRICS))
    assert not page.open and "script" not in page.tags
    text = " ".join(page.text)
    assert "50.0" in page.text and ("62.5" in page.text) == best
    assert {"68.2", "31.7", "68.8", "67.01"} <= set(page.text)
    assert "not measured here" in text and NASTY in page.text
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


def test_published_rows_are_marked():
    page = results_page.finetuning_page(results(), METRICS)
    rows = re.findall(r"<tr[^>]*>(?:<td[^>]*>[^<]*</td>)+</tr>", page)
    published = [row for row in rows if 'class="published"' in row]
    assert len(published) == 4 and all("ResNet" in row for row in published)
    assert not any("this run" in row for row in published)


def test_an_evaluation_of_several_splits():
    scores = {
        "knn.top1": 0.61, "std": {"knn.top1": 0.02},
        "splits": {"1": {"knn.top1": 0.6}, "2": {"knn.top1": 0.6345}},
        "per_class": {"a": {"knn.top1": 0.5, "videos": 3.5}}, "per_dataset": {},
        "settings": {"encoder": NASTY, "versions": {"numpy": "1"}},
    }  # fmt: skip
    page = Checker(results_page.evaluation_page(scores, {"knn": np.eye(2, dtype=int)}, ["a", "b"]))
    assert not page.open and "0.6100" in page.text and "0.0200" in page.text
    assert {"split 1", "split 2", "0.6000", "0.6345"} <= set(page.text)
    assert "script" not in page.tags and len(page.sources) == 1


def test_an_evaluation_says_how_its_figures_came_about():
    scores = {
        "linear.top1": 0.5,
        "linear": {"solver": "lbfgs", "decay": 0.1, "held_out_top1": 0.625, "num_held_out": 8},
        "few_shot.skipped": {"20": f"{NASTY} has 3 training videos"},
        "coherence_per_dataset": {NASTY: {"order_tau": 0.25}, "b": {"curvature": 90.5}},
        "settings": {"encoder": "e"},
    }  # fmt: skip
    page = Checker(results_page.evaluation_page(scores, {}, []))
    text = " ".join(page.text)
    assert "by lbfgs, decay 0.1: 62.5 % of 8 held-out videos" in text
    assert f"few-shot with 20 a class left out: {NASTY} has 3" in text
    assert {"order_tau", "curvature", "0.25", "90.5"} <= set(page.text)
    assert "script" not in page.tags and not page.open


def test_a_page_is_written_whole(tmp_path):
    path = str(tmp_path / "report.html")
    results_page.write(path, results_page.finetuning_page(results(), []))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
