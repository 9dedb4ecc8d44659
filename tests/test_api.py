"""`curation.open`: what an output tells from Python, against what the commands say of the same output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation
from curation.pipeline import Pipeline
from datasets_media import ROOT, said_by
from random_ledgers import a_pipeline, random_ledger, write_record

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """A pipeline, and an output as a run would have left it that was stopped anywhere."""
    folder = tmp_path_factory.mktemp("api")
    pipeline = a_pipeline(folder)
    write_record(random_ledger(pipeline, folder / "out", 11, contradictions=False), pipeline)
    return pipeline, folder / "out"


@pytest.fixture
def output(made: tuple[Pipeline, Path]) -> curation.Output:
    return curation.open(made[1])


def test_table_is_the_one_that_the_command_writes(
    output: curation.Output, tmp_path: Path, capsys: Said
) -> None:
    said_by(capsys, "table", "--output", output.folder, "--to", tmp_path / "t.parquet")
    expected = pq.read_table(tmp_path / "t.parquet")
    assert output.table().equals(expected)
    levels = expected["level"].to_pylist()
    assert output.sources().num_rows == levels.count("source") > 0
    assert output.samples().num_rows == levels.count("sample") + levels.count("window") > 0
    stream = output.stream()
    assert isinstance(stream, pa.RecordBatchReader)
    assert sum(batch.num_rows for batch in stream) == expected.num_rows


def test_summary_is_the_one_that_the_command_prints(output: curation.Output, capsys: Said) -> None:
    _, said = said_by(capsys, "status", "--output", output.folder)
    for kind, counts in output.summary.outcome_totals().items():
        line = next(line for line in said.splitlines() if line.startswith(kind))
        assert line.removeprefix(kind).split() == [str(number) for number in counts.values()]


def test_settings_change_what_is_kept_and_nothing_that_was_measured(output: curation.Output) -> None:
    """No score is below 0, so nothing is rejected by it any more."""
    loose = curation.open(output.folder, set={"images.aesthetic.min_score": 0.0})
    before, after = (one.samples().to_pylist() for one in (output, loose))
    assert [row["aesthetic_score"] for row in before] == [row["aesthetic_score"] for row in after]
    assert any("aesthetic" in (row["reason"] or "") for row in before)
    assert not any("aesthetic_score_below_min" in (row["reason"] or "") for row in after)
    assert loose.config["images"]["aesthetic"]["min_score"] == 0.0
    assert output.config["images"]["aesthetic"]["min_score"] == 9.9


def test_sample_tells_what_the_table_tells(output: curation.Output) -> None:
    """Every sample and window of the table, except those whose sources have the same name twice."""
    rows = [row for row in output.samples().to_pylist() if row["uri"] != "twice.jpg"]
    for row in rows[::5]:
        facts = output.sample(row["sample_id"])
        assert (facts["outcome"], facts["reason"]) == (row["outcome"], row["reason"])
        assert (facts["start_s"], facts["parent_id"]) == (row["start_s"] or 0.0, row["parent_id"])
        assert facts["source"]["uri"] == row["uri"]
        for values in facts["steps"].values():
            if "error" not in values and "colorfulness" in values:
                assert values["colorfulness"] == row["colorfulness"]
        of_source = output.explain(facts["source"]["source_id"])
        ids = {sample["sample_id"] for sample in of_source["samples"]}
        assert row["sample_id"] in ids or row["parent_id"] in ids
    assert {row["level"] for row in rows[::5]} == {"sample", "window"}


def test_report_is_written_where_it_says(made: tuple[Pipeline, Path], output: curation.Output) -> None:
    assert output.report() == str(made[1] / "report/index.html")
    assert "<main>" in (made[1] / "report/index.html").read_text()


def test_what_is_not_there_is_told_by_the_errors_of_the_package(
    output: curation.Output, tmp_path: Path
) -> None:
    with pytest.raises(curation.ConfigError, match="is no output of a run"):
        curation.open(tmp_path / "none")
    with pytest.raises(curation.ConfigError, match="no source or sample 'nobody'"):
        output.sample("nobody")
    with pytest.raises(curation.ConfigError, match="is a source"):
        output.sample(output.sources()["source_id"][0].as_py())
    with pytest.raises(curation.ConfigError, match="has no shards"):
        _ = output.shards
    with pytest.raises(curation.ConfigError, match=r"images\.asthetic: unknown; did you mean 'aesthetic'"):
        curation.open(output.folder, set={"images.asthetic.min_score": 1.0})
    with pytest.raises(curation.ConfigError, match="name a configuration, or an output"):
        curation.run()
    with pytest.raises(curation.ConfigError, match="name it"):
        curation.run(output=output.folder, recompute=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(curation.DamagedFileError):
        curation.open(tmp_path)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_takes_up_nothing_is_refused(output: curation.Output, limit: int) -> None:
    """A slice to -1 would leave out the last source without a word."""
    with pytest.raises(curation.ConfigError, match="limit: at least one source"):
        curation.run(output=output.folder, limit=limit)


def test_every_name_is_there_and_importing_the_package_imports_nothing() -> None:
    assert {*curation.__all__} <= {*dir(curation)}
    for name in curation.__all__:
        assert getattr(curation, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = curation.opne  # type: ignore[attr-defined]
    code = (
        "import sys; before = {*sys.modules}; import curation;"
        "print(*sorted({name.partition('.')[0] for name in {*sys.modules} - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} - {*sys.stdlib_module_names} == {"curation"}


def test_types_are_there_for_those_who_check(tmp_path: Path) -> None:
    """As a user's own code is checked, with and without a mistake in it."""
    good = tmp_path / "good.py"
    good.write_text(
        "import curation\n"
        "import pyarrow as pa\n"
        "run = curation.run('c.yaml', output='out', set={'run.workers': 2})\n"
        "number: int = run.outcomes['images']['kept']\n"
        "output: curation.Output = curation.open('out')\n"
        "text: str = output.report()\n"
        "try:\n    output.sample('x')\n"
        "except curation.ConfigError as error:\n    code: int = error.exit_code\n"
    )
    bad = tmp_path / "bad.py"
    bad.write_text("import curation\nrun: int = curation.run('c.yaml')\ncuration.open(3)\n")
    # With the settings and the cache of `make check`, so that only these two files are looked at.
    command = [sys.executable, "-m", "mypy", good, bad]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "good.py" not in said
    assert 'has type "Run", variable has type "int"' in said
    assert 'incompatible type "int"; expected "str | Path"' in said
