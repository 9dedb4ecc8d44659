"""`curation doctor`: what it says of this machine, and that it finds what is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curation.config import Config, parse_config
from curation.doctor import decoders, golden, machine, places
from curation.doctor.finding import Finding, findings
from curation.errors import EnvironmentFault
from curation.storage import open_storage
from datasets_media import curation, write_config


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    data = {
        "name": "checked",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "images": {"filters": ["color"]},
    }
    return data | changes


def config_of(folder: Path, **changes: Any) -> Config:
    return parse_config(settings(folder, **changes))


def states(found: Iterator[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in found}


@pytest.mark.slow
def test_machine_of_the_tests_is_well_and_a_broken_configuration_is_not(tmp_path: Path) -> None:
    """One command over everything: Ray starts, all codecs agree; the input and a model are not there."""
    text = {"detector": "nowhere/detector.onnx", "recognizer": None}
    data = settings(tmp_path, images={"filters": ["color", "text"], "text": text})
    said = curation("doctor", "-c", write_config(tmp_path / "c.yaml", data), code=3)
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert re.match(r"ok: starts on this machine, \d+ CPUs", lines["ray"])
    assert lines["input"] == f"failed: {tmp_path}/in is not there; correct `input`, or mount it"
    assert lines["model nowhere/detector.onnx"].startswith("failed: detector: ")
    assert all(line.startswith("ok: ") for name, line in lines.items() if name.startswith("self-test"))
    assert lines["self-test"] == "ok: no expected numbers for text"
    assert said.splitlines()[-1].endswith(", 2 failed")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_vocabulary_of_the_shards_is_looked_for(tmp_path: Path) -> None:
    made = {"captions": {"engine": "stand-in"}, "tokens": {"weights": "stand-in"}, "stand_ins": "allow"}
    config = config_of(tmp_path, **made, shards={"vocabulary": "nowhere/qwen.tiktoken"})
    assert states(places.check_models(config))["model nowhere/qwen.tiktoken"] == "failed"


def test_role_of_a_model_is_named_once(tmp_path: Path) -> None:
    made = {"captions": {"engine": "stand-in"}, "tokens": {"weights": "stand-in"}, "stand_ins": "allow"}
    config = config_of(tmp_path, **made, shards={"vocabulary": "nowhere/qwen.tiktoken"})
    (found,) = (one for one in places.check_models(config) if one.check == "model nowhere/qwen.tiktoken")
    assert found.text == "vocabulary: there is no file or folder nowhere/qwen.tiktoken"


def test_every_codec_agrees_and_wrong_colors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = states(decoders.check_decoders())
    assert set(found.values()) == {"ok"}
    assert {"decoder h264", "decoder hevc", "decoder av1", "decoder JPEG", "decoder AVIF"} <= found.keys()
    read = decoders.read_image
    monkeypatch.setattr(decoders, "read_image", lambda path: read(path)[:, :, ::-1])
    monkeypatch.setattr(decoders, "VIDEO", {"mpeg4": decoders.VIDEO["mpeg4"]})
    swapped = states(decoders.check_decoders())
    assert swapped["decoder mpeg4"] == "ok"
    assert {swapped[f"decoder {name}"] for name in decoders.IMAGES} == {"failed"}


def test_golden_numbers_are_met_and_a_broken_library_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    assert set(states(golden.check_golden(None)).values()) == {"ok"}
    monkeypatch.setattr(cv2, "mean", lambda _: (0.0, 0.0, 0.0, 0.0))
    found = states(golden.check_golden(None))
    assert found["self-test color"] == "failed"
    assert found["self-test resolution"] == found["self-test scenes"] == "ok"


def test_bucket_is_written_to_and_nothing_is_left(bucket: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, output=f"{bucket}/out", input=[f"{bucket}/in"])
    (output,) = places.check_output_place(config)
    assert (output.state, "compares versions" in output.text) == ("ok", True)
    assert states(places.check_inputs(config)) == {"input": "ok"}
    assert states(places.check_clock(config)) == {"clock": "ok"}
    assert open_storage(bucket).list("") == []


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_clock_that_is_off_is_told(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path) if where == "folder" else f"{request.getfixturevalue('bucket')}/out"
    now = places.time.time
    monkeypatch.setattr(places.time, "time", lambda: now() + 90)
    (finding,) = places.check_clock(config_of(tmp_path, output=output))
    apart_s = float(finding.text.split()[0])
    assert (finding.state, 85 < apart_s < 95) == ("warning", True)


def test_bucket_that_is_not_there_fails(bucket: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, output=f"{bucket}-other/out", input=[f"{bucket}-other/in"])
    found = states(
        findings(
            [
                ("input", lambda: places.check_inputs(config)),
                ("output", lambda: places.check_output_place(config)),
            ]
        )
    )
    assert found == {"input": "failed", "output": "failed"}


def test_little_room_is_a_warning(tmp_path: Path) -> None:
    config = config_of(tmp_path, run={"scratch": str(tmp_path), "scratch_bytes": 10**15})
    assert states(machine.check_disk(config))["scratch"] == "warning"
    assert list(tmp_path.iterdir()) == []


def a_file(folder: Path) -> str:
    (folder / "file").write_text("no folder")
    return str(folder / "file")


ODD_PLACES = {
    "no new files": (lambda _: "/proc/1/out", "No such file or directory"),  # not even for root
    "a file": (a_file, "Not a directory"),
    "a long name": (lambda _: "/" + 300 * "x", "File name too long"),
}


@pytest.mark.parametrize("odd", ODD_PLACES)
def test_place_that_takes_no_files_is_told_in_a_sentence(tmp_path: Path, odd: str) -> None:
    place, reason = ODD_PLACES[odd]
    config = config_of(tmp_path, output=place(tmp_path), run={"scratch": place(tmp_path)})
    checks = [("disk", lambda: machine.check_disk(config)), ("clock", lambda: places.check_clock(config))]
    found = {finding.check: finding for finding in findings(checks)}
    for name in ("output", "scratch", "clock"):
        assert (found[name].state, reason in found[name].text) == ("failed", True), found[name].line
        assert "Errno" not in found[name].line


def test_input_that_can_not_be_looked_at_is_told_in_a_sentence(tmp_path: Path) -> None:
    config = config_of(tmp_path, input=["/" + 300 * "x", str(tmp_path)])
    odd, good = findings([("input", lambda: places.check_inputs(config))])
    assert (odd.state, good.state) == ("failed", "ok")
    assert odd.text.endswith(": File name too long")


def test_check_that_breaks_is_a_failure_of_its_own() -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("the driver is too old")

    def refused() -> Iterator[Finding]:
        raise EnvironmentFault("no GPU")

    lines = [finding.line for finding in findings([("gpu", broken), ("ray", refused)])]
    assert lines[0].startswith("gpu: failed: ")
    assert "the driver is too old" in lines[0]
    assert lines[1] == "ray: failed: no GPU"
