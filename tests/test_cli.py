"""The commands as users run them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curation import __version__
from datasets_media import config_data, contents, curation, write_config


@pytest.fixture(scope="module")
def finished(
    media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """Configuration, output, and what the run said."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder / "c.yaml", config_data(media, folder / "out", vocabulary))
    return config, folder / "out", curation("run", "-c", config)


def test_run_says_where_everything_is(finished: tuple[Path, Path, str]) -> None:
    _, output, said = finished
    for place in ("report/index.html", "run.json", "shards/small", "shards/small/README.md"):
        assert f"{output}/{place}" in said
        assert (output / place).exists()


def test_stand_ins_are_announced_everywhere(finished: tuple[Path, Path, str]) -> None:
    _, output, said = finished
    record = (output / "run.json").read_text()
    card = (output / "shards/small/README.md").read_text()
    page = (output / "report/index.html").read_text()
    assert said.splitlines()[1].startswith("UNTRAINED stand-in models: captions")
    assert said.count("UNTRAINED") == 1
    assert "UNTRAINED" in record.splitlines()[1]
    assert "UNTRAINED" in card.partition("---\n\n")[2].splitlines()[0]
    assert "UNTRAINED" in page.partition("<main>")[2].splitlines()[1]


def unlabelled(page: Path) -> str:
    """A page without what its tables say on a phone."""
    return re.sub(r' data-label="[^"]*"', "", page.read_text())


def test_precision_of_the_tokenizer_is_on_card_and_report(finished: tuple[Path, Path, str]) -> None:
    card = (finished[1] / "shards/small/README.md").read_text()
    (line,) = (line for line in card.splitlines() if line.startswith("| tokens | tokenizer "))
    assert line.endswith("| fp32 |")
    assert '<td class="left">fp32</td>' in unlabelled(finished[1] / "report/index.html")


class TestPreview:
    def test_shows_every_window_of_a_video(self, finished: tuple[Path, Path, str], tmp_path: Path) -> None:
        config, _, _ = finished
        said = curation("preview", "long.mp4", "-c", config, "--to", tmp_path / "p.html").splitlines()
        assert said[0].startswith("UNTRAINED stand-in models")
        assert [line.split()[1] for line in said[1:-1]] == ["long.mp4", "long.mp4"]
        page = (tmp_path / "p.html").read_text()
        assert page.count("<img src=") == 2
        for line in said[1:-1]:
            (numbers,) = re.findall(r": (PSNR [0-9.]+ dB, SSIM -?[0-9.]+)$", line)
            assert numbers in page
        assert "UNTRAINED" in page.partition("<main>")[2].splitlines()[1]

    def test_writes_a_picture_of_a_sample(self, finished: tuple[Path, Path, str], tmp_path: Path) -> None:
        config, output, _ = finished
        (sample_id,) = pq.read_table(next(output.glob("shards/small/*.parquet")))["sample_id"].to_pylist()[:1]
        assert sample_id in curation("preview", sample_id[:8], "-c", config, "--to", tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["lonk.mp4"], "did you mean 'long.mp4'"),
            (["cut_off.jpg"], "has no tokens: it is failed"),
            (["long.mp4", "--to", "p.jpg"], ".html or .png"),
        ],
    )
    def test_says_what_is_wrong(
        self, finished: tuple[Path, Path, str], arguments: list[str], problem: str
    ) -> None:
        assert problem in curation("preview", *arguments, "-c", finished[0], code=2)

    def test_says_that_a_file_is_gone(self, finished: tuple[Path, Path, str], tmp_path: Path) -> None:
        config, output, _ = finished
        private = shutil.copytree(output, tmp_path / "out")
        listed = pq.read_table(private / "listing/present.parquet")
        left = listed.filter(pc.invert(pc.ends_with(listed["uri"], "long.mp4")))
        # Without our metadata, as an older version wrote it: this one has checksums there.
        pq.write_table(left.replace_schema_metadata(None), private / "listing/present.parquet")
        said = curation("preview", "long.mp4", "-c", config, "--output", private, code=2)
        assert "'long.mp4' is no longer in the inputs" in said


