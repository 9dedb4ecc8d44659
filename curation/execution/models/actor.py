"""`ModelWorker` as a Ray actor: one thread loads and stays, one measures, one answers the watchdog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from curation.execution.models.client import RETIRED, STARTED
from curation.execution.models.model_worker import ModelUse, ModelWorker
from curation.execution.placement import Placement
from curation.execution.worker.heartbeat import Beat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation.pipeline import Pipeline
    from curation.records import Sample
    from curation.stage import Media


def model_actor(concurrency: int) -> Any:
    """The class, for so many calls at a time; making it imports Ray."""
    import ray

    @ray.remote(max_restarts=0, concurrency_groups={"watch": 1, "measure": concurrency})
    class ModelActor:
        def __init__(
            self,
            pipeline: Pipeline,
            keys: frozenset[str],
            device: Literal["cpu", "cuda"],
            services: Mapping[str, Mapping[str, str]],
            placement: Placement,
        ) -> None:
            self._worker = ModelWorker(
                pipeline,
                keys,
                device,
                services,
                gpu_fraction=placement.gpu_fraction,
                in_placement_group=bool(placement.bundles),
            )
            self._is_loaded = threading.Event()

        def work(self) -> ModelUse:
            """Load the models, and stay until `end`, or until a model is broken."""
            self._worker.load()
            self._is_loaded.set()
            return self._worker.stay()

        @ray.method(concurrency_group="measure", num_returns="streaming")  # type: ignore[untyped-decorator]
        def measure(self, key: str, batch: tuple[Sequence[Sample], Sequence[Media]]) -> Iterator[Any]:
            yield from self._answer(self._worker.measure, key, *batch)

        @ray.method(concurrency_group="measure", num_returns="streaming")  # type: ignore[untyped-decorator]
        def infer(self, key: str, batch: tuple[str, NDArray[Any]]) -> Iterator[Any]:
            yield from self._answer(self._worker.infer, key, *batch)

        def _answer(self, work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
            """Say that the call is begun, so that it is known which one a death is due to, and do it."""
            self._is_loaded.wait()
            if self._worker.is_over:
                yield RETIRED
            else:
                yield STARTED
                yield work(*arguments)

        @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
        def end(self) -> None:
            """Answer no further calls. In the group of the calls: once those before this are answered."""
            self._worker.end()

        @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
        def beat(self) -> Beat:
            beat = self._worker.heartbeat.beat()
            return beat if beat.uri or not self._is_loaded.is_set() else Beat()

        @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
        def describe(self) -> tuple[ModelUse, str]:
            """What it has done, and on which node."""
            return self._worker.use, ray.get_runtime_context().get_node_id()

    return ModelActor
