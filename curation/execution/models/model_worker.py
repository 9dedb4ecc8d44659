"""What a model worker does with a call. Knows no Ray: the same code runs in a test in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from curation.errors import ContractError, DeviceMemoryFault, MeasureError, WorkerError
from curation.errors.isolation import isolated
from curation.execution.models.device_memory import DeviceMemory, device_memory, release_memory
from curation.execution.worker.heartbeat import Heartbeat
from curation.execution.worker.loading import load_stage
from curation.execution.worker.measure import ModelAnswer, measure_rows
from curation.pipeline import Pipeline
from curation.records import Row, Sample
from curation.splitter import Splitter
from curation.stage import Media, Setup

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class ModelUse:
    """What a model worker has done so far.

    Attributes:
        load_s: Seconds for imports and weights.
        busy_s: Seconds in which it measured.
        idle_s: Seconds in which it had nothing to measure, from the end of loading to the last call's end.
        num_calls: Calls that it answered.
        num_samples: Samples in them.
        memory: That of its GPU, after the last call.
    """

    load_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    num_calls: int = 0
    num_samples: int = 0
    memory: DeviceMemory | None = field(default=None)


class ModelWorker:
    """Holds the stages of some steps, and measures each call by itself, in the thread that makes it."""

    def __init__(
        self,
        pipeline: Pipeline,
        keys: Collection[str],
        device: Literal["cpu", "cuda"],
        services: Mapping[str, Mapping[str, str]],
        **place: Any,
    ) -> None:
        """`services` says by step key what the services beside it said; `place` is for `Setup`."""
        self._pipeline = pipeline
        self._steps = {step.key: step for step in pipeline.steps() if step.key in keys}
        self._device = device
        self._services = services
        self._place = place
        self._largest_batch: dict[str, int] = {}
        self._lock = threading.Lock()
        self._over: Future[None] = Future()
        self._num_calls_now = 0
        self._busy_since = self._free_since = 0.0
        self.use = ModelUse()
        self.heartbeat = Heartbeat()

    def load(self) -> None:
        """Set the stages up.

        Raises:
            EnvironmentFault: one can't be set up.
        """
        started = time.perf_counter()
        for step in self._steps.values():
            services = self._services.get(step.key, {})
            with self.heartbeat.load(step.key):
                load_stage(step, Setup(self._device, self._pipeline.revisions(step), services, **self._place))
        self._free_since = time.perf_counter()
        self.use.load_s = self._free_since - started
        self.use.memory = device_memory()

    def stay(self) -> ModelUse:
        """Wait until `end` is called; what was done until then.

        Raises:
            WorkerError: a model is broken, so that measuring goes on in another process only.
        """
        self._over.result()
        return self.use

    def end(self, broken: WorkerError | None = None) -> None:
        """Let `stay` return, or raise why this worker is broken. Once is enough."""
        with self._lock:
            if not self._over.done():
                self._over.set_exception(broken) if broken else self._over.set_result(None)

    @property
    def is_over(self) -> bool:
        """Whether no further call is to be measured."""
        return self._over.done()

    def measure(self, key: str, samples: Sequence[Sample], media: Sequence[Media]) -> ModelAnswer:
        """Measure one batch of a step.

        Raises:
            DeviceMemoryFault: a sample alone does not fit into what is free of the GPU.
            WorkerError: a model is broken, and this worker is over.
            CurationError: anything that does not concern one sample alone.
        """
        started = time.perf_counter()
        stage = self._steps[key].stage
        rows: list[Row] = []
        with self._busy():
            while len(rows) < len(samples):
                size = self._largest_batch.get(key, len(samples))
                part = slice(len(rows), len(rows) + size)
                self.heartbeat.renew(media[part][0].source.uri)
                rows += self._measure_part(key, samples[part], media[part])
        with self._lock:
            self.use.num_samples += len(samples)
        return ModelAnswer(rows, time.perf_counter() - started, dict(stage.usage()))

    def infer(self, key: str, uri: str, batch: NDArray[Any]) -> NDArray[Any]:
        """What a splitter's model makes of a batch from the source at `uri`.

        Raises:
            DeviceMemoryFault: it does not fit into what is free of the GPU.
            MeasureError: the splitter raised something that it does not declare.
        """
        stage = self._steps[key].stage
        if not isinstance(stage, Splitter):
            raise ContractError(f"{stage.name} is no splitter")
        with self._busy(), isolated(MeasureError):
            self.heartbeat.renew(uri)
            return stage.infer(batch)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Around a call; time in which several are worked on counts once."""
        with self._lock:
            if self._num_calls_now == 0:
                self._busy_since = time.perf_counter()
                self.use.idle_s += self._busy_since - self._free_since
            self._num_calls_now += 1
        try:
            yield
        except WorkerError as error:
            self.end(error)
            raise
        finally:
            with self._lock:
                self._num_calls_now -= 1
                self.use.num_calls += 1
                self.use.memory = device_memory()
                self.heartbeat.renew(None if self._num_calls_now else "")
                if self._num_calls_now == 0:
                    self._free_since = time.perf_counter()
                    self.use.busy_s += self._free_since - self._busy_since

    def _measure_part(self, key: str, samples: Sequence[Sample], media: Sequence[Media]) -> list[Row]:
        """The rows of samples; none if they did not fit, so that fewer are to be tried."""
        try:
            return measure_rows(self._steps[key].stage, samples, media)
        except DeviceMemoryFault as fault:
            release_memory()
            if len(samples) == 1:
                shape = "x".join(map(str, media[0].pixels.shape))
                raise DeviceMemoryFault(
                    f"{key}: one sample of {shape} does not fit into the GPU ({device_memory()}): {fault}"
                ) from fault
            self._largest_batch[key] = len(samples) // 2
            return []
