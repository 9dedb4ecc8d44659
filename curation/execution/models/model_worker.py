"""What a model worker does with a call. Knows no Ray: the same code runs in a test in this process."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from curation.errors import DeviceMemoryFault
from curation.execution.loading import load_stage
from curation.execution.models.device_memory import DeviceMemory, device_memory, release_memory
from curation.execution.worker.heartbeat import Heartbeat
from curation.execution.worker.measure import ModelAnswer, measure_rows
from curation.pipeline import Pipeline
from curation.records import Row, Sample
from curation.stage import Media, Setup


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
    """Holds the stages of some steps, and measures one call after the other, each by itself."""

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
        self._free_since = 0.0
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

    def measure(self, key: str, samples: Sequence[Sample], media: Sequence[Media]) -> ModelAnswer:
        """Measure one batch of a step.

        Raises:
            DeviceMemoryFault: a sample alone does not fit into what is free of the GPU.
            CurationError: anything that does not concern one sample alone.
        """
        started = time.perf_counter()
        self.use.idle_s += started - self._free_since
        stage = self._steps[key].stage
        rows: list[Row] = []
        try:
            while len(rows) < len(samples):
                size = self._largest_batch.get(key, len(samples))
                part = slice(len(rows), len(rows) + size)
                self.heartbeat.renew(media[part][0].source.uri)
                rows += self._measure_part(key, samples[part], media[part])
        finally:
            self._free_since = time.perf_counter()
            self.heartbeat.renew("")
        seconds = self._free_since - started
        self._count(media, seconds)
        return ModelAnswer(rows, seconds, dict(stage.usage()))

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

    def _count(self, media: Sequence[Media], seconds: float) -> None:
        use = self.use
        use.busy_s += seconds
        use.num_calls += 1
        use.num_samples += len(media)
        use.num_bytes += sum(item.pixels.nbytes for item in media)
        use.memory = device_memory()
