"""Passes over media in a bucket: what they fetch, counted by a proxy before the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bucket_sources import filter_task, noise, uploaded
from buckets import S3Server, upload
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.ingest.fetching import FETCHES
from datasets_media import Bench, config_data
from faulty_proxy import FaultyProxy


def a_bench(source: str | Path, output: Path, **changes: Any) -> Bench:
    """Filters and captions that load no model."""
    images = {"filters": ["resolution", "color"], "resolution": {"min_width": 64, "min_height": 64}}
    data = config_data(Path(), output, Path(), **{"input": [str(source)], "images": images} | changes)
    return Bench({key: value for key, value in data.items() if key not in ("tokens", "shards")})


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
        metrics.add(worker.work(filter_task(bench, of_kind, unit)))
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
    probed = worker.work(filter_task(bench, [source]))
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
