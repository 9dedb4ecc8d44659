"""What came of a call through Ray: its value, what it raised, or that its process is gone.

    try:
        value = result_of(reference)
    except Died as died:
        ...                     # str(died) says why, in plain words

Every way in which Ray says that a process has ended is known here.
"""

from __future__ import annotations

from typing import Any

from curation.errors import EnvironmentFault

FETCH_TIMEOUT_S = 120.0
"""How long a value that is ready may take to arrive."""


class Died(Exception):
    """The process that was called is gone. The message says why.

    Attributes:
        with_node: Whether its node went down.
        while_loading: Whether it was killed for loading models for too long.
    """

    def __init__(self, why: str, *, with_node: bool = False, while_loading: bool = False) -> None:
        super().__init__(why)
        self.with_node = with_node
        self.while_loading = while_loading

    @property
    def is_innocent(self) -> bool:
        """Whether nothing that the process worked on is to blame."""
        return self.with_node or self.while_loading


class Unreachable(Died):
    """The connection to a process broke; what became of the process is not known yet."""


class Lost(Exception):
    """A value is gone: the node that held it went down, or it did not arrive in time."""


def result_of(reference: Any) -> Any:
    """The value behind a reference that is ready.

    Raises:
        Died: the process is gone.
        Lost: the value, or an argument of the call, is gone.
        EnvironmentFault: Ray could not make the call.
        Exception: what the call raised, as it was raised.
    """
    import ray

    try:
        return ray.get(reference, timeout=FETCH_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):
            raise explained(error.cause) from error
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise explained(error) from error


def is_unreachable(reference: Any) -> bool:
    """Whether a call that has ended ended as `Unreachable`."""
    import ray

    try:
        ray.get(reference, timeout=FETCH_TIMEOUT_S)
    except ray.exceptions.ActorUnavailableError:
        return True
    except ray.exceptions.RayError:
        return False
    return False


def explained(error: Any) -> Died | Lost | EnvironmentFault:
    """What an error of Ray itself means."""
    from ray import exceptions

    if isinstance(error, exceptions.OutOfMemoryError):
        return Died("Ray's memory monitor killed it, as its machine ran short of memory")
    if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError):
        return Died("its node went down", with_node=True)
    if isinstance(error, exceptions.RayActorError) and error.actor_init_failed:
        return EnvironmentFault(f"a worker cannot start: {_last_line(error)}")
    if isinstance(error, exceptions.ActorDiedError):
        if error.preempted or "node has died" in str(error) or "owner has died" in str(error):
            return Died("its node went down", with_node=True)
        return Died("its process ended: it crashed or was killed")
    if isinstance(error, exceptions.ActorUnavailableError):
        return Unreachable("its connection broke")
    if isinstance(error, exceptions.WorkerCrashedError):
        return Died("its process ended: it crashed or was killed")
    if isinstance(error, exceptions.ObjectLostError | exceptions.GetTimeoutError):
        return Lost(_last_line(error))
    return EnvironmentFault(f"Ray: {type(error).__name__}: {_last_line(error)}")


def _last_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
