"""The ledger against the present listing: what is gone, what comes back, and what only has another date."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curation.execution.plan import plan_probes
from curation.ingest.listed import LISTED, ListedSources
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.present import remember_listing
from curation.ledger.unit_state import PROBE, RecomputePolicy
from curation.ledger.versions import settle
from curation.records import Source, stable_id
from curation.report.summary.summary import summarize
from curation.report.tables.explain import explain
from curation.report.tables.table import flat_table
from curation.storage import open_storage
from datasets_media import Bench, config_data, curation, write_config, write_photo
from test_populations import run_here


def data_of(tmp_path: Path, *inputs: str | Path) -> dict[str, Any]:
    """Pictures through one cheap filter; the inputs lie in `tmp_path`."""
    data = config_data(tmp_path, tmp_path / "out", tmp_path / "none")
    for key in ("videos", "captions", "tokens", "shards"):
        del data[key]
    rule = {"filters": ["resolution", "phash"], "resolution": {"min_width": 8, "min_height": 8}}
    return data | {"images": rule, "input": [str(tmp_path / name) for name in inputs]}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two inputs of two photos each."""
    for number in range(4):
        path = tmp_path / f"in{number // 2}/photo{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        write_photo(path, number)
    return Bench(data_of(tmp_path, "in0", "in1"))


def narrowed(bench: Bench, tmp_path: Path, *inputs: str) -> Bench:
    """The same output with other inputs."""
    return Bench(data_of(tmp_path, *inputs))


def ids(ledger: Ledger) -> dict[str, list[str]]:
    """File name -> ids of its versions."""
    found: dict[str, list[str]] = {}
    for unit in ledger.units():
        for source in ledger.sources(unit):
            found.setdefault(source.uri.rpartition("/")[2], []).append(source.source_id)
    return found


def filtered(metrics: Any) -> int:
    """Rows that were measured, apart from headers read."""
    return sum(number for key, number in metrics.rows.items() if key != PROBE)


