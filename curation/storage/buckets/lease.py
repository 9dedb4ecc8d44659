"""A lease: an object that holds an output in a bucket against other runs.

    with held(client, "out/.lease", "s3://photos/out", say=print):
        check_lease("s3://photos/out/run.json")     # before what only the holder may write

The object names the run that holds it, and is rewritten every `HEARTBEAT_S` over the version that was last
written, so that of two runs that want it one succeeds. A run that finds it watches its version on its own
clock, so that no two clocks are compared: if the version changes, the holder is alive, and the newcomer
refuses. If it stays the same for `STALE_S`, or its process was on this machine and has ended, the lease is
taken over.

A holder that was away for so long finds that out at its next heartbeat, or at the latest when it is about to
write what only the holder may: such a write is made only within half of `STALE_S` after a heartbeat, else the
lease is renewed first. It stops then. What workers of both runs committed meanwhile is safe, since unit files
are written only over the version that was read.

Where a bucket does not know conditional writes, a writer looks first, writes, and looks again a moment later.
Of two runs that begin together the later writer wins, if a write takes less than `SETTLE_S`; where one takes
longer, both work until the next heartbeat of the one that lost.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from curation.errors import StorageError, WriteConflict
from curation.storage.base import ABSENT
from curation.storage.buckets.client import BucketClient

HEARTBEAT_S = 5.0
STALE_S = 30.0
"""Without a heartbeat for so long, a holder is taken for dead."""
SETTLE_S = 2.0
"""After so long a write is read back where writes know no conditions."""
_POLLS_PER_HEARTBEAT = 5
_leases: list[Lease] = []
"""What this process holds."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as the object says it. Times are for people; nothing is computed from them.

    Attributes:
        run: A random name.
        machine: Kernel and namespace in which `pid` means something.
        process_start: When the process began, in the kernel's ticks: numbers of processes are used again.
        num_heartbeats: Makes every version of the object another one.
    """

    run: str = ""
    host: str = "an unknown host"
    pid: int = 0
    user: str = ""
    machine: str = ""
    process_start: str = ""
    since: str = "an unknown time"
    last_heartbeat: str = "unknown"
    num_heartbeats: int = 0

    @staticmethod
    def of_this_process() -> Holder:
        """A holder with a name of its own."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return Holder(
            run=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            user=user,
            machine=_machine(),
            process_start=_process_start(os.getpid()),
            since=_now(),
            last_heartbeat=_now(),
        )

    @staticmethod
    def read(data: bytes) -> Holder:
        """What the object says; what can't be read is unknown."""
        try:
            found = json.loads(data)
            return Holder(**{name: type(getattr(Holder, name))(found[name]) for name in asdict(Holder())})
        except (ValueError, KeyError, TypeError):
            return Holder()

    @property
    def data(self) -> bytes:
        """As it is written."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def after_heartbeat(self) -> Holder:
        """The same one, a heartbeat later."""
        return replace(self, last_heartbeat=_now(), num_heartbeats=self.num_heartbeats + 1)

    def is_dead(self) -> bool | None:
        """Whether its process has ended; None where that can't be seen from here."""
        if not self.machine or self.machine != _machine():
            return None
        return _process_start(self.pid) != self.process_start

    def __str__(self) -> str:
        return (
            f"a run of {self.user or 'someone'} on {self.host} (process {self.pid}, since {self.since}, "
            f"last heartbeat {self.last_heartbeat})"
        )


@contextmanager
def held(
    client: BucketClient,
    path: str,
    root: str,
    say: Callable[[str], None] | None = None,
    *,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
) -> Iterator[Lease]:
    """Hold a root while the context lasts.

    Raises:
        StorageError: another run holds it, and is named; at the end: another run has taken it over.
    """
    lease = Lease(client, path, root, heartbeat_s, stale_s)
    try:
        lease.acquire(say or (lambda _: None))
        _leases.append(lease)
        yield lease
        lease.check()
    finally:
        with suppress(ValueError):
            _leases.remove(lease)
        lease.release()


def check_lease(url: str) -> None:
    """Make sure, before a write that only the holder may make, that a lease of this process still stands.

    Raises:
        StorageError: another run has taken it over.
    """
    for lease in _leases:
        if url.startswith(f"{lease.root}/"):
            lease.check()


