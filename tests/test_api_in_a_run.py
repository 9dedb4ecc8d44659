"""`curation.run` as people call it: in a notebook, in a script, and stopped by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets_media import config_data, environment, write_config

pytestmark = pytest.mark.slow

CELLS = [
    "import curation\nrun = curation.run('c.yaml')\nassert run.ok and run.did_work\nrun.outcomes['images']",
    "output = curation.open('out')\n"
    "(*_, clip) = (row['sample_id'] for row in output.samples().to_pylist() if row['kind'] == 'clip')\n"
    "output.sample(clip)['source']['uri'].rpartition('/')[2]",
    "output.picture(clip)[:3]",
    "shards = output.shards\nlen(shards.manifest['shards']), len(list(shards.dataset(context=2048))) > 0",
    "output",
]
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in {cells!r}])
nbclient.NotebookClient(book, timeout=240, kernel_name="python3").execute()
nbformat.write(book, "done.ipynb")
"""
SCRIPT = """
import json
import curation

LOW = {"images.aesthetic.min_score": 0.0}
try:
    curation.run("c.yaml", output="other", set={"images.asthetic.min_score": 0.0})
except curation.ConfigError as error:
    problem = str(error)
first = curation.run("c.yaml", output="other", set=LOW, only="resolution")
second = curation.run(output="other")
print(json.dumps([problem, first.did_work, first.paths, second.did_work, second.outcomes["images"]]))
"""
INTERRUPTED = """
import curation

try:
    curation.run("c.yaml", output="stopped")
except KeyboardInterrupt:
    print("stopped by hand")
"""


@pytest.fixture(scope="module")
def project(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration."""
    folder = tmp_path_factory.mktemp("project")
    write_config(folder / "c.yaml", config_data(media, Path("out"), vocabulary))
    return folder


def python(project: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def test_notebook_runs_from_top_to_bottom(project: Path) -> None:
    done = python(project, EXECUTE.format(cells=CELLS))
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((project / "done.ipynb").read_text())["cells"]
    shown = [cell["outputs"] for cell in cells]
    # Ray, and tqdm, which huggingface_hub imports, ask for ipywidgets in a notebook that has none.
    printed = [
        item for outputs in shown for item in outputs if "ipywidgets" not in "".join(item.get("text", ""))
    ]
    assert {item["output_type"] for item in printed} == {"execute_result"}, printed
    texts = ["".join(item["data"]["text/plain"]) for item in printed]
    counts, name, jpeg, shards, folder = texts
    # As in tests/test_cli.py: of six photos one is cut off, one is small, one is gray.
    assert "'kept': 3, 'rejected': 2, 'failed': 1, 'pending': 0" in counts
    assert name == "'two_scenes.mp4'"
    assert jpeg == r"b'\xff\xd8\xff'"
    assert shards.endswith(", True)")
    assert folder == "<curation.Output out>"


def test_script_runs_it_twice_and_nothing_is_printed(project: Path) -> None:
    """First one stage; then all, by what the output itself says: with no threshold four photos are kept."""
    done = python(project, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    problem, first_worked, first_paths, second_worked, images = json.loads(done.stdout)
    assert "images.asthetic: unknown; did you mean 'aesthetic'?" in problem
    assert first_worked
    assert second_worked
    assert "shards" not in first_paths
    assert images["kept"] == 4


def test_ctrl_c_is_a_keyboard_interrupt(project: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    started = subprocess.Popen(
        command, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    record = project / "stopped/run.json"
    while not record.exists() and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    said, errors = started.communicate(timeout=120)
    assert (started.returncode, said) == (0, "stopped by hand\n"), errors
    assert "Traceback" not in errors
