"""`sweep`, `compare` and `sample` on a small output; what is said of shards that were decided otherwise."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.config import load_config
from curation.execution.record.run_record import description
from curation.execution.run import open_pipeline, write_report
from curation.ledger.selection import Selection
from curation.pipeline.decision import Decision
from curation.registry import SHARDS, load
from curation.whatif.contact_sheet import _wrapped
from datasets_media import config_data, contents, said_by, worked, write_config, write_media, write_vocabulary

MIN_WIDTH = "images.resolution.min_width"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration and its output, with shards, measured in this process."""
    folder = tmp_path_factory.mktemp("whatif")
    media = write_media(folder / "media")
    data = config_data(media, folder / "out", write_vocabulary(folder / "vocabulary.tiktoken"))
    pipeline, *_ = worked(data)
    (folder / "out/run.json").write_text(json.dumps(description(pipeline, None) | {"last_work": None}))
    config = write_config(folder / "small.yaml", data)
    write_shards(config)
    return config, folder / "out"


def write_shards(config: Path, *overrides: str) -> None:
    """What a run does after it has measured: shards, with what decided them."""
    settings = load_config(str(config), overrides)
    pipeline, ledger = open_pipeline(settings)
    load(SHARDS)(settings.shards).write(
        ledger.storage,
        settings.shards_folder,
        Selection(ledger, pipeline),
        decided=Decision.of(settings),
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_sweep_writes_what_it_shows(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generated photos are 96 pixels wide, but for one of 30 and one of 300 that is cut off."""
    config, _ = output
    names = ("t.csv", "t.parquet", "t.json", "t.html", "t.svg", "t.png")
    to = [part for name in names for part in ("--to", tmp_path / name)]
    code, said = said_by(capsys, "sweep", f"{MIN_WIDTH}=30:110:33", "-c", config, *to)
    assert code == 0, said
    found = rows_of(tmp_path / "t.csv")
    widths = [float(row[MIN_WIDTH]) for row in found]
    passed = [int(row["images.resolution passed"]) for row in found]
    # The present 64 is not among the stops and comes first: four of 96 pixels and the one of 300 pass.
    assert (widths, passed) == ([64, 30, 63, 96], [5, 6, 5, 5])
    assert [row["present"] for row in found] == ["true", "false", "false", "false"]
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["images.resolution passed"] for row in table] == passed
    points = json.loads((tmp_path / "t.json").read_text())["points"]
    assert [row["images.resolution passed"] for row in points] == passed
    page = (tmp_path / "t.html").read_text()
    assert "vega" in page
    assert 'src="http' not in page
    assert (tmp_path / "t.svg").read_text().startswith("<svg")
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.size[0] > 100
    assert [line.split()[0] for line in said.splitlines() if line.startswith("*")][1:] == ["*"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["images.aesthetic.min_scor=4:6:1"], "did you mean 'images.aesthetic.min_score'"),
        (["images.resolution=4"], "there is no such threshold"),
        (["images.aesthetic.weights=a,b"], "is no threshold, so it can't be moved without measuring again"),
        ([f"{MIN_WIDTH}=1:1000000000:1"], "1.0e+9 settings; a sweep takes 10000 at most"),
        ([f"{MIN_WIDTH}=1:101:1", "images.resolution.min_height=1:100:1"], "10100 settings"),
        ([f"{MIN_WIDTH}=1:5:0"], "a step of 0 leads nowhere"),
        ([f"{MIN_WIDTH}=5:1:1"], "a step of 1 does not lead from 5 to 1"),
        (["images.aesthetic.min_score=nan"], "nan is no finite number"),
        (["images.aesthetic.min_score=1:inf:1"], "inf is no finite number"),
        (["images.aesthetic.min_score=1e999"], "1e999 is no finite number"),
        (["images.aesthetic.min_score=four"], "'four' is no number"),
        (["images.aesthetic.min_score=4:6"], "a range is START:STOP:STEP"),
        (["images.aesthetic.min_score"], "must look like images.aesthetic.min_score=4:6:0.25"),
        ([f"{MIN_WIDTH}=1,2", f"{MIN_WIDTH}=3"], "stands there twice"),
        ([f"{MIN_WIDTH}=1:2:0.5"], "min_width"),
        (["images.aesthetic.min_score=9:11:1"], "images.aesthetic.min_score"),
    ],
)
def test_sweep_says_in_one_sentence_what_is_wrong(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str], settings: list[str], problem: str
) -> None:
    code, said = said_by(capsys, "sweep", *settings, "-c", output[0])
    assert (code, problem in said, len(said.splitlines())) == (2, True, 1), said


def test_stops_are_decimal(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In binary, 0.1 + 0.2 is another number than 0.3."""
    target = tmp_path / "t.json"
    code, said = said_by(
        capsys, "sweep", "images.aesthetic.min_score=0.1:0.7:0.1", "-c", output[0], "--to", target
    )
    assert code == 0, said
    points = json.loads(target.read_text())["points"]
    assert [row["images.aesthetic.min_score"] for row in points[1:]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_compare_names_what_a_setting_changes(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = output
    target = tmp_path / "changed.csv"
    code, said = said_by(capsys, "compare", f"{MIN_WIDTH}=20", "-c", config, "--to", target)
    assert code == 0, said
    assert f"{MIN_WIDTH}: 64 -> 20" in said
    (row,) = rows_of(target)
    assert row["uri"].endswith("small.jpg")
    assert (row["outcome_before"], row["reason_before"]) == ("rejected", "width_below_min")
    assert row["outcome_after"] in ("pending", "rejected")  # its short side was never scored
    code, said = said_by(capsys, "compare", folder, config)
    assert (code, "nothing ends otherwise" in said) == (0, True), said


def test_compare_says_what_holds_of_both_sides(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = output
    code, said = said_by(capsys, "compare", folder, config, "--set", f"{MIN_WIDTH}=20")
    assert code == 0, said
    assert "nothing ends otherwise" in said
    assert f"both:   {MIN_WIDTH}=20" in said.splitlines()


@pytest.mark.parametrize(
    ("sides", "problem"),
    [
        (["out"], "compared with what?"),
        (["a", "b", "c"], "compare takes two outputs or settings, not 3"),
        (["nowhere", "images.text.max_text_coverage=0.2"], "nowhere"),
        (["images.texd.max_text_coverage=0.2"], "texd"),
    ],
)
def test_compare_says_what_is_wrong(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str], sides: list[str], problem: str
) -> None:
    code, said = said_by(capsys, "compare", *sides, "-c", output[0])
    assert (code, problem in said, "Traceback" in said) == (2, True, False), said


def test_sample_draws_the_same_samples_each_time(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = output
    drawn = []
    for name in ("a.txt", "b.txt"):
        to = ("--n", "3", "--seed", "4", "--to", tmp_path / name)
        code, said = said_by(capsys, "sample", "-c", config, *to)
        assert code == 0, said
        drawn.append((tmp_path / name).read_text().split())
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
    others = {said_by(capsys, "sample", "-c", config, "--n", "3", "--seed", str(seed)) for seed in range(6)}
    assert len(others) > 1


def test_sample_takes_what_is_near_a_threshold(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Widths are 30, 96 and 300, the threshold is 64: 34 away from it is 30, 32 away are those of 96."""
    config, _ = output
    for arguments, widths in (
        (("--rejected-by", "resolution"), [30]),
        (("--threshold", MIN_WIDTH, "--near", "33"), [96] * 4),
        (("--threshold", MIN_WIDTH, "--near", "32"), [96] * 4),
        (("--threshold", MIN_WIDTH, "--near", "31"), []),
        (("--rejected-by", "images.resolution", "--threshold", MIN_WIDTH, "--near", "34"), [30]),
    ):
        target = tmp_path / "t.csv"
        code, said = said_by(capsys, "sample", "-c", config, *arguments, "--to", target)
        assert code == 0, said
        found = [row["values"] for row in rows_of(target)]
        assert len(found) == len(widths)
        assert all(f"width {width}" in values for width, values in zip(widths, found, strict=True))


def test_sweep_names_the_models_that_would_have_to_measure(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One photo of 30 pixels was rejected before anything else looked at it."""
    config, _ = output
    _, said = said_by(capsys, "sweep", f"{MIN_WIDTH}=30", "-c", config)
    (line,) = [line for line in said.splitlines() if line.startswith("images.aesthetic: ")]
    first, _, behind = line.partition("; what passes then comes to ")
    assert first == "images.aesthetic: up to 1 would have to be measured first by stand-in (untrained)"
    assert behind.startswith("images.text by package:rapidocr_onnxruntime/")
    assert behind.endswith(", captions by stand-in (untrained), tokens by stand-in (untrained)")


def test_contact_sheet_says_a_reason_in_two_lines() -> None:
    assert _wrapped("rejected by aesthetic_score_below_min", 2) == [
        "rejected by",
        "aesthetic_score_below_min",
    ]
    assert _wrapped(f"failed by {'a' * 100}", 2) == [f"failed by {'a' * 26}", f"{'a' * 35}…"]
    assert _wrapped("x" * 40, 1) == [f"{'x' * 35}…"]


def test_sample_draws_a_contact_sheet(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = output
    for name in ("sheet.png", "sheet.html"):
        code, said = said_by(capsys, "sample", "-c", config, "--kept", "--n", "2", "--to", tmp_path / name)
        assert code == 0, said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * 256 + 8, 256 + 40)
    assert (tmp_path / "sheet.html").read_text().count("<figure>") == 2
    assert "<img " in (tmp_path / "sheet.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--rejected-by", "texd"], "did you mean"),
        (["--near", "0.1"], "near to which threshold?"),
        (["--near", "nan", "--threshold", MIN_WIDTH], "no distance"),
        (["--threshold", MIN_WIDTH], "Name a distance by --near"),
        (["--kept", "--failed"], "a sample ends in one way"),
        (["--kept", "--to", "sheet.jpg"], "must end in .png, .html, .txt, .csv or .parquet"),
    ],
)
def test_sample_says_what_is_wrong(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    code, said = said_by(capsys, "sample", "-c", output[0], *arguments)
    assert (code, problem in said, "Traceback" in said) == (2, True, False), said


class TestShardsDecidedOtherwise:
    """Shards that were decided with `--set` say so, wherever somebody asks with the file."""

    LINE = f"shards were decided with {MIN_WIDTH}=96; this configuration says 64"

    @pytest.fixture(autouse=True)
    def decided(self, output: tuple[Path, Path]) -> Any:
        config, folder = output
        write_shards(config, f"{MIN_WIDTH}=96", "run.workers=1")
        yield config, folder
        write_shards(config)

    def test_the_manifest_tells_what_decided(self, output: tuple[Path, Path]) -> None:
        decided = json.loads((output[1] / "shards/small/manifest.json").read_text())["decided"]
        assert decided["overrides"] == [f"{MIN_WIDTH}=96"]
        assert decided["settings"][MIN_WIDTH] == 96

    def test_the_same_decision_changes_no_file(self, output: tuple[Path, Path]) -> None:
        config, folder = output
        before = contents(folder)
        write_shards(config, f"{MIN_WIDTH}=96", "run.workers=1")
        assert contents(folder) == before

    def test_a_comment_in_the_file_changes_no_file(self, output: tuple[Path, Path]) -> None:
        config, folder = output
        text, before = config.read_text(), contents(folder)
        config.write_text(f"# For the demo.\n{text}")
        write_shards(config, f"{MIN_WIDTH}=96")
        config.write_text(text)
        assert contents(folder) == before

    def test_status_and_verify_and_report_say_it(
        self, output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        config, folder = output
        for command in ("status", "verify"):
            code, said = said_by(capsys, command, "-c", config)
            assert (code, self.LINE in said.splitlines()) == (0, True), said
        write_report(*open_pipeline(load_config(str(config))))
        assert self.LINE in (folder / "report/index.html").read_text()
        code, said = said_by(capsys, "status", "-c", config, "--set", f"{MIN_WIDTH}=96")
        assert "shards were decided with" not in said

    def test_shards_of_an_older_version_are_read(
        self, output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        config, folder = output
        manifest = folder / "shards/small/manifest.json"
        record = json.loads(manifest.read_text())
        del record["decided"]
        manifest.write_text(json.dumps(record))
        for command in ("status", "verify"):
            code, said = said_by(capsys, command, "-c", config)
            assert (code, "decided" in said) == (0, False), said

    def test_another_rule_is_another_decision(self, output: tuple[Path, Path]) -> None:
        config, _ = output
        decided = Decision.of(load_config(str(config)))
        other = load_config(str(config), ["images.filters=[resolution, aesthetic]"])
        assert any("images.filters" in line for line in decided.differences(other))
        assert not list(decided.differences(load_config(str(config), ["run.workers=1"])))


def test_explain_leaves_out_what_says_nothing(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A video has no text that came along, and a caption's stand-in counts no tokens."""
    for name in ("long.mp4", "photo0.jpg", "cut_off.jpg"):
        code, said = said_by(capsys, "explain", name, "-c", output[0])
        assert (code, " None" in said) == (0, False), said
        assert not re.search(r" ,|, *$|\[\]", said, re.MULTILINE), said


def test_status_counts_what_is_listed_but_unread(
    output: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after Ctrl-C: three photos and a video were listed, and nobody has opened them yet."""
    config, folder = output
    private = shutil.copytree(folder, tmp_path / "out")
    listed = pq.read_table(private / "listing/present.parquet").to_pylist()
    new = [{"uri": f"new{number}.jpg", "etag": "e"} for number in range(3)] + [
        {"uri": "new.mp4", "etag": "e"}
    ]
    schema = pa.schema([("uri", pa.string()), ("etag", pa.string())])
    pq.write_table(pa.Table.from_pylist([*listed, *new], schema), private / "listing/present.parquet")
    code, said = said_by(capsys, "status", "-c", config, "--output", private)
    assert code == 0, said
    pending = {line.split()[0]: line.split()[-1] for line in said.splitlines() if " sources " in line}
    assert pending == {"image": "3", "video": "1"}


def test_gc_keeps_what_the_overrides_use(
    output: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = output
    code, said = said_by(capsys, "gc", "-c", config, "--set", "videos.flow.fps=1.0")
    assert (code, "ledger/flow/" in said) == (0, True), said
    assert "ledger/flow/" not in said_by(capsys, "gc", "-c", config)[1]
