"""Commands that are typed wrongly or find something else than they expect: a sentence, the exit code that the
README gives, and nothing is made."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from curation.errors import EnvironmentFault
from curation.execution.cluster.joining.connection import check_temp_folder, starts_here
from datasets_media import command, config_data, environment, said_by, write_config, write_photo

Said = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose input is empty and whose output is not there."""
    (tmp_path / "in").mkdir()
    data = {
        "name": "t",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"]},
    }
    return write_config(tmp_path / "c.yaml", data)


READING = [
    ("status",),
    ("report",),
    ("table", "--to", "TMP/t.csv"),
    ("explain", "x"),
    ("preview", "x"),
    ("label", "draw", "TMP/labels"),
]


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
@pytest.mark.parametrize("output", ["absent", "empty", "other"])
def test_folder_that_is_no_output_is_named_and_left_alone(
    config: Path, tmp_path: Path, capsys: Said, words: tuple[str, ...], output: str
) -> None:
    if output != "absent":
        (tmp_path / "out").mkdir()
    if output == "other":
        (tmp_path / "out/notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = tuple(word.replace("TMP", str(tmp_path)) for word in words)
    assert said_by(capsys, *words, "-c", config) == (
        2,
        f"ConfigError: {tmp_path}/out is no output of a run; `curation run` would make it one\n",
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["verify", "TMP/none"], "there is no such folder, or nothing is in it"),
        (["verify", "TMP/in"], "there is no such folder, or nothing is in it"),
        (["verify", "TMP/c.yaml"], "there is no such folder, or nothing is in it"),
        (["verify", "TMP"], "holds no shards; those of a run are in shards/NAME of its output"),
        (["verify"], "name either a folder of shards"),
        (["export", "emu3", "TMP", "--to", "TMP/e"], "holds no shards"),
        (["run"], "name a configuration by --config FILE, or an output"),
        (["run", "-c", "TMP/none.yaml"], "No such file or directory"),
        (["run", "-c", "TMP"], "Is a directory"),
        (["run", "-c", "TMP/c.yaml", "--output", "~nobody_here/x"], "whose home folder that is is not known"),
        (["run", "-c", "TMP/c.yaml", "--input", "$NO_SUCH_THING"], "variable NO_SUCH_THING is not set"),
        (["run", "-c", "TMP/c.yaml", "--output", "TMP/in"], "that is the output, too"),
        (["run", "-c", "TMP/c.yaml", "--output", ""], "'--output': an empty name"),
        (["run", "-c", "TMP/c.yaml", "--input", ""], "'--input': an empty name"),
        (["export", "emu3", "TMP", "--to", ""], "'--to': an empty name"),
        (["run", "-c", "TMP/c.yaml", "--output", "s3:/b/x"], "s3:/b/x: a URL begins with s3://"),
        (["run", "-c", "TMP/c.yaml", "--output", "S3://b/x"], "S3://b/x: a URL begins with s3://"),
        (["run", "-c", "TMP/c.yaml", "--output", "S3:b"], "S3:b: a URL begins with s3://"),
        (
            ["run", "-c", "TMP/c.yaml", "--output", "s3://b/x/../y"],
            "s3://b/x/../y: a folder of a bucket has no",
        ),
        (["run", "-c", "TMP/c.yaml", "--input", "s3://a b/x"], "s3://a b/x: no bucket has such a name"),
        (["verify", "gs:/b/x"], "gs:/b/x: a URL begins with gs://"),
        (["verify", "s3//b/x"], "s3//b/x: a URL begins with s3://"),
        (
            ["label", "draw", "s3://k:pw@b/x", "-c", "TMP/c.yaml"],
            "s3://***@b/x: this must be on this machine",
        ),
        (["run", "-c", "$NO_SUCH_THING"], "variable NO_SUCH_THING is not set"),
        (["run", "-c", "TMP/c.yaml", "extra", "https://me:pw@host"], "(extra https://***@host)"),
        (
            ["run", "-c", "TMP/c.yaml", "--input", "https://me:pw@host/x"],
            "https://***@host/x: storage of kind",
        ),
        (["stage", "resolutoin", "-c", "TMP/c.yaml"], "did you mean 'resolution'?"),
        (["label", "ask", "TMP", "--url", "nonsense", "--model", "m"], "url: string should match pattern"),
        (
            ["label", "ask", "TMP", "--url", "http://h", "--model", "m", "--api-key-env", "sk-1"],
            "api_key_env",
        ),
        (
            ["label", "ask", "TMP", "--url", "http://127.0.0.1:1", "--model", "m"],
            "cannot read TMP/labels.jsonl",
        ),
        (["label", "correct", "TMP", "TMP/none", "--by", "me"], "cannot read TMP/labels.jsonl"),
        (["label", "export", "TMP", "--to", "TMP/x.json"], "cannot read TMP/labels.jsonl"),
        (["preference", "a", "b", "--vocabulary", "TMP/none", "--to", "TMP/x.parquet"], "no file or folder"),
        (
            ["preference", "a", "b", "--vocabulary", "TMP", "--to", "TMP/x.parquet"],
            "cannot read the vocabulary TMP",
        ),
        (["preference", "a", "b", "--vocabulary", "TMP/empty", "--to", "TMP/x.parquet"], "it is empty"),
        (["preference", "a", "b", "--vocabulary", "TMP/c.yaml", "--to", "TMP/x.parquet"], "holds no ranks"),
        (["preference", "a", "b", "--vocabulary", "TMP/c.yaml", "--to", "TMP/x.csv"], "written as .parquet"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_misuse_ends_with_2_and_a_sentence(
    config: Path, tmp_path: Path, capsys: Said, words: list[str], problem: str
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    code, said = said_by(capsys, *(word.replace("TMP", str(tmp_path)) for word in words))
    assert (code, problem.replace("TMP", str(tmp_path)) in said) == (2, True), said
    assert "pw" not in said
    assert "sk-1" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_place_that_nothing_can_be_written_to_ends_with_3(config: Path, tmp_path: Path, capsys: Said) -> None:
    write_photo(tmp_path / "in/a.jpg", 1)
    for place in (config, config / "below", Path("/proc/curation")):
        code, said = said_by(capsys, "run", "-c", config, "--output", place)
        assert code == 3
        assert said.replace("output: ", "").startswith(f"StorageError: {place}")
    code, said = said_by(capsys, "demo", "--fetch-only", "--folder", config)
    assert (code, said) == (3, f"EnvironmentFault: cannot make {config}/input: Not a directory\n")


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "null", "\x00", '{"models": 5}', '{"last_work": {"steps": 3}}', "[" * 100_000]
)
def test_damaged_run_record_is_named(config: Path, tmp_path: Path, capsys: Said, record: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(record)
    for name in ("status", "run"):
        code, said = said_by(capsys, name, "-c", config)
        assert code == 1
        assert f"DamagedFileError: {tmp_path}/out/run.json is damaged: " in said
        assert "`curation gc --damaged` removes" in said
        assert said.count("\n") == 1


class TestTempFolder:
    @pytest.fixture(autouse=True)
    def unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("TMPDIR", "RAY_TMPDIR", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)

    def test_ends_with_3_before_any_work(
        self, config: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
        code, said = said_by(capsys, "run", "-c", config)
        assert code == 3
        assert f"TMPDIR={tmp_path}/xxx" in said
        assert "name a shorter folder by RAY_TMPDIR, such as RAY_TMPDIR=/tmp" in said
        assert not (tmp_path / "out").exists()
        # Then Ray is not held up by it, and the next thing is missing.
        monkeypatch.setenv("RAY_TMPDIR", "/tmp")
        assert said_by(capsys, "run", "-c", config)[0] == 2

    def test_room_is_what_ray_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The socket's name as in ray/_private/node.py, with Linux's longest process id, below our folder."""
        session = f"session_{'2026-01-01_00-00-00_000000'}_{2**22}"
        room = 107 - len(f"/ray-12345678/{session}/sockets/plasma_store")
        monkeypatch.setenv("TMPDIR", "/" + "x" * (room - 1))
        check_temp_folder()
        monkeypatch.setenv("TMPDIR", "/" + "x" * room)
        with pytest.raises(EnvironmentFault, match=f"room for {room} bytes"):
            check_temp_folder()
        monkeypatch.setenv("TMPDIR", "/" + "\N{SNOWMAN}" * (room // 3 + 1))
        with pytest.raises(EnvironmentFault):
            check_temp_folder()

    def test_is_of_no_matter_on_a_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert starts_here(None)
        assert not starts_here("127.0.0.1:6379")
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        assert not starts_here(None)


@pytest.mark.slow
def test_longest_temp_folder_that_is_let_through_works(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    """Ray itself starts there."""
    folder = Path("/tmp") / ("r" * (30 - len("/tmp/")))
    folder.mkdir(exist_ok=True)
    data = config_data(media, tmp_path / "out", vocabulary)
    data = {key: data[key] for key in ("name", "input", "output", "run")}
    config = write_config(tmp_path / "c.yaml", data | {"images": {"filters": ["resolution"]}})
    done = subprocess.run(
        command("run", "-c", config, "--limit", "2"),
        env=environment() | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("library", ["_pydantic_core", "pyarrow", "_raylet"])
def test_ctrl_c_during_start_up_ends_with_130(
    media: Path, vocabulary: Path, tmp_path: Path, library: str
) -> None:
    """While the settings are read, while libraries are loaded, and while Ray starts."""
    config = write_config(tmp_path / "c.yaml", config_data(media, tmp_path / "out", vocabulary))
    running = subprocess.Popen(
        command("run", "-c", config), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while library not in Path(f"/proc/{running.pid}/maps").read_text():
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    # A process that ends by the signal itself is 130 to its shell, too.
    assert running.returncode in (130, -signal.SIGINT), said.decode()
    assert b"Traceback" not in said


def test_shells_complete_commands_and_options(tmp_path: Path) -> None:
    """By click's protocol, as the line in the README sets it up."""

    def completed(*words: str) -> list[str]:
        asked = {"_CURATION_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["curation", *words])}
        done = subprocess.run(
            command(),
            cwd=tmp_path,
            env=environment() | asked | {"COMP_CWORD": str(len(words))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("sta") == ["stage", "status"]
    assert "--recompute" in completed("stage", "text", "--re")
    assert completed("label", "dr") == ["draw"]


def test_help_of_a_stage_lists_the_stages(capsys: Said) -> None:
    code, said = said_by(capsys, "stage", "--help")
    assert code == 0
    listed = " ".join(said.partition("Stages:")[2].split()).split(", ")
    assert {"aesthetic", "scenes", "captions", "tokens"} <= {*listed}


def test_damage_is_removed_from_an_output_without_its_configuration(
    config: Path, tmp_path: Path, capsys: Said
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{")
    code, said = said_by(capsys, "gc", "--damaged", "--output", tmp_path / "out", "--yes")
    assert code == 0
    assert "removed 1" in said
    assert said_by(capsys, "gc", "--output", tmp_path / "out")[0] == 2
