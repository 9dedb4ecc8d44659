"""The way to a cluster of the README and docs/cluster.md, word for word: a bucket, a head node, jobs.

Only what is installed already is not installed again, and ports and Ray's folder are free ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buckets import free_ports
from curation.execution.cluster.joining.supervisor import kill_all
from datasets_media import ROOT, TESTS, write_config, write_photo, write_video, write_vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
PORTS = ("8333", "6379", "8265", "8266", "20001")


class Shell:
    """One shell that all blocks run in, as a reader's."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """What a block prints; every line of it must go well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"set -e\n{block}\nset +e\necho END-OF-BLOCK\n")
        self._process.stdin.flush()
        said = []
        for line in self._process.stdout:
            if line == "END-OF-BLOCK\n":
                return "".join(said)
            said.append(line)
        raise AssertionError("".join(said))

    def close(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `make demo`: small media and a vocabulary in place of those that are downloaded."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(sys.prefix)
    media = folder / "demo/input"
    media.mkdir(parents=True)
    for seed in range(8):
        write_photo(media / f"photo {seed}#.jpg", seed, size=(640, 480))
    write_video(media / "clip.mp4", [(20, 1), (20, 2)], size=128)
    write_vocabulary(folder / "demo/bytes.tiktoken")
    (folder / "configs").mkdir()
    data = {
        "name": "demo",
        "input": ["demo/input"],
        "output": "demo/output",
        "stand_ins": "allow",
        "images": {"filters": ["color"]},
        "captions": {"engine": "stand-in"},
        "tokens": {"weights": "stand-in", "area": 16384, "fps": 4, "max_frames": 4},
        "shards": {"vocabulary": "demo/bytes.tiktoken"},
        "run": {"unit_images": 1},
    }
    write_config(folder / "configs/demo.yaml", data)
    shutil.copy(ROOT / ".gitignore", folder)  # Ray leaves out of a job what it names
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> Iterator[list[str]]:
    """What each block printed."""
    ray_folder = Path(f"/tmp/rj-{os.getpid()}")
    replaced = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    replaced |= {"/tmp/curation-ray": str(ray_folder), "pip install": "true"}
    places = os.pathsep.join(map(str, (ROOT, TESTS)))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    shell = Shell(project, clean | {"PATH": "/usr/bin:/bin", "PYTHONPATH": places, "HF_HUB_OFFLINE": "1"})
    found: list[str] = []
    try:
        for block in BLOCKS:
            for word, value in replaced.items():
                block = block.replace(word, value)
            found.append(shell.run(block))
        yield found
    finally:
        shell.close()
        for name in ("ray", "s3"):
            pid_file = project / f"demo/{name}.pid"
            if pid_file.exists():
                end(int(pid_file.read_text()))
        while kill_all(str(ray_folder), spared={os.getpid()}):
            time.sleep(0.1)
        shutil.rmtree(ray_folder, ignore_errors=True)


def end(pid: int) -> None:
    """End a process that a block started, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_sequence_of_the_readme_works_as_written(said: list[str]) -> None:
    assert len(BLOCKS) == 6
    _, _, job, code, resumed, _ = said
    assert "Job 'first' succeeded" in job
    assert "shards: s3://media/curated/shards/demo" in job
    assert re.search(r"adding to kept samples: \d+ of \d+ sources in ", job)
    assert "(raylet)" not in job
    assert code.strip().splitlines()[-1] == "0"
    assert "Job 'second' was stopped" in resumed
    stopped, _, _ = resumed.partition("Job 'third' succeeded")
    assert '"exit_code": 143' in stopped  # the last line of the log: it had time to end in order
    assert "Job 'third' succeeded" in resumed
    outcomes = [line.split() for line in resumed.splitlines() if line.startswith("images ")]
    assert outcomes[-1] == ["images", "8", "8", "0", "0", "0"]
