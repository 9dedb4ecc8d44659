"""Dataset-wide stages in whole runs: their population, what moves it, and what a kill leaves."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from datasets_media import (
    config_data,
    contents,
    curation,
    started,
    write_config,
    write_photo,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos; of the first a copy and a larger version, of the second a smaller one."""
    folder = tmp_path_factory.mktemp("alike") / "in"
    folder.mkdir()
    for seed in range(4):
        write_photo(folder / f"photo{seed}.jpg", seed, size=(480, 400))
    shutil.copy(folder / "photo0.jpg", folder / "copy0.jpg")
    for name, size in (("photo0", (720, 600)), ("photo1", (240, 200))):
        Image.open(folder / f"{name}.jpg").resize(size).save(folder / f"resized_{name}.jpg", quality=90)
    return folder


FOUND = {
    "photo0.jpg": ("rejected", "duplicate_of", "resized_photo0.jpg", False),
    "copy0.jpg": ("rejected", "duplicate_of", "resized_photo0.jpg", False),
    "resized_photo0.jpg": ("kept", None, None, False),
    "photo1.jpg": ("kept", None, None, False),
    "resized_photo1.jpg": ("rejected", "duplicate_of", "photo1.jpg", False),
    "photo2.jpg": ("kept", None, None, False),
    "photo3.jpg": ("kept", None, None, False),
}


def config_for(media: Path, folder: Path, vocabulary: Path, **run: Any) -> Path:
    """Duplicates between two filters that work on pictures one by one; shards by stand-ins."""
    folder.mkdir(exist_ok=True)
    data = config_data(media, folder / "out", vocabulary)
    del data["videos"]
    data["images"] = {
        "filters": ["resolution", "phash", "duplicates", "color"],
        "resolution": {"min_width": 64, "min_height": 64},
    }
    data["run"] |= run
    return write_config(folder / "c.yaml", data)


def samples(config: Path, tmp_path: Path, *args: str) -> dict[str, dict[str, Any]]:
    curation("table", "-c", config, "--to", tmp_path / "t.parquet", *args)
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    return {Path(row["uri"]).name: row for row in rows if row["level"] == "sample"}


