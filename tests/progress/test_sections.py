"""The report's sections about the work, its cost, and what changed since the run before."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from curation.config.config import Prices
from curation.report.page.facts import Facts
from curation.report.page.html import render
from curation.report.page.sections import changes, work
from curation.report.summary.words import data_size

DECODE = {
    "pool": "filter: decode",
    "num_workers": 2,
    "nodes": {"a": 2},
    "load_s": 0.0,
    "busy_s": 30.0,
    "idle_s": 10.0,
    "waited_s": 0.0,
    "num_calls": 3,
    "num_samples": 0,
    "bytes_sent": 0,
    "most_bytes_out": 0,
    "peak_memory_bytes": 0,
}
WORK = {
    "seconds": 1800.0,
    "cpus": 16,
    "gpu_s": 5400.0,
    "output_bytes": 2_500_000_000_000,
    "resumed_from": None,
    "steps": [],
    "pools": [DECODE],
    "frames_decoded": 0,
    "images_decoded": 0,
    "decodes_per_frame": None,
    "reads_per_byte": {},
}


class _Config:
    def __init__(self, prices: Prices) -> None:
        self.prices = prices


class _Pipeline:
    def __init__(self, prices: Prices) -> None:
        self.config = _Config(prices)


def facts(run: dict[str, Any], prices: Prices | None = None) -> Facts:
    pipeline = cast(Any, _Pipeline(prices or Prices()))
    return Facts(cast(Any, None), pipeline, cast(Any, None), run)


def test_cost_is_use_times_price() -> None:
    """By hand: 16 cores for half an hour at 0.04, 1.5 GPU hours at 2, 2.5 TB at 20."""
    prices = Prices(currency="EUR", cpu_hour=0.04, gpu_hour=2.0, terabyte_month=20.0)
    found = {cost.what: (cost.used, cost.amount) for cost in work.costs(WORK, prices)}
    assert found == {
        "CPU cores": ("8 hours", "0.32 EUR"),
        "GPUs": ("1.5 hours", "3.00 EUR"),
        "output, each month": ("2.5 TB", "50.00 EUR"),
    }
    assert list(work.costs(WORK, Prices())) == []
    small = WORK | {"output_bytes": 409_000, "gpu_s": 0.0}
    (cost,) = work.costs(small, Prices(terabyte_month=20.0, gpu_hour=2.0))
    assert (cost.used, cost.amount) == ("409 kB", "under 0.01 USD")


def test_table_of_workers_has_no_empty_column() -> None:
    filled = work.fill(facts({"last_work": WORK}))
    assert filled is not None
    assert filled["pool_columns"] == ["number", "busy", "idle", "calls"]
    assert filled["pools"] == [("filter: decode", ["2", "75 %", "25 %", "3"])]
    models = DECODE | {"pool": "filter: models", "bytes_sent": 4_000_000, "num_samples": 6, "waited_s": 9.0}
    both = work.fill(facts({"last_work": WORK | {"pools": [DECODE, models]}}))
    assert both is not None
    assert both["pool_columns"] == ["number", "busy", "idle", "calls", "samples a call", "sent"]
    assert both["pools"][0][1][-2:] == ["", ""]


def test_work_that_was_taken_up_is_said() -> None:
    for resumed_from, number in ((None, 0), ("2026-01-02T03:04:05Z", 1)):
        filled = work.fill(facts({"last_work": WORK | {"resumed_from": resumed_from}}))
        page = render("sections/work.html.j2", **(filled or {}))
        assert page.count("2026-01-02T03:04:05Z") == number


def record(**changed: Any) -> dict[str, Any]:
    whole = {
        "ended": "2026-01-02T00:00:00Z",
        "curation": "1.0",
        "config": {"images": {"text": {"min_score": 4, "rate": 1}}},
        "thresholds": {"images.text": {"min_score": 4.0}},
        "models": [{"step": "images.text", "role": "detector", "name": "a/b", "revision": "a1" * 20}],
        "versions": {"ray": "2.1"},
        "outcomes": {"images": {"in": 5, "kept": 3, "rejected": 2}},
    }
    return whole | changed


def test_everything_that_changed_is_told_and_nothing_else() -> None:
    now = record(
        ended="2026-01-03T00:00:00Z",
        config={"images": {"text": {"min_score": 5, "rate": 2}}},
        thresholds={"images.text": {"min_score": 5.0}},
        models=[{"step": "images.text", "role": "detector", "name": "a/b", "revision": "c3" * 20}],
        versions={"ray": "2.2"},
        outcomes={"images": {"in": 7, "kept": 3, "rejected": 4}},
        sources={"new": 2, "gone": 0},
        measured_again=[{"text": "18 sources: <b>new</b> modification time"}],
        previous=record(),
    )
    filled = changes.fill(facts(now))
    assert filled is not None
    assert dict(filled["groups"]) == {
        "Inputs": ["2 sources new in the inputs"],
        "Measured again": ["18 sources: <b>new</b> modification time"],
        "Thresholds": ["images.text.min_score 4.0 -> 5.0"],
        "Settings": ["images.text.rate 1 -> 2"],
        "Models": ["images.text detector: a/b a1a1a1a1a1a1 -> a/b c3c3c3c3c3c3"],
        "Versions": ["ray 2.1 -> 2.2"],
    }
    rows = [(change.outcome, change.before, change.now) for change in filled["outcomes"]]
    assert rows == [("in", 5, 7), ("rejected", 2, 4)]
    page = render("sections/changes.html.j2", **filled)
    assert "&lt;b&gt;new" in page
    assert re.search(r"<td>2</td><td>4</td><td>\+2</td>", page)
    assert changes.fill(facts(record(previous={}))) is None
    older = record()
    del older["outcomes"], older["thresholds"]
    old = changes.fill(facts(record(previous=older)))
    assert old is not None
    assert "was not recorded" in render("sections/changes.html.j2", **old)
    same = changes.fill(facts(record(previous=record())))
    assert same is not None
    assert (same["groups"], same["outcomes"], old["groups"]) == ([], [], [])


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (409_400, "409 kB"),
        (999_700, "1,000 kB"),
        (2_345_000_000, "2.35 GB"),
        (7.5e15, "7,500 TB"),
    ],
)
def test_sizes_are_said_in_three_digits(num_bytes: float, said: str) -> None:
    assert data_size(num_bytes) == said
