"""A pilot is really run, tells of the run, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.config import parse_config
from curation.config.config import Prices
from curation.estimate.forecast import makespan, priced
from curation.estimate.pilot import copy_listing
from curation.estimate.ratio import Estimate
from curation.estimate.temporary import temporary_output
from curation.ingest.containers.index import ListingIndex
from curation.ingest.listing import list_inputs
from curation.ingest.tombstones import Tombstone, add_tombstones, name_id
from curation.report.summary.summary import summarize
from curation.storage import open_storage
from datasets_media import (
    Bench,
    config_data,
    contents,
    curation,
    environment,
    said_by,
    write_config,
    write_photo,
)

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings whose output no run has begun."""
    folder = tmp_path_factory.mktemp("pilot")
    (folder / "scratch").mkdir()
    data = config_data(media, folder / "out", vocabulary, prices={"currency": "EUR", "cpu_hour": 0.1})
    return data | {"run": data["run"] | {"scratch": str(folder / "scratch")}}


@pytest.fixture(scope="module")
def forecast(data: dict[str, Any]) -> dict[str, Any]:
    """What a pilot of all ten sources tells."""
    folder = Path(data["output"]).parent
    config = write_config(folder / "c.yaml", data)
    said = curation("plan", "-c", config, "--pilot", "10", "--seed", "7", "--to", folder / "p.json")
    assert "Pilot: 10 of 10 sources" in said
    assert not (folder / "out").exists()
    assert contents(folder / "scratch") == {}
    found: dict[str, Any] = json.loads((folder / "p.json").read_text())["forecast"]
    return found


def test_plan_proposes_a_pilot_that_can_be_asked_for(data: dict[str, Any], tmp_path: Path) -> None:
    """Of ten sources: `--pilot 200` would be refused."""
    assert "`--pilot 10` estimates it" in curation("plan", "-c", write_config(tmp_path / "c.yaml", data))


def quantity(forecast: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in forecast["quantities"] if one["name"] == name]
    return found


def test_pilot_of_all_sources_tells_what_a_run_does(forecast: dict[str, Any], data: dict[str, Any]) -> None:
    bench = Bench(data)
    rows = bench.run().rows
    steps = {step["step"]: step["rows"] for step in forecast["steps"]}
    # The splitter has a row per clip; the others count here as they do in a run.
    for key, numbers in steps.items():
        if key != "videos.scenes":
            assert numbers["estimate"] == pytest.approx(rows[key])
            assert (numbers["low"], numbers["high"]) == (numbers["estimate"], numbers["estimate"])
    outcomes = Counter(outcome.partition(" ")[0] for outcome in bench.outcomes().values())
    assert quantity(forecast, "failed sources")["estimate"] == outcomes["failed"] == forecast["failed"]
    totals = summarize(bench.ledger, bench.pipeline).outcome_totals()
    assert quantity(forecast, "clips")["estimate"] == totals["clips"]["in"]
    assert (
        quantity(forecast, "kept samples")["estimate"] == totals["clips"]["kept"] + totals["images"]["kept"]
    )
    # Two scenes in one of the four videos, one in another (`write_media`).
    assert quantity(forecast, "clips per video")["estimate"] == pytest.approx(3 / 4)


def test_time_cards_and_price(forecast: dict[str, Any]) -> None:
    """Two workers; without a GPU there are no GPU-hours; the price is 0.1 EUR for each CPU-hour."""
    wall, hours = quantity(forecast, "wall time"), quantity(forecast, "CPU-hours")
    # Of all sources it can only be off by how their units are shared: a little in a start of some seconds.
    assert wall["estimate"] == pytest.approx(forecast["pilot_seconds"], rel=0.2)
    assert hours["estimate"] == pytest.approx(2 * wall["estimate"] / 3600)
    cards = quantity(forecast, "GPU-hours")
    assert (cards["estimate"], cards["note"]) == (0, "no GPU is used here")
    price = quantity(forecast, "price of the run")
    assert price["estimate"] == pytest.approx(0.1 * hours["estimate"])
    assert price["unit"] == "EUR"
    assert quantity(forecast, "CPU seconds")["estimate"] > 1


def test_pilot_names_all_that_is_missing_as_a_run_does(data: dict[str, Any], tmp_path: Path) -> None:
    """Weights, which reading an output looks for, too, and a vocabulary, which only writing shards needs."""
    settings = data | {
        "output": str(tmp_path / "out"),
        "tokens": data["tokens"] | {"weights": str(tmp_path / "no-weights")},
        "shards": data["shards"] | {"vocabulary": str(tmp_path / "none.tiktoken")},
    }
    config = write_config(tmp_path / "c.yaml", settings)
    said = curation("run", "-c", config, code=2)
    assert "2 things are missing" in said
    assert curation("plan", "-c", config, "--pilot", "2", code=2) == said


