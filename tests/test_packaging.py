"""What a release is made of: wheel and sdist, in an environment that does not see this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import curation
from datasets_media import ROOT, contents

pytestmark = pytest.mark.slow
SOURCES = ("curation", "stages", "captioner", "tokenize_shards", "configs")
"""Folders of the repository that are installed."""


def build(source: Path, target: Path, *what: str) -> None:
    """Build archives without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the repository."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "--sdist", "--wheel")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment: the wheel, and what this one has installed, but not this checkout."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return python


def said_by(python: Path, *arguments: str, cwd: Path, code: int = 0) -> str:
    """What a program says in the new environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def files_of_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def committed() -> list[str]:
    """The files of the repository that are to be installed."""
    listed = subprocess.run(
        ["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.splitlines() if not (ROOT / name).is_symlink()]


def test_wheel_has_every_file_in_one_namespace(wheel: Path) -> None:
    files = files_of_wheel(wheel)
    expected = {
        name if name.startswith("curation/") else f"curation/{name}": (ROOT / name).read_bytes()
        for name in committed()
    }
    info = f"curation-{curation.__version__}.dist-info"
    assert {name: data for name, data in files.items() if not name.startswith(info)} == expected
    assert files[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    for part in ("py.typed", "stages/color.py", "captioner/prompts/image-long.txt", "configs/demo.yaml"):
        assert f"curation/{part}" in files


def test_metadata_has_one_version_and_no_addresses_but_the_papers(wheel: Path) -> None:
    files = files_of_wheel(wheel)
    metadata = message_from_bytes(files[f"curation-{curation.__version__}.dist-info/METADATA"])
    assert metadata["Version"] == curation.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2409.18869"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert f"Version {curation.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_wheel_of_the_sdist_is_the_wheel_of_the_repository(built: Path, wheel: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for name in ("CHANGELOG.md", "LICENSE", "README.md", "docs/decisions.md", "constraints.txt"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()
    build(source, tmp_path / "again", "--wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    assert files_of_wheel(again) == files_of_wheel(wheel)


def test_installed_package_hides_nobody_elses_modules(installed: Path, tmp_path: Path) -> None:
    for name in ("stages", "captioner", "tokenize_shards", "configs"):
        assert "No module named" in said_by(installed, "-c", f"import {name}", cwd=tmp_path, code=1)
    found = said_by(installed, "-c", "import curation.stages.color as c; print(c.__file__)", cwd=tmp_path)
    assert found.startswith(str(installed.parent.parent))


def test_demo_runs_from_the_wheel(installed: Path, demo: Path, tmp_path: Path) -> None:
    """The media are there, as after a first try, and all rows but one filter's, which workers measure."""
    shutil.copytree(demo / "demo", tmp_path / "demo")
    before = contents(tmp_path / "demo/output/shards")
    shutil.rmtree(tmp_path / "demo/output/ledger/color")
    shutil.rmtree(tmp_path / "demo/output/shards")
    said = said_by(installed, str(installed.parent / "curation"), "demo", cwd=tmp_path)
    assert " shards: demo/output/shards/demo" in said
    assert contents(tmp_path / "demo/output/shards") == before
    status = said_by(installed, "-m", "curation", "status", "--output", "demo/output", cwd=tmp_path)
    assert "images.color" in status