def test_report_shows_codebook_use_and_decoded_samples(
    finished: tuple[Path, Path, str], tmp_path: Path
) -> None:
    config, output, _ = finished
    private = shutil.copytree(output, tmp_path / "out")
    page = private / "report/index.html"
    assert page.read_text().count('<img src="data:image/png') == 0  # switched off in the tests' configuration
    arguments = ("-c", config, "--output", private, "--set", "run.report_samples=1")
    curation("report", *arguments)
    shards = sorted((private / "shards/small").glob("*.parquet"))
    assert page.read_text().count('<img src="data:image/png') == len(shards)
    for shard in shards:
        codes = np.frombuffer(b"".join(pq.read_table(shard)["codes"].to_pylist()), "<u2")
        shares = np.unique(codes, return_counts=True)[1] / len(codes)
        assert f"<td>{2 ** -(shares * np.log2(shares)).sum():.0f}</td></tr>" in unlabelled(page)
    rows = [
        row for shard in shards for row in pq.read_table(shard, columns=["kind", "num_tokens"]).to_pylist()
    ]
    for kind in {row["kind"] for row in rows}:
        tokens = [row["num_tokens"] for row in rows if row["kind"] == kind]
        assert f"{kind}s</th><td>{len(tokens):,}</td><td>{sum(tokens):,}</td>" in unlabelled(page)
    before = contents(private)
    curation("report", *arguments)
    assert contents(private) == before


