"""The benchmark of a GPU runs through on a CPU with tiny settings."""

from __future__ import annotations

import pytest
import torch
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from benchmarks.gpu import main
from benchmarks.gpu_encoder import Measured, count_flops, full_scale, goal, table


@pytest.mark.slow
def test_table_of_the_encoder_has_every_path_and_float64_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tiny"])
    said = capsys.readouterr().out
    assert "| enrich: models | 1 |" in said  # of the whole run
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in said.splitlines()
        if line.startswith("| ") and "64x64" in line
    ]
    equal = {(path, kind.split()[0]): float(codes.rstrip("%")) for path, kind, _, _, _, codes, *_ in rows}
    assert len(equal) == 2 * 8
    exact = {share for (path, _), share in equal.items() if path != "bf16"}
    assert min(exact) > 99  # float32's rounding alone: on a CPU TF32 is float32
    assert all(20 < equal["bf16", kind] < 100 for kind in ("images", "clip"))


def test_without_a_gpu_the_full_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "--tiny" in capsys.readouterr().err


def test_work_of_a_frame_is_what_was_measured() -> None:
    # As counted apart from this on a GPU.
    with torch.device("meta"):
        model = Emu3VQVAE(Emu3VQVAEConfig())
    assert count_flops(model, 512, 512) / 1e12 == pytest.approx(3.72, abs=0.005)


@pytest.mark.parametrize(
    ("path", "kind", "rate", "peak_gb", "said"),
    [
        ("bf16", "clip 512x512", 121.0, 3.9, ">= 120, <= 4 GB: reached"),
        ("bf16", "clip 512x512", 119.0, 3.9, ">= 120, <= 4 GB: MISSED"),
        ("fp32", "clip 512x512", 9.5, 4.1, ">= 9, <= 4 GB: MISSED"),
        ("fp32", "images 512x512", 9.5, 1.0, ""),
        ("transformers, IEEE", "clip 512x512", 200.0, 1.0, ""),
    ],
)
def test_goals_are_of_our_clips(path: str, kind: str, rate: float, peak_gb: float, said: str) -> None:
    assert goal(Measured(path, kind, rate, 0.0, peak_gb, None, 0.0)) == said


def test_a_path_without_memory_has_its_row() -> None:
    *_, row = table(["transformers: no memory on the card"], with_goals=True)
    assert row.count("|") == 9
    assert full_scale().sizes[0] == (512, 512)  # what goals are of
