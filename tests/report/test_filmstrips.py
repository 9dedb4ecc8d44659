"""Pictures of samples show what their files hold, whatever they lie in, and nothing stops a run."""

from __future__ import annotations

import io
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from curation.execution.pictures import (
    Settings,
    keep_pictures,
    pictures_of,
    render_batch,
    rendered,
    side_by_side,
)
from curation.execution.worker.filmstrips import MAX_PICTURE_BYTES, jpeg_of
from curation.ledger import Ledger
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.records import Sample
from curation.report.gallery.samples import LocatedSample
from curation.report.gallery.stored import (
    PICTURES,
    SamplePictures,
    fitted,
    forget_pictures,
    read_pictures,
    write_pictures,
)
from curation.storage import open_storage
from datasets_media import contents, worked, write_photo
from generated import write_video

LIMIT_S = 400.0
"""Time for pictures; tests may run on a machine that is busy."""


def recipe(inputs: list[str], output: Path) -> dict[str, Any]:
    """No `thumbnail` anywhere."""
    return {
        "name": "pictures",
        "input": inputs,
        "output": str(output),
        "images": {"filters": ["resolution"]},
        "videos": {"scenes": {"min_clip_s": 0.5}, "filters": []},
        "run": {"max_failed_fraction": 1.0},
    }


def write_ramp(path: Path, num_frames: int = 50, **options: Any) -> Path:
    """Flat frames that become brighter, 200 levels in all."""
    levels = np.linspace(20, 220, num_frames)
    frames = [np.full((48, 64, 3), level, np.uint8) for level in levels]
    path.parent.mkdir(exist_ok=True)
    return write_video(path, frames, **options)


def levels_at(path: Path, times_s: list[float]) -> list[float]:
    """Mean level of the frame on display at each time, by PyAV alone."""
    with av.open(str(path)) as file:
        shown = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in file.decode(video=0)]
    return [[level for pts_s, level in shown if pts_s <= time_s][-1] for time_s in times_s]


def pixels_of(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def located(ledger: Ledger, pipeline: Pipeline) -> dict[str, LocatedSample]:
    """Name of a file -> its sample, of sources of one sample each."""
    found = {}
    for group in verdict_groups(ledger, pipeline, source_columns=("uri",)):
        for kind, leaves in group.leaves.items():
            for place, source in enumerate(leaves.source.tolist()):
                sample = Sample(
                    sample_id=leaves.sample_id[place].as_py(),
                    source_id=group.sources["source_id"][source].as_py(),
                    kind="image" if kind == "image" else "clip",
                    start_s=leaves.start_s[place],
                    end_s=leaves.end_s[place],
                )
                name = group.sources["uri"][source].as_py().replace("#", "/").rpartition("/")[2]
                found[name] = LocatedSample(group.sources["unit"][source].as_py(), sample)
    return found


def write_photos(folder: Path) -> Path:
    """A photo in a folder, one in a tar, one in a Parquet file, and two videos."""
    folder.mkdir()
    write_photo(folder / "photo.jpg", 1, size=(640, 480))
    write_photo(folder.parent / "member.jpg", 2, size=(500, 700))
    with tarfile.open(folder / "some.tar", "w") as tar:
        tar.add(folder.parent / "member.jpg", "member.jpg")
    write_photo(folder.parent / "cell.png", 3, size=(300, 200))
    data = (folder.parent / "cell.png").read_bytes()
    pq.write_table(pa.table({"image": [data]}), folder / "some.parquet")
    write_ramp(folder / "ramp.mkv")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline, Ledger]:
    folder = write_photos(tmp_path_factory.mktemp("pictures") / "in")
    pipeline, ledger, _ = worked(recipe([str(folder)], folder.parent / "out"))
    return folder, pipeline, ledger


def check_photo(picture: bytes, path: Path) -> None:
    """Against the file as Pillow alone decodes and shrinks it."""
    with Image.open(path) as image:
        image.thumbnail((320, 320))
        expected = np.asarray(image.convert("RGB")).astype(float)
    found = pixels_of(picture)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 6


