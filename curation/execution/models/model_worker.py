"""What a model worker does with a call. Knows no Ray: the same code runs in a test in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from curation.errors import ContractError, DeviceMemoryFault, MeasureError
from curation.errors.isolation import isolated
from curation.execution.loading import load_stage
from curation.execution.models.device_memory import DeviceMemory, device_memory, release_memory
from curation.execution.worker.heartbeat import Heartbeat
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
        num_bytes: Bytes of pixels in them.
        smallest_batch: The least that a batch was halved to, for lack of memory; 0 if none was.
        memory: That of its GPU, after the last call.
    """

    load_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    num_calls: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    smallest_batch: int = 0
    memory: DeviceMemory | None = field(default=None)


class ModelWorker:
    """Holds the stages of some steps, and measures calls, each by itself.

    Several threads may call at once where `Resources.concurrency` allows it.
    """

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
        self._num_busy = 0
        self._changed_at = 0.0
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
        self._changed_at = time.perf_counter()
        self.use.load_s = self._changed_at - started
        self.use.memory = device_memory()

    def measure(self, key: str, samples: Sequence[Sample], media: Sequence[Media]) -> ModelAnswer:
        """Measure one batch of a step.

        Raises:
            DeviceMemoryFault: a sample alone does not fit into what is free of the GPU.
            CurationError: anything that does not concern one sample alone.
        """
        stage = self._steps[key].stage
        rows: list[Row] = []
        with self._busy() as started:
            while len(rows) < len(samples):
                size = self._largest_batch.get(key, len(samples))
                part = slice(len(rows), len(rows) + size)
                self.heartbeat.renew(media[part][0].source.uri)
                rows += self._measure_part(key, samples[part], media[part])
        self.use.num_samples += len(samples)
        self.use.num_bytes += sum(item.pixels.nbytes for item in media)
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
            self.use.num_bytes += batch.nbytes
            return stage.infer(batch)

    @contextmanager
    def _busy(self) -> Iterator[float]:
        """Count a call, and the time before it and in it; the time at its begin."""
        started = self._settle(1)
        try:
            yield started
        finally:
            self._settle(-1)
            self.use.num_calls += 1
            self.use.memory = device_memory()

    def _settle(self, change: int) -> float:
        """Count the time since the last change as busy or idle; `change` more calls are under way now."""
        with self._lock:
            now = time.perf_counter()
            if self._num_busy:
                self.use.busy_s += now - self._changed_at
            else:
                self.use.idle_s += now - self._changed_at
            self._changed_at = now
            self._num_busy += change
            if not self._num_busy:
                self.heartbeat.renew("")
        return now

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
            self._largest_batch[key] = self.use.smallest_batch = len(samples) // 2
            return []