def test_pilot_whose_sources_all_fail(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.jpg").write_text("no picture")
    settings = {
        "name": "broken",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"]},
        "run": {"workers": 1, "scratch": str(tmp_path)},
    }
    said = curation("plan", "-c", write_config(tmp_path / "c.yaml", settings), "--pilot", "2", code=2)
    assert "ConfigError: --pilot: every source that was drawn failed (2 by ProbeError)" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "in"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--pilot", "3"], "--pilot 3: only 2 sources are left to be measured; take fewer"),
        (["--pilot", "0"], "Invalid value for '--pilot'"),
        (["--pilot", "many"], "Invalid value for '--pilot'"),
        (["--to", "TMP/plan.txt"], "--to takes a file that ends in .json, not TMP/plan.txt"),
        (["--to", "TMP/none/plan.json"], "cannot write TMP/none/plan.json: No such file or directory"),
        (["--set", "prices.gpu_hour=-2"], "prices.gpu_hour"),
        (["--input", "TMP/empty", "--pilot", "3"], "there is no such folder, or nothing is in it"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_misuse_is_a_sentence(tmp_path: Path, capsys: Said, words: list[str], problem: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "empty").mkdir()
    for seed in range(2):
        write_photo(tmp_path / f"in/{seed}.jpg", seed)
    settings = {
        "name": "t",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"]},
    }
    config = write_config(tmp_path / "c.yaml", settings)
    before = sorted(tmp_path.rglob("*"))
    code, said = said_by(
        capsys, "plan", "-c", config, *(word.replace("TMP", str(tmp_path)) for word in words)
    )
    assert (code, problem.replace("TMP", str(tmp_path)) in said) == (2, True), said
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_to_estimate(media: Path, vocabulary: Path, tmp_path: Path, capsys: Said) -> None:
    data = config_data(media, tmp_path / "out", vocabulary)
    Bench(data).run()
    code, said = said_by(capsys, "plan", "-c", write_config(tmp_path / "c.yaml", data), "--pilot", "3")
    assert code == 2
    assert "--pilot: nothing is left to be measured, so there is nothing to estimate" in said


def test_pilot_lists_as_the_output_does(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    """Without what was retracted, and with what is known of containers."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as tar:
        for name in ("photo0.jpg", "photo1.jpg"):
            tar.add(media / name, name)
    write_photo(tmp_path / "in/b.jpg", 1)
    write_photo(tmp_path / "in/c.jpg", 2)
    bench = Bench(config_data(tmp_path / "in", tmp_path / "out", vocabulary))
    bench.tasks("probe")
    uri = f"{tmp_path}/in/b.jpg"
    add_tombstones(bench.ledger.storage, [Tombstone(id=name_id(uri), retracted="2026-01-01T00:00:00Z")])
    target = open_storage(str(tmp_path / "pilot"))
    copy_listing(bench.ledger.storage, target)
    index = ListingIndex(target, may_list=False)
    config = parse_config({**bench.config.resolved, "output": target.root})
    listing = list_inputs(config, index=index)
    names = sorted(uri.rpartition("/")[2] for uri in listing.sources.table["uri"].to_pylist())
    assert (names, index.unlisted) == (["a.tar#photo0.jpg", "a.tar#photo1.jpg", "c.jpg"], [])


def test_output_of_a_killed_pilot_is_removed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from curation.estimate.temporary import temporary_output\n"
        "with temporary_output(sys.argv[1]) as folder:\n"
        "    pathlib.Path(folder, 'a').write_text('x')\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert (folder / "a").exists()
        process.kill()
    give_up_at = time.monotonic() + 60
    while folder.exists() and time.monotonic() < give_up_at:
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_output_of_a_pilot_is_removed_when_it_ends(tmp_path: Path) -> None:
    def stopped() -> None:
        with temporary_output(str(tmp_path)) as folder:
            Path(folder, "a").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_units_are_shared_by_whoever_is_free_first() -> None:
    """By hand: 3 and 2 begin; 2 is followed by 4 until 6, 3 by 1 until 4, and 4 by 5 until 9."""
    assert makespan([3, 2, 4, 1, 5], 2) == 9
    assert makespan([3, 2], 4) == 3
    assert makespan([], 2) == 0


def test_price() -> None:
    """By hand: 10 h of a CPU at 0.5, 2 h of a card at 3, 4 TB at 20 a month; the hours are off by 1 alike."""

    def hours(value: float, off: float = 1.0) -> Estimate:
        return Estimate(value, {"image": np.array([off, -off])})

    prices = Prices(cpu_hour=0.5, gpu_hour=3.0, terabyte_month=20.0)
    run, keeping = priced(prices, hours(10), hours(2), hours(4, 0))
    assert (run.estimate.value, keeping.estimate.value) == (11.0, 80.0)
    assert run.estimate.standard_error == pytest.approx(np.sqrt(2) * 3.5)
    (partly,) = priced(Prices(cpu_hour=0.5), hours(10), hours(2), hours(4))
    assert (partly.estimate.value, partly.note) == (5.0, "prices.gpu_hour is not set")
    assert list(priced(Prices(), hours(10), hours(0), hours(4))) == []
