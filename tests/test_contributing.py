"""What CONTRIBUTING.md and the README show works as shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.cli.app import cli
from curation.registry import STAGES
from datasets_media import ROOT, command, config_data, environment, write_config

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
        env=environment() | {"PYTHONPATH": environment()["PYTHONPATH"] + os.pathsep + str(shown)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"images\.brightness +6 +5 +0 +1", done.stdout), done.stdout


@pytest.fixture
def installed(shown: Path) -> Path:
    """The package that CONTRIBUTING.md shows, with what an installer makes of its pyproject.toml."""
    project = tomllib.loads((shown / "pyproject.toml").read_text())["project"]
    folder = shown / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    heading = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(heading)
    groups = project["entry-points"].items()
    (folder / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in groups
        )
    )
    return shown


def outside(installed: Path, *args: str | Path) -> str:
    """What `curation` says where that package is installed; it must succeed."""
    places = environment()["PYTHONPATH"] + os.pathsep + str(installed)
    done = subprocess.run(
        command(*args),
        env=environment() | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_shown_package_adds_a_stage_an_engine_and_an_export(
    installed: Path, media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    """All three in a run and an export, as if they were built in; each is one file."""
    data = config_data(media, tmp_path / "out", vocabulary)
    del data["videos"]
    data["images"] = {"filters": ["brightness"], "brightness": {"min_brightness": 1.0}}
    data["captions"] = {"engine": "levels", "levels": {"opening": "Here is a picture"}}
    config = write_config(tmp_path / "c.yaml", data)
    assert re.search(r"images\.brightness +6 +5 +0 +1", outside(installed, "run", "-c", config))
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["versions"]["brightness-for-curation"] == "1.2"

    outside(installed, "table", "-c", config, "--to", tmp_path / "t.parquet")
    rows = {row["sample_id"]: row for row in pq.read_table(tmp_path / "t.parquet").to_pylist()}
    kept = {key: row for key, row in rows.items() if row["level"] == "sample" and row["outcome"] == "kept"}
    assert len(kept) == 5
    for row in kept.values():
        # The stage saw the picture at 256 pixels at most, the engine at 448: these photos are smaller.
        assert row["caption"] == f"Here is a picture whose mean level is {row['brightness']:.0f}."

    assert "lines" in outside(installed, "export", "--help")
    exported = ("export", "lines", "-c", config, "--to", tmp_path / "lines", "--set", "file=all.jsonl")
    assert "5 samples in 1 files, counted again" in outside(installed, *exported)
    lines = [json.loads(line) for line in (tmp_path / "lines/all.jsonl").read_text().splitlines()]
    assert {line[0]: line[1] for line in lines} == {key: row["caption"] for key, row in kept.items()}


@pytest.mark.parametrize("name", ["levels.py", "lines.py"])
def test_shown_engine_and_export_pass_the_linter(shown: Path, name: str) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), name]
    done = subprocess.run(ruff, cwd=shown, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_guide_names_every_stage_and_command() -> None:
    stages, commands = ((ROOT / f"docs/{name}.md").read_text() for name in ("stages", "commands"))
    assert not [name for name in STAGES.built_in if f"[{name}](" not in stages]
    assert not [name for name in cli.commands if f"`curation {name}" not in commands]


def test_layout_names_every_room_of_the_core() -> None:
    (layout,) = re.findall(r"```\n(curation/ .*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    named = set(re.findall(r"^ *([\w.]+)", layout, re.MULTILINE))
    core = (ROOT / "curation").iterdir()
    rooms = {
        path.name
        for path in core
        if not path.is_symlink() and path.name[0] != "_" and path.name != "py.typed"
    }
    assert rooms - named == set()


def test_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)|src=\"([^\"]+)\"", (ROOT / "README.md").read_text())
    assert not [path for pair in links for path in pair if path and not (ROOT / path).exists()]
