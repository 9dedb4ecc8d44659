"""Pictures of samples show what their files hold, whatever they lie in, and nothing stops a run."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from curation.execution.pictures import Settings, pictures_of, render_batch, side_by_side
from curation.ledger import Ledger
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.records import Sample
from curation.report.gallery.samples import LocatedSample
from datasets_media import worked, write_photo
from generated import write_video


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
    """Flat frames that become brighter, four levels each."""
    frames = [np.full((48, 64, 3), 20 + 4 * number, np.uint8) for number in range(num_frames)]
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
    found = pictures_of(ledger, pipeline, list(samples.values()), side_by_side, limit_s=300.0)
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


def test_each_frame_of_a_long_clip_is_sought_by_itself(tmp_path: Path) -> None:
    path = write_ramp(tmp_path / "long.mkv", 50, rate=1)
    sample = Sample(sample_id="a", source_id="s", kind="clip", start_s=4.0, end_s=44.0)
    pipeline, ledger, _ = worked(recipe([str(tmp_path)], tmp_path.parent / f"{tmp_path.name}-out"))
    (source,) = ledger.sources(ledger.units()[0])
    (answer,) = render_batch(
        Settings.of(pipeline.config, 300.0), [(source, replace(sample, source_id=source.source_id))]
    )
    levels = [pixels_of(picture).mean() for picture in answer.pictures]
    assert levels == pytest.approx(levels_at(path, [9, 19, 29, 39]), abs=2)
