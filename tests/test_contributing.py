"""What CONTRIBUTING.md and the README show works as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from curation.cli.app import cli
from curation.registry import STAGES
from datasets_media import ROOT, environment

BLOCK = re.compile(r"```\w+ file=(\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A folder with the files that CONTRIBUTING.md shows."""
    for name, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_shown_test_passes(shown: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_brightness.py"],
        cwd=shown,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout


def test_shown_filter_passes_the_linter(shown: Path) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "brightness.py"]
    done = subprocess.run(ruff, cwd=shown, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_shown_filter_runs(shown: Path, media: Path) -> None:
    command = [sys.executable, "-m", "curation", "run", "--config", "brightness.yaml", "--input", str(media)]
    command += ["--set", "run.max_failed_fraction=1.0"]
    done = subprocess.run(
        command,
        cwd=shown,
        env=environment() | {"PYTHONPATH": str(shown)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"images\.brightness +6 +5 +0 +1", done.stdout), done.stdout


def test_readme_names_every_stage_and_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in STAGES if f"[{name}](" not in readme]
    assert not [name for name in cli.commands if f"`curation {name}" not in readme]


def test_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)|src=\"([^\"]+)\"", (ROOT / "README.md").read_text())
    assert not [path for pair in links for path in pair if path and not (ROOT / path).exists()]
