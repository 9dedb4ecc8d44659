"""What a pass needs beside its workers, such as a model server: each runs in an actor of its own.

    with running(services_of(pipeline, steps), placements, "cuda", is_local=False) as found:
        ...  # found["captions"] is what the workers' `setup` gets as `Setup.services`

Ray puts the actor on a node that has the GPUs, and starts it again, on another node if need be, when its
process or its node is lost. Workers hold a reference to the actor, not an address: they ask it anew when
nobody answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from curation.errors import EnvironmentFault
from curation.execution.cluster.placement import SEAT_TIMEOUT_S, Placement, take_seat
from curation.stage import Service, Setup

if TYPE_CHECKING:
    from curation.pipeline import Pipeline
    from curation.pipeline.rules import Step

LOOPBACK = "127.0.0.1"
LOOK_UP_TIMEOUT_S = 30.0
"""For the answer to where a service is. It has a thread of its own, so a later one means that it is away."""
STOP_TIMEOUT_S = 10.0
"""For ending in order; afterwards its process is killed."""


class ServiceHost:
    """Starts a service, and says where it is. Knows no Ray."""

    def __init__(self, service: Service, setup: Setup, host: str) -> None:
        self._service = service
        self._started = ThreadPoolExecutor(1).submit(service.start, setup, host)

    def ready(self) -> None:
        """Wait until it is started.

        Raises:
            EnvironmentFault: it did not start.
        """
        self._started.result()

    def look_up(self) -> Mapping[str, str]:
        """What it said when it was started; empty while it is starting.

        Raises:
            EnvironmentFault: it did not start.
        """
        return self._started.result() if self._started.done() else {}

    def stop(self) -> None:
        self._service.stop()


@dataclass(frozen=True)
class ServiceAddress(Mapping[str, str]):
    """What a service says now, asked of its actor at every look; empty while it is starting again.

    Raises at a look:
        EnvironmentFault: it is gone for good.
    """

    key: str
    actor: Any

    def __getitem__(self, name: str) -> str:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> Mapping[str, str]:
        import ray

        try:
            found: Mapping[str, str] = ray.get(self.actor.look_up.remote(), timeout=LOOK_UP_TIMEOUT_S)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
            return {}
        except ray.exceptions.RayError as error:
            raise _fault(self.key, error) from error
        return found


@dataclass(frozen=True)
class StepService:
    """What a step needs beside the workers.

    Attributes:
        key: The step's key.
        revisions: Revisions of the step's models.
    """

    key: str
    service: Service
    revisions: Mapping[str, str]


def services_of(pipeline: Pipeline, steps: Sequence[Step]) -> list[StepService]:
    """What these steps need beside the workers."""
    asked = [(step, step.stage.service()) for step in steps]
    return [
        StepService(step.key, service, pipeline.revisions(step))
        for step, service in asked
        if service is not None
    ]


@contextmanager
def running(
    services: Sequence[StepService],
    placements: Mapping[str, Placement],
    device: Literal["cpu", "cuda"],
    *,
    is_local: bool,
) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """Run services; step key -> what its stage's `setup` gets. They are stopped whatever happens.

    `placements` say where each runs. `is_local`: the cluster is this machine alone, and nobody else is to
    reach the services.

    Raises:
        EnvironmentFault: one does not start, or no node has its GPUs.
    """
    with ExitStack() as stack:
        found = {}
        for item in services:
            placement = placements[item.key]
            setup = Setup(device, item.revisions, gpu_fraction=placement.gpu_fraction)
            actor = stack.enter_context(_running(item, setup, placement, is_local=is_local))
            found[item.key] = ServiceAddress(item.key, actor)
        yield found


@contextmanager
def _running(item: StepService, setup: Setup, placement: Placement, *, is_local: bool) -> Iterator[Any]:
    import ray

    if placement.bundles:
        raise EnvironmentFault(
            f"what {item.key} starts needs {len(placement.bundles)} whole GPUs of one node, and no node has "
            "so many to spare; set a smaller tensor_parallel_size, or engine: vllm"
        )
    seat = take_seat(placement)
    actor_class = _actor_class().options(max_restarts=item.service.max_restarts, **seat.options)
    actor = actor_class.remote(item.service, setup, is_local=is_local)
    try:
        _wait_until_ready(item.key, item.service, actor)
        yield actor
    finally:
        # What it started ends also when its process is killed, only later.
        with suppress(ray.exceptions.RayError):
            ray.get(actor.stop.remote(), timeout=STOP_TIMEOUT_S)
        ray.kill(actor)


def _wait_until_ready(key: str, service: Service, actor: Any) -> None:
    import ray

    timeout_s = service.start_timeout_s + SEAT_TIMEOUT_S
    try:
        ray.get(actor.ready.remote(), timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise EnvironmentFault(
            f"what {key} needs did not start within {timeout_s:g} s; is a node with its GPUs free?"
        ) from error
    except ray.exceptions.RayError as error:
        raise _fault(key, error) from error


def _fault(key: str, error: Any) -> Exception:
    """What a service itself raised, or that its process is gone."""
    cause: Exception | None = getattr(error, "cause", None)
    if isinstance(cause, EnvironmentFault):
        return cause
    return EnvironmentFault(f"what {key} needs is gone, and is not started again: {error}")


def _actor_class() -> Any:
    """`ServiceHost` as a Ray actor, with threads that answer while it starts."""
    import ray

    @ray.remote(concurrency_groups={"ask": 2})
    class ServiceActor:
        def __init__(self, service: Service, setup: Setup, *, is_local: bool) -> None:
            host = LOOPBACK if is_local else ray.util.get_node_ip_address()
            self._host = ServiceHost(service, setup, host)

        @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]
        def ready(self) -> None:
            self._host.ready()

        @ray.method(concurrency_group="ask")  # type: ignore[untyped-decorator]
        def look_up(self) -> Mapping[str, str]:
            return self._host.look_up()

        @ray.method(concurrency_group="ask")  # type: ignore[untyped-decorator]
        def stop(self) -> None:
            self._host.stop()

    return ServiceActor
