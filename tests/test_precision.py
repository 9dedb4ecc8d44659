"""Precision: torch's flags as they are while a model computes, and as they were before."""

from __future__ import annotations

import pytest
import torch

from curation.pipeline.precision import computing, float32_products


def flags() -> dict[str, object]:
    """As the matrix products and convolutions read them, and as torch.compile does."""
    backends = torch.backends
    return {
        "matmul": backends.cuda.matmul.allow_tf32,
        "matmul for compilers": torch.get_float32_matmul_precision(),
        "convolution": backends.cudnn.allow_tf32,
        "benchmark": backends.cudnn.benchmark,
        "deterministic": backends.cudnn.deterministic,
        "enabled": backends.cudnn.enabled,
    }


@pytest.mark.parametrize("tf32", [False, True])
def test_products_and_convolutions_are_both_set_and_the_rest_stays(tf32: bool) -> None:
    before = flags()
    with float32_products(tf32=tf32):
        inside = flags()
    assert flags() == before
    assert (inside["matmul"], inside["convolution"]) == (tf32, tf32)
    assert inside["matmul for compilers"] == ("high" if tf32 else "highest")
    assert {name: inside[name] for name in ("benchmark", "deterministic", "enabled")} == {
        name: before[name] for name in ("benchmark", "deterministic", "enabled")
    }


def test_flags_come_back_after_an_error_and_from_inside_another_model() -> None:
    before = flags()

    def fail_within() -> None:
        with float32_products(tf32=True):
            outer = flags()
            with float32_products(tf32=False):
                pass
            assert flags() == outer
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert flags() == before


def test_tf32_is_fp32_on_a_cpu_and_bf16_is_not() -> None:
    """bfloat16 has 8 bits of significand: 1 + 2**-9 is 1."""
    nearly_one = torch.full((1, 1), 1 + 2**-9)
    one = torch.ones(1, 1)
    found = {}
    before = flags()
    for precision in ("fp32", "tf32", "bf16"):
        with computing(precision, "cpu"):
            assert flags() == before
            found[precision] = float(nearly_one @ one)
    assert found == {"fp32": 1 + 2**-9, "tf32": 1 + 2**-9, "bf16": 1.0}
