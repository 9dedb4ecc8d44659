"""A worker process of Ray, watched: whether it has started, answers and makes progress. Nothing here waits.

    process = WorkerProcess(Actor.remote(...), start_timeout_s=300, stall_timeout_s=1800)
    ray.wait([*process.references], timeout=0.5)
    process.look()                          # each round; raises Died
    if process.is_ready():
        process.call([process.actor.work.remote(task)])
    if process.is_done:
        value = process.finish()            # raises Died, or what the call raised
    why = process.complaint()               # such as "no progress on a.mp4 for 1805 s"
    if why:
        process.kill(why)                   # the call has then ended, with Died(why)

The actor is made with the options `WATCHED`, and answers in the concurrency group "watch", beside its work:

    @ray.method(concurrency_group="watch")
    def beat(self) -> Beat:
        return self._heartbeat.beat()
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from curation.execution.cluster.results import Died, Unreachable, is_unreachable, result_of
from curation.execution.worker.heartbeat import Beat

WATCHED = MappingProxyType({"max_restarts": 0, "concurrency_groups": {"watch": 1}})
"""Options of an actor that is watched: Ray does not restart it, and a second thread of it answers."""
ASK_EVERY_S = 5.0
"""How often a busy process is asked for its heartbeat; more often if the limits are short."""
IDLE_ANSWER_S = 60.0
"""An idle process has nothing to do but answer, and gets no longer than this."""
UNREACHABLE_S = 60.0
"""So long after a broken connection the cluster is asked what became of the process."""
FRESH_S = 1.0
"""An answer not older than this shows that a process lives."""
LONGEST_ROUND_S = 5.0
"""The driver looks more often than this, if it is not stopped itself."""


class WorkerProcess:
    """One process: starting, then ready, and busy while a call is under way; at last dead.

    Attributes:
        actor: The Ray actor, to call.
        beat: Its last answer.
    """

    def __init__(self, actor: Any, *, start_timeout_s: float, stall_timeout_s: float) -> None:
        """`start_timeout_s` covers the time until the first answer, and each loading of models later on."""
        self.actor = actor
        self.beat = Beat()
        self._start_timeout_s = start_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._ask_every_s = min(ASK_EVERY_S, start_timeout_s / 4, stall_timeout_s / 4)
        self._clock = _Clock()
        self._starts_s = 0.0
        self._has_started = False
        self._call: Sequence[Any] = ()
        self._called_s = 0.0
        self._answered_s = 0.0
        self._query: Any = actor.beat.remote()
        self._asked_s = 0.0
        self._death: Died | None = None
        self._unreachable_s: float | None = None

    @property
    def is_starting(self) -> bool:
        """Whether it has not answered yet."""
        return not self._has_started

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way, or has ended and was not finished."""
        return bool(self._call)

    def is_ready(self) -> bool:
        """Whether it can be called now: it is idle and has just answered. An idle one is asked if needed."""
        if self.is_starting or self.is_busy or self._is_in_doubt:
            return False
        is_fresh = self._clock.now_s - self._answered_s <= FRESH_S
        if not is_fresh:
            self._ask()
        return is_fresh

    def forget_answer(self) -> None:
        """Let a process that is not busy answer anew before it is called: nobody has looked for a while.

        One that was starting may have answered meanwhile, and died after that.
        """
        if not self.is_busy:
            self._query, self._answered_s = None, -math.inf
            if self.is_starting:
                self._ask()

    def start_over(self) -> None:
        """Count the time to start from now on: there was no place for the process before."""
        self._starts_s = self._clock.now_s

    @property
    def is_done(self) -> bool:
        """Whether the call has ended, in whatever way; nobody waits for a process that was killed.

        Where the connection broke, the cluster is asked for a while whether the process died, or its node.
        """
        import ray

        if not self._call or self._death is not None:
            return self.is_busy
        if not ray.wait([self._call[0]], timeout=0)[0]:
            return False
        if self._unreachable_s is None:
            if not is_unreachable(self._call[0]):
                return True
            self._unreachable_s, self._query = self._clock.now_s, None
            self._ask()
        self._give_up_unreachable()
        return self._death is not None

    @property
    def references(self) -> list[Any]:
        """What the driver's next step with this process waits for: the end of its call, or its answer."""
        if self._call and self._unreachable_s is None:
            return [self._call[0]]
        return [self._query] if self._query is not None else []

    def call(self, references: Sequence[Any]) -> None:
        """Take up a call that was just made; the first reference is ready when the call has ended."""
        self._call = tuple(references)
        self._called_s = self._clock.now_s

    def finish(self) -> Any:
        """The value of the call's first reference. A process that lives is idle then.

        Raises:
            Died: the process is gone.
            Lost: an argument of the call is gone.
            Exception: what the call raised.
        """
        reference, self._call = self._call[0], ()
        if self._death is not None:
            raise self._death
        value = result_of(reference)
        self._answered_s = self._clock.now_s
        return value

    def look(self) -> None:
        """Take the answer if there is one, and ask a busy process again after a while.

        Where the connection to an idle or starting process broke, it is asked again, for as long as `is_done`
        does where a call was under way.

        Raises:
            Died: an idle or starting process is gone; that of a busy one is told by `finish`.
        """
        import ray

        if self._query is not None and ray.wait([self._query], timeout=0)[0]:
            answer, self._query = self._query, None
            try:
                self.beat = result_of(answer)
            except Died as died:
                self._learn(died)
            else:
                self._take_answer()
        if not self._call:
            self._give_up_unreachable()
        if self._death is not None and not self._call:
            raise self._death
        asks = bool(self._call) or self._unreachable_s is not None
        if asks and self._clock.now_s - self._asked_s >= self._ask_every_s:
            self._ask()

    def complaint(self) -> str | None:
        """Why the process should be killed; None if nothing is wrong."""
        if self._is_in_doubt:
            return None
        now_s = self._clock.now_s
        if self.is_starting:
            start_s = now_s - self._starts_s
            return f"not started after {start_s:.0f} s" if start_s > self._start_timeout_s else None
        unanswered_s = now_s - self._asked_s if self._query is not None else 0.0
        patience_s = self._stall_timeout_s if self._call else min(IDLE_ANSWER_S, self._stall_timeout_s)
        if unanswered_s > patience_s:
            return f"no answer for {unanswered_s:.0f} s{self._doing(', last seen on ')}"
        silent_s = min(self.beat.silent_s, now_s - self._called_s)
        if self._call and silent_s > (self._start_timeout_s if self._is_loading else self._stall_timeout_s):
            return f"no progress{self._doing(' on ')} for {silent_s:.0f} s"
        return None

    def kill(self, why: str) -> None:
        """End the process at once. Its call ends with `Died(why)`; of an idle one `look` raises that.

        Ray passes this on to the process's node, which sends SIGKILL after some seconds to a process that
        does not go by itself: it is stopped, or some library holds Python's lock.
        """
        import ray

        # A process that does not answer may be at something else than it last said.
        has_answered = self._clock.now_s - self._answered_s <= self._stall_timeout_s
        self._death = Died(why, while_loading=has_answered and self._is_loading)
        ray.kill(self.actor)

    def _take_answer(self) -> None:
        """It lives. If the connection to it broke, a call of it was lost all the same."""
        if self._unreachable_s is not None and self._call:
            self._death = Unreachable("its connection broke")
        self._unreachable_s = None
        self._has_started = True
        self._answered_s = self._clock.now_s

    def _learn(self, died: Died) -> None:
        """It does not answer. Why is said by its call, if there is one and that could tell."""
        if self._death is not None or (self._call and self._unreachable_s is None):
            return
        if not isinstance(died, Unreachable):
            self._death = died
        elif self._unreachable_s is None:
            self._unreachable_s = self._clock.now_s

    def _give_up_unreachable(self) -> None:
        if self._unreachable_s is not None and self._clock.now_s - self._unreachable_s > UNREACHABLE_S:
            self._death = Unreachable("its connection broke")

    @property
    def _is_in_doubt(self) -> bool:
        """Whether it is dead, or may be so."""
        return self._death is not None or self._unreachable_s is not None

    @property
    def _is_loading(self) -> bool:
        """Whether it is busy with what no source is to blame for: imports, models, the ledger."""
        return self.is_busy and (bool(self.beat.loading) or not self.beat.uri)

    def _doing(self, before: str) -> str:
        """What a busy process is at, behind `before`."""
        what = self.beat.loading or self.beat.uri
        return f"{before}{what}" if self._call and what else ""

    def _ask(self) -> None:
        if self._query is None:
            self._query = self.actor.beat.remote()
            self._asked_s = self._clock.now_s


class _Clock:
    """Seconds during which somebody looked. A driver that was stopped for a while blames nobody for it."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._read_at = time.monotonic()

    @property
    def now_s(self) -> float:
        """Seconds since the start; the time since the last look counts as one round of the driver at most."""
        now = time.monotonic()
        self._now_s += min(now - self._read_at, LONGEST_ROUND_S)
        self._read_at = now
        return self._now_s
