"""What a run writes where nobody sits before a terminal: lines now and then, JSON, and an end that tells."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from curation.execution.progress import ConsoleProgress, Event, LineProgress, Pace, shown
from curation.execution.worker.metrics import Metrics
from datasets_media import command, curation, environment, write_config, write_photos

EVENTS = frozenset(
    ["message", "warning", "pass_began", "progress", "pass_ended", "worker_log", "summary", "failed", "ended"]
)


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pace_is_that_of_late() -> None:
    """By hand: nothing for 100 s, then 10 per second; of 1,000 the last 500 then take 50 s."""
    clock = Clock()
    pace = Pace(1000, clock)
    assert pace.left_s is None
    clock.now += 100
    assert (pace.rate, pace.left_s) == (0.0, None)
    pace.mark()
    for _ in range(10):
        clock.now += 5
        pace.done += 50
        pace.mark()
    assert pace.rate == pytest.approx(10)
    assert pace.left_s == pytest.approx(50)
    assert pace.seconds == 150
    assert pace.mean_rate == pytest.approx(500 / 150)


def test_lines_say_how_far_how_fast_and_how_long() -> None:
    """By hand: 30 of 120 in 60 s are 0.5/s, so 90 more take 3 minutes."""
    clock, told = Clock(), list[Event]()
    progress = LineProgress(told.append, clock)
    progress.begin("filter", 120)
    clock.now += 60
    progress.report()
    progress.advance(30)
    metrics = Metrics()
    metrics.record("images.color", rows=29, failed=2)
    progress.measured(metrics)
    progress.report()
    clock.now += 3600 + 60 * 3
    progress.advance(90)
    progress.end()
    progress.end()
    assert [event.text for event in told] == [
        "measuring and filtering: 120 sources",
        "measuring and filtering: 0 of 120 sources (0.0%) after 1 min 0 s",
        "measuring and filtering: 30 of 120 sources (25.0%) after 1 min 0 s, 0.5/s, 3 min 0 s left",
        "measuring and filtering: 120 of 120 sources in 1 h 4 min, 0.0312/s",
    ]
    assert told[2].fields == {
        "pass": "filter",
        "done": 30,
        "total": 120,
        "steps": {"images.color": {"rows": 29, "failed": 2, "rate": 0.483}},  # 29 in 60 s
        "seconds": 60.0,
        "rate": 0.5,
        "left_s": 180,
    }


def test_log_has_a_line_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 30 and 15 rows in 60 s are 0.5/s and 0.25/s, and 90 sources more take 3 minutes."""
    clock, console = Clock(), Console(width=200, record=True, file=io.StringIO())
    progress = ConsoleProgress(console)
    monkeypatch.setattr(progress, "_clock", clock)
    progress.begin("filter", 120)
    clock.now += 60
    progress.advance(30)
    for key, rows, failed in (("images.color", 30, 0), ("images.text", 15, 2)):
        metrics = Metrics()
        metrics.record(key, rows=rows, failed=failed)
        progress.measured(metrics)
    progress.report()
    progress.end()
    stages = ["  images.color: 30 rows, 0.5/s", "  images.text: 15 rows, 2 failed, 0.25/s"]
    assert console.export_text().splitlines() == [
        "measuring and filtering: 120 sources",
        "measuring and filtering: 30 of 120 sources (25.0%) after 1 min 0 s, 0.5/s, 3 min 0 s left",
        *stages,
        "measuring and filtering: 30 of 120 sources in 1 min 0 s, 0.5/s",
        *stages,
    ]


def test_speed_of_thousands_is_a_plain_number() -> None:
    """By hand: 150,000 in 4 s."""
    clock, told = Clock(), list[Event]()
    progress = LineProgress(told.append, clock)
    progress.begin("probe", 150_000)
    clock.now += 4
    progress.advance(150_000)
    progress.end()
    assert told[-1].text == "reading headers: 150000 of 150000 sources in 4 s, 37500/s"


