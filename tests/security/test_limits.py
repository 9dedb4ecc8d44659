"""What a small file can make a worker do: little more than its size says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.ingest.metadata import PROBLEM, from_sidecar
from curation.media.image import probe_image, read_image
from datasets_media import Bench, write_photo

DEEP = 100_000


def test_deep_json_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("ab"):
        write_photo(tmp_path / f"in/{name}.jpg", seed)
    (tmp_path / "in/a.json").write_text('{"a":' * DEEP + "1" + "}" * DEEP)
    (tmp_path / "in/list.jsonl").write_text('{"file_name": "b.jpg", "x": ' + "[" * DEEP + "]" * DEEP + "}\n")
    data = {
        "name": "small",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"], "resolution": {"min_width": 16, "min_height": 16}},
    }
    bench = Bench(data)
    bench.run()
    assert {name: outcome for name, outcome in bench.outcomes().items() if name.endswith(".jpg")} == {
        "a.jpg": "kept",
        "b.jpg": "kept",
    }
    assert PROBLEM in from_sidecar(".json", b"[" * DEEP)


def test_of_a_long_animation_the_first_frame_alone_is_read(tmp_path: Path) -> None:
    """Whatever lies behind it may be damaged, or a million frames."""
    path = tmp_path / "a.gif"
    frames = [Image.new("P", (100, 100), index) for index in range(60)]
    for frame in frames:
        frame.putpalette([*range(256)] * 3)
    frames[0].save(path, save_all=True, append_images=frames[1:])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(range(256)) * 100)
    assert read_image(path).shape == (100, 100, 3)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_entities_in_xmp_are_not_expanded(tmp_path: Path, suffix: str) -> None:
    """A billion laughs; the orientation is found by a pattern, and no XML is parsed."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    xmp = f'<!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><x xmlns:tiff="t" tiff:Orientation="6">&l11;</x>'
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, xmp=xmp.encode())
    assert probe_image(path)[:2] in {(30, 20), (20, 30)}
    assert read_image(path).shape[2] == 3
