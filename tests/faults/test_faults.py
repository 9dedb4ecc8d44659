"""Workers that die or hang, runs that are killed: nothing is lost, and the right one is blamed."""

from __future__ import annotations

import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datasets_media import config_data, contents, curation, started, write_config, write_video

pytestmark = pytest.mark.slow


def images_only(media: Path, tmp_path: Path, stage: str, **run: Any) -> Path:
    """One stage of `fault_stages` on the images, nothing else."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stage).lstrip("_")
    data = {
        "name": "faults",
        "input": [str(media)],
        "output": str(tmp_path / "out"),
        "images": {"filters": [name]},
        "stages": {name: f"fault_stages:{stage}"},
        "run": {"workers": 2, "unit_images": 3, "max_failed_fraction": 1.0, **run},
    }
    return write_config(tmp_path / "c.yaml", data)


def outcomes(config: Path, tmp_path: Path) -> dict[str, tuple[str, str | None]]:
    curation("table", "-c", config, "--to", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    return {
        Path(row["uri"]).name: (row["outcome"], row["error_type"])
        for row in rows
        if row["level"] == "sample" or row["error_type"]
    }


FINE = {
    "cut_off.jpg": ("failed", "DecodeError"),
    "gray.jpg": ("rejected", None),
    "photo0.jpg": ("kept", None),
    "photo1.jpg": ("kept", None),
    "photo2.jpg": ("kept", None),
    "small.jpg": ("kept", None),
}


def images(found: dict[str, tuple[str, str | None]]) -> dict[str, tuple[str, str | None]]:
    return {name: value for name, value in found.items() if name.endswith(".jpg")}


def test_source_that_kills_its_worker_is_failed_and_the_others_come_through(
    media: Path, tmp_path: Path
) -> None:
    config = images_only(media, tmp_path, "DeadlyColor")
    said = curation("run", "-c", config)
    assert "photo1.jpg killed its worker" in said
    assert images(outcomes(config, tmp_path)) == FINE | {"photo1.jpg": ("failed", "PoisonSource")}
    assert "nothing was missing" in curation("run", "-c", config)


def test_worker_that_dies_once_costs_nothing(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURATION_TEST_CALLS", str(tmp_path / "mark"))
    config = images_only(media, tmp_path, "OnceDeadlyColor", workers=1)
    assert "a worker died" in curation("run", "-c", config)
    assert images(outcomes(config, tmp_path)) == FINE


def film_in_segments(tmp_path: Path, stage: str) -> Path:
    """A video of three scenes, processed in four segments by two workers."""
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/photo1.mp4", [(80, 1), (60, 2), (60, 3)])
    data = {
        "name": "faults",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "videos": {
            "filters": [stage],
            "scenes": {"min_clip_s": 0.5},
            stage: {"min_untinted_colorfulness": None},  # the scenes have one hue each
        },
        "stages": {stage: f"fault_stages:{stage.title().replace('_', '')}"},
        "run": {"workers": 2, "segment_s": 5.0, "max_failed_fraction": 1.0},
    }
    return write_config(tmp_path / "c.yaml", data)


def clips_of(config: Path, tmp_path: Path) -> list[tuple[float, float, str]]:
    curation("table", "-c", config, "--to", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    clips = [(row["start_s"], row["end_s"], row["outcome"]) for row in rows if row["level"] == "sample"]
    return sorted(clips)


def test_segment_of_a_long_video_whose_worker_dies_once_is_processed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURATION_TEST_CALLS", str(tmp_path / "mark"))
    config = film_in_segments(tmp_path, "once_deadly_color")
    assert "photo1.mp4 killed its worker (its process ended" in curation("run", "-c", config)
    assert clips_of(config, tmp_path) == [(0.0, 8.0, "kept"), (8.0, 14.0, "kept"), (14.0, 20.0, "kept")]
    assert "nothing was missing" in curation("run", "-c", config)


def test_long_video_that_kills_the_workers_of_its_segments_is_failed(tmp_path: Path) -> None:
    config = film_in_segments(tmp_path, "deadly_color")
    said = curation("run", "-c", config)
    assert "photo1.mp4 killed its worker" in said
    assert clips_of(config, tmp_path) == []
    assert "PoisonSource" in curation("explain", "-c", config, "photo1.mp4")
    assert "nothing was missing" in curation("run", "-c", config)


def test_source_that_hangs_is_killed_and_failed(media: Path, tmp_path: Path) -> None:
    config = images_only(media, tmp_path, "HangingColor", stall_timeout_s=4.0, max_kills=1)
    assert "no progress on" in curation("run", "-c", config)
    assert images(outcomes(config, tmp_path)) == FINE | {"photo1.jpg": ("failed", "PoisonSource")}


def test_containers_that_kill_or_hang_who_lists_them_are_failed_and_remembered(
    media: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("fine", "hanging", "poison"):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            archive.add(media / "photo0.jpg", "photo0.jpg")
    config = images_only(folder, tmp_path, "DeadlyTars", stall_timeout_s=4.0, max_kills=1)
    said = curation("run", "-c", config)
    assert "listing containers: 3 sources" in said
    assert "poison.tar killed its worker" in said
    assert "hanging.tar killed its worker" in said
    assert outcomes(config, tmp_path) == {
        "fine.tar#photo0.jpg": ("kept", None),
        "hanging.tar": ("failed", "PoisonSource"),
        "poison.tar": ("failed", "PoisonSource"),
    }
    said = curation("run", "-c", config)
    assert "nothing was missing" in said
    assert "listing containers" not in said


def test_worker_that_leaks_is_replaced(media: Path, tmp_path: Path) -> None:
    config = images_only(media, tmp_path, "LeakingColor", workers=1, unit_images=1, max_rss_bytes=600_000_000)
    said = curation("run", "-c", config)
    replaced = [int(number) for number in re.findall(r"a worker holds (\d+) MB: replacing it", said)]
    assert len(replaced) >= 1
    assert max(replaced) < 1000  # without, six units would end at 1200 MB and more
    assert images(outcomes(config, tmp_path)) == FINE


def test_stage_that_breaks_its_contract_stops_the_run(media: Path, tmp_path: Path) -> None:
    said = curation("run", "-c", images_only(media, tmp_path, "NotANumberColor"), code=1)
    assert "ContractError: stage not_a_number_color returned nan as colorfulness" in said


def wait_for(output: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(output.glob(pattern)):
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(
    media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = write_config(folder / "c.yaml", config_data(media, folder / "out", vocabulary))
    curation("run", "-c", config)
    return contents(folder / "out/shards")


@pytest.mark.parametrize("moment", ["sources/unit-000001*", "ledger/flow/*/*", "ledger/tokens/*/*"])
def test_killed_run_goes_on_to_the_same_shards(
    media: Path, vocabulary: Path, tmp_path: Path, uninterrupted: dict[str, bytes], moment: str
) -> None:
    config = write_config(tmp_path / "c.yaml", config_data(media, tmp_path / "out", vocabulary))
    process = started(config)
    wait_for(tmp_path / "out", moment, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out/shards").exists()
    curation("run", "-c", config)
    assert contents(tmp_path / "out/shards") == uninterrupted


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    media: Path, vocabulary: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    config = write_config(tmp_path / "c.yaml", config_data(media, tmp_path / "out", vocabulary))
    process = started(config)
    wait_for(tmp_path / "out", "sources/*", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"the same command goes on from there" in said
    assert b"Traceback" not in said
    curation("run", "-c", config)
    assert contents(tmp_path / "out/shards") == uninterrupted
