"""Goes on decoding while model workers measure.

    overlap = Overlap(models)
    for chunk in chunks:
        yield from overlap.run(measurer.advance(chunk, ...))
    yield from overlap.finish()

What is measured, and in which batches, depends on the chunks alone. So does the order in which rows come out:
whichever call is answered first, the oldest is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from curation.errors import ContractError
from curation.execution.worker.measure import Measuring, Metrics, ModelAnswer, ModelCall, RowMeasured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation.pipeline.rules import Step
    from curation.records import Source

MAX_CALLS = 2
"""Calls of one decode worker that may be unanswered at a time."""


class ModelClient(Protocol):
    """The way to the model workers."""

    @property
    def steps(self) -> Collection[str]:
        """Keys of the steps that they measure."""

    @property
    def max_bytes(self) -> int:
        """Bytes that the unanswered calls may hold together; one call alone may hold more."""

    def submit(self, call: ModelCall) -> Callable[[], ModelAnswer]:
        """Make a call; what is returned waits for the answer."""

    def infer(self, step: Step, source: Source, batch: NDArray[Any]) -> NDArray[Any]:
        """Call a splitter's `infer`, and wait for the answer."""


class NoModelClient:
    """Where every stage is measured by the decode worker itself."""

    steps: Collection[str] = ()
    max_bytes = 0

    def __init__(self, _: Metrics) -> None:
        pass

    def submit(self, call: ModelCall) -> Callable[[], ModelAnswer]:
        """Nothing is ever asked.

        Raises:
            ContractError: always.
        """
        raise ContractError(f"{call.step.key} has no model worker")

    def infer(self, step: Step, source: Source, batch: NDArray[Any]) -> NDArray[Any]:
        """Nothing is ever asked.

        Raises:
            ContractError: always.
        """
        raise ContractError(f"{step.key} has no model worker")


class Overlap:
    """Measurements that wait for model workers, and the calls that they wait for.

    Attributes:
        models: The way to the model workers.
    """

    def __init__(self, models: ModelClient) -> None:
        self.models = models
        self._waiting: deque[tuple[Measuring, Callable[[], ModelAnswer], int]] = deque()

    def run(self, measuring: Measuring) -> Iterator[RowMeasured]:
        """Measure until a model worker is waited for, or to the end."""
        yield from self._go_on(measuring, None)

    def finish(self) -> Iterator[RowMeasured]:
        """Wait for all calls, and measure to the end."""
        while self._waiting:
            yield from self._resume_oldest()

    def _go_on(self, measuring: Measuring, answer: ModelAnswer | None) -> Iterator[RowMeasured]:
        while True:
            try:
                event = measuring.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, RowMeasured):
                yield event
                continue
            while self._waiting and not self._has_room(event):
                yield from self._resume_oldest()
            self._waiting.append((measuring, self.models.submit(event), event.num_bytes))
            return

    def _resume_oldest(self) -> Iterator[RowMeasured]:
        measuring, answered, _ = self._waiting.popleft()
        yield from self._go_on(measuring, answered())

    def _has_room(self, call: ModelCall) -> bool:
        held = sum(num_bytes for _, _, num_bytes in self._waiting)
        return len(self._waiting) < MAX_CALLS and held + call.num_bytes <= self.models.max_bytes
