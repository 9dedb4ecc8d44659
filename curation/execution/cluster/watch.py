"""Watches the cluster: whether it answers, whether Ray on this machine still runs, and which nodes it has.

    watch = ClusterWatch()
    watch.check()           # each round of a loop: never waits
    watch.check_now()       # after a death, before anybody is blamed for it
    watch.state.num_cpus    # as the cluster's head said last
    watch.close()           # before the run lets Ray go

Ray itself waits for ever for what a dead raylet was to start, and ends this process without a word that
users know if its head does not answer for a minute. Where nobody comes to check, `guard` does.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.errors import EnvironmentFault
from curation.errors.isolation import isolated

ASK_EVERY_S = 5.0
ANSWER_S = 30.0
"""The cluster's head gets so long to answer; less than the minute after which Ray ends this process."""
CLOSE_S = 5.0
"""The head gets so long to answer when nobody needs the answer any more."""
LONGEST_ROUND_S = 5.0
"""Time between two checks that counts at most, as this process itself may have been stopped meanwhile."""
_GOES_ON = "what was measured is kept, and the same command goes on from there"
ENDED = (
    "Ray on this machine has ended: its raylet or an agent of it was killed, or the cluster took the machine "
    f"for dead; {_GOES_ON}"
)
"""Said where this machine is no node of the cluster any more."""


@dataclass(frozen=True)
class ClusterState:
    """What the head of a cluster says of it.

    Attributes:
        addresses: Node id -> address, also of nodes that are gone.
        alive: Ids of the nodes that are up.
        num_cpus: Workers of one CPU each that these nodes have room for, others' included.
        unplaced: Ids of this run's actors that no node has had room for yet.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    num_cpus: int = 0
    unplaced: frozenset[str] = frozenset()

    def name_of(self, node_id: str) -> str:
        """A node's name for people: several may have the same address."""
        return f"{self.addresses.get(node_id, '')} {node_id[:8]}".strip()

    def is_unplaced(self, actor: Any) -> bool:
        """Whether an actor still waits for a node with room for it."""
        return actor._actor_id.hex() in self.unplaced


class ClusterWatch:
    """Asks the cluster's head for its state now and then, in a thread, as Ray's calls have no time limit.

    Attributes:
        state: The last answer.
        own_node: Id of the node that this process is on.
    """

    def __init__(self) -> None:
        import ray

        context = ray.get_runtime_context()
        self.state = ClusterState()
        self.own_node = context.get_node_id()
        self._job = context.get_job_id()
        self._answers: queue.SimpleQueue[ClusterState | Exception] = queue.SimpleQueue()
        self._asked_at: float | None = None
        self._waited_s = 0.0
        self._checked_at = self._answered_at = time.monotonic()

    def check(self) -> None:
        """Raises EnvironmentFault: Ray on this machine has ended, or the head does not answer any more."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._waited_s += min(now - self._checked_at, LONGEST_ROUND_S)
        self._checked_at = now
        self._take(timeout_s=0)
        if self._asked_at is None and now - self._answered_at >= ASK_EVERY_S:
            self._ask()
        if self._waited_s > ANSWER_S:
            raise self._silent()

    def check_now(self) -> None:
        """Ask, and wait for the answer.

        Raises:
            EnvironmentFault: Ray on this machine has ended, or the head does not answer any more.
        """
        self._take(timeout_s=0)
        if self._asked_at is None:
            self._ask()
        self._take(timeout_s=ANSWER_S)
        if self._asked_at is not None:
            raise self._silent()

    def close(self) -> None:
        """Wait for the answer to a question that is under way, if it comes soon. May be called again.

        Where the head is ended that owes this process an answer, Ray ends the process a minute later, without
        a word.
        """
        if self._asked_at is not None:
            with contextlib.suppress(queue.Empty):
                self._answers.get(timeout=CLOSE_S)
            self._asked_at = None

    def _ask(self) -> None:
        self._asked_at, self._waited_s = time.monotonic(), 0.0
        threading.Thread(target=self._query, name="cluster watch", daemon=True).start()

    def _query(self) -> None:
        try:
            with isolated(EnvironmentFault):  # Ray raises plain exceptions, too
                self._answers.put(_cluster_state(self._job))
        except EnvironmentFault as error:
            self._answers.put(error)

    def _take(self, *, timeout_s: float) -> None:
        """Take the answer, if it comes in time."""
        if self._asked_at is None:
            return
        try:
            answer = self._answers.get(timeout=timeout_s) if timeout_s else self._answers.get_nowait()
        except queue.Empty:
            return
        self._asked_at, self._waited_s, self._answered_at = None, 0.0, time.monotonic()
        if isinstance(answer, Exception):
            raise EnvironmentFault(f"the Ray cluster can't be asked any more: {answer}")
        if self.own_node not in answer.alive:
            raise EnvironmentFault(ENDED)
        self.state = answer

    @staticmethod
    def _silent() -> EnvironmentFault:
        return EnvironmentFault(
            f"the head of the Ray cluster has not answered for {ANSWER_S:.0f} s (was it killed?); {_GOES_ON}"
        )


def _cluster_state(job: str) -> ClusterState:
    """May be asked when the run has let Ray go, by a thread that comes late; it raises an error then.

    Nothing is called here that starts Ray where it is not, such as `ray.get_runtime_context`: that joins
    whatever cluster it finds on this machine, and this process would be ended along with a stranger's.
    """
    import ray
    from ray._private import state  # the public way to ask for actors needs the dashboard

    known = ray.nodes()
    alive = [node for node in known if node["Alive"]]
    starting = state.actors(actor_state_name="PENDING_CREATION")
    return ClusterState(
        {node["NodeID"]: node["NodeManagerAddress"] for node in known},
        frozenset(node["NodeID"] for node in alive),
        sum(int(node["Resources"].get("CPU", 0)) for node in alive),
        # A node that takes an actor up starts a process for it first.
        frozenset(name for name, actor in starting.items() if actor["JobID"] == job and not actor["Pid"]),
    )
