"""How jobs end that can't end well: refused, or with too many failures. A real head, which wants a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets_media import environment, write_config, write_photos
from heads import Head, ray_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

EXIT_CODE = (
    "import sys; from ray.job_submission import JobSubmissionClient; "
    "print(JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2]).driver_exit_code)"
)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head(token="-".join(["token", "of", "the", "tests"]), dashboard=True) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory: five photos, three of them cut off; and a configuration with relative paths."""
    folder = tmp_path_factory.mktemp("job")
    write_photos(folder / "in", 5, num_cut_off=3)
    data = {
        "name": "job",
        "input": ["in"],
        "output": "out",
        "images": {"filters": ["speaking_color"]},
        "stages": {"speaking_color": "fault_stages:SpeakingColor"},
        "run": {"workers": 1, "unit_images": 1, "max_failed_fraction": 0.5},
    }
    write_config(folder / "c.yaml", data)
    return folder


def submitted(head: Head, folder: Path, name: str, *arguments: object) -> tuple[int, int, list[str]]:
    """Exit code of `ray job submit`, that of the run in the job's record, and the job's log, line by line."""
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    variables = {"PATH": path, "PYTHONPATH": environment()["PYTHONPATH"]}
    env = environment() | head.environment
    words = [ray_command(), "job", "submit", "--address", head.dashboard, "--submission-id", name]
    words += ["--working-dir", str(folder), "--runtime-env-json", json.dumps({"env_vars": variables}), "--"]
    words += ["python", "-m", "curation", *map(str, arguments)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    asked = [sys.executable, "-c", EXIT_CODE, head.dashboard, name]
    code = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout
    logs = [ray_command(), "job", "logs", "--address", head.dashboard, name]
    log = subprocess.run(logs, env=env, capture_output=True, text=True, check=True).stdout
    return done.returncode, int(code), log.splitlines()


def test_relative_output_is_refused(head: Head, folder: Path) -> None:
    code, code_of_run, log = submitted(head, folder, "relative", "run", "-c", "c.yaml")
    assert (code, code_of_run) == (1, 2)
    assert "ConfigError: output: out would lie in the job's working directory, which Ray removes; " in log[-1]
    assert not [line for line in log if "Traceback" in line]


def test_last_lines_name_what_failed(head: Head, folder: Path, tmp_path: Path) -> None:
    """Three of five photos are cut off, and half may: the run did its work, and ends with 1."""
    words = ("run", "-c", "c.yaml", "--output", tmp_path / "out", "--worker-logs")
    code, code_of_run, log = submitted(head, folder, "failing", *words)
    assert (code, code_of_run) == (1, 1), log
    end = [line for line in log if line.startswith(("failed ", "60.0% failed"))]
    assert end == log[-4:]
    assert [line.split()[1:5:2] for line in end[:3]] == [
        [f"in/p{number}.jpg", "images.speaking_color:"] for number in range(3)
    ]
    assert all("DecodeError: " in line for line in end[:3])
    assert end[3] == "60.0% failed, more than run.max_failed_fraction: 0.5"
    assert [line for line in log if line.startswith("(Worker pid=") and "looking at in/p3.jpg" in line]
    assert "measuring and filtering: 5 sources" in log
