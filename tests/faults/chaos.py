"""Kills at seeded random moments, and what must come out all the same.

    with closing(Site(folder)) as site:
        reference = undisturbed(site)
        Chaos(site, seed="7").strike(kills=10, undisturbed=reference)

A `Site` is where runs run, and says what can be struck there. `Chaos` draws blows, starts the same command
until it ends with 0, strikes meanwhile, and compares what lies in the output with what a run leaves that
nobody disturbed.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from outputs import differences, left_by
from sites import POLL_S, Run, Site

from curation.errors import StorageError
from datasets_media import write_config

START_S = 4.0
"""About how long a run takes before it measures anything."""
RUN_S = 400.0
"""A command that runs for longer hangs."""
ABSENT_S = 2.0
"""A blow whose target is not there for so long comes after the others."""
END_S = 30.0
"""Everything that a command started is gone so long after its end."""
REASON = re.compile(r"^(EnvironmentFault|StorageError|WriteConflict): .*", re.MULTILINE)
"""What a run says that ends with 3."""
OVERLOADED = "cannot start Ray on this machine"
"""What a run says where Ray could not start within its time: the machine has too much to do."""
RAY_WAS_FIRST = re.compile("Failed to register worker to Raylet|Failed to connect to GCS within")
"""What Ray says when it ends a process with 1 by itself: raylet or GCS died in the moment of joining them."""
HAS_JOINED = re.compile(r": \d+ of \d+ sources in |metrics for Prometheus: ")
"""What only a run says that has its cluster."""
GOES_ON = "the same command goes on from there"


@dataclass(frozen=True)
class Blow:
    """A strike at a target, `delay_s` after a share of what was missing in the output has been written."""

    target: str
    share: float
    delay_s: float

    @staticmethod
    def draw(target: str, dice: random.Random) -> Blow:
        """Three of ten strike while a run starts, the others anywhere in what is left of its work."""
        if dice.random() < 0.3:
            return Blow(target, 0.0, round(dice.uniform(0, START_S), 3))
        return Blow(target, round(dice.uniform(0, 1), 3), round(dice.uniform(0, 0.5), 3))


@dataclass
class Log:
    """What was struck: landed blows by target, and those that came after the end of the run."""

    num_outputs: int = 0
    landed: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def __str__(self) -> str:
        counts = {"landed": self.landed, "came too late": self.missed, "exit codes": self.codes}
        return "\n".join([*self.lines, *(f"{name}: {dict(number)}" for name, number in counts.items())])


class Chaos:
    """Strikes at a site, by a seed."""

    def __init__(self, site: Site, seed: str) -> None:
        self._site = site
        self._seed = seed
        self._dealer = random.Random(seed)
        self._deck: list[str] = []
        self.log = Log()

    def strike(self, kills: int, undisturbed: Mapping[str, Any]) -> Log:
        """Strike so often, over as many outputs as that takes, and compare each with the undisturbed one."""
        total = len(undisturbed["all keys"])
        while (num_missing := kills - self.log.landed.total()) > 0:
            output = self._site.new_output()
            self.log.num_outputs += 1
            dice = random.Random(f"{self._seed} {self.log.num_outputs}")  # whatever was missed before
            blows = [
                Blow.draw(self._next_target(), dice) for _ in range(min(dice.randint(3, 6), num_missing))
            ]
            _Campaign(self._site, output, total, dice, self.log).go(blows)
            found = left_by(self._site.settings(output))
            wrong = differences(found, undisturbed["left"])
            assert not wrong, self._story(wrong)
        return self.log

    def _next_target(self) -> str:
        """Dealt from a deck that holds each by its weight, so that none is left out for long."""
        if not self._deck:
            self._deck = [name for name, each in self._site.targets().items() for _ in range(each.weight)]
            self._dealer.shuffle(self._deck)
        return self._deck.pop()

    def _story(self, wrong: object) -> str:
        return "\n".join([f"{wrong} differ after:", *self.log.lines])


class _Campaign:
    """One output: the same command until it ends with 0, struck meanwhile."""

    def __init__(self, site: Site, output: str, total: int, dice: random.Random, log: Log) -> None:
        """`total` files are written in all, and `dice` decide how long an outage lasts."""
        self._site, self._output, self._total, self._dice, self._log = site, output, total, dice, log
        self._config = write_config(site.folder / "chaos.yaml", site.settings(output))
        self._said = site.folder / "said.txt"
        self._seen: set[str] = set()

    def go(self, blows: list[Blow]) -> None:
        """Until the output is complete."""
        waiting = list(blows)
        self._log.say(f"{self._output}:")
        while True:
            run = Run(self._site, self._config, self._said)
            try:
                struck = self._accompany(run, waiting)
                code = self._check_end(run, struck)
            finally:
                run.end()
            if code == 0:
                break
        self._log.missed.update(blow.target for blow in waiting)
        assert not self._site.leftovers(is_complete=True), self._story(run)

    def _accompany(self, run: Run, waiting: list[Blow]) -> list[str]:
        """Strike until the run ends; what was struck."""
        struck: list[str] = []
        due_at, base_at, base = None, run.began_at, self._num_written()
        while run.look():
            assert time.monotonic() - run.began_at < RUN_S, self._story(run, "it goes on for ever")
            time.sleep(POLL_S)
            if not waiting:
                continue
            blow = waiting[0]
            if due_at is None:
                written = self._num_written()
                if written >= base + blow.share * max(0, self._total - base):
                    began = time.monotonic() if blow.share else base_at
                    due_at = began + blow.delay_s
            elif time.monotonic() >= due_at and self._site.targets()[blow.target].strike(run, self._dice):
                self._log.say(
                    f"    {blow} landed {time.monotonic() - run.began_at:.2f} s after the start, with "
                    f"{self._num_written()} of {self._total} files written"
                )
                self._log.landed[blow.target] += 1
                struck.append(waiting.pop(0).target)
                due_at, base_at, base = None, time.monotonic(), self._num_written()
            elif time.monotonic() >= due_at + ABSENT_S:
                waiting.append(waiting.pop(0))
                due_at = None
        return struck

    def _num_written(self) -> int:
        """Files that were there at any time: the ledger's are merged at the end."""
        with suppress(StorageError):
            self._seen |= self._site.keys(self._output)
        return len(self._seen)

    def _check_end(self, run: Run, struck: list[str]) -> int:
        """The exit code, after everything else that must be so at the end of a run."""
        code = run.process.returncode
        self._log.codes[code] += 1
        self._log.say(f"  ended with {code} after {time.monotonic() - run.began_at:.1f} s")
        targets = self._site.targets()
        codes = {0, *(code for name in struck for code in targets[name].codes)}
        # A signal that comes when everything has been said meets the interpreter's own end.
        was_over = code in (-signal.SIGTERM, -signal.SIGINT) and "   card: " in run.said
        was_joining = code == 1 and RAY_WAS_FIRST.search(run.said) and not HAS_JOINED.search(run.said)
        met_joining = was_joining and {"raylet", "GCS", "head node"} & {*struck}
        assert code in codes or was_over or met_joining or OVERLOADED in run.said, self._story(run)
        assert "Traceback" not in run.said, self._story(run)
        assert code != 3 or REASON.search(run.said), self._story(run)
        assert code not in (130, 143) or run.said.count(GOES_ON) == 1, self._story(run)
        deadline = time.monotonic() + END_S
        while left := run.left():
            assert time.monotonic() < deadline, self._story(run, f"{[each.words for each in left]} go on")
            time.sleep(POLL_S)
        while left_files := self._site.leftovers(is_complete=False):
            assert time.monotonic() < deadline, self._story(run, f"{left_files} are left")
            time.sleep(POLL_S)
        return code

    def _story(self, run: Run, why: str = "") -> str:
        return "\n".join([why, *self._log.lines, run.said])


def undisturbed(site: Site) -> dict[str, Any]:
    """What a run leaves at a site that nobody disturbs: `left` of it, and `all keys` that it ever wrote."""
    output = site.new_output()
    config = write_config(site.folder / "undisturbed.yaml", site.settings(output))
    keys: set[str] = set()
    code = 3
    while code:
        run = Run(site, config, site.folder / "undisturbed.said.txt")
        try:
            while run.look():
                keys |= site.keys(output)
                time.sleep(POLL_S)
        finally:
            run.end()
        code = run.process.returncode
        assert code == 0 or OVERLOADED in run.said, run.said
    return {"left": left_by(site.settings(output)), "all keys": keys}
