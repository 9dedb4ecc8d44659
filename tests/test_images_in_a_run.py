"""Images in a run: what stages see of them, and that nothing else has a say in it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.errors import ConfigError
from curation.execution.plan import Task, filters_of_new, plan_probes
from curation.execution.worker import first_reads, image_pass
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.ingest import media_readers
from curation.ingest.listing import list_inputs
from curation.ledger.present import remember_listing
from curation.pipeline import pipeline
from curation.records import Source
from datasets_media import Bench, built, write_photo


def fingerprints(data: dict[str, Any]) -> dict[str, str]:
    return {step.key: step.fingerprint for step in built(data)[1].steps()}


def test_what_is_measured_of_halves_is_measured_anew_when_these_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {
        "name": "halves",
        "input": ["in"],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution", "color", "phash", "thumbnail"]},
        "videos": {"filters": ["phash", "thumbnail"]},
    }
    before = fingerprints(data)
    monkeypatch.setattr(pipeline, "HALVINGS_VERSION", 10**6)
    after = fingerprints(data)
    assert {key for key in before if before[key] != after[key]} == {
        "images.color",
        "images.phash",
        "images.thumbnail",
    }


def test_what_is_measured_does_not_depend_on_the_other_filters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, size in enumerate([(901, 700), (640, 480), (200, 90)]):
        write_photo(tmp_path / f"in/{number}.jpg", number, size=size)

    def rows(*filters: str) -> dict[str, Any]:
        loose = {"color": {"min_colorfulness": None, "min_untinted_colorfulness": None}}
        images = {name: settings for name, settings in loose.items() if name in filters}
        data = {
            "name": "alone",
            "input": [str(tmp_path / "in")],
            "output": str(tmp_path / "-".join(filters)),
            "images": {"filters": list(filters), **images},
        }
        bench = Bench(data)
        bench.run()
        return {name: bench.rows(f"images.{name}") for name in filters}

    names = ("thumbnail", "color", "phash")
    together = rows(*names)
    assert together == {name: rows(name)[name] for name in names}
    assert together == rows(*reversed(names))


def photos_of(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, size in enumerate([(901, 700), (640, 480), (200, 90), (300, 300)]):
        write_photo(folder / f"{number}.jpg", number, size=size)
    data = (folder / "0.jpg").read_bytes()
    (folder / "cut_off.jpg").write_bytes(data[: len(data) // 2])
    (folder / "none.jpg").write_bytes(b"no picture")
    return {
        "name": "photos",
        "input": [str(folder)],
        "output": str(tmp_path / "out"),
        "images": {
            "filters": ["resolution", "color", "phash"],
            "resolution": {"min_width": 250, "min_height": 250},
        },
    }


def new_tasks(bench: Bench) -> list[Task]:
    """What a run plans for new sources."""
    listing = list_inputs(bench.config)
    remember_listing(bench.ledger.storage, listing.sources)
    steps = {step.key for step in bench.pipeline.steps()}
    return plan_probes(bench.ledger, listing, bench.config, filters=filters_of_new(bench.pipeline, steps))


def filtered_at_once(bench: Bench) -> Metrics:
    """New units are filtered as they are read, as a run does it."""
    tasks = new_tasks(bench)
    assert {task.phase for task in tasks} == {"filter"}
    worker, metrics = UnitWorker(bench.pipeline), Metrics()
    for task in tasks:
        metrics.add(worker.work(task).metrics)
    assert bench.tasks("filter") == []
    return metrics


def content_of(bench: Bench) -> Any:
    """Sources and rows; of these all but the seconds that they took."""
    units = [bench.ledger.sources(unit) for unit in bench.ledger.units()]
    return units, [bench.rows(step.key) for step in bench.pipeline.steps()]


def test_filtering_as_sources_are_read_gives_what_probing_first_gives(tmp_path: Path) -> None:
    data = photos_of(tmp_path)
    apart, at_once = Bench(data), Bench(data | {"output": str(tmp_path / "at_once")})
    two_passes, one_pass = apart.run(), filtered_at_once(at_once)
    assert content_of(at_once) == content_of(apart)
    assert at_once.outcomes() == apart.outcomes()
    assert one_pass.rows == two_passes.rows
    assert one_pass.failed == two_passes.failed == {"probe": 1, "images.color": 1}


def test_a_new_picture_is_fetched_once_for_header_hash_and_pixels(tmp_path: Path) -> None:
    data = photos_of(tmp_path)
    stored = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    metrics = filtered_at_once(Bench(data))
    assert metrics.bytes_read == metrics.bytes_stored == {"filter": stored}


def test_a_picture_that_is_swapped_between_probing_and_decoding_is_the_one_that_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos_of(tmp_path)
    known = Bench(data | {"output": str(tmp_path / "known")})
    known.run()
    decode = media_readers.read_image

    def swapped(path: Path, *settings: Any) -> Any:
        for file in (tmp_path / "in").iterdir():
            file.write_bytes(b"another picture")
        return decode(path, *settings)

    monkeypatch.setattr(media_readers, "read_image", swapped)
    monkeypatch.setattr(image_pass, "CHUNK_IMAGES", 6)  # all are probed before the first is decoded
    bench = Bench(data)
    filtered_at_once(bench)
    assert content_of(bench) == content_of(known)


def test_pictures_that_nobody_decodes_are_closed_chunk_by_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos_of(tmp_path)
    data["images"]["resolution"] = {"min_width": 10_000}
    handles, probe = [], first_reads.probe

    def counted(*args: Any) -> Source:
        handles.append(len(list(Path("/proc/self/fd").iterdir())))
        return probe(*args)

    monkeypatch.setattr(first_reads, "probe", counted)
    monkeypatch.setattr(image_pass, "CHUNK_IMAGES", 1)
    filtered_at_once(Bench(data))
    assert len(handles) == 6
    # Two handles a picture, the file's and the copy's: of the chunk's own, and of the one that comes next.
    assert max(handles) <= handles[0] + 2


SMALL = {"image_decode_short_side": 128}


def test_scaled_decoding_is_refused_where_a_filter_wants_more(tmp_path: Path) -> None:
    images = {"filters": ["resolution", "color", "phash", "thumbnail"], "thumbnail": {"short_side": 128}}
    data = {"name": "small", "input": ["in"], "output": str(tmp_path), "images": images} | SMALL
    with pytest.raises(ConfigError) as refused:
        built(data)
    assert "images.color: sees images at full size, more than image_decode_short_side: 128" in str(
        refused.value
    )
    assert "images.phash: sees images at a short side of 256" in str(refused.value)
    assert "thumbnail" not in str(refused.value)
    built(data | {"images": images | {"color": {"image_short_side": 128}}, "image_decode_short_side": 256})


def test_only_filters_that_see_images_have_other_fingerprints_under_scaled_decoding(tmp_path: Path) -> None:
    data = {
        "name": "small",
        "input": ["in"],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution", "thumbnail"]},
        "videos": {"filters": ["thumbnail"]},
    }
    found = [fingerprints(data | {"image_decode_short_side": side}) for side in (None, 128, 256)]
    assert fingerprints(data) == found[0]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert {key for key in found[0] if found[one][key] != found[other][key]} == {"images.thumbnail"}


def test_filters_see_jpegs_decoded_small(tmp_path: Path) -> None:
    data = photos_of(tmp_path)
    data["images"] = {"filters": ["thumbnail"], "thumbnail": {"short_side": 100}}
    full, small = Bench(data), Bench(data | SMALL | {"output": str(tmp_path / "small")})
    for bench in (full, small):
        bench.run()
    for sample_id, (values, error) in full.rows("images.thumbnail").items():
        known, other = small.rows("images.thumbnail")[sample_id]
        assert error == other
        if error is None:
            one, two = (
                np.asarray(Image.open(io.BytesIO(row["thumbnail"])), np.int16) for row in (values, known)
            )
            assert one.shape == two.shape
            assert np.abs(one - two).mean() < 2


@pytest.mark.parametrize("segment_s", [None, 1.0])
def test_new_videos_are_filtered_as_they_are_read_but_for_long_ones(
    media: Path, tmp_path: Path, segment_s: float | None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("two_scenes.mp4", "text.mp4", "empty.mp4"):
        shutil.copy(media / name, folder)
    data: dict[str, Any] = {
        "name": "videos",
        "input": [str(folder)],
        "output": str(tmp_path / "out"),
        "videos": {"scenes": {"min_clip_s": 0.5}, "filters": ["thumbnail", "phash"]},
        "run": {"segment_s": segment_s},
    }
    apart, at_once = Bench(data), Bench(data | {"output": str(tmp_path / "at_once")})
    if segment_s is None:
        apart.run()
        num_handles = len(list(Path("/proc/self/fd").iterdir()))
        metrics = filtered_at_once(at_once)
        assert content_of(at_once) == content_of(apart)
        stored = sum(path.stat().st_size for path in folder.iterdir())
        assert metrics.bytes_read == metrics.bytes_stored == {"filter": stored}
        assert len(list(Path("/proc/self/fd").iterdir())) <= num_handles
        return
    for task in new_tasks(at_once):
        UnitWorker(at_once.pipeline).work(task)
    (left,) = at_once.tasks("filter")
    assert left.segments
    assert left.only == {at_once.ledger.sources(0)[-1].source_id}
