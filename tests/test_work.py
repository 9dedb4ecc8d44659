"""Units worked on in this process: what comes out, what is missing afterwards, what is done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from curation.execution.worker.worker import UnitWorker, record_poison
from curation.ledger.unit_state import PROBE, RecomputePolicy
from curation.report.summary.summary import summarize
from datasets_media import Bench, config_data, write_photo


@pytest.fixture
def data(media: Path, vocabulary: Path, tmp_path: Path) -> dict[str, Any]:
    return config_data(media, tmp_path / "out", vocabulary)


@pytest.fixture(scope="module")
def finished(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out"
    Bench(config_data(media, output, vocabulary)).run()
    return output


@pytest.fixture
def copy(finished: Path, data: dict[str, Any]) -> dict[str, Any]:
    shutil.copytree(finished, data["output"])
    return data


@pytest.fixture
def own(data: dict[str, Any], media: Path, tmp_path: Path) -> tuple[Bench, Path]:
    """A bench on a copy of the media that the test may change, and that copy."""
    folder = tmp_path / "in"
    shutil.copytree(media, folder)
    return Bench(data | {"input": [str(folder)]}), folder


EXPECTED = {
    "cut_off.jpg": "failed DecodeError",
    "empty.mp4": "failed ProbeError",
    "gray.jpg": "rejected aesthetic_score_below_min+colorfulness_below_min",
    "long.mp4": "kept",
    "photo0.jpg": "kept",
    "photo1.jpg": "kept",
    "photo2.jpg": "kept",
    "small.jpg": "rejected width_below_min",
    "text.mp4": "failed ProbeError",
    "two_scenes.mp4": "kept",
}


def test_every_source_ends_as_it_should(copy: dict[str, Any]) -> None:
    assert Bench(copy).outcomes() == EXPECTED


def test_nothing_is_missing_after_a_run(copy: dict[str, Any]) -> None:
    bench = Bench(copy)
    assert [bench.tasks(phase) for phase in ("probe", "filter", "enrich")] == [[], [], []]


def test_books_balance(copy: dict[str, Any]) -> None:
    bench = Bench(copy)
    summary = summarize(bench.ledger, bench.pipeline)
    totals = summary.outcome_totals()
    assert totals["image sources"] == {"in": 6, "kept": 3, "rejected": 2, "failed": 1, "pending": 0}
    assert totals["video sources"] == {"in": 4, "kept": 2, "rejected": 0, "failed": 2, "pending": 0}
    assert totals["clips"] == {"in": 4, "kept": 4, "rejected": 0, "failed": 0, "pending": 0}
    assert summary.num_failures == 3
    assert summary.failed_fraction() == pytest.approx(0.3)


def test_each_frame_and_image_is_decoded_once_for_all_filters(data: dict[str, Any]) -> None:
    metrics = Bench(data).run()
    assert metrics.frames_held == 270
    assert metrics.frames_decoded["filter"] == 270
    # Five of the six images: the header alone rejects the small one. Three are kept.
    assert dict(metrics.images_decoded) == {"filter": 5, "enrich": 3}


def test_long_clip_is_captioned_in_windows_a_short_one_whole(copy: dict[str, Any]) -> None:
    captions = [values for values, _ in Bench(copy).rows("captions").values()]
    spans = sorted((c["start_s"], c["end_s"], c["parent_id"] is None) for c in captions if c["end_s"])
    assert spans == [(0.0, 3.0, True), (0.0, 10.5, False), (3.0, 6.0, True), (10.5, 21.0, False)]
    assert all("stand-in" in c["caption"] for c in captions)
    assert {c["num_frames"] for c in captions} == {1, 12}


def test_windows_of_a_long_clip_share_one_decode(copy: dict[str, Any]) -> None:
    # 60 frames of two_scenes.mp4 and 210 of long.mp4, whose one clip is captioned in two windows.
    shutil.rmtree(Path(copy["output"]) / "ledger" / "captions")
    shutil.rmtree(Path(copy["output"]) / "ledger" / "tokens")
    metrics = Bench(copy).run()
    assert dict(metrics.frames_decoded) == {"enrich": 270}
    assert (metrics.rows["captions"], metrics.rows["tokens"]) == (7, 7)


@pytest.mark.parametrize(
    ("run", "batches"),
    [
        # In order of names, photo0 and photo1 are in the first unit of four images, photo2 is in the next.
        ({"unit_images": 4, "unit_videos": 4}, [2, 1, 4]),
        ({"unit_images": 6, "unit_videos": 4}, [3, 4]),
        ({"unit_images": 6, "unit_videos": 4, "max_held_bytes": 1}, [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_kept_samples_are_captioned_in_full_batches_across_sources(
    data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: dict[str, Any],
    batches: list[int],
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("CURATION_TEST_CALLS", str(calls))
    data["run"] |= run
    data["stages"] = {"captions": "fault_stages:NotingCaptions"}
    Bench(data).run()
    assert [len(line.split()) for line in calls.read_text().splitlines()] == batches


def test_how_much_is_held_does_not_change_what_is_measured(copy: dict[str, Any]) -> None:
    bench = Bench(copy)
    before = {key: bench.rows(key) for key in ("captions", "tokens")}
    for name in before:
        shutil.rmtree(Path(copy["output"]) / "ledger" / name)
    copy["run"]["max_held_bytes"] = 1
    again = Bench(copy)
    again.run()
    assert {key: again.rows(key) for key in before} == before


def test_only_the_windows_that_wait_are_decoded_again(copy: dict[str, Any]) -> None:
    bench = Bench(copy)
    before = bench.rows("tokens")
    tokens, captions = bench.pipeline.step_of("tokens"), bench.rows("captions")
    assert tokens is not None
    (late,) = [name for name, (values, _) in captions.items() if values["end_s"] == 21.0]
    for unit in bench.ledger.measured_units("tokens", tokens.fingerprint):
        bench.ledger.commit("tokens", tokens.fingerprint, unit, [], tokens.stage.columns, replaces=[late])
    metrics = bench.run()
    assert dict(metrics.rows) == {"tokens": 1}
    assert (
        105 <= metrics.frames_decoded["enrich"] <= 105 + 10 + 10
    )  # the window, the roll-in, one key frame interval
    assert bench.rows("tokens") == before


def test_other_stages_settings_leave_the_rest_measured(copy: dict[str, Any]) -> None:
    before = Bench(copy)
    kept = {key: before.rows(key) for key in ("videos.scenes", "videos.color", "tokens")}
    copy["videos"]["flow"]["fps"] = 4.0
    after = Bench(copy)
    metrics = after.run()
    assert dict(metrics.rows) == {"videos.flow": 3}
    assert {key: after.rows(key) for key in kept} == kept


def test_threshold_is_moved_without_measuring(copy: dict[str, Any]) -> None:
    copy["images"]["color"] = {"min_colorfulness": 200.0}
    bench = Bench(copy)
    assert bench.tasks("filter") == []
    assert bench.outcomes()["photo0.jpg"] == "rejected aesthetic_score_below_min+colorfulness_below_min"


def test_looser_threshold_measures_only_what_comes_through(copy: dict[str, Any]) -> None:
    copy["images"]["resolution"] = {"min_width": 20, "min_height": 64}
    bench = Bench(copy)
    assert dict(bench.run().rows) == {
        "images.aesthetic": 1,
        "images.color": 1,
        "images.text": 1,
        "captions": 1,
        "tokens": 1,
    }
    assert bench.outcomes()["small.jpg"] == "kept"


@pytest.mark.parametrize("key", ["videos.scenes", "videos.flow", "images.color", "captions", "tokens"])
def test_lost_unit_files_are_measured_again_to_the_same_rows(copy: dict[str, Any], key: str) -> None:
    bench = Bench(copy)
    before = bench.rows(key)
    step = bench.pipeline.step_of(key)
    assert step is not None
    shutil.rmtree(Path(copy["output"]) / "ledger" / step.name / step.fingerprint)
    bench.run()
    assert bench.rows(key) == before
    assert bench.outcomes() == EXPECTED


def test_failed_rows_are_tried_again_only_when_asked(own: tuple[Bench, Path]) -> None:
    bench, folder = own
    worker = UnitWorker(bench.pipeline)
    for task in bench.tasks("probe"):
        worker.work(task)
    away = (folder / "photo0.jpg").rename(folder.parent / "away.jpg")
    for task in bench.tasks("filter"):
        worker.work(task)
    away.rename(folder / "photo0.jpg")
    assert bench.run().rows["images.color"] == 0
    assert bench.outcomes()["photo0.jpg"] == "failed ProbeError"
    stages = frozenset([PROBE, *(step.name for step in bench.pipeline.steps())])
    bench.run(RecomputePolicy(stages))
    assert bench.outcomes() == EXPECTED


def test_recompute_replaces_rows_and_nothing_else(copy: dict[str, Any]) -> None:
    bench = Bench(copy)
    before, others = bench.rows("videos.scenes"), bench.rows("videos.flow")
    metrics = bench.run(RecomputePolicy(frozenset(["scenes"]), only_failed=False))
    assert dict(metrics.rows) == {"videos.scenes": 3}
    assert bench.rows("videos.scenes") == before
    assert bench.rows("videos.flow") == others


def test_replaced_file_is_another_source_and_the_old_one_is_gone(own: tuple[Bench, Path]) -> None:
    bench, folder = own
    bench.run()
    write_photo(folder / "photo0.jpg", 5, gray=True)
    metrics = bench.run()
    assert metrics.rows[PROBE] == 1
    assert bench.outcomes() == EXPECTED | {"photo0.jpg": EXPECTED["gray.jpg"]}
    assert summarize(bench.ledger, bench.pipeline).outcome_totals()["image sources"]["in"] == 6


def test_new_files_get_units_of_their_own(own: tuple[Bench, Path]) -> None:
    bench, folder = own
    bench.run()
    units = bench.ledger.units()
    write_photo(folder / "another.jpg", 11)
    assert bench.run().rows[PROBE] == 1
    assert bench.ledger.units() == [*units, max(units) + 1]
    assert bench.outcomes() == EXPECTED | {"another.jpg": "kept"}


def test_lost_units_get_their_old_numbers(data: dict[str, Any]) -> None:
    bench = Bench(data)
    planned = bench.tasks("probe")
    worker = UnitWorker(bench.pipeline)
    for task in planned[1::2]:
        worker.work(task)
    assert bench.tasks("probe") == planned[0::2]


def test_files_that_vanish_fail_and_the_others_come_through(own: tuple[Bench, Path]) -> None:
    bench, folder = own
    worker = UnitWorker(bench.pipeline)
    for task in bench.tasks("probe"):
        worker.work(task)
    (folder / "long.mp4").unlink()
    (folder / "photo1.jpg").unlink()
    for phase in ("filter", "enrich"):
        for task in bench.tasks(phase):
            worker.work(task)
    gone = {"long.mp4": "failed ProbeError", "photo1.jpg": "failed ProbeError"}
    assert bench.outcomes() == EXPECTED | gone
    for key in ("videos.scenes", "images.color"):
        errors = {error for _, error in bench.rows(key).values()}
        assert "the file can't be opened: No such file or directory" in errors


def test_poisonous_source_fails_where_it_waits(data: dict[str, Any]) -> None:
    bench = Bench(data)
    worker = UnitWorker(bench.pipeline)
    for task in bench.tasks("probe"):
        worker.work(task)
    for task in bench.tasks("filter"):
        for source in bench.ledger.sources(task.unit):
            if source.source_id in (task.only or {source.source_id}) and source.uri.endswith(
                ("long.mp4", "photo1.jpg")
            ):
                record_poison(bench.pipeline, bench.ledger, task, source.source_id, kills=2)
    bench.run()
    assert bench.outcomes() == EXPECTED | {
        "long.mp4": "failed PoisonSource",
        "photo1.jpg": "failed PoisonSource",
    }
