"""`ModelWorker` as a Ray actor: one thread loads and stays, one measures, one answers the watchdog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from curation.execution.cluster.placement import Placement
from curation.execution.models.client import RETIRED
from curation.execution.models.model_worker import ModelUse, ModelWorker
from curation.execution.models.notes import note, noted
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
            name: str,
        ) -> None:
            """`name` is noted with the first call."""
            self._note_once = cache(partial(note, name))
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

        @ray.method(concurrency_group="measure")  # type: ignore[untyped-decorator]
        def measure(self, call: str, key: str, batch: tuple[Sequence[Sample], Sequence[Media]]) -> Any:
            return self._answer(call, self._worker.measure, key, *batch)

        @ray.method(concurrency_group="measure")  # type: ignore[untyped-decorator]
        def infer(self, call: str, key: str, batch: tuple[str, NDArray[Any]]) -> Any:
            return self._answer(call, self._worker.infer, key, *batch)

        def _answer(self, call: str, work: Callable[..., Any], *arguments: Any) -> Any:
            """Do a call, and note its name, so that it is known which one a death is due to."""
            self._is_loaded.wait()
            if self._worker.is_over:
                return RETIRED
            self._note_once()
            with noted(call):
                return work(*arguments)

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