def outcomes(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = {row["sample_id"]: name for name, row in rows.items()}
    return {
        name: (row["outcome"], row["reason"], names.get(row["duplicate_of"]), row["is_exact_copy"])
        for name, row in rows.items()
    }


@pytest.fixture(scope="module")
def finished(
    alike: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """Configuration, output, and what the run said."""
    folder = tmp_path_factory.mktemp("dataset")
    config = config_for(alike, folder, vocabulary)
    return config, folder / "out", curation("run", "-c", config)


@pytest.fixture
def copied(finished: tuple[Path, Path, str], tmp_path: Path) -> tuple[Any, ...]:
    """Arguments for a copy of the finished output."""
    shutil.copytree(finished[1], tmp_path / "out")
    return "-c", finished[0], "--output", tmp_path / "out"


def test_of_look_alikes_the_largest_stays(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config, _, said = finished
    rows = samples(config, tmp_path)
    exact = {name: row for name, row in rows.items() if row["is_exact_copy"]}
    assert len(exact) == 1  # of the two with the same bytes, the one with the larger id
    known = {name: found[:3] for name, found in FOUND.items()}
    (copy,) = exact
    known[copy] = (*known[copy][:2], "photo0.jpg" if copy == "copy0.jpg" else "copy0.jpg")
    assert {name: found[:3] for name, found in outcomes(rows).items()} == known
    assert "images.duplicates: 7 samples measured together" in said
    assert "duplicate_of 3" in said
    # The filter behind it sees only what it keeps.
    assert {name for name, row in rows.items() if row["colorfulness"] is not None} == {
        name for name, found in FOUND.items() if found[0] == "kept"
    }
    assert "-> duplicate_of" in curation("explain", "resized_photo1.jpg", "-c", config)


def test_second_run_does_nothing_and_changes_no_byte(finished: tuple[Path, Path, str]) -> None:
    config, output, _ = finished
    before = contents(output)
    assert "nothing was missing" in curation("run", "-c", config)
    assert contents(output) == before


def test_moved_threshold_of_its_own_computes_nothing(copied: tuple[Any, ...], tmp_path: Path) -> None:
    before = contents(tmp_path / "out/ledger/duplicates")
    said = curation("run", *copied, "--set", "images.duplicates={min_distance: null}")
    assert "measured together" not in said
    assert contents(tmp_path / "out/ledger/duplicates") == before
    assert re.search(r"^images +7 +7 +0", said, re.MULTILINE)


def test_threshold_before_it_gives_another_population_and_back_the_old_one(
    finished: tuple[Path, Path, str], copied: tuple[Any, ...], tmp_path: Path
) -> None:
    config, output, _ = finished
    moved = (*copied, "--set", "images.resolution.min_width=300")
    assert "pending" in curation("status", *moved)
    told = outcomes(samples(config, tmp_path, *map(str, moved[2:])))
    assert {found[0] for name, found in told.items() if name != "resized_photo1.jpg"} == {"pending"}
    assert "images.duplicates: 6 samples measured together" in curation("run", *moved)
    said = curation("run", *copied)
    assert "nothing was missing" in said
    assert contents(tmp_path / "out/shards") == contents(output / "shards")


def test_result_does_not_depend_on_workers_and_units(
    finished: tuple[Path, Path, str], alike: Path, vocabulary: Path, tmp_path: Path
) -> None:
    config = config_for(alike, tmp_path, vocabulary, workers=1, unit_images=2)
    curation("run", "-c", config)
    one, other = (outcomes(samples(path, tmp_path)) for path in (finished[0], config))
    assert one == other


def test_new_files_are_looked_at_together_with_the_old_ones(
    alike: Path, vocabulary: Path, tmp_path: Path
) -> None:
    few = tmp_path / "in"
    shutil.copytree(alike, few)
    (few / "resized_photo0.jpg").unlink()
    config = config_for(few, tmp_path, vocabulary)
    curation("run", "-c", config)
    before = outcomes(samples(config, tmp_path))
    assert sorted(before[name][0] for name in ("photo0.jpg", "copy0.jpg")) == ["kept", "rejected"]
    shutil.copy(alike / "resized_photo0.jpg", few)
    curation("run", "-c", config)
    after = outcomes(samples(config, tmp_path))
    assert {name: found[0] for name, found in after.items()} == {
        name: found[0] for name, found in FOUND.items()
    }


def test_killed_run_goes_on_to_the_same_shards(
    finished: tuple[Path, Path, str], alike: Path, vocabulary: Path, tmp_path: Path
) -> None:
    config = config_for(alike, tmp_path, vocabulary, unit_images=2)
    process = started(config)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("ledger/duplicates/*/*.parquet")):
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out/shards").exists()
    # As if it had been killed between two units.
    files = sorted((tmp_path / "out").glob("ledger/duplicates/*/*.parquet"))
    for file in files[1:]:
        file.unlink()
    curation("run", "-c", config)
    whole = config_for(alike, tmp_path / "whole", vocabulary, unit_images=2)
    curation("run", "-c", whole)
    assert contents(tmp_path / "out/shards") == contents(tmp_path / "whole/out/shards")


def test_it_waits_for_what_is_before_it(alike: Path, vocabulary: Path, tmp_path: Path) -> None:
    config = config_for(alike, tmp_path, vocabulary)
    said = curation("stage", "duplicates", "-c", config)
    assert "images.duplicates waits: 7 samples" in said
    assert not (tmp_path / "out/ledger/duplicates").exists()
    curation("stage", "resolution", "-c", config)
    curation("stage", "phash", "-c", config)
    assert "7 samples measured together" in curation("stage", "duplicates", "-c", config)
    again = curation("stage", "duplicates", "-c", config, "--recompute")
    assert "7 samples measured together" in again
    assert "nothing was missing" in curation("stage", "duplicates", "-c", config)


# Clusters and representatives, on stand-in embeddings


def clustered(alike: Path, folder: Path, vocabulary: Path, **run: Any) -> Path:
    """Three dataset-wide stages, one behind the other."""
    config = config_for(alike, folder, vocabulary, **run)
    data = yaml.safe_load(config.read_text())
    data["images"] = {
        "filters": ["resolution", "phash", "aesthetic", "duplicates", "clusters", "representatives"],
        "resolution": {"min_width": 64, "min_height": 64},
        "aesthetic": {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": None},
        "clusters": {"num_clusters": 2, "min_semantic_distance": None},
        "representatives": {"max_rank": 1},
    }
    return write_config(folder / "c.yaml", data)


def test_clusters_and_representatives_look_at_what_is_left(
    alike: Path, vocabulary: Path, tmp_path: Path
) -> None:
    config = clustered(alike, tmp_path, vocabulary)
    said = curation("run", "-c", config)
    assert "images.duplicates: 7 samples measured together" in said
    assert "images.clusters: 4 samples measured together" in said
    rows = samples(config, tmp_path)
    unique = {name: row for name, row in rows.items() if row["cluster_id"] is not None}
    assert set(unique) == {name for name, found in FOUND.items() if found[0] == "kept"}
    kept = {name for name, row in rows.items() if row["outcome"] == "kept"}
    for cluster in {row["cluster_id"] for row in unique.values()}:
        own = {name: row for name, row in unique.items() if row["cluster_id"] == cluster}
        nearest = min(own, key=lambda name: (own[name]["cluster_distance"], own[name]["sample_id"]))
        assert kept & set(own) == {nearest}
    assert "embedding" not in rows["photo0.jpg"]
    again = curation("run", "-c", config, "--set", "images.representatives.max_rank=4")
    assert "measured together" not in again
    assert re.search(r"^images +7 +4 +3 +0 +0$", again, re.MULTILINE)
    moved = curation("run", "-c", config, "--set", "images.duplicates={min_distance: null}")
    assert "images.clusters: 7 samples measured together" in moved
    assert "phash" not in moved.partition("Outcomes")[0]
    assert "nothing was missing" in curation("run", "-c", config)
