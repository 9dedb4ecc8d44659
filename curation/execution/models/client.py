"""A decode worker's way to the model workers: sends a batch by reference, and waits for its rows later."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from curation.errors import WorkerError
from curation.execution.cluster.results import Died, Unreachable, explained
from curation.execution.models.notes import take_note
from curation.execution.worker.measure import ModelAnswer, ModelCall
from curation.execution.worker.metrics import Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation.pipeline.rules import Step
    from curation.records import Source

POLL_S = 0.5
"""How often a decode worker that waits says that it is alive."""
UNREACHABLE_S = 60.0
"""So long after a broken connection the cluster is asked what became of a model worker."""
RETIRED = "retired"
"""What a model worker returns that measures no more."""


@dataclass(frozen=True)
class ModelRoute:
    """One model worker.

    Attributes:
        actor: Its handle.
        group: The group of stages that it holds.
        node_id: Where it runs; empty while it starts.
    """

    actor: Any
    group: str
    node_id: str = ""


@dataclass(frozen=True)
class ModelRoutes:
    """Which model workers a decode worker can ask.

    Attributes:
        by_step: Step key -> those that hold its stage.
        max_bytes: Bytes of pixels that one decode worker may have sent and not got rows for.
    """

    by_step: Mapping[str, Sequence[ModelRoute]] = field(default_factory=dict)
    max_bytes: int = 0


class RemoteModels:
    """The model workers, as one decode worker sees them."""

    def __init__(self, routes: ModelRoutes, metrics: Metrics, alive: Callable[[], None]) -> None:
        """`metrics` counts what is sent and waited for; `alive` is called now and then while waiting."""
        self._routes = routes
        self._metrics = metrics
        self._alive = alive
        self._unanswered: list[_SentCall] = []

    @property
    def steps(self) -> Collection[str]:
        """Keys of the steps that they measure."""
        return self._routes.by_step.keys()

    @property
    def max_bytes(self) -> int:
        """Bytes that the unanswered calls may hold together."""
        return self._routes.max_bytes

    def submit(self, call: ModelCall) -> Callable[[], ModelAnswer]:
        """Send a call to a model worker, one on this node if there is one."""
        # Smaller frames stay here: a stage that wants them takes them in `prepare`.
        media = [replace(item, halvings=()) for item in call.media]
        sent = self._send("measure", call.step.key, (list(call.samples), media), call.num_bytes)
        return lambda: self._answer(sent)

    def infer(self, step: Step, source: Source, batch: NDArray[Any]) -> NDArray[Any]:
        """Call a splitter's `infer` in a model worker, and wait."""
        found: NDArray[Any] = self._answer(self._send("infer", step.key, (source.uri, batch), batch.nbytes))
        return found

    def _send(self, method: str, key: str, arguments: Any, num_bytes: int) -> _SentCall:
        sent = _SentCall(method, key, arguments, num_bytes, self._near(key), self._choose)
        self._unanswered.append(sent)
        pool = self._metrics.pool(sent.route.group)
        pool.bytes_sent += num_bytes
        held = sum(item.num_bytes for item in self._unanswered)
        pool.most_bytes_out = max(pool.most_bytes_out, held)
        return sent

    def _answer(self, sent: _SentCall) -> Any:
        started = time.perf_counter()
        try:
            return sent.answer(self._alive)
        finally:
            self._unanswered.remove(sent)
            self._metrics.pool(sent.route.group).waited_s += time.perf_counter() - started

    def _near(self, key: str) -> list[ModelRoute]:
        import ray

        here = ray.get_runtime_context().get_node_id()
        routes = list(self._routes.by_step[key])
        return [route for route in routes if route.node_id == here] or routes

    def _choose(self, routes: Sequence[ModelRoute]) -> ModelRoute:
        """The one that this worker has sent the fewest calls to; of several, not the same for all workers."""
        import ray

        own = int(ray.get_runtime_context().get_worker_id()[:8], 16)
        busy = [sent.route.actor for sent in self._unanswered]
        turned = [routes[(own + place) % len(routes)] for place in range(len(routes))]
        return min(turned, key=lambda route: busy.count(route.actor))


class _SentCall:
    """A call that a model worker has not answered yet.

    Attributes:
        route: The model worker that was asked.
        num_bytes: Bytes of pixels in it.
    """

    def __init__(
        self,
        method: str,
        key: str,
        arguments: Any,
        num_bytes: int,
        routes: Sequence[ModelRoute],
        choose: Callable[[Sequence[ModelRoute]], ModelRoute],
    ) -> None:
        import ray

        self.num_bytes = num_bytes
        self._method = method
        self._key = key
        self._arguments = ray.put(arguments)
        self._left = list(routes)
        self._choose = choose
        self._send()

    def _send(self) -> None:
        self.route = self._choose(self._left)
        self._left.remove(self.route)
        self._name = uuid.uuid4().hex
        method = getattr(self.route.actor, self._method)
        self._returned = method.remote(self._name, self._key, self._arguments)

    def answer(self, alive: Callable[[], None]) -> Any:
        """Wait for what the model worker returns.

        A model worker that dies or retires before it has begun with this call harms nobody: another is asked;
        neither does one that goes down with its node.

        Raises:
            WorkerError: a model worker died over this call, or can't go on, or none is left to be asked.
            CurationError: what measuring raised.
        """
        import ray

        while True:
            try:
                answer = self._wait(alive)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                if take_note(self._name):
                    why = self._why_it_ended(error, alive)
                    raise WorkerError(
                        f"the model worker of {self._key} died: {why}",
                        is_blameless=isinstance(why, Died) and why.is_innocent,
                    ) from error
                answer = RETIRED
            if not isinstance(answer, str):
                return answer
            if not self._left:
                raise WorkerError(f"no model worker of {self._key} is left", is_blameless=True)
            self._send()

    def _why_it_ended(self, error: Any, alive: Callable[[], None]) -> Exception:
        """Why there is no answer. Where the connection broke, the cluster knows after a while."""
        import ray

        why: Exception = explained(error)
        give_up_at = time.monotonic() + UNREACHABLE_S
        while isinstance(why, Unreachable) and time.monotonic() < give_up_at:
            alive()
            try:
                ray.get(self.route.actor.beat.remote(), timeout=POLL_S)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError as later:
                why = explained(later)
            time.sleep(POLL_S)
        return why

    def _wait(self, alive: Callable[[], None]) -> Any:
        import ray

        while not ray.wait([self._returned], timeout=POLL_S)[0]:
            alive()
        alive()
        return ray.get(self._returned)
