"""How many GPUs a worker takes, and how many workers there is room for. No GPU is needed: Ray only counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curation.cli.console import console
from curation.errors import EnvironmentFault
from curation.execution.cluster import num_gpu_places
from curation.execution.driver import Pool
from curation.execution.progress import ConsoleProgress
from curation.ledger import Ledger
from curation.storage import open_storage
from datasets_media import built, config_data


@pytest.fixture(scope="module")
def four_gpus() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=1, num_gpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ({"engine": "vllm", "tensor_parallel_size": 2}, 2.0),
        ({"engine": "vllm"}, 1.0),
        ({"engine": "serve"}, 0.25),  # a server is asked; the other models have their share
        ({"engine": "openai", "url": "http://localhost/v1"}, 0.25),
    ],
)
def test_engine_in_the_worker_takes_whole_gpus(
    media: Path, vocabulary: Path, tmp_path: Path, captions: dict[str, Any], expected: float
) -> None:
    model = {"model": str(vocabulary)}  # any file: nothing is loaded here
    data = config_data(media, tmp_path / "out", vocabulary, captions=model | captions)
    config, pipeline = built(data)
    pool = Pool(pipeline, Ledger(open_storage(config.general.output)), None, ConsoleProgress(console()))
    pool._device = "cuda"
    assert pool._worker_gpus() == expected
    pool._device = "cpu"
    assert pool._worker_gpus() == 0


@pytest.mark.slow
def test_no_more_workers_than_gpus_have_room_for(four_gpus: None) -> None:
    assert [num_gpu_places(share) for share in (0.25, 1.0, 3.0, 4.0)] == [16, 4, 1, 1]
    assert num_gpu_places(0.0) > 10**6
    with pytest.raises(EnvironmentFault, match="a worker needs 8 GPUs, and Ray sees 4"):
        num_gpu_places(8.0)
