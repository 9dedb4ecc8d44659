"""Passes over media in a bucket: what they fetch, counted by a proxy before the server."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bucket_sources import filter_task, noise, part_of, source_of, uploaded
from buckets import S3Server, upload
from curation.execution.plan import Task
from curation.execution.record.run_record import read_run
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.ingest.fetching import FETCHES
from curation.records import Source
from curation.storage import open_storage
from curation.storage.scratch import scratch
from datasets_media import Bench, config_data, curation, write_config
from faulty_proxy import FaultyProxy


def without_models(source: str | Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Filters and captions that load no model."""
    images = {"filters": ["resolution", "color"], "resolution": {"min_width": 64, "min_height": 64}}
    data = config_data(Path(), output, Path(), **{"input": [str(source)], "images": images} | changes)
    return {key: value for key, value in data.items() if key not in ("tokens", "shards")}


def a_bench(source: str | Path, output: Path, **changes: Any) -> Bench:
    """A bench on which they run."""
    return Bench(without_models(source, output, **changes))


def test_filter_pass_fetches_each_byte_once(
    s3_server: S3Server, proxy: FaultyProxy, media: Path, tmp_path: Path
) -> None:
    url = s3_server.new_bucket()
    files = {
        path.name: path.read_bytes() for path in sorted(media.iterdir()) if path.suffix in (".jpg", ".mp4")
    }
    stored = sum(map(len, files.values()))
    bench = a_bench(url, tmp_path / "out")
    sources = uploaded(url, files)
    proxy.clear()
    worker, metrics = UnitWorker(bench.pipeline), Metrics()
    for unit, kind in enumerate(("image", "video")):
        of_kind = [source for source in sources if source.kind == kind]
        metrics.add(worker.work(filter_task(bench, of_kind, unit)).metrics)
    name = f"{url.removeprefix('s3://')}/*"
    assert proxy.answer_bytes("GET", name) == stored
    assert proxy.count("GET", name) == sum(map(bool, files.values()))  # of an empty object nothing is got
    assert metrics.bytes_read == metrics.bytes_stored == {"filter": stored}


def test_run_on_a_bucket_gives_what_the_same_run_on_a_folder_gives(
    s3_server: S3Server, proxy: FaultyProxy, media: Path, tmp_path: Path
) -> None:
    url = s3_server.new_bucket()
    upload(s3_server, media, url)
    there = a_bench(url, tmp_path / "there")
    here = a_bench(media, tmp_path / "here")
    on_bucket, on_disk = there.run(), here.run()
    assert there.outcomes() == here.outcomes()
    assert on_bucket.rows == on_disk.rows
    assert on_bucket.bytes_read["enrich"] <= 1.05 * on_bucket.bytes_stored["enrich"]


