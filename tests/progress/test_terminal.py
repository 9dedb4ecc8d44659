"""One run in a real terminal: what it shows, what Prometheus gets of it, and that it is not stopped there."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from datasets_media import ROOT, command, environment, write_config, write_photo

NUM_PHOTOS, NUM_BROKEN = 8, 2
LIMIT_S = 240.0
pytestmark = pytest.mark.slow


@dataclass
class Terminal:
    """What a command wrote to a terminal, and what its metrics were meanwhile."""

    raw: bytes = b""
    exit_code: int | None = None
    metrics: dict[str, set[str]] = field(default_factory=dict)
    """Name -> labels with values, in every scrape."""

    @property
    def text(self) -> str:
        """Without colors and moves of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode()).replace("\r\n", "\n")

    def scrape(self) -> None:
        """Ask Ray's agent, once the run has said where."""
        address = re.search(r"metrics for Prometheus: (http://\S+/metrics)", self.text)
        if address is None:
            return
        try:
            with urlopen(address[1], timeout=2) as answer:  # noqa: S310  # the address is Ray's own
                lines = answer.read().decode().splitlines()
        except (URLError, OSError):
            return  # the agent is starting, or has ended
        for line in lines:
            found = re.match(r"(ray_curation_\w+)\{(.*)\} ", line)
            if found:
                self.metrics.setdefault(found[1], set()).add(found[2])


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def run_in_terminal(words: list[str], meanwhile: Callable[[Terminal], None]) -> Terminal:
    """Run a command in a terminal of 110 columns; `meanwhile` is called often."""
    terminal = Terminal()
    file, child_file = pty.openpty()
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *words],
        env=environment() | {"RAY_metrics_report_interval_ms": "300", "TERM": "xterm"},
        stdin=child_file,
        stdout=child_file,
        stderr=child_file,
        start_new_session=True,
    )
    os.close(child_file)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([file], [], [], 0.5)[0]:
            with suppress(OSError):  # nobody has the terminal any more
                terminal.raw += os.read(file, 1 << 16)
        meanwhile(terminal)
    while select.select([file], [], [], 0)[0]:
        try:
            terminal.raw += os.read(file, 1 << 16)
        except OSError:
            break
    process.terminate()
    terminal.exit_code = process.wait(30)
    os.close(file)
    return terminal


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "in").mkdir()
    for number in range(NUM_PHOTOS):
        write_photo(folder / f"in/p{number}.jpg", number)
    for path in sorted((folder / "in").iterdir())[:NUM_BROKEN]:
        path.write_bytes(path.read_bytes()[:1000])
    data = {
        "name": "seen",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "stand_ins": "allow",
        "images": {"filters": ["terminal_color"]},
        "captions": {"engine": "stand-in"},
        "stages": {"terminal_color": "fault_stages:TerminalColor"},
        "run": {"workers": 2, "unit_images": 1, "max_failed_fraction": 0.5},
    }
    config = write_config(folder / "c.yaml", data)
    return run_in_terminal(command("run", "-c", config), Terminal.scrape)


def test_program_that_touches_the_terminal_does_not_stop_its_worker(terminal: Terminal) -> None:
    assert terminal.exit_code == 0, terminal.text[-2000:]


def test_terminal_shows_a_bar_for_the_pass_and_a_line_for_each_stage(terminal: Terminal) -> None:
    assert re.search(r"measuring and filtering ━+ +8/8 sources +[\d.]+/s", terminal.text)
    assert re.search(r"  images\.terminal_color +8 rows, 2 failed +[\d.]+/s", terminal.text)
    assert re.search(r"[1-7]/8 sources +[\d.]+/s +\d+ s, \d+ s left", terminal.text)
    assert re.search(r"  captions +6 rows", terminal.text)


def test_each_thing_is_said_once(terminal: Terminal) -> None:
    assert terminal.text.count("UNTRAINED") == 1
    assert terminal.text.count("Outcomes") == 1
    assert terminal.text.index("UNTRAINED") < terminal.text.index("measuring and filtering")


def test_dashboard_shows_what_the_run_exported(terminal: Terminal) -> None:
    """Of what the dashboard asks for, every name and every label was there while the run was going."""
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries.append(dashboard["templating"]["list"][1]["query"])
    asked = set(re.findall(r"ray_curation_\w+", " ".join(queries)))
    assert asked <= terminal.metrics.keys()
    for query in queries:
        labels = re.search(r"by \(([\w, ]+)\)", query)
        for name in re.findall(r"ray_curation_\w+", query):
            for label in [*(labels[1].split(", ") if labels else []), "dataset"]:
                assert all(f'{label}="' in found for found in terminal.metrics[name]), (name, label)


def test_numbers_are_those_of_the_run(terminal: Terminal) -> None:
    rows = terminal.metrics["ray_curation_rows_total"]
    assert any('step="images.terminal_color"' in labels and 'dataset="seen"' in labels for labels in rows)
    assert any(
        'step="images.terminal_color"' in labels
        for labels in terminal.metrics["ray_curation_failed_rows_total"]
    )