class TestGone:
    def test_input_taken_out_counts_nowhere_and_returns_unmeasured(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.run()
        assert set(bench.outcomes()) == {f"photo{number}.jpg" for number in range(4)}
        fewer = narrowed(bench, tmp_path, "in0")
        assert fewer.run().rows.total() == 0
        assert set(fewer.outcomes()) == {"photo0.jpg", "photo1.jpg"}
        summary = summarize(fewer.ledger, fewer.pipeline)
        assert summary.outcome_totals()["image sources"]["in"] == 2
        assert summary.gone == {"image": 2}
        assert summary.gone_examples == [f"{tmp_path}/in1/photo{number}.jpg" for number in (2, 3)]
        assert bench.run().rows.total() == 0
        assert len(bench.outcomes()) == 4
        assert summarize(bench.ledger, bench.pipeline).gone == {}

    def test_deleted_file_that_returns_is_not_measured(self, bench: Bench, tmp_path: Path) -> None:
        bench.run()
        (tmp_path / "in0/photo0.jpg").rename(tmp_path / "away.jpg")
        assert bench.run().rows.total() == 0
        assert "photo0.jpg" not in bench.outcomes()
        (tmp_path / "away.jpg").rename(tmp_path / "in0/photo0.jpg")
        assert bench.run().rows.total() == 0
        assert bench.outcomes()["photo0.jpg"] == "kept"

    def test_table_and_explain_say_gone(self, bench: Bench, tmp_path: Path) -> None:
        bench.run()
        fewer = narrowed(bench, tmp_path, "in0")
        fewer.run()
        rows = flat_table(fewer.ledger, fewer.pipeline).to_pylist()
        gone = [(row["level"], Path(row["uri"]).name) for row in rows if row["outcome"] == "gone"]
        assert gone == [("source", "photo2.jpg"), ("source", "photo3.jpg")]
        assert len(rows) == 2 * 2 + 2
        with io.StringIO() as text:
            explain(Console(file=text, width=200), fewer.ledger, fewer.pipeline, "photo2.jpg")
            assert "gone from the inputs" in text.getvalue()
            assert "images.resolution: width 96, height 80" in text.getvalue()
        with io.StringIO() as text:
            explain(Console(file=text, width=200), fewer.ledger, fewer.pipeline, "photo1.jpg")
            assert "gone" not in text.getvalue()

    def test_limit_and_another_listing_call_nothing_gone_by_mistake(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.run()
        listing = list_inputs(bench.config)
        remember_listing(bench.ledger.storage, listing.sources)
        plan_probes(bench.ledger, listing, bench.config, limit=1)
        assert absent_sources(bench.ledger).gone == {}
        # Files under another date that were not read yet, as a limit leaves them.
        os.utime(tmp_path / "in1/photo3.jpg", ns=(1, 1))
        listing = list_inputs(bench.config)
        remember_listing(bench.ledger.storage, listing.sources)
        assert plan_probes(bench.ledger, listing, bench.config, limit=1) == []
        assert len(bench.outcomes()) == 4

    def test_output_without_a_listing_has_nothing_gone(self, bench: Bench, tmp_path: Path) -> None:
        """Outputs of older versions have none."""
        bench.run()
        (tmp_path / "out/listing/present.parquet").unlink()
        assert len(bench.outcomes()) == 4

    def test_failed_and_gone_is_not_tried_again(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "in1/broken.jpg").write_bytes(b"no picture")
        bench.run()
        fewer = narrowed(bench, tmp_path, "in0")
        assert fewer.run(RecomputePolicy(frozenset([PROBE]))).rows.total() == 0

    def test_dataset_wide_stages_look_at_what_is_there(self, bench: Bench, tmp_path: Path) -> None:
        """A copy in a folder that is gone is no duplicate; back again, nothing is computed anew."""
        for name in ("in0/copy0.jpg", "in1/copy1.jpg"):
            shutil.copy(tmp_path / "in0/photo0.jpg", tmp_path / name)
        rule = {"images": {"filters": ["phash", "duplicates"]}}
        both, one = data_of(tmp_path, "in0", "in1") | rule, data_of(tmp_path, "in0") | rule
        pipeline, ledger, _ = run_here(both)
        assert summarize(ledger, pipeline).outcome_totals()["images"]["rejected"] == 2
        pipeline, ledger, metrics = run_here(one)
        assert metrics.rows["images.duplicates"] == 3
        assert summarize(ledger, pipeline).outcome_totals()["images"]["rejected"] == 1
        pipeline, ledger, metrics = run_here(both)
        assert metrics.rows.total() == 0
        assert summarize(ledger, pipeline).outcome_totals()["images"]["rejected"] == 2


class TestVersions:
    def test_new_dates_alone_keep_ids_and_rows(self, bench: Bench, tmp_path: Path) -> None:
        """`cp -r` gives every file another inode and the time of the copy."""
        bench.run()
        before = ids(bench.ledger)
        for name in ("in0", "in1"):
            shutil.copytree(tmp_path / name, tmp_path / "copy", copy_function=shutil.copyfile)
            shutil.rmtree(tmp_path / name)
            (tmp_path / "copy").rename(tmp_path / name)
        metrics = bench.run()
        assert (metrics.rows[PROBE], filtered(metrics)) == (4, 0)
        assert ids(bench.ledger) == before
        assert bench.run().rows.total() == 0

    def test_versions_that_alternate_are_measured_once(self, bench: Bench, tmp_path: Path) -> None:
        place, first = tmp_path / "in0/photo0.jpg", (tmp_path / "in0/photo0.jpg").read_bytes()
        bench.run()
        write_photo(place, 9, size=(6, 6))
        second = place.read_bytes()
        assert filtered(bench.run()) == 1  # too small for the filter behind
        assert bench.outcomes()["photo0.jpg"].startswith("rejected")
        known = ids(bench.ledger)["photo0.jpg"]
        assert known == [stable_id(str(place)), known[1]]
        for content, outcome in ((first, "kept"), (second, "rejected"), (first, "kept")):
            place.write_bytes(content)
            assert filtered(bench.run()) == 0
            assert bench.outcomes()["photo0.jpg"].startswith(outcome)
            assert len(bench.outcomes()) == 4
            assert ids(bench.ledger)["photo0.jpg"] == known
            assert summarize(bench.ledger, bench.pipeline).outcome_totals()["image sources"]["in"] == 4

    def test_ids_do_not_depend_on_dates(self, bench: Bench, tmp_path: Path) -> None:
        """The same history on another day gives the same ids."""
        found = []
        for day in (1_000_000_000, 2_000_000_000):
            for seed in (0, 9):
                write_photo(tmp_path / "in0/photo0.jpg", seed)
                os.utime(tmp_path / "in0/photo0.jpg", (day + seed, day + seed))
                bench.run()
            found.append(ids(bench.ledger))
            shutil.rmtree(tmp_path / "out")
        assert found[0] == found[1]

    def test_file_that_could_not_be_read_keeps_its_id(self, bench: Bench, tmp_path: Path) -> None:
        """Content that was not fetched yet, as git-annex and DVC leave it."""
        (tmp_path / "in0/late.jpg").symlink_to(tmp_path / "annex.jpg")
        bench.run()
        assert bench.outcomes()["late.jpg"] == "failed ProbeError"
        before = ids(bench.ledger)
        write_photo(tmp_path / "annex.jpg", 5)
        bench.run()
        assert bench.outcomes()["late.jpg"] == "kept"
        assert ids(bench.ledger) == before
        (tmp_path / "annex.jpg").rename(tmp_path / "dropped.jpg")
        bench.run()
        assert bench.outcomes()["late.jpg"] == "failed ProbeError"
        (tmp_path / "dropped.jpg").rename(tmp_path / "annex.jpg")
        assert bench.run().rows.total() == 0
        assert bench.outcomes()["late.jpg"] == "kept"

    def test_members_of_a_repacked_tar_keep_their_ids(self, bench: Bench, tmp_path: Path) -> None:
        def pack(*names: str) -> None:
            with tarfile.open(tmp_path / "in0/a.tar", "w") as archive:
                for name in names:
                    archive.add(tmp_path / f"in0/{name}.jpg", f"{name}.png")

        pack("photo0", "photo1")
        bench.run()
        before = ids(bench.ledger)
        pack("photo1", "photo0")  # other places in the file
        metrics = bench.run()
        assert (metrics.rows[PROBE], filtered(metrics)) == (2, 0)
        assert ids(bench.ledger) == before
        pack("photo0")
        assert filtered(bench.run()) == 0
        assert summarize(bench.ledger, bench.pipeline).gone == {"image": 1}

    def test_rows_of_a_rewritten_parquet_keep_their_ids(self, bench: Bench, tmp_path: Path) -> None:
        pictures = [(tmp_path / f"in0/photo{number}.jpg").read_bytes() for number in (0, 1)]
        table = pa.table({"image": pictures})
        pq.write_table(table, tmp_path / "in0/a.parquet")
        bench.run()
        before = ids(bench.ledger)
        pq.write_table(table, tmp_path / "in0/a.parquet", compression="none", row_group_size=1)
        metrics = bench.run()
        assert (metrics.rows[PROBE], filtered(metrics)) == (2, 0)
        assert ids(bench.ledger) == before

    def test_ledger_of_another_spelling_keeps_its_ids(self, bench: Bench, tmp_path: Path) -> None:
        """Before inputs were normalized, `./in` gave URIs that begin with a dot."""
        plain = Path(os.path.relpath(tmp_path / "in0")).as_posix()
        config = write_config(tmp_path / "c.yaml", data_of(tmp_path) | {"input": [plain]})
        curation("run", "-c", config)
        ledger = Ledger(open_storage(str(tmp_path / "out")))
        old = [_spelled(source, f"./{source.uri}") for source in ledger.sources(0)]
        ledger.replace_sources(0, old)
        said = curation("run", "-c", config, "--input", f"./{plain}/")
        assert "reading headers" not in said
        assert "gone" not in said
        assert ledger.sources(0) == old
        os.utime(tmp_path / "in0/photo0.jpg", ns=(1, 1))
        assert "measuring" not in curation("run", "-c", config)
        assert [source.source_id for source in ledger.sources(0)] == [source.source_id for source in old]

    def test_older_ledger_with_versions_in_several_units(self, bench: Bench, tmp_path: Path) -> None:
        """Before, a new version went into a unit of its own, under an id that its date was part of."""
        bench.run()
        (first,) = (source for source in bench.ledger.sources(0) if source.uri.endswith("photo0.jpg"))
        write_photo(tmp_path / "in0/photo0.jpg", 9)
        second = _spelled(first, first.uri, "date of the second")
        bench.ledger.commit_sources(1, [second])
        bench.run()
        assert len(bench.outcomes()) == 4
        assert len(ids(bench.ledger)["photo0.jpg"]) == 3
        assert bench.run().rows.total() == 0


def test_of_each_file_the_current_version_stands_else_the_newest(tmp_path: Path) -> None:
    """Random versions in random order, held against a loop over them."""
    draw = random.Random(0)
    ledger = Ledger(open_storage(str(tmp_path)))
    for _ in range(50):
        sources = [
            Source(
                source_id=f"{n:020}",
                uri=draw.choice("abcdef"),
                kind="image",
                size_bytes=1,
                etag=draw.choice("xyz"),
            )
            for n in range(draw.randint(1, 12))
        ]
        ledger.replace_sources(0, sources)
        listed = {name: draw.choice("xyz") for name in draw.sample("abcdefg", draw.randint(0, 4))}
        rows = [{"uri": n, "kind": "image", "size_bytes": 1, "etag": e} for n, e in sorted(listed.items())]
        remember_listing(ledger.storage, ListedSources(pa.Table.from_pylist(rows, schema=LISTED)))
        stands: dict[str, Source] = {}
        for source in sources:
            is_current = listed.get(source.uri) == source.etag
            if is_current or source.uri not in stands or listed.get(source.uri) != stands[source.uri].etag:
                stands[source.uri] = source
        gone = {one.source_id: name for name, one in stands.items() if name not in listed}
        absent = absent_sources(ledger)
        assert absent.gone == gone
        assert absent.replaced == {one.source_id for one in sources} - {
            one.source_id for one in stands.values()
        }
        assert set(absent.source_ids.to_pylist()) == absent.replaced | set(gone)


def test_unit_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a run that goes on beside `status`."""

    def source(number: int, uri: str) -> Source:
        return Source(source_id=f"{number:020}", uri=uri, kind="image", size_bytes=1, etag=str(number))

    ledger = Ledger(open_storage(str(tmp_path)))
    remember_listing(ledger.storage, ListedSources(LISTED.empty_table()))
    ledger.replace_sources(0, [source(0, "a")])
    scan, more = ledger.scan_sources, [source(1, "a"), source(2, "b")]

    def scan_and_change(columns: Sequence[str], units: Iterable[int]) -> Iterator[tuple[int, pa.Table]]:
        yield from scan(columns, units)
        if more:
            ledger.replace_sources(0, [more.pop(), *ledger.sources(0)])

    monkeypatch.setattr(ledger, "scan_sources", scan_and_change)
    absent = absent_sources(ledger)
    assert absent.gone == {f"{0:020}": "a", f"{2:020}": "b"}
    assert absent.replaced == {f"{1:020}"}


def _spelled(source: Source, uri: str, *more: str) -> Source:
    changes = {"etag": more[0], "content_hash": "0" * 64} if more else {}
    return Source(**{**_fields(source), "uri": uri, "source_id": stable_id(uri, *more), **changes})


def _fields(source: Source) -> dict[str, Any]:
    return {name: getattr(source, name) for name in Source.__dataclass_fields__}


def test_settling_keeps_the_order_of_a_unit() -> None:
    """The make-up of batches follows from it."""

    def file(name: str, content: str, date: str) -> Source:
        return Source(
            source_id=stable_id(name), uri=name, kind="image", size_bytes=1, etag=date, content_hash=content
        )

    known = [file(name, name, "old") for name in ("a", "b", "c")]
    settled = settle(known, [file("c", "c", "new"), file("a", "other", "new"), file("b", "b", "new")])
    assert [source.uri for source in settled] == ["a", "b", "c", "a"]
    assert [source.etag for source in settled] == ["old", "new", "new", "new"]
    assert [source.source_id for source in settled] == [
        stable_id("a"),
        stable_id("b"),
        stable_id("c"),
        stable_id("a", "other"),
    ]


@pytest.fixture(scope="module")
def two(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run on two folders, down to shards: its configuration and the folder of all."""
    folder = tmp_path_factory.mktemp("two")
    for number in range(2):
        (folder / f"in{number}").mkdir()
        write_photo(folder / f"in{number}/photo{number}.jpg", number)
    (folder / "in0/notes.md").write_text("no picture")
    data = config_data(folder, folder / "out", vocabulary)
    del data["videos"]
    data["input"] = [f"{folder}/in0", f"{folder}/in1"]
    config = write_config(folder / "c.yaml", data)
    curation("run", "-c", config)
    return config, folder


def shard_uris(folder: Path) -> set[str]:
    shards = folder.glob("out/shards/small/*.parquet")
    return {uri for path in shards for uri in pq.read_table(path)["source_uri"].to_pylist()}


def test_shards_card_and_report_follow_the_inputs(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The case `narrow`: `1 sources` and `in 2` never stand side by side."""
    config, folder = two
    both = {f"{folder}/in0/photo0.jpg", f"{folder}/in1/photo1.jpg"}
    assert shard_uris(folder) == both
    assert "problems" not in curation("verify", "-c", config)
    before = {path: path.read_bytes() for path in folder.glob("out/shards/small/*")}
    # A single stage writes no shards: those that are there are out of date then, and not damaged.
    narrow = ("-c", config, "--input", folder / "in0")
    said = curation("stage", "color", *narrow)
    assert f"gone from the inputs: 1 sources ({folder}/in1/photo1.jpg)" in said
    said = curation("verify", "-c", config, code=1)
    name = f"{folder}/in1/photo1.jpg"
    assert said.startswith(f"out of date: 1 sources are gone from the inputs: {name}; `curation run` ")
    assert curation("verify", folder / "out/shards/small", code=1) == said
    assert "problems" not in curation(
        "verify", shutil.copytree(folder / "out/shards", tmp_path / "s") / "small"
    )

    said = curation("run", *narrow)
    assert "small: 1 sources" in said
    assert "left out: .md 1" in said
    assert "nothing was missing" in said
    assert shard_uris(folder) == {f"{folder}/in0/photo0.jpg"}
    assert "problems" not in curation("verify", "-c", config)
    card = (folder / "out/shards/small/README.md").read_text()
    assert "| image sources | 1 | 1 | 0 | 0 | 0 |" in card
    page = (folder / "out/report/index.html").read_text()
    assert f"gone from the inputs: {name}" in page
    assert "left out: .md 1" in page
    assert page.count("photo1.jpg") == 1
    record = json.loads((folder / "out/run.json").read_text())
    assert record["listing"]["left_out"] == {".md": 1}
    # Commands that do not list say what the last run knew, whatever the configuration names.
    status = curation("status", "-c", config)
    (line,) = (line.split() for line in status.splitlines() if line.startswith("image sources"))
    assert line == ["image", "sources", "1", "1", "0", "0", "0", "1"]
    assert "gone" in curation("explain", "photo1.jpg", "-c", config)

    said = curation("run", "-c", config)
    assert "nothing was missing" in said
    assert "gone" not in said
    assert {path: path.read_bytes() for path in folder.glob("out/shards/small/*")} == before


def test_what_workers_read_beside_files_is_said_and_recorded(tmp_path: Path) -> None:
    """A caption in another encoding: said by the run that reads it, and by those that know of it."""
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in/photo.jpg", 0)
    (tmp_path / "in/photo.txt").write_bytes(b"caf\xe9")
    config = write_config(tmp_path / "c.yaml", data_of(tmp_path, "in"))
    line = "metadata errors: of 1 sources, carried_error in the table"
    for text, expected in (("", True), ("", True), ("coffee", False), ("", False)):
        if text:
            (tmp_path / "in/photo.txt").write_text(text)
        said = curation("run", "-c", config)
        record = json.loads((tmp_path / "out/run.json").read_text())["listing"]
        assert (line in record["lines"], record["num_bad_metadata"]) == (expected, int(expected))
        # Before a new caption is read, the old one is what is known.
        assert said.count(line) == int(expected or text != "")


def test_input_that_is_missing_as_a_whole_stops_the_run(two: tuple[Path, Path]) -> None:
    """An unmounted disk must not empty the shards."""
    config, folder = two
    before = (folder / "out/listing/present.parquet").read_bytes()
    (folder / "in1").rename(folder / "away")
    try:
        assert f"input {folder}/in1: there is no such folder" in curation("run", "-c", config, code=2)
        (folder / "in1").mkdir()
        assert "or nothing is in it" in curation("run", "-c", config, code=2)
        (folder / "in1").rmdir()
    finally:
        (folder / "away").rename(folder / "in1")
    assert (folder / "out/listing/present.parquet").read_bytes() == before
