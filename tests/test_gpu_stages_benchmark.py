"""What `python -m benchmarks.gpu` does with filters, tiny and on a CPU: its figures mean nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_stages import TINY, rows, table


@pytest.fixture(autouse=True)
def one_thread():
    """Several spin while others wait for the same processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_every_model_is_measured_in_every_precision_that_it_has() -> None:
    found = list(rows("cpu", TINY))
    precisions = {
        model: {row.precision for row in found if model in row.what}
        for model in ("squares", "CLIP", "DIS", "raft", "TransNetV2")
    }
    every = {"fp32", "tf32", "bf16"}
    assert precisions == {
        "squares": {""},
        "CLIP": every,
        "DIS": {""},
        "raft": every,
        "TransNetV2": {"fp32", "tf32"},
    }
    assert all(row.per_s > 0 for row in found)
    assert [line.count("|") for line in table(found)] == [6] * (2 + len(found))
    # On a CPU TF32 is fp32, and the same lines find bfloat16 to be off.
    exact = [row.agreement for row in found if row.agreement and row.precision in ("fp32", "tf32")]
    assert all("most 0.0e+00" in said for said in exact)
    assert any("most 0.0e+00" not in row.agreement for row in found if row.precision == "bf16")
