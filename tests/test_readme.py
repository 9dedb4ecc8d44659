"""Every command and snippet of the README works as written, after the install that it names.

They run one after another in a folder like the demo's, with generated media in place of downloaded ones, and
with what the README leaves to its reader (`CANDIDATES`, `URL`, ...) filled in.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_media import ROOT, TESTS, command, environment, write_photo, write_video, write_vocabulary
from hub_stand_in import WRITE_TOKEN, HubStandIn
from loopback import LoopbackServer, QuietHandler

pytestmark = pytest.mark.slow

PAGES = [
    *(f"docs/{name}.md" for name in ("commands", "captions", "outputs", "inputs", "stages")),
    "README.md",
]
README = "\n".join((ROOT / page).read_text() for page in PAGES)
"""With the pages of the guide that show commands on the demo's output, in an order in which they work."""
COMMANDS = re.findall(
    r"`(curation [^\s`]+ [^`\n]+)`|^(curation .* demo/output.*|curation run .*demo.yaml.*)$", README, re.M
)
COMMANDS = [marked or line for marked, line in COMMANDS]
"""Those with arguments; others are mentioned by name. Of blocks, those on the demo's output."""
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


class Captioner(QuietHandler):
    """A strong model that describes every clip alike."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "Colors drift to the right."}
        self.send(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    running = LoopbackServer(Captioner, "/v1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `curation demo --fetch-only`."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", folder / "configs")
    media = folder / "demo/input"
    media.mkdir(parents=True)
    for seed in range(8):
        write_photo(media / f"photo{seed}.jpg", seed, size=(640, 480))
    write_video(media / "bikes.mp4", [(20, seed) for seed in range(1, 9)], size=128)
    write_vocabulary(folder / "demo/qwen.tiktoken")
    (package,) = importlib.util.find_spec("rapidocr_onnxruntime").submodule_search_locations
    for path in (Path(package) / "models").glob("ch_PP-OCRv4_*_infer.onnx"):
        shutil.copy(path, folder / "demo")
    _write_candidates(folder)
    return folder


def _write_candidates(folder: Path) -> None:
    codes = np.arange(16, dtype="<u2").tobytes()
    rows = [
        {"prompt_id": "p", "candidate_id": name, "prompt": "a red bicycle", "codes": codes}
        | {"grid_t": 1, "grid_h": 4, "grid_w": 4}
        for name in "abc"
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "candidates.parquet")
    votes = [
        {"prompt_id": "p", "candidate_id": name, "voter": voter, "score": score}
        for voter in ("ann", "bob", "cid")
        for name, score in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    (folder / "votes.jsonl").write_text("".join(f"{json.dumps(vote)}\n" for vote in votes))


def filled_in(text: str, server: LoopbackServer) -> list[str]:
    """The words of a command, with the README's capitals replaced by what stands for them here."""
    stand_for = {
        "CANDIDATES": "candidates.parquet",
        "VOTES": "votes.jsonl",
        "CONFIG": "configs/demo.yaml",
        "FOLDER": "demo/labels",
        "EDITED": "demo/labels/labels.jsonl",
        "FILE.json": "demo/training.json",
        "URL": server.url,
        "MODEL": "strong-model",
        "NAME": "somebody",
    }
    return [stand_for.get(word, word) for word in shlex.split(text)]


def in_project(project: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, TESTS)))
    offline = {"PYTHONPATH": path, "HF_HOME": str(project / "hub"), "XDG_CACHE_HOME": str(project / "cache")}
    return subprocess.run(
        words, cwd=project, env=environment() | offline, capture_output=True, text=True, check=False
    )


def test_commands_work_as_written(
    project: Path, server: LoopbackServer, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    assert len(COMMANDS) >= 15
    for text in COMMANDS:
        done = in_project(project, command(*filled_in(text, server)[1:]))
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert (project / "demo/table.csv").read_text().startswith('"level","sample_id"')
    assert json.loads((project / "demo/training.json").read_text())
    assert "manifest.json" in hub.files("ORG/NAME")


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_work_as_written(project: Path, number: int) -> None:
    """They import nothing that the base install does not bring."""
    block = "import sys\nsys.modules['datasets'] = None\n"
    done = in_project(project, [sys.executable, "-c", block + SNIPPETS[number]])
    assert done.returncode == 0, done.stderr


def test_emu3_asks_for_what_the_readme_says(project: Path) -> None:
    (text,) = re.findall(r"```\n(curation run --config configs/emu3.*)\n```", README)
    words = ["demo/input" if word == "/data/raw" else word for word in shlex.split(text)]
    words = ["demo/curated" if word == "/data/curated" else word for word in words]
    # The score's head comes from the web, and is here.
    head = (
        project
        / "cache/curation"
        / re.findall(r"head_sha256: (\w+)", (ROOT / "configs/emu3.yaml").read_text())[0]
    )
    head.parent.mkdir(parents=True, exist_ok=True)  # reports keep their scripts there, too
    head.write_bytes(b"")
    done = in_project(project, command(*words[1:]))
    assert done.returncode == 3, done.stderr
    asked = set(re.findall(r" by: (.+)$", done.stderr, re.MULTILINE))
    told = {line for line in SHELL if line.startswith(("pip", "hf"))}
    here = {line for line in told - asked if _is_here(line)}
    assert told - here == asked


def _is_here(line: str) -> bool:
    name = re.split(r"[=\[]", shlex.split(line)[-1])[0].replace("-", "_")
    return line.startswith("pip") and importlib.util.find_spec(name) is not None