def test_pictures_show_what_the_files_hold(made: tuple[Path, Pipeline, Ledger]) -> None:
    folder, pipeline, ledger = made
    samples = located(ledger, pipeline)
    assert set(samples) == {"photo.jpg", "member.jpg", "0", "ramp.mkv"}
    found = pictures_of(ledger, pipeline, list(samples.values()), side_by_side, limit_s=LIMIT_S)
    by_name = {name: found[one.sample.sample_id] for name, one in samples.items()}
    for name, path in {
        "photo.jpg": folder / "photo.jpg",
        "member.jpg": folder.parent / "member.jpg",
        "0": folder.parent / "cell.png",
    }.items():
        (picture,) = by_name[name]
        check_photo(picture, path)
    levels = [pixels_of(picture).mean() for picture in by_name["ramp.mkv"]]
    # 50 frames of 1/25 s: the middles of four equal parts of two seconds.
    assert levels == pytest.approx(levels_at(folder / "ramp.mkv", [0.25, 0.75, 1.25, 1.75]), abs=2)


@pytest.mark.parametrize(("num_frames", "rate"), [(50, 1), (500, 10)])
def test_each_frame_of_a_long_clip_is_sought_by_itself(num_frames: int, rate: int, tmp_path: Path) -> None:
    path = write_ramp(tmp_path / "in" / "long.mkv", num_frames, rate=rate)
    pipeline, ledger, _ = worked(recipe([str(path.parent)], tmp_path / "out"))
    (source,) = ledger.sources(ledger.units()[0])
    sample = Sample(sample_id="a", source_id=source.source_id, kind="clip", start_s=4.03, end_s=44.03)
    (answer,) = render_batch(Settings.of(pipeline.config, LIMIT_S), [(source, sample)])
    levels = [pixels_of(picture).mean() for picture in answer.pictures]
    assert levels == pytest.approx(levels_at(path, [9, 19, 29, 39]), abs=2)


def test_a_bucket_gives_the_same_pictures(tmp_path: Path, bucket: str) -> None:
    folder = write_photos(tmp_path / "in")
    storage = open_storage(bucket)
    for path in folder.iterdir():
        storage.write(path.name, path.read_bytes())
    pipeline, ledger, _ = worked(recipe([bucket], tmp_path / "out"))
    samples = located(ledger, pipeline)
    found = pictures_of(ledger, pipeline, list(samples.values()), side_by_side, limit_s=LIMIT_S)
    by_name = {name: found[one.sample.sample_id] for name, one in samples.items()}
    check_photo(by_name["photo.jpg"][0], folder / "photo.jpg")
    check_photo(by_name["member.jpg"][0], folder.parent / "member.jpg")
    check_photo(by_name["0"][0], folder.parent / "cell.png")
    levels = [pixels_of(picture).mean() for picture in by_name["ramp.mkv"]]
    assert levels == pytest.approx(levels_at(folder / "ramp.mkv", [0.25, 0.75, 1.25, 1.75]), abs=2)


KILLER = """
import os, sys
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("kills.jpg") and os.abort())
"""


