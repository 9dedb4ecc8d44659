"""`curation init`: a configuration to begin with."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
import yaml

from curation.config import load_config
from curation.config.recipes import recipes
from datasets_media import ROOT, command, environment, said_by

Said = pytest.CaptureFixture[str]


def init(capsys: Said, folder: Path, *words: str) -> tuple[int, str]:
    return said_by(capsys, "init", "--to", folder / "c.yaml", *words)


@pytest.mark.parametrize("recipe", [path.stem for path in (ROOT / "configs").glob("*.yaml")])
@pytest.mark.parametrize("kinds", [("images",), ("videos",), ("images", "videos"), ()], ids=str)
def test_loader_takes_every_recipe(tmp_path: Path, capsys: Said, recipe: str, kinds: tuple[str, ...]) -> None:
    whole = yaml.safe_load((ROOT / f"configs/{recipe}.yaml").read_text())
    flags = [f"--{kind}" for kind in kinds]
    place = "it's #1: \u00e4, [b]"
    code, said = init(
        capsys, tmp_path, *flags, "--recipe", recipe, "--input", place, "--output", "s3://b/out"
    )
    if not {*kinds} <= {*whole}:
        assert (code, "has no videos" in said) == (2, True)
        return
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.general.input == [place]
    assert config.general.output == "s3://b/out"
    left_out = {"images", "videos"} - {*kinds} if kinds else set()
    expected = {key: value for key, value in whole.items() if key not in left_out}
    assert dict(config.resolved) == expected | {"input": [place], "output": "s3://b/out"}
    text = (tmp_path / "c.yaml").read_text()
    assert text.startswith("# ")
    assert "$schema" not in text
    kept = [line for line in text.splitlines() if "#" in line]
    assert len(kept) >= 4


def test_several_folders_and_a_name(tmp_path: Path, capsys: Said) -> None:
    words = ["--recipe", "demo", "--input", "~/a", "--input", "$$b", "--output", "o", "--name", "mine"]
    assert init(capsys, tmp_path, *words)[0] == 0
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.general.input == [str(Path.home() / "a"), "$b"]
    assert config.general.name == "mine"


def test_nothing_is_overwritten(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "c.yaml").write_text("mine")
    code, said = init(capsys, tmp_path, "--input", "a", "--output", "b")
    assert (code, "is there already" in said) == (2, True)
    assert (tmp_path / "c.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--input", "a"], "name --input and --output; only in a terminal they are asked for"),
        (["--output", "a"], "name --input and --output"),
        (["--recipe", "emu4", "--input", "a", "--output", "b"], "did you mean 'emu3'?"),
        (["--input", "a", "--output", "hf://datasets/a/b"], "output: "),
        (["--input", "a", "--output", "b", "--name", "a/b"], "name: "),
        (["--input", "$NO_SUCH_THING", "--output", "b"], "variable NO_SUCH_THING is not set"),
    ],
)
def test_wrong_answers_write_nothing(tmp_path: Path, capsys: Said, words: list[str], problem: str) -> None:
    code, said = init(capsys, tmp_path, *words)
    assert code == 2
    assert problem in said
    assert [*tmp_path.iterdir()] == []


def test_terminal_is_asked(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        command("init", "--videos"),
        cwd=tmp_path,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"quality\n/data/raw\nout\n")
    assert started.wait(timeout=120) == 0
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    for question in ("Recipe (demo, emu3, quality, understanding) [emu3]", "Folder or URL with the media"):
        assert question in said
    config = load_config(str(tmp_path / "curation.yaml"))
    assert (config.general.name, config.general.input, config.images) == ("quality", ["/data/raw"], None)


def test_help_tells_what_the_recipes_are_for(capsys: Said) -> None:
    _, said = said_by(capsys, "init", "--help")
    text = " ".join(said.split())
    for name, meaning in recipes().items():
        assert f"{name} {meaning}" in text
        assert len(meaning) > 20