def test_each_segment_of_a_long_video_fetches_its_own_part(
    s3_server: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    url = s3_server.new_bucket()
    data = noise("mp4", 160, tmp_path)
    (source,) = uploaded(url, {"long.mp4": data})
    cut = {"scenes": {"min_clip_s": 0.5}, "filters": ["color"]}
    changes: dict[str, Any] = {"videos": cut, "run": {"segment_s": 40, "workers": 1}}
    bench = a_bench(url, tmp_path / "out", **changes)
    worker = UnitWorker(bench.pipeline)
    probed = worker.work(filter_task(bench, [source])).metrics
    assert probed.bytes_read == {"filter": len(data)}
    assert not probed.bytes_stored  # its segments count, once
    (task,) = bench.tasks("filter")
    assert len(task.segments) == 4
    for number in range(len(task.segments)):
        FETCHES.forget()  # each in a worker of its own
        metrics, _ = worker.process_segment(task, number)
        assert abs(metrics.bytes_stored["filter"] - len(data) / 4) <= 1
        # There is no cut in it, so the worker of the first segment reads to the end. The others read 40 s
        # and up to 8 s around them; of all that, a fifth was read ahead when they stopped.
        if number > 0:
            assert metrics.bytes_read["filter"] <= 48 / 40 * 1.25 * len(data) / 4


def long_video(form: str, url: str, folder: Path) -> Source:
    """A video of 160 s in a bucket or a folder, by itself or in a tar."""
    data = noise("mp4", 160, folder)
    if form == "file":
        return source_of(url, "long.mp4", data)
    with tarfile.open(folder / "long.tar", "w") as archive:
        archive.add(folder / "noise.mp4", "long.mp4")
    with tarfile.open(folder / "long.tar") as archive:
        position = archive.getmember("long.mp4").offset_data
    container = source_of(url, "long.tar", (folder / "long.tar").read_bytes())
    return part_of(container, "tar", "long.mp4", position, len(data))


def segmented(worker: UnitWorker, task: Task) -> Metrics:
    """A task in segments and merged, by one worker: what it measured."""
    metrics, results = Metrics(), []
    for number in range(len(task.segments)):
        FETCHES.forget()
        of_segment, result = worker.process_segment(task, number)
        metrics.add(of_segment)
        results.append(result)
    metrics.add(worker.merge(task, results))
    return metrics


@pytest.mark.parametrize("form", ["file", "tar"])
def test_long_video_is_fetched_once_on_the_node_that_read_it(bucket: str, tmp_path: Path, form: str) -> None:
    source = long_video(form, bucket, tmp_path)
    cut = {"scenes": {"min_clip_s": 0.5}, "filters": ["color"]}
    changes: dict[str, Any] = {"videos": cut, "run": {"segment_s": 40, "workers": 1}}
    bench = a_bench(bucket, tmp_path / "out", **changes)
    first, second = UnitWorker(bench.pipeline, "here"), UnitWorker(bench.pipeline, "there")
    done = first.work(filter_task(bench, [source]))
    (left,) = done.follow_ups
    assert len(left.segments) == 4
    metrics = segmented(first, left)
    assert not metrics.bytes_read["filter"]
    assert abs(metrics.bytes_stored["filter"] - source.size_bytes) <= 4  # of each segment a rounded share
    once = source.size_bytes if form == "file" else 1.01 * source.size_bytes
    assert source.size_bytes <= done.metrics.bytes_read["filter"] <= once
    rows = bench.rows("videos.color")
    assert rows
    fetched = segmented(second, left)
    assert fetched.bytes_read["filter"] >= source.size_bytes
    assert bench.rows("videos.color") == rows
    assert not bench.tasks("filter")


def test_long_video_whose_room_was_needed_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    source = long_video("file", bucket, tmp_path)
    cut = {"scenes": {"min_clip_s": 0.5}, "filters": ["color"]}
    changes: dict[str, Any] = {"videos": cut, "run": {"segment_s": 40, "workers": 1}}
    bench = a_bench(bucket, tmp_path / "out", **changes)
    worker = UnitWorker(bench.pipeline)
    (left,) = worker.work(filter_task(bench, [source])).follow_ups
    scratch().close()
    metrics = segmented(worker, left)
    assert metrics.bytes_read["filter"] >= source.size_bytes
    assert bench.rows("videos.color")
    assert not bench.tasks("filter")


@pytest.mark.parametrize("form", ["file", "tar"])
def test_nothing_is_kept_of_a_folder(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").mkdir()
    source = long_video(form, str(tmp_path / "in"), tmp_path)
    bench = a_bench(tmp_path / "in", tmp_path / "out", run={"segment_s": 40, "workers": 1})
    (left,) = UnitWorker(bench.pipeline).work(filter_task(bench, [source])).follow_ups
    assert len(left.segments) == 4
    assert left.copy is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_of_several_workers_fetches_long_videos_once(bucket: str, tmp_path: Path) -> None:
    data = noise("mp4", 100, tmp_path)
    for number in range(3):
        source_of(bucket, f"{number}.mp4", data + bytes(number))  # three contents
    cut = {"scenes": {"min_clip_s": 0.5}, "filters": ["color"]}
    changes: dict[str, Any] = {"videos": cut, "run": {"segment_s": 20, "workers": 2, "unit_videos": 2}}
    data_of_run = without_models(bucket, tmp_path / "out", **changes)
    curation("run", "-c", write_config(tmp_path / "config.yaml", data_of_run))
    work = read_run(open_storage(str(tmp_path / "out")))["last_work"]
    assert abs(work["bytes_stored"]["filter"] - 3 * len(data)) < 20  # of each segment a rounded share
    assert work["reads_per_byte"]["filter"] <= 1.05


def test_copies_of_videos_that_are_through_are_let_go_of(bucket: str, tmp_path: Path) -> None:
    """They do not add up while a worker goes from unit to unit."""
    (tmp_path / "scratch").mkdir()
    data = noise("mp4", 60, tmp_path)
    sources = [source_of(bucket, f"{number}.mp4", data + bytes(number)) for number in range(5)]
    run = {"segment_s": 30, "workers": 1, "scratch": str(tmp_path / "scratch")}
    bench = a_bench(bucket, tmp_path / "out", run=run)
    worker, num_kept = UnitWorker(bench.pipeline), list[int]()
    for number, source in enumerate(sources):
        (left,) = worker.work(filter_task(bench, [source], number)).follow_ups
        segmented(worker, left)
        num_kept.append(num_open_below(tmp_path / "scratch"))
    assert num_kept == [1, 2, 2, 2, 2]  # that of the unit before may still be asked for


def num_open_below(folder: Path) -> int:
    """Files of a folder that this process holds open, those without names too."""
    found = 0
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the handle of the listing itself
            found += str(handle.readlink()).startswith(f"{folder}/")
    return found
