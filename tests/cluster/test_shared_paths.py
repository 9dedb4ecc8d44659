"""Folders that not every node of a cluster sees, and outputs that would go with a job.

The second node has mounts of its own, in which a folder is empty: as on a machine that has not mounted it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from curation.cli.app import cli
from curation.errors import ConfigError
from curation.execution.cluster.joining.credentials import environment_hook
from curation.execution.cluster.joining.jobs import check_output_lasts
from curation.execution.cluster.joining.shared import SharedFolders
from datasets_media import command, environment, write_config, write_photo
from heads import Head

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for jobs; its name and content are as `ray job submit` of Ray 2.60 gives them."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Four photos, each a unit that is worked on until there is a file `go`."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        write_photo(tmp_path / f"in/p{number:02}.jpg", number)
    data = {
        "name": "shared",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["waiting_color"]},
        "stages": {"waiting_color": "fault_stages:WaitingColor"},
        "run": {"workers": 2, "unit_images": 1},
    }
    return write_config(tmp_path / "c.yaml", data)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    places = environment()["PYTHONPATH"]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = places  # for the nodes' processes
    try:
        with Head(num_cpus=1) as running:
            yield running
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def run(config: Path, head: Head, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "-c", config, "--address", head.address),
        env=environment() | head.environment | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["in", "out"])
def test_node_that_does_not_see_a_folder_is_named_at_start(
    config: Path, head: Head, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    with head.joined(name="lonely", hidden=[tmp_path / name]), run(config, head) as going:
        said, _ = going.communicate(timeout=200)
    assert going.returncode == 3, said
    assert f"not every node of the cluster sees {tmp_path}/{name}: lonely does not; name a bucket" in said
    assert not list((tmp_path / "out").glob("ledger/*/*/*"))
    assert not list((tmp_path / "out").glob(".writing-*"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_node_that_joins_later_is_asked_before_it_works(config: Path, head: Head, tmp_path: Path) -> None:
    """The second worker has no CPU until then."""
    with run(config, head) as going:
        assert going.stdout is not None
        while not going.stdout.readline().startswith("measuring and filtering: 4 sources"):
            assert going.poll() is None
        with head.joined(name="late", hidden=[tmp_path / "in"]):
            said, _ = going.communicate(timeout=200)
    assert going.returncode == 3, said
    assert f"not every node of the cluster sees {tmp_path}/in: " in said
    assert "failed" not in said


def test_folder_is_known_by_a_file_and_not_by_its_name(tmp_path: Path) -> None:
    files = {str(tmp_path / "in"): tuple(str(tmp_path / f"in/{name}") for name in "ab")}
    shared = SharedFolders(str(tmp_path / "out"), files)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    assert shared.unseen() == (str(tmp_path / "in"), str(tmp_path / "out"))
    (tmp_path / "in/b").touch()  # a was removed since it was listed
    with shared.marked():
        assert shared.unseen() == ()
    assert list((tmp_path / "out").iterdir()) == []


def test_output_in_the_folder_of_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside, outside = str(tmp_path / "out"), str(tmp_path.parent / "out")
    for output in ("out", "./out", inside, outside, "s3://bucket/out"):
        check_output_lasts(output)
    monkeypatch.setenv(JOB, json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}))
    for output in (outside, "s3://bucket/out", f"file://{outside}"):
        check_output_lasts(output)
    for output in ("out", "../out", inside, "file://out", f"file://{inside}"):
        with pytest.raises(ConfigError, match="job's working directory, which Ray removes"):
            check_output_lasts(output)
    monkeypatch.setenv(JOB, json.dumps({"metadata": {}}))
    check_output_lasts(inside)
    with pytest.raises(ConfigError):
        check_output_lasts("out")


def target_options() -> Iterator[tuple[str, click.Parameter]]:
    """Command and option, for all that write where `--to` says."""
    context = click.Context(cli)
    waiting: list[tuple[str, click.Command]] = [("", cli)]
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, click.Group):
            waiting += [
                (f"{name} {inner}".strip(), found)
                for inner in command.list_commands(context)
                if (found := command.get_command(context, inner)) is not None
            ]
        yield from ((name, option) for option in command.params if "--to" in option.opts)


@pytest.mark.parametrize(("name", "option"), [*target_options()], ids=lambda value: str(value))
def test_nothing_else_is_written_into_the_folder_of_a_job(
    name: str, option: click.Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table or an export would be gone with the job, which then had said that all went well."""
    context = click.Context(cli)
    value = ("out.csv",) if option.multiple else "out.csv"
    assert option.type_cast_value(context, value)
    monkeypatch.setenv(JOB, json.dumps({"metadata": {}}))
    with pytest.raises(click.BadParameter, match="job's working directory, which Ray removes"):
        option.type_cast_value(context, value)


def test_commands_that_write_are_found() -> None:
    assert {name for name, _ in target_options()} >= {"export", "label export", "plan", "sweep", "table"}


def test_workers_get_the_credentials_of_a_run_that_joins_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("AWS_", "AZURE_", "GOOGLE_", "HF_", "CURATION_STORAGE_")
    for name in [name for name in os.environ if name.startswith(given)]:
        monkeypatch.delenv(name)
    assert environment_hook() is None
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/of-this-machine")
    monkeypatch.setenv("HF_HOME", "/of/this/machine")
    assert environment_hook() is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "run")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    hook = environment_hook()
    assert hook is not None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "node")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the node's key")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    hook()
    names = ("AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME", "AWS_SESSION_TOKEN")
    assert [os.environ.get(name) for name in names] == ["run", "account", None]
    assert "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" not in os.environ
    monkeypatch.setenv(JOB, "{}")
    assert environment_hook() is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_that_joins_a_cluster_reaches_its_bucket_and_shows_no_secret(
    config: Path, head: Head, bucket: str
) -> None:
    """The head was started without these variables; what Ray keeps of the job does not hold them."""
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    where = ("--address", head.address, "--output", f"{bucket}/out", "--set", "images.filters=[color]")
    done = subprocess.run(
        command("run", "-c", config, *where),
        env=environment() | head.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ask = (
        "import sys; from ray._raylet import GcsClient; "
        "jobs = GcsClient(address=sys.argv[1]).get_all_job_info(); "
        "print(len(jobs), any(sys.argv[2] in str(job) for job in jobs.values()))"
    )
    asked = subprocess.run(
        [*command()[:1], "-c", ask, head.address, secret],
        env=os.environ | head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    number, is_shown = asked.stdout.split()
    assert int(number) >= 1
    assert is_shown == "False"
