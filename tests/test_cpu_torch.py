"""Where PyTorch comes from on a machine without a GPU: tools/cpu_torch.py, against an index on loopback."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from datasets_media import ROOT
from loopback import LoopbackServer, QuietHandler

TOOL = ROOT / "tools/cpu_torch.py"
VERSIONS = dict(re.findall(r"^(torch|torchvision)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cpu_torch", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("choice", "system", "gpu", "wanted"),
    [
        ("auto", "linux", False, True),
        ("auto", "linux", True, False),
        ("auto", "darwin", False, False),
        ("cpu", "linux", True, True),
        ("cpu", "darwin", False, False),
        ("cuda", "linux", False, False),
    ],
)
def test_cpu_build_is_wanted_where_no_gpu_is(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    choice: str,
    system: str,
    gpu: bool,
    wanted: bool,
) -> None:
    """By the driver's folder, or by `nvidia-smi` on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tool, "DRIVER", tmp_path / "nvidia")
    monkeypatch.setattr(tool.has_gpu, "__defaults__", (tmp_path / "nvidia",))
    if gpu:
        (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert tool.is_wanted(choice, system) is wanted
    assert tool.has_gpu() is gpu
    (tmp_path / "nvidia").mkdir()
    assert tool.has_gpu()


def a_wheel(folder: Path, name: str, version: str) -> Path:
    """An empty package."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LoopbackServer]:
    """An index with PyTorch's CPU builds, as small as can be."""
    wheels = {
        path.name: path for name in VERSIONS for path in [a_wheel(tmp_path, name, f"{VERSIONS[name]}+cpu")]
    }

    class Index(QuietHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").rpartition("/")[2].replace("%2B", "+")
            if name in wheels:
                self.send(200, wheels[name].read_bytes())
                return
            links = [
                f'<a href="/files/{wheel}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{wheel}</a>'
                for wheel, path in wheels.items()
                if wheel.startswith(f"{name}-")
            ]
            page = "".join(links).encode()
            self.send_response(200 if links else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    running = LoopbackServer(Index, "/whl/cpu")
    yield running
    running.stop()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Python of a new environment with nothing but pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "pip").symlink_to(Path(sysconfig.get_path("purelib")) / "pip")
    return tmp_path / "venv/bin/python"


def run(python: Path, index: str) -> str:
    environment = os.environ | {"TORCH": "cpu", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    done = subprocess.run(
        [python, TOOL, index], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(python: Path) -> str:
    command = [
        python,
        "-c",
        "import importlib.metadata as m; print(m.version('torch'), m.version('torchvision'))",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_cpu_build_is_installed_in_our_versions_once(python: Path, index: LoopbackServer) -> None:
    assert "no NVIDIA GPU is here" in run(python, index.url)
    assert installed(python) == f"{VERSIONS['torch']}+cpu {VERSIONS['torchvision']}+cpu"
    assert run(python, index.url) == ""


def test_index_without_our_versions_is_said_and_left(
    python: Path, index: LoopbackServer, tmp_path: Path
) -> None:
    for path in tmp_path.glob("torchvision*.whl"):
        path.write_bytes(b"")
    said = run(python, index.url)
    assert said.splitlines()[-1].endswith(
        "has not what is wanted: taking PyPI's PyTorch, with 4 GB of CUDA libraries"
    )
    assert installed(python) == ""


def test_index_out_of_reach_is_one_line_and_soon_said(python: Path) -> None:
    """A port that nobody listens on, and a server that never answers."""
    begun = time.monotonic()
    said = run(python, "http://127.0.0.1:9/whl/cpu")
    assert said.count("\n") == 1
    assert "can't be reached: taking PyPI's PyTorch, with 4 GB of CUDA libraries" in said
    assert time.monotonic() - begun < 60
    assert installed(python) == ""
