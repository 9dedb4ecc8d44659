"""What people see: names and captions as they are, never as markup, and no secret."""

from __future__ import annotations

import ast
import csv
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from curation.cli.console import console
from curation.errors.visible import on_one_line, visible
from curation.execution.progress import ConsoleProgress
from curation.report.tables.flatfile import write_table
from datasets_media import ROOT, Bench, command, environment, said_by, write_config, write_photo

TALK, RED, BROKEN = "talk [dQw4w9WgXcQ].jpg", "z[/red].jpg", "cut [bold]off :smile:.jpg"
LINES = "two\nlines.jpg"
"""A video site's id in brackets, and names that rich would take for tags, one of them closing nothing."""


def write_odd_media(folder: Path) -> None:
    (folder / RED).parent.mkdir(parents=True)
    for seed, name in enumerate((TALK, RED, BROKEN)):
        write_photo(folder / name, seed)
    (folder / BROKEN).write_bytes((folder / BROKEN).read_bytes()[:500])
    (folder / RED).with_suffix(".txt").write_text("a [/caption] with [red]tags \u4e2d", "utf-8")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an output over files with odd names."""
    folder = tmp_path_factory.mktemp("odd")
    write_odd_media(folder / "in")
    write_photo(folder / "in" / LINES, 7)
    data: dict[str, Any] = {
        "name": "odd",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "images": {"filters": ["resolution", "phash"], "resolution": {"min_width": 64, "min_height": 64}},
    }
    Bench(data).run()
    return write_config(folder / "c.yaml", data)


def test_status_shows_names_as_they_are(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = said_by(capsys, "status", "-c", odd)
    assert code == 0
    assert f"failed {odd.parent}/in/{BROKEN} at probe: ProbeError: " in said


@pytest.mark.parametrize("name", [TALK, RED, BROKEN])
def test_explain_shows_names_as_they_are(odd: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, said = said_by(capsys, "explain", name.rpartition("/")[2], "-c", odd)
    assert code == 0
    assert said.startswith(f"{odd.parent}/in/{name}  source ")
    if name == RED:
        assert "  metadata caption a [/caption] with [red]tags" in said


@pytest.mark.parametrize("words", [("sample", "--n", "9"), ("explain", LINES), ("retract", "--dry-run")])
def test_a_name_with_a_line_break_stays_on_its_line(
    odd: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    source = ("--source", f"{odd.parent}/in/{LINES}") if words[0] == "retract" else ()
    code, said = said_by(capsys, *words, *source, "-c", odd)
    assert code == 0
    assert f"{odd.parent}/in/two\\nlines.jpg" in said
    assert LINES not in said


def test_what_is_like_a_name_stays_on_its_line(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = f"{odd.parent}/in/two\nline.jpg"
    code, said = said_by(capsys, "retract", "--dry-run", "--source", wanted, "-c", odd)
    assert code == 2
    assert f"{odd.parent}/in/two\\nline.jpg (did you mean {odd.parent}/in/two\\nlines.jpg" in said


def test_errors_show_names_as_they_are(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said_by(capsys, "explain", "[/nobody]", "-c", odd) == (
        2,
        "ConfigError: there is no source or sample '[/nobody]' in this output\n",
    )


def test_watcher_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress(console())
    progress.say(f"{RED} killed its worker")
    progress.warn(f"{BROKEN} :smile:")
    assert capsys.readouterr().out == f"{RED} killed its worker\n{BROKEN} :smile:\n"


@pytest.mark.slow
def test_run_shows_names_as_they_are(tmp_path: Path) -> None:
    write_odd_media(tmp_path / "in")
    data = {
        "name": "odd",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["phash"]},
        "run": {"workers": 1, "max_failed_fraction": 1.0},
    }
    config = write_config(tmp_path / "c.yaml", data)
    done = subprocess.run(command("run", "-c", config), env=environment(), capture_output=True, text=True)
    assert f"failed {tmp_path}/in/{BROKEN} at probe" in done.stdout
    assert done.stderr == ""


def test_control_characters_are_spelled_out() -> None:
    assert on_one_line("a\nb\x1b") == "a\\nb\\x1b"
    assert visible("a\u202egnp.exe\u2066 \u200fb") == "a\\u202egnp.exe\\u2066 \u200fb"
    assert visible("a\x1b[31mb\x07\r\x9b\tc\nd") == "a\\x1b[31mb\\x07\\x0d\\x9b\tc\nd"


def test_tables_on_the_console_read_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table(title="[/title]", box=None)
    table.add_column("[bold]")
    table.add_row("z[/red]\x1b[31m:smile:")
    console().print(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[/title]",
        "[bold]",
        "z[/red]\\x1b[31m:smile:",
    ]


def test_there_is_one_console() -> None:
    """Another one would read markup again."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for package in ("curation", "stages", "captioner", "tokenize_shards")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console")
    }
    assert makers == {"curation/cli/console.py"}


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "\u4e2d".encode()), ("ascii", b"\\u4e2d"), ("latin-1", b"\\u4e2d")]
)
def test_text_that_the_terminal_cannot_show_stops_nothing(odd: Path, encoding: str, shown: bytes) -> None:
    done = subprocess.run(
        command("explain", "red].jpg", "-c", odd),
        env=environment() | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert b"metadata caption a [/caption] with [red]tags " + shown in done.stdout


@pytest.mark.parametrize("words", [["status"], ["table", "--to", "t.csv"]], ids=lambda words: words[0])
def test_reader_that_has_had_enough_is_no_fault(odd: Path, words: list[str]) -> None:
    """As with `curation status | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*words, "-c", odd),
        env=environment() | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        cwd=odd.parent,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


class TestTable:
    def test_csv_holds_what_parquet_holds(
        self, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("t.csv", "t.parquet"):
            assert said_by(capsys, "table", "-c", odd, "--to", tmp_path / name)[0] == 0
        whole, flat = pq.read_table(tmp_path / "t.parquet"), pcsv.read_csv(tmp_path / "t.csv")
        assert flat.column_names == whole.column_names
        assert flat["uri"].to_pylist() == whole["uri"].to_pylist()
        assert flat["width"].to_pylist() == whole["width"].to_pylist()
        hashes = [value and value.hex() for value in whole["phash"].to_pylist()]
        assert [value or None for value in flat["phash"].cast("string").to_pylist()] == hashes

    def test_what_csv_has_not_becomes_text(self, tmp_path: Path) -> None:
        columns = {
            "list": pa.array([["a", 'b"'], None, []], pa.list_(pa.string())),
            "struct": pa.array([{"x": b"\x01"}, None, {"x": None}], pa.struct([("x", pa.binary())])),
            "bytes": pa.array([b"\xff\x00", None, b""], pa.binary()),
            "view": pa.array([b"\xff\x00", None, b""], pa.binary_view()),
            "fixed": pa.array([b"\xab\xcd", None, b"\x00\x01"], pa.binary(2)),
            "text": pa.array(["a,\n", None, ""]).dictionary_encode(),
            "text_view": pa.array(["x", None, ""], pa.string_view()),
            "number": pa.array([1.5, None, 0.25], pa.float32()),
        }
        table = pa.table(columns)
        parts = [table[:2], table[:0], table[2:]]
        assert write_table(table.schema, parts, str(tmp_path / "t.csv"), "csv") == 3
        with (tmp_path / "t.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [
            list(columns),
            ['["a", "b\\""]', '{"x": "01"}', "ff00", "ff00", "abcd", "a,\n", "x", "1.5"],
            ["", "", "", "", "", "", "", ""],
            ["[]", '{"x": null}', "", "", "0001", "", "", "0.25"],
        ]

    @pytest.mark.parametrize("name", ["t.xls", "t", "csv", "t.parquet.gz"])
    def test_other_formats_are_refused_before_anything_is_read(
        self, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = write_config(tmp_path / "c.yaml", {})
        code, said = said_by(capsys, "table", "-c", config, "--to", tmp_path / name)
        assert code == 2
        assert f"{name}: a table is written as .parquet or .csv" in said
        assert not (tmp_path / name).exists()
