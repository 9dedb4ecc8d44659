"""What `curation plan` says a run would do is what a run then does, and saying so changes nothing."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from curation.config import parse_config
from curation.errors import ContractError
from curation.estimate.outlook import Outlook, look_ahead
from curation.execution.record.run_record import description
from curation.ledger.unit_state import PROBE, RecomputePolicy
from curation.storage import open_storage
from curation.storage.readonly import ReadOnlyStorage
from datasets_media import Bench, built, config_data, contents, said_by, write_config, write_photo

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output in which everything has been measured; read-only."""
    output = tmp_path_factory.mktemp("planned") / "out"
    Bench(config_data(media, output, vocabulary)).run()
    return output


@pytest.fixture
def data(media: Path, finished: Path, vocabulary: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a copy of it."""
    shutil.copytree(finished, tmp_path / "out")
    return config_data(media, tmp_path / "out", vocabulary)


def planned(data: dict[str, Any], **options: Any) -> Outlook:
    return look_ahead(parse_config(data), **options)


def assert_run_keeps_to(
    outlook: Outlook, data: dict[str, Any], recompute: RecomputePolicy | None = None
) -> None:
    """A run measures of each step what is missing, and no more than what may be added to that."""
    rows = Bench(data).run(recompute).rows
    sizes = {step.key: (step.waits, rows[step.key], step.at_most) for step in outlook.steps}
    videos = {step.key for step in outlook.steps if step.counts == "videos"}
    for key, (waits, measured, at_most) in sizes.items():
        if key not in videos:  # of which each has a row per clip
            assert waits <= measured, sizes
            assert at_most is None or measured <= at_most, sizes


def test_new_output(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    """Counted by hand: `write_media` makes six photos and four videos, of which two are none."""
    data = config_data(media, tmp_path / "out", vocabulary)
    outlook = planned(data)
    assert outlook.fresh == {"image": 6, "video": 4}
    steps = {step.key: (step.waits, step.at_most) for step in outlook.steps}
    assert steps["images.resolution"] == (6, 6)
    assert steps["images.aesthetic"] == (0, 6)
    assert steps["videos.scenes"] == (4, 4)
    assert steps["videos.flow"] == steps["captions"] == (0, None)
    assert not (tmp_path / "out").exists()
    assert_run_keeps_to(outlook, data)


def test_nothing_is_missing_after_a_run(data: dict[str, Any]) -> None:
    outlook = planned(data)
    assert outlook.measures_nothing
    assert outlook.shards == "anew"  # the run of the fixture wrote none
    assert [step.waits for step in outlook.steps] == [0] * len(outlook.steps)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("images", {"resolution": {"min_width": 16, "min_height": 16}}),
        ("videos", {"scenes": {"min_clip_s": 0.5, "fade_threshold": 14}}),
        (
            "videos",
            {
                "filters": ["flow", "color", "aesthetic"],
                "aesthetic": {
                    "weights": "stand-in",
                    "head": "stand-in",
                    "head_sha256": None,
                    "min_score": 0.0,
                },
            },
        ),
        ("tokens", {"area": 8192}),
    ],
    ids=["looser threshold", "other clips", "another filter", "other tokens"],
)
def test_changed_settings(data: dict[str, Any], section: str, change: dict[str, Any]) -> None:
    data = data | {section: data[section] | change}
    outlook = planned(data)
    assert not outlook.measures_nothing
    assert any(step.waits for step in outlook.steps)
    assert_run_keeps_to(outlook, data)
    assert planned(data).measures_nothing


def test_steps_that_wait_for_nothing_else_are_counted_exactly(data: dict[str, Any]) -> None:
    data = data | {"tokens": data["tokens"] | {"area": 8192}}
    (tokens,) = [step for step in planned(data).steps if step.key == "tokens"]
    assert tokens.waits == tokens.at_most == Bench(data).run().rows["tokens"]


def test_why_a_step_measures_again(data: dict[str, Any], tmp_path: Path, capsys: Said) -> None:
    record = description(built(data)[1], None) | {"last_work": None}
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    config = write_config(tmp_path / "c.yaml", data)
    _, said = said_by(capsys, "plan", "-c", config, "--set", "tokens.area=8192")
    lines = [line for line in said.splitlines() if line.startswith("measured again")]
    assert lines == ["measured again: tokens: setting area 4096 -> 8192"]
    _, said = said_by(capsys, "plan", "-c", config)
    assert "measured again" not in said


def test_lost_rows(data: dict[str, Any]) -> None:
    for path in Path(data["output"]).glob("ledger/color/*/unit-*"):
        path.unlink()
    outlook = planned(data)
    assert {step.key for step in outlook.steps if step.waits} == {"images.color", "videos.color"}
    assert_run_keeps_to(outlook, data)


def test_new_changed_and_lost_sources(data: dict[str, Any], media: Path, tmp_path: Path) -> None:
    own = tmp_path / "in"
    shutil.copytree(media, own)
    data = config_data(own, tmp_path / "other", Path(data["shards"]["vocabulary"]))
    Bench(data).run()
    write_photo(own / "new.jpg", 20)
    write_photo(own / "photo0.jpg", 21)
    (own / "photo1.jpg").unlink()
    outlook = planned(data)
    assert (outlook.fresh, outlook.changed, outlook.gone) == ({"image": 1}, 1, 1)
    assert_run_keeps_to(outlook, data)


def test_limit_and_retries(data: dict[str, Any], tmp_path: Path) -> None:
    assert planned(data | {"output": str(tmp_path / "new")}, limit=3).fresh == {"image": 2, "video": 1}
    retry = RecomputePolicy(frozenset([PROBE, "aesthetic", "scenes"]))
    outlook = planned(data, recompute=retry)
    assert outlook.changed == 2  # the two videos that are none
    assert_run_keeps_to(outlook, data, retry)


def test_containers_are_not_read(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as tar:
        tar.add(media / "photo0.jpg", "photo0.jpg")
    data = config_data(tmp_path / "in", tmp_path / "out", vocabulary)
    outlook = planned(data)
    assert [container.uri.rpartition("/")[2] for container in outlook.unlisted] == ["a.tar"]
    assert len(outlook.listing.sources) == 0
    assert all(step.at_most is None for step in outlook.steps)
    Bench(data).run()
    assert planned(data).measures_nothing


def test_command_prints_tables_and_json_and_leaves_the_output_alone(
    data: dict[str, Any], tmp_path: Path, capsys: Said
) -> None:
    config = write_config(tmp_path / "c.yaml", data)
    before = contents(tmp_path / "out")
    words = ("plan", "-c", config, "--set", "tokens.area=8192", "--to", tmp_path / "plan.json")
    code, said = said_by(capsys, *words)
    assert (code, contents(tmp_path / "out")) == (0, before)
    assert "written once all is measured" in said
    steps = {step["step"]: step for step in json.loads((tmp_path / "plan.json").read_text())["plan"]["steps"]}
    assert steps["tokens"]["missing"] == steps["tokens"]["at_most"] > 0
    assert steps["captions"]["missing"] == 0
    assert f"tokens {' ' * 11}0" not in said


def test_storage_that_is_read_only_refuses_every_change(tmp_path: Path) -> None:
    storage = ReadOnlyStorage(open_storage(str(tmp_path)), {"a": b"other"})
    (tmp_path / "a").write_bytes(b"own")
    assert storage.read("a") == b"other"
    for change in (
        lambda: storage.write("b", b""),
        lambda: storage.creating("b"),
        lambda: storage.delete("a"),
        lambda: storage.exclusive(),
    ):
        with pytest.raises(ContractError, match="read only"):
            change()
    assert contents(tmp_path) == {"a": b"own"}