def test_report_tells_of_a_damaged_shard(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config, output, _ = finished
    private = shutil.copytree(output, tmp_path / "out")
    (private / "report/tokens.json").unlink()
    next(private.glob("shards/small/*.parquet")).write_bytes(b"damaged")
    curation("report", "-c", config, "--output", private)
    assert (private / "report/index.html").read_text().count("can't be read") == 1


def test_second_run_does_nothing_and_changes_no_byte(finished: tuple[Path, Path, str]) -> None:
    config, output, _ = finished
    before = contents(output)
    assert "nothing was missing: no media was opened" in curation("run", "-c", config)
    assert contents(output) == before


def test_run_record_names_models_versions_and_work(finished: tuple[Path, Path, str]) -> None:
    record = json.loads((finished[1] / "run.json").read_text())
    detector = next(model for model in record["models"] if model["role"] == "detector")
    assert detector["name"].startswith("package:rapidocr_onnxruntime/")
    assert len(detector["revision"]) == 64
    assert record["curation"] == __version__
    assert record["versions"]["ray"]
    assert record["last_work"]["decodes_per_frame"] == 1.0
    assert record["config"]["name"] == "small"


def test_report_sums_up_verdicts_and_finish_reasons_of_captions(finished: tuple[Path, Path, str]) -> None:
    page = (finished[1] / "report/index.html").read_text()
    section = page.partition("<h3>captions: what the stage counts</h3>")[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(?:<code>)?(.*?)(?:</code>)?</td>", row) for row in section.split("<tr>")]
    assert ["verdict", "ok", "7", "100 %"] in rows
    assert ["finish reason", "stand-in (untrained): stop", "7", "100 %"] in rows
    assert ["attempts", "ok", "7", "100 %"] in rows


def test_table_holds_every_source_and_sample(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    curation("table", "-c", finished[0], "--to", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    levels = [row["level"] for row in rows]
    assert (levels.count("source"), levels.count("sample"), levels.count("window")) == (10, 9, 2)
    broken = next(row for row in rows if row["uri"].endswith("empty.mp4"))
    assert (broken["outcome"], broken["error_type"], broken["error"]) == (
        "failed",
        "ProbeError",
        "the file is empty",
    )
    photo = next(row for row in rows if row["uri"].endswith("photo0.jpg") and row["level"] == "sample")
    assert photo["outcome"] == "kept"
    assert photo["aesthetic_score"] < 9.9
    assert photo["colorfulness"] > 5
    assert photo["grid_t"] == 1
    assert "stand-in" in photo["caption"]


def test_explain_tells_why(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config = finished[0]
    said = curation("explain", "gray.jpg", "-c", config)
    assert "aesthetic_score_below_min+colorfulness_below_min" in said
    assert "-> colorfulness_below_min" in said
    said = curation("explain", "cut_off.jpg", "-c", config)
    assert "DecodeError: image file is truncated" in said
    curation("table", "-c", config, "--to", tmp_path / "t.parquet")
    clip = next(row for row in pq.read_table(tmp_path / "t.parquet").to_pylist() if row["level"] == "window")
    assert clip["sample_id"] in curation("explain", clip["sample_id"][:12], "-c", config)
    assert "there is no source or sample" in curation("explain", "nobody.jpg", "-c", config, code=2)
    said = curation("explain", "in/empty", "-c", config, code=2)
    assert said.rstrip().endswith("in this output; did you mean 'empty.mp4'?")


def test_branches_of_the_rule_are_counted_and_named(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    """At 9.9 no score suffices, so photos come by color and text; at 0 all come by their score."""
    config, output, said = finished
    assert re.search(r"aesthetic or \(color then text\) +aesthetic +0\n", said)
    assert re.search(r"color then text +3\n", said)
    assert "kept by color then text, of aesthetic or" in curation("explain", "photo1.jpg", "-c", config)
    assert "kept by" not in curation("explain", "gray.jpg", "-c", config)
    assert "color then text kept 3" in (output / "shards/small/README.md").read_text()
    assert '<td class="left">color then text</td><td>3</td>' in (output / "report/index.html").read_text()
    low = ("-c", config, "--set", "images.aesthetic.min_score=0.0")
    assert re.search(r" aesthetic +4\n", curation("status", *low))
    assert "kept by aesthetic, of" in curation("explain", "photo1.jpg", *low)
    curation("table", *low, "--to", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["kept_by"] for row in rows if row["kind"] == "image"].count("aesthetic") == 4


def test_status_and_report_come_from_the_ledger_alone(finished: tuple[Path, Path, str]) -> None:
    config, output, _ = finished
    assert "image sources   6     3" in curation("status", "-c", config)
    before = (output / "report/index.html").read_bytes()
    (output / "report/index.html").unlink()
    assert "report/index.html" in curation("report", "-c", config)
    assert (output / "report/index.html").read_bytes() == before


def test_stage_measures_that_stage_alone(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", config_data(media, tmp_path / "out", vocabulary))
    curation("stage", "resolution", "-c", config)
    assert [path.name for path in (tmp_path / "out/ledger").iterdir()] == ["resolution"]
    assert not (tmp_path / "out/shards").exists()
    curation("stage", "images.aesthetic", "-c", config)
    assert {path.name for path in (tmp_path / "out/ledger").iterdir()} == {"resolution", "aesthetic"}
    curation("stage", "scenes", "-c", config)
    assert {path.name for path in (tmp_path / "out/ledger").iterdir()} == {
        "resolution",
        "aesthetic",
        "scenes",
    }


def test_model_is_not_called_again_for_what_is_measured(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("CURATION_TEST_CALLS", str(calls))
    data: dict[str, Any] = {
        "name": "counted",
        "input": [str(media)],
        "output": str(tmp_path / "out"),
        "images": {
            "filters": ["resolution", "counting_color"],
            "resolution": {"min_width": 64, "min_height": 64},
        },
        "stages": {"counting_color": "fault_stages:CountingColor"},
        "run": {"workers": 1, "max_failed_fraction": 1.0},
    }
    config = write_config(tmp_path / "c.yaml", data)
    curation("run", "-c", config)
    assert len(calls.read_text().splitlines()) == 4
    said = curation("run", "-c", config, "--set", "images.counting_color.min_colorfulness=199.0")
    assert "colorfulness_below_min 4" in said
    assert "nothing was missing" in said
    curation("stage", "counting_color", "-c", config)
    assert len(calls.read_text().splitlines()) == 4
    curation("run", "-c", config, "--set", "images.resolution.min_width=20")
    assert len(calls.read_text().splitlines()) == 5


def test_moved_threshold_changes_the_shards(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config, output, _ = finished
    shutil.copytree(output, tmp_path / "out")
    args = ("-c", config, "--output", tmp_path / "out")
    said = curation("run", *args, "--set", "images.color={min_colorfulness: 199.0}")
    assert "nothing was missing" in said
    shards = [pq.read_table(path) for path in (tmp_path / "out/shards/small").glob("train-*.parquet")]
    assert {kind for shard in shards for kind in shard["kind"].to_pylist()} == {"clip"}
    curation("run", *args)
    assert contents(tmp_path / "out/shards") == contents(output / "shards")


def test_too_many_failures_end_with_1(finished: tuple[Path, Path, str]) -> None:
    said = curation("run", "-c", finished[0], "--set", "run.max_failed_fraction=0.29", code=1)
    assert "30.0% failed, more than run.max_failed_fraction" in said
    curation("run", "-c", finished[0], "--set", "run.max_failed_fraction=0.3", code=0)


def test_changed_model_file_is_refused_unless_accepted(
    finished: tuple[Path, Path, str], media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    import rapidocr

    model = tmp_path / "detector.onnx"  # PP-OCRv6: a detector of one's choice
    model.write_bytes((Path(rapidocr.__file__).parent / "models/PP-OCRv6_det_small.onnx").read_bytes())
    data = config_data(media, tmp_path / "out", vocabulary)
    data = {key: data[key] for key in ("name", "input", "output", "run")}
    config = write_config(
        tmp_path / "c.yaml", data | {"images": {"filters": ["text"], "text": {"detector": str(model)}}}
    )
    curation("run", "-c", config)
    with model.open("ab") as file:
        file.write(b"\x00")
    said = curation("run", "-c", config, code=2)
    assert "images.text: the detector model" in said
    assert "--accept-new-models" in said


def config_with(tmp_path: Path, media: Path, vocabulary: Path, **changes: Any) -> Path:
    return write_config(tmp_path / "c.yaml", config_data(media, tmp_path / "out", vocabulary, **changes))


def test_missing_and_empty_inputs_end_with_2(tmp_path: Path, media: Path, vocabulary: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/notes.txt").write_text("x")
    config = config_with(tmp_path, media, vocabulary)
    for folder, words in (
        ("none", "there is no such folder"),
        ("empty", "nothing is in it"),
        ("text", "none of its 1 files is an image or a video"),
    ):
        said = curation("run", "-c", config, "--input", tmp_path / folder, code=2)
        assert f"input {tmp_path / folder}" in said
        assert words in said
        assert "Traceback" not in said


def test_unwritable_output_ends_with_3(tmp_path: Path, media: Path, vocabulary: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = config_with(tmp_path, media, vocabulary)
    said = curation("run", "-c", config, "--output", tmp_path / "file" / "out", code=3)
    assert f"StorageError: output: {tmp_path / 'file'}" in said
    assert "Traceback" not in said


def test_wrong_configuration_ends_with_2_before_anything_is_read(
    tmp_path: Path, media: Path, vocabulary: Path
) -> None:
    config = config_with(tmp_path, tmp_path / "none", vocabulary, imagse={})
    said = curation("run", "-c", config, code=2)
    assert "imagse: unknown; did you mean 'images'?" in said
    assert "folder" not in said


def test_gpu_that_is_not_there_ends_with_3(tmp_path: Path, media: Path, vocabulary: Path) -> None:
    config = config_with(tmp_path, media, vocabulary, device="cuda")
    assert "Ray sees no GPU" in curation("run", "-c", config, code=3)


def test_cluster_that_is_not_there_ends_with_3(tmp_path: Path, media: Path, vocabulary: Path) -> None:
    config = config_with(tmp_path, media, vocabulary)
    said = curation("run", "-c", config, "--address", "127.0.0.1:1", code=3)
    assert "there is no Ray cluster at 127.0.0.1:1" in said


def test_misspelt_names_get_a_suggestion(tmp_path: Path, media: Path, vocabulary: Path) -> None:
    assert "Did you mean 'status'?" in curation("statsu", code=2)
    config = config_with(tmp_path, media, vocabulary)
    assert "did you mean 'color'?" in curation("stage", "colour", "-c", config, code=2)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom curation.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'ray', 'torch', 'numpy', 'pyarrow', 'cv2', 'av', 'rich', 'pydantic'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in said
    assert "Do all that is missing" in said


def test_help_says_what_each_command_does_in_a_line() -> None:
    commands = curation("--help").split("Commands:")[1]
    assert "preference" in commands
    assert "..." not in commands
