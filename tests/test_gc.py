"""`curation gc` and `curation compact`: what goes, what stays, and that a run finds all that stays."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from curation.errors import ConfigError, StorageError
from curation.ingest.listing import list_inputs
from curation.storage import open_storage
from datasets_media import Bench, contents, curation, said_by, write_config, write_photo


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Six photos, two of them in a tar, measured by one configuration."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(6):
        write_photo(folder / f"{seed}.jpg", seed)
    with tarfile.open(folder / "some.tar", "w") as archive:
        for seed in (4, 5):
            archive.add(folder / f"{seed}.jpg", f"{seed}.jpg")
            (folder / f"{seed}.jpg").unlink()
    bench = Bench(data_of(tmp_path))
    bench.run()
    return bench


def data_of(tmp_path: Path, min_width: int = 16, **thumbnail: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {
            "filters": ["resolution", "thumbnail"],
            "resolution": {"min_width": min_width, "min_height": 16},
            "thumbnail": thumbnail,
        },
        "run": {"unit_images": 2},
    }


def config_of(tmp_path: Path, name: str, **settings: Any) -> Path:
    return write_config(tmp_path / name, data_of(tmp_path, **settings))


def test_what_another_configuration_measured_goes_and_the_rest_stays(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used, before = config_of(tmp_path, "used.yaml"), contents(tmp_path / "out")
    other = Bench(data_of(tmp_path, short_side=32))
    other.run()
    shards = tmp_path / "out/shards/older"
    shards.mkdir(parents=True)
    (shards / "train-00000-of-00001.parquet").write_bytes(bytes(3_000_000))
    (tmp_path / "out/listing/gone.parquet").write_bytes(bytes(100))
    (step,) = (step for step in other.pipeline.steps() if step.name == "thumbnail")

    code, said = said_by(capsys, "gc", "-c", used)
    assert code == 0
    unused = {f"ledger/thumbnail/{step.fingerprint}", "shards/older", "listing/gone.parquet"}
    assert {line.split()[-1] for line in said.splitlines()[:3]} == unused
    assert "3.0 MB  shards/older" in said
    assert "nothing was removed" in said
    assert len(contents(tmp_path / "out")) > len(before)

    both = ("-c", used, "-c", config_of(tmp_path, "other.yaml", short_side=32))
    assert "thumbnail" not in said_by(capsys, "gc", *both)[1]
    assert said_by(capsys, "gc", "-c", used, "--yes")[1].endswith("removed\n")
    assert contents(tmp_path / "out") == before
    assert said_by(capsys, "gc", "-c", used)[1] == "nothing is unused\n"


def test_moved_threshold_uses_the_same_rows(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = config_of(tmp_path, "moved.yaml", min_width=90)
    assert said_by(capsys, "gc", "-c", moved, "--yes")[1] == "nothing is unused\n"


@pytest.mark.parametrize("command", ["gc", "compact"])
def test_nothing_is_touched_while_a_run_holds_the_output(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = contents(tmp_path / "out")
    with open_storage(str(tmp_path / "out")).exclusive():
        code, said = said_by(capsys, command, "-c", config_of(tmp_path, "c.yaml"))
    assert code == StorageError.exit_code
    assert "another run" in said
    assert contents(tmp_path / "out") == before


def test_configurations_of_two_outputs_are_refused(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    other = write_config(tmp_path / "e.yaml", data_of(tmp_path) | {"output": str(tmp_path / "elsewhere")})
    code, said = said_by(capsys, "gc", "-c", config_of(tmp_path, "c.yaml"), "-c", other, "--yes")
    assert code == ConfigError.exit_code
    assert "different outputs" in said


def test_merged_output_is_an_output_and_keeps_its_outcomes(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, config = bench.outcomes(), config_of(tmp_path, "c.yaml")
    (tmp_path / "out/run.json").write_text("{}")
    assert said_by(capsys, "compact", "-c", config)[1] == "9 files merged\n"  # of sources and two stages
    assert not list((tmp_path / "out").rglob("unit-*"))
    again = Bench(data_of(tmp_path))
    assert again.outcomes() == before
    assert again.run().rows.total() == 0
    around = data_of(tmp_path) | {"input": [str(tmp_path)], "output": str(tmp_path / "second")}
    with_output = {source.uri for source in list_inputs(Bench(around).config).sources}
    assert not [uri for uri in with_output if "/out/" in uri]
    inside = Bench(around | {"input": [str(tmp_path / "out")]})
    with pytest.raises(ConfigError, match="the output of a run"):
        list_inputs(inside.config)


@pytest.mark.slow
def test_run_with_work_merges_what_has_many_files(bench: Bench, tmp_path: Path) -> None:
    data = data_of(tmp_path) | {"output": str(tmp_path / "run")}
    data["run"] |= {"compact_files": 2, "workers": 1}
    config = write_config(tmp_path / "c.yaml", data)
    curation("run", "-c", config)
    merged = sorted(path.parent.parent.name for path in (tmp_path / "run").rglob("compact/*.parquet"))
    assert len(merged) == 3
    assert not list((tmp_path / "run").rglob("unit-*"))
    before = contents(tmp_path / "run")
    assert "nothing was missing" in curation("run", "-c", config)
    assert contents(tmp_path / "run") == before


def test_listings_of_containers_that_are_no_sources_themselves_stay(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of files that are sources of their own, and a tar without media."""
    (tmp_path / "in/metadata.csv").write_text("file_name,text\n0.jpg,a photo\n")
    with tarfile.open(tmp_path / "in/empty.tar", "w"):
        pass
    bench.run()
    before = contents(tmp_path / "out")
    assert sum(name.startswith("listing/") for name in before) == 4
    config = config_of(tmp_path, "used.yaml")
    assert said_by(capsys, "gc", "-c", config, "--yes")[1] == "nothing is unused\n"
    (tmp_path / "in/empty.tar").unlink()
    assert "listing/" in said_by(capsys, "gc", "-c", config, "--yes")[1]
    assert len(contents(tmp_path / "out")) == len(before) - 1


def test_configurations_of_different_inputs_are_refused(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_config(tmp_path / "e.yaml", data_of(tmp_path) | {"input": [str(tmp_path / "elsewhere")]})
    code, said = said_by(capsys, "gc", "-c", config_of(tmp_path, "c.yaml"), "-c", other, "--yes")
    assert code == ConfigError.exit_code
    assert "different inputs" in said