class Lease:
    """The lease on one root."""

    def __init__(
        self, client: BucketClient, path: str, root: str, heartbeat_s: float, stale_s: float
    ) -> None:
        self.root = root
        self._client, self._path = client, path
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._holder = Holder.of_this_process()
        self._say: Callable[[str], None] = lambda _: None
        self._version = ABSENT
        self._confirmed_at = 0.0
        self._lost = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the lease, from a dead holder if need be.

        Raises:
            StorageError: the holder is alive.
        """
        self._say = say
        watch = _Watch(self._client, self._path, self._heartbeat_s)
        while True:
            data, version = watch.look()
            if data is None:
                if self._take(ABSENT):
                    break
                continue
            holder = Holder.read(data)
            is_dead = holder.is_dead()
            if is_dead is False or watch.has_changed:
                raise StorageError(f"{self.root} is in use by {holder}")
            if is_dead or watch.unchanged_s >= self._stale_s:
                if self._take(version):
                    say(f"{self.root}: took over from {holder}, which has ended without saying so")
                    break
                continue
            if watch.num_looks == 1:
                say(
                    f"{self.root} is held by {holder}; looking for up to {self._stale_s:.0f} s if it is alive"
                )
            time.sleep(self._heartbeat_s / _POLLS_PER_HEARTBEAT)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the lease still stands, and will for a moment.

        Raises:
            StorageError: another run has taken it over, or the bucket can't be reached.
        """
        with self._lock:
            if not self._lost and self._age_s() > self._stale_s / 2:
                self._renew(self._client)
            if self._lost:
                raise StorageError(f"{self.root}: stopped, since {self._lost}; what is committed is kept")

    def release(self) -> None:
        """Let others have it. What can't be removed in a moment goes stale."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self._heartbeat_s / _POLLS_PER_HEARTBEAT)
        if not self._lock.acquire(timeout=self._heartbeat_s / _POLLS_PER_HEARTBEAT):
            return
        # It may have been taken over if the last heartbeat is old, and would be another's.
        if self._version != ABSENT and not self._lost and self._age_s() < self._stale_s / 2:
            with suppress(StorageError):
                self._client.within(self._heartbeat_s / 2).delete(self._path)
        self._version = ABSENT
        self._lock.release()

    def _take(self, expect: str) -> bool:
        began = time.monotonic()
        try:
            self._version = self._client.put(self._path, self._holder.data, expect)
        except WriteConflict:
            return False
        if not self._client.is_conditional:
            time.sleep(SETTLE_S)
            if self._client.read(self._path)[0] != self._holder.data:
                self._version = ABSENT
                return False
        self._confirmed_at = began
        return True

    def _beat(self) -> None:
        client, is_away = self._client.within(self._stale_s / 2), False
        while not self._ended.wait(self._heartbeat_s) and not self._lost:
            # A bucket that is away is away for others, too: the run goes on as long as its requests wait.
            try:
                with self._lock:
                    self._renew(client)
            except StorageError as error:
                if not is_away:
                    self._say(f"{error}; trying on")
                is_away = True
            else:
                if is_away:
                    self._say(f"{self.root} answers again")
                is_away = False

    def _renew(self, client: BucketClient) -> None:
        began, holder = time.monotonic(), self._holder.after_heartbeat()
        try:
            self._version = client.put(self._path, holder.data, self._version)
        except WriteConflict:
            data, version = client.read(self._path)
            found = None if data is None else Holder.read(data)
            if found is None or found.run != self._holder.run:
                self._lost = "its lease was removed" if found is None else f"{found} has taken it over"
                return
            # Ours: its version was not told rightly.
            self._version = client.put(self._path, holder.data, version)
        self._holder, self._confirmed_at = holder, began

    def _age_s(self) -> float:
        return time.monotonic() - self._confirmed_at


class _Watch:
    """Looks at a lease again and again, and at this machine's clock."""

    def __init__(self, client: BucketClient, path: str, heartbeat_s: float) -> None:
        self._client, self._path, self._heartbeat_s = client, path, heartbeat_s
        self._version: str | None = None
        self._since = self._looked_at = 0.0
        self.has_changed = False
        self.num_looks = 0

    @property
    def unchanged_s(self) -> float:
        """For how long the version has been the same, as far as it could be seen."""
        return self._looked_at - self._since

    def look(self) -> tuple[bytes | None, str]:
        """The object and its version."""
        began = time.monotonic()
        data, version = self._client.read(self._path)
        now = time.monotonic()
        self.has_changed = self._version not in (None, version) and data is not None
        if version != self._version or now - began > self._heartbeat_s:
            self._since = now  # a bucket that answers so late may not have let the holder through either
        self._version, self._looked_at = version, now
        self.num_looks += 1
        return data, version


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _machine() -> str:
    """Names the kernel since its start, and the namespace of its processes; "" where there is no telling."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