def test_calls_that_are_shown_are_a_pass() -> None:
    """Results come as they are made, and one that is an error ends the pass."""
    told = list[Event]()
    progress = LineProgress(told.append)
    spread = shown(map, "shards", progress)
    results = spread(lambda number: 6 // number, [3, 2, 0])
    assert next(results) == 2
    assert [event.text for event in told] == ["writing shards: 3 groups"]
    assert next(results) == 3
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert told[-1].text.startswith("writing shards: 2 of 3 groups in ")


def test_lines_come_by_themselves_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.execution.progress.FIRST_LINE_S", 0.05)
    monkeypatch.setattr("curation.execution.progress.LINE_EVERY_S", 0.1)
    told = list[Event]()
    progress = LineProgress(told.append)
    progress.begin("probe", 3)
    deadline = time.monotonic() + 20
    while len(told) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    progress.end()
    assert [event.name for event in told[:4]] == ["pass_began", "progress", "progress", "progress"]
    number = len(told)
    time.sleep(0.3)
    assert len(told) == number


def test_terminal_shows_bars_with_speed_and_time_left() -> None:
    console = Console(force_terminal=True, width=120, record=True)
    progress = ConsoleProgress(console)
    progress.begin("filter", 10)
    for _ in range(4):
        time.sleep(0.02)
        progress.advance(1)
    progress.end()
    (line,) = [line for line in console.export_text().splitlines() if "measuring and filtering" in line][-1:]
    assert "4/10" in line
    assert "/s" in line


def test_bars_fit_into_a_narrow_terminal() -> None:
    """80 columns, as terminals open: a line for the pass and one for its stage, neither folded nor cut."""
    console = Console(force_terminal=True, width=80, record=True, file=io.StringIO())
    progress = ConsoleProgress(console)
    progress.begin("filter", 120)
    progress.advance(119)
    metrics = Metrics()
    metrics.record("images.thumbnail", rows=119, failed=11)
    progress.measured(metrics)
    progress.end()
    before, stage = console.export_text().splitlines()[-2:]
    bar = before[before.rindex("measuring and") :]  # drawn over what stood there
    assert re.fullmatch(r"measuring and filtering +[━╸╺]+ +119/120 sources +\S+/s +0 s, 0 s left *", bar)
    assert re.fullmatch(r"  images\.thumbnail +119 rows, 11 failed +\S+/s *", stage)
    assert len(bar) <= 80
    assert len(stage) <= 80


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos, three of which are cut off, in units of one."""
    folder = tmp_path_factory.mktemp("logs")
    write_photos(folder / "in", 5, num_cut_off=3)
    data = {
        "name": "logs",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "images": {"filters": ["speaking_color"]},
        "stages": {
            "speaking_color": "fault_stages:SpeakingColor",
            "slow_color": "fault_stages:SlowColor",
        },
        "run": {"workers": 1, "unit_images": 1, "max_failed_fraction": 0.5},
    }
    return write_config(folder / "c.yaml", data)


def objects(said: str) -> list[dict[str, Any]]:
    """The objects of a log, each complete."""
    found = [json.loads(line) for line in said.splitlines()]
    for one in found:
        assert list(one)[:4] == ["time", "level", "event", "message"]
        moment = datetime.fromisoformat(one["time"])
        assert abs((datetime.now(UTC) - moment).total_seconds()) < 300
        assert one["level"] in ("info", "warning", "error")
        assert one["event"] in EVENTS
    return found


@pytest.mark.slow
def test_end_of_a_log_tells_what_happened(config: Path, tmp_path: Path) -> None:
    """Three of five photos are cut off: 60 % failed, by one error, and half may."""
    said = curation("run", "-c", config, "--output", tmp_path, "--worker-logs", code=1)
    *_, first, second, third, last = said.splitlines()
    for number, line in enumerate((first, second, third)):
        assert line.startswith(
            f"failed {config.parent}/in/p{number}.jpg at images.speaking_color: DecodeError: "
        )
    assert last == "60.0% failed, more than run.max_failed_fraction: 0.5"
    assert "reading headers" in said or "measuring and filtering: 5 sources" in said
    assert "measuring and filtering: 5 of 5 sources in " in said
    assert re.search(r"^  images.speaking_color: 5 rows, 3 failed, [\d.]+/s$", said, re.MULTILINE)
    spoken = [line for line in said.splitlines() if line.endswith(f"looking at {config.parent}/in/p3.jpg")]
    assert len(spoken) == 1
    assert spoken[0].startswith("(Worker pid=")


@pytest.mark.slow
def test_json_is_all_that_is_printed(config: Path, tmp_path: Path) -> None:
    words = command("run", "-c", config, "--output", tmp_path, "--worker-logs", "--log-format", "json")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    told = objects(done.stdout)
    by_name = {name: [one for one in told if one["event"] == name] for name in EVENTS}
    assert told[0]["message"] == "logs: 5 sources"
    ended = by_name["pass_ended"][-1]
    assert (ended["pass"], ended["done"], ended["total"]) == ("filter", 5, 5)
    (summary,) = by_name["summary"]
    assert summary["outcomes"]["images"] == {"in": 5, "kept": 2, "rejected": 0, "failed": 3, "pending": 0}
    assert summary["paths"]["report"] == f"{tmp_path}/report/index.html"
    (failed,) = by_name["failed"]
    assert (failed["error_type"], failed["number"], failed["level"]) == ("DecodeError", 3, "warning")
    assert failed["examples"][0]["uri"] == f"{config.parent}/in/p0.jpg"
    lines = [one["line"] for one in by_name["worker_log"]]
    assert f"looking at {config.parent}/in/p3.jpg" in lines
    assert (told[-1]["event"], told[-1]["level"], told[-1]["exit_code"]) == ("ended", "error", 1)
    # Nothing is printed by workers unless it is asked for.
    quiet = curation("run", "-c", config, "--output", tmp_path / "quiet", "--log-format", "json", code=1)
    assert not [one for one in objects(quiet) if one["event"] == "worker_log"]


@pytest.mark.slow
def test_error_is_the_last_object(config: Path, tmp_path: Path) -> None:
    words = ("--output", tmp_path, "--log-format", "json")
    said = curation("run", "-c", config, *words, "--address", "127.0.0.1:1", code=3)
    last = objects(said)[-1]
    assert (last["event"], last["error_type"], last["exit_code"]) == ("ended", "EnvironmentFault", 3)
    assert last["message"].startswith("there is no Ray cluster at 127.0.0.1:1")
    (only,) = objects(curation("run", "-c", config, *words, "--set", "imagse.text=1", code=2))
    assert (only["error_type"], only["exit_code"]) == ("ConfigError", 2)


@pytest.mark.slow
def test_stop_is_the_last_object(config: Path, tmp_path: Path) -> None:
    where = ("--output", tmp_path, "--log-format", "json", "--set", "images.filters=[slow_color]")
    words = command("run", "-c", config, *where)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("ledger/*/*/*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    last = objects(said)[-1]
    assert (last["event"], last["exit_code"]) == ("ended", 143)
    assert last["message"].startswith("stopped; what was measured is kept")