def test_a_source_that_kills_whoever_decodes_it_costs_its_own_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.jpg", "kills.jpg", "z.jpg")):
        write_photo(tmp_path / "in" / name, seed)
    pipeline, ledger, _ = worked(recipe([str(tmp_path / "in")], tmp_path / "out"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    samples = located(ledger, pipeline)
    found = rendered(ledger, pipeline, list(samples.values()), side_by_side, limit_s=LIMIT_S)
    num_pictures = {name: len(found[one.sample.sample_id].pictures) for name, one in samples.items()}
    assert num_pictures == {"a.jpg": 1, "kills.jpg": 0, "z.jpg": 1}


def test_no_time_no_pictures(made: tuple[Path, Pipeline, Ledger]) -> None:
    _, pipeline, ledger = made
    samples = list(located(ledger, pipeline).values())
    assert rendered(ledger, pipeline, samples, side_by_side, limit_s=0.0) == {}


def test_who_stops_waits_for_no_child(made: tuple[Path, Pipeline, Ledger]) -> None:
    """As after Ctrl-C, or when the time is over: what runs is killed, and what waits is not begun."""
    _, pipeline, ledger = made
    jobs = [
        (source, located(ledger, pipeline)["photo.jpg"].sample)
        for unit in ledger.units()
        for source in ledger.sources(unit)
        if source.uri.endswith("photo.jpg")
    ]
    settings = Settings.of(pipeline.config, LIMIT_S)
    answers = side_by_side(partial(render_batch, settings), [jobs, jobs * 2000, jobs * 2000, jobs * 2000])
    assert len(next(answers)) == 1
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 60  # 2,000 photos take minutes
    assert threading.active_count() < 8


def never(function: Any, arguments: Any) -> Any:
    raise AssertionError(f"{arguments} would be rendered")


def test_what_is_kept_is_not_rendered_again_and_what_is_away_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("stays.jpg", "goes.jpg", "cut_off.jpg")):
        write_photo(folder / name, seed, size=(300, 300))
    (folder / "cut_off.jpg").write_bytes((folder / "cut_off.jpg").read_bytes()[:3000])
    pipeline, ledger, _ = worked(recipe([str(folder)], tmp_path / "out"))
    samples = located(ledger, pipeline)
    away = (folder / "goes.jpg").read_bytes()
    (folder / "goes.jpg").unlink()
    keep_pictures(ledger, pipeline, list(samples.values()), side_by_side)
    kept = read_pictures(ledger.storage)
    ids = {name: one.sample.sample_id for name, one in samples.items()}
    assert {name: len(kept[ids[name]].pictures) for name in ("stays.jpg", "cut_off.jpg")} == {
        "stays.jpg": 1,
        "cut_off.jpg": 0,
    }
    assert ids["goes.jpg"] not in kept  # it may come back

    before = contents(tmp_path / "out")
    rest = [samples["stays.jpg"], samples["cut_off.jpg"]]
    keep_pictures(ledger, pipeline, rest, never)
    assert contents(tmp_path / "out") == before
    assert pictures_of(ledger, pipeline, rest, never) == {
        ids["stays.jpg"]: [*kept[ids["stays.jpg"]].pictures]
    }

    (folder / "goes.jpg").write_bytes(away)
    assert forget_pictures(ledger.storage, sample_ids=[ids["cut_off.jpg"]]) == 1
    assert forget_pictures(ledger.storage, source_ids=[samples["stays.jpg"].sample.source_id]) == 1
    assert read_pictures(ledger.storage) == {}
    assert kept[ids["stays.jpg"]].pictures[0] not in (tmp_path / "out" / PICTURES).read_bytes()


def test_what_travels_to_a_worker_and_back_can_be_pickled(made: tuple[Path, Pipeline, Ledger]) -> None:
    _, pipeline, ledger = made

    def as_ray_does(function: Any, arguments: Any) -> Iterator[Any]:
        for argument in arguments:
            call, given = pickle.loads(pickle.dumps((function, argument)))
            yield pickle.loads(pickle.dumps(call(given)))

    photo = located(ledger, pipeline)["photo.jpg"]
    assert len(pictures_of(ledger, pipeline, [photo], as_ray_does, limit_s=LIMIT_S)) == 1


def test_a_picture_is_never_larger_than_it_may_be() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    assert len(jpeg_of(noise, 640)) <= MAX_PICTURE_BYTES
    assert pixels_of(jpeg_of(noise[:40, :60], 640)).shape == (40, 60, 3)  # not enlarged


def test_a_page_of_too_many_pictures_shows_one_each_and_then_none() -> None:
    one = SamplePictures("s", "v", (b"1" * 40, b"2" * 30, b"3" * 30))
    found = fitted({"a": one, "b": one, "c": one}, 135)
    assert [one.pictures for one in found.values()] == [one.pictures, (b"2" * 30,), ()]


def test_a_damaged_file_of_pictures_counts_as_none(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_pictures(storage, {"a": SamplePictures("s", "v", (b"picture",))})
    whole = (tmp_path / PICTURES).read_bytes()
    (tmp_path / PICTURES).write_bytes(whole[:-20])
    assert read_pictures(storage) == {}
