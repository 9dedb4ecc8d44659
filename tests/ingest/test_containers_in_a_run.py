"""Whole units on containers, in this process: the same outcomes as on plain files, and counts that add up."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curation.execution.worker.worker import record_unlisted
from curation.ingest.listing import list_inputs
from curation.ingest.locator import locator_of
from curation.ingest.metadata import drawn_text
from curation.ledger import Ledger
from curation.ledger.absent import num_bad_metadata
from curation.ledger.unit_state import PROBE, RecomputePolicy
from curation.report.summary.summary import summarize
from curation.report.tables.explain import explain
from curation.report.tables.table import flat_table
from datasets_media import Bench, config_data
from one_by_one import scan_verdicts

EXPECTED = {
    "cut_off.jpg": "failed DecodeError",
    "gray.jpg": "rejected aesthetic_score_below_min+colorfulness_below_min",
    "photo0.jpg": "kept",
    "small.jpg": "rejected width_below_min",
    "text.mp4": "failed ProbeError",
    "two_scenes.mp4": "kept",
}
NAMES = sorted(EXPECTED)


def pack(media: Path, path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(media / name, name)


def embed(media: Path, path: Path, names: list[str]) -> None:
    rows = [{"bytes": (media / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table({"media": rows, "name": names}), path, row_group_size=2)


@pytest.fixture
def bench(folder: Path, vocabulary: Path, tmp_path: Path) -> Bench:
    data = config_data(folder, tmp_path / "out", vocabulary)
    del data["captions"], data["tokens"], data["shards"]
    return Bench(data)


def outcomes(bench: Bench) -> dict[tuple[str, str], str]:
    """(Container, name) -> outcome."""
    found = {}
    for _, unit in scan_verdicts(bench.ledger, bench.pipeline):
        for judged in unit:
            locator = locator_of(judged.source.uri)
            name = str(judged.source.metadata.get("name") or locator.part or "whole")
            verdict = judged.verdict
            found[Path(locator.path).name, name] = f"{verdict.outcome} {verdict.reason or ''}".strip()
    return found


def hashes(ledger: Ledger) -> dict[str, set[tuple[str | None, int]]]:
    found: dict[str, set[tuple[str | None, int]]] = {}
    for unit in ledger.units():
        for source in ledger.sources(unit):
            locator = locator_of(source.uri)
            name = str(source.metadata.get("name") or locator.part or Path(locator.path).name)
            found.setdefault(name, set()).add((source.content_hash, source.size_bytes))
    return found


def test_files_tar_and_parquet_end_alike(bench: Bench, folder: Path, media: Path) -> None:
    for name in NAMES:
        (folder / name).write_bytes((media / name).read_bytes())
    pack(media, folder / "a.tar", NAMES)
    embed(media, folder / "b.parquet", NAMES)
    bench.run()
    found = outcomes(bench)
    assert {name: outcome for (file, name), outcome in found.items() if file == "a.tar"} == EXPECTED
    assert {name: outcome for (file, name), outcome in found.items() if file == "b.parquet"} == EXPECTED
    assert {file: outcome for (file, name), outcome in found.items() if name == "whole"} == EXPECTED
    assert all(len(seen) == 1 for seen in hashes(bench.ledger).values())
    summary = summarize(bench.ledger, bench.pipeline).outcome_totals()
    assert summary["image sources"] == {"in": 12, "kept": 3, "rejected": 6, "failed": 3, "pending": 0}
    assert summary["video sources"] == {"in": 6, "kept": 3, "rejected": 0, "failed": 3, "pending": 0}
    assert bench.run().rows.total() == 0


def test_a_damaged_container_is_in_the_books_and_its_rest_is_worked_on(
    bench: Bench, folder: Path, media: Path
) -> None:
    pack(media, folder / "a.tar", ["gray.jpg", "photo0.jpg", "photo1.jpg"])
    data = (folder / "a.tar").read_bytes()
    with tarfile.open(folder / "a.tar") as archive:
        last = archive.getmembers()[2]
    (folder / "a.tar").write_bytes(data[: last.offset_data + 5])
    (folder / "b.parquet").write_bytes(b"PAR1 and no more")
    bench.run()
    assert outcomes(bench) == {
        ("a.tar", "whole"): "failed ProbeError",
        ("a.tar", "gray.jpg"): EXPECTED["gray.jpg"],
        ("a.tar", "photo0.jpg"): "kept",
        ("a.tar", "photo1.jpg"): "failed ProbeError",
        ("b.parquet", "whole"): "failed ProbeError",
    }
    summary = summarize(bench.ledger, bench.pipeline)
    totals = summary.outcome_totals()
    assert totals["container sources"] == {"in": 2, "kept": 0, "rejected": 0, "failed": 2, "pending": 0}
    assert {failure.uri for failure in summary.failures} >= {
        f"tar://{folder}/a.tar",
        f"parquet://{folder}/b.parquet",
    }
    assert bench.run().rows.total() == 0


def test_a_replaced_container_replaces_all_that_was_in_it(bench: Bench, folder: Path, media: Path) -> None:
    pack(media, folder / "a.tar", ["gray.jpg", "photo0.jpg"])
    (folder / "b.tar").write_bytes(b"no tar")
    bench.run()
    assert outcomes(bench)["b.tar", "whole"] == "failed ProbeError"
    pack(media, folder / "a.tar", ["photo0.jpg", "photo1.jpg", "photo2.jpg"])
    pack(media, folder / "b.tar", ["small.jpg"])
    bench.run()
    assert outcomes(bench) == {
        ("a.tar", "photo0.jpg"): "kept",
        ("a.tar", "photo1.jpg"): "kept",
        ("a.tar", "photo2.jpg"): "kept",
        ("b.tar", "small.jpg"): EXPECTED["small.jpg"],
    }


def test_a_container_that_could_not_be_read_for_a_while_is_listed_on_retry(
    bench: Bench, folder: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(media, folder / "a.tar", ["photo0.jpg"])
    (folder / "plain.jpg").write_bytes((media / "photo1.jpg").read_bytes())

    def out_of_reach(*args: Any, **options: Any) -> Any:
        raise OSError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile, "open", out_of_reach)
        bench.run()
    assert outcomes(bench)["a.tar", "whole"] == "failed ProbeError"
    assert bench.tasks("list") == []  # it is remembered
    bench.run()
    assert outcomes(bench)["a.tar", "whole"] == "failed ProbeError"
    bench.run(RecomputePolicy(frozenset([PROBE])))
    assert outcomes(bench) == {("a.tar", "photo0.jpg"): "kept", ("plain.jpg", "whole"): "kept"}
    assert bench.run().rows.total() == 0


def test_another_caption_is_taken_over_without_measuring(bench: Bench, folder: Path, media: Path) -> None:
    (folder / "a.jpg").write_bytes((media / "photo0.jpg").read_bytes())
    (folder / "b.jpg").write_bytes((media / "photo1.jpg").read_bytes())
    (folder / "a.txt").write_text("before")
    bench.run()
    (folder / "a.txt").write_text("after")
    (folder / "b.json").write_text(json.dumps({"score": 1.5}))
    assert bench.run().rows.total() == 0
    metadata = {
        source.uri.rpartition("/")[2]: source.metadata
        for unit in bench.ledger.units()
        for source in bench.ledger.sources(unit)
    }
    assert metadata == {"a.jpg": {"caption": "after"}, "b.jpg": {"score": 1.5}}
    assert bench.tasks("probe") == []


def test_captions_that_came_along_follow_their_files(
    folder: Path, media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes((media / "photo0.jpg").read_bytes() + name.encode())
        (folder / f"{name}.txt").write_text(f"a house before the storm, {name}")
    data = config_data(folder, tmp_path / "out", vocabulary, captions={"engine": "sidecar"})
    data["images"] = {"filters": ["resolution"], "resolution": {"min_width": 1, "min_height": 1}}
    del data["videos"], data["shards"]
    bench = Bench(data)

    def captions() -> dict[str, str | None]:
        rows = flat_table(bench.ledger, bench.pipeline).to_pylist()
        samples = [row for row in rows if row["level"] == "sample"]
        return {row["uri"].rpartition("/")[2]: row["caption"] or row["error_type"] for row in samples}

    bench.run()
    before = {f"{name}.jpg": f"a house before the storm, {name}" for name in "abc"}
    assert captions() == before
    (folder / "a.txt").write_text("a house after the storm")
    (folder / "b.txt").write_bytes("a house and a caf\xe9".encode("latin-1"))
    metrics = bench.run()
    assert {key: number for key, number in metrics.rows.items() if number} == {"captions": 2}
    assert captions() == before | {"a.jpg": "a house after the storm", "b.jpg": "CaptionError"}
    (folder / "b.txt").write_text("a house and a caf\xe9")
    bench.run()
    assert captions() == before | {"a.jpg": "a house after the storm", "b.jpg": "a house and a caf\xe9"}
    assert bench.run().rows.total() == 0


def test_table_and_explain_show_what_is_carried(bench: Bench, folder: Path, media: Path) -> None:
    said: list[dict[str, Any]] = [
        {"caption": "red", "width": 7, "score": 1},
        {"caption": "blue", "score": 0.5, "mixed": True},
        {"mixed": "text", "huge": 2**70},
    ]
    for number, values in enumerate(said):
        (folder / f"{number}.jpg").write_bytes((media / "small.jpg").read_bytes())
        (folder / f"{number}.json").write_text(json.dumps(values))
    bench.run()
    table = flat_table(bench.ledger, bench.pipeline)
    rows = {Path(row["uri"]).name: row for row in table.to_pylist() if row["level"] == "sample"}
    names = ("caption", "width", "carried_width", "score", "mixed", "huge")
    assert {name: [row[column] for column in names] for name, row in rows.items()} == {
        "0.jpg": ["red", 30, 7, 1.0, None, None],
        "1.jpg": ["blue", 30, None, 0.5, "True", None],
        "2.jpg": [None, 30, None, None, "text", str(2**70)],
    }
    assert (table.num_rows, "carried" in table.column_names) == (6, False)
    with io.StringIO() as text:
        explain(Console(file=text, width=200), bench.ledger, bench.pipeline, "0.jpg")
        assert "metadata caption red, score 1, width 7" in text.getvalue()


def test_explain_finds_a_member_by_its_name(bench: Bench, folder: Path, media: Path) -> None:
    pack(media, folder / "a.tar", ["small.jpg"])
    bench.run()
    with io.StringIO() as text:
        explain(Console(file=text, width=200), bench.ledger, bench.pipeline, "small.jpg")
        assert f"tar://{folder}/a.tar#small.jpg" in text.getvalue()


def listed_anew(bench: Bench) -> list[str]:
    return [source.uri.rpartition("/")[2] for task in bench.tasks("list") for source in task.sources]


def test_containers_are_listed_by_tasks_once_each(bench: Bench, folder: Path, media: Path) -> None:
    pack(media, folder / "a.tar", ["photo0.jpg"])
    embed(media, folder / "b.parquet", ["photo1.jpg"])
    (folder / "c.tar").write_bytes(b"no tar")
    (folder / "metadata.jsonl").write_text('{"file_name": "nothing"}')
    assert listed_anew(bench) == ["a.tar", "b.parquet", "c.tar", "metadata.jsonl"]
    bench.run()
    assert listed_anew(bench) == []
    pack(media, folder / "a.tar", ["photo0.jpg", "photo1.jpg"])
    assert listed_anew(bench) == ["a.tar"]
    bench.run()
    retried = bench.tasks("list", RecomputePolicy(frozenset([PROBE])))
    assert [source.uri for task in retried for source in task.sources] == [f"tar://{folder}/c.tar"]


def test_a_container_that_kills_who_lists_it_is_a_failed_source(
    bench: Bench, folder: Path, media: Path
) -> None:
    pack(media, folder / "a.tar", ["photo0.jpg"])
    pack(media, folder / "b.tar", ["photo1.jpg"])
    record_unlisted(bench.ledger, bench.tasks("list")[0], kills=2)
    bench.run()
    assert outcomes(bench) == {("a.tar", "whole"): "failed PoisonSource", ("b.tar", "photo1.jpg"): "kept"}
    assert listed_anew(bench) == []
    bench.run(RecomputePolicy(frozenset([PROBE])))
    assert outcomes(bench) == {("a.tar", "photo0.jpg"): "kept", ("b.tar", "photo1.jpg"): "kept"}


def test_bad_metadata_costs_no_picture_and_stands_in_table_and_explain(
    bench: Bench, folder: Path, media: Path
) -> None:
    photo = (media / "photo0.jpg").read_bytes()
    when = pa.array([2**62, 0], pa.timestamp("us"))
    pq.write_table(pa.table({"image": [photo] * 2, "when": when, "name": ["p0", "p1"]}), folder / "d.parquet")
    for name, said in {
        "lone": b'{"caption": "lone \\ud800", "w": 1}',
        "cp": "\u2019".encode("cp1252"),
    }.items():
        (folder / f"{name}.jpg").write_bytes(photo)
        (folder / f"{name}.{'json' if name == 'lone' else 'TXT'}").write_bytes(said)
    bench.run()
    assert set(outcomes(bench).values()) == {"kept"}
    rows = flat_table(bench.ledger, bench.pipeline).to_pylist()
    said = {row["uri"].rpartition("/")[2]: row["carried_error"] for row in rows if row["level"] == "sample"}
    assert {name: error and error.partition(":")[0] for name, error in said.items()} == {
        "cp.jpg": "the .txt file beside it is not UTF-8, nor UTF-16 or UTF-32 with a mark",
        "d.parquet#0": "when",
        "d.parquet#1": None,
        "lone.jpg": "caption",
    }
    leftovers = list_inputs(bench.config).leftovers
    leftovers.num_bad_metadata = num_bad_metadata(bench.ledger)
    assert leftovers.lines() == ["metadata errors: of 3 sources, carried_error in the table"]
    with io.StringIO() as shown:
        explain(Console(file=shown, width=300), bench.ledger, bench.pipeline, "lone.jpg")
        assert "carried_error caption: it is not Unicode text" in shown.getvalue()


def test_one_of_several_captions_is_drawn_and_all_stand_in_the_table(
    folder: Path, media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    texts = ["a house in the snow", "a barn by the sea", "a tower on a hill"]
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes((media / "photo0.jpg").read_bytes() + bytes([number]))
    lines = [{"file_name": f"{number}.jpg", "caption": text} for number in range(12) for text in texts]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = []
    for turn, seed in enumerate((0, 0, 1)):
        data = config_data(folder, tmp_path / f"out{turn}", vocabulary)
        del data["tokens"], data["shards"], data["videos"]
        data["captions"] = {"engine": "sidecar", "seed": seed}
        bench = Bench(data)
        bench.run()
        drawn.append({key: values["caption"] for key, (values, _) in bench.rows("captions").items()})
        table = flat_table(bench.ledger, bench.pipeline)
        assert table["carried_caption"].to_pylist() == [texts] * 24
    assert drawn[0] == drawn[1] == {key: drawn_text(texts, key, 0) for key in drawn[0]}
    assert drawn[2] != drawn[0]
    assert len(set(drawn[0].values())) == 3
