"""Where runs run that are struck, and what can be struck there: workers, a cluster, an S3 server, disks.

with closing(Site(folder)) as site:
    run = Run(site, config, folder / "said.txt")
    site.targets()["driver"].strike(run, random.Random(7))
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from outputs import settings, write_inputs

from buckets import S3Server, upload
from curation.storage import open_storage
from datasets_media import command, environment, write_vocabulary
from process_tree import Process, kill, processes_below, processes_with

MARK = "CURATION_CHAOS"
"""Environment variable of all processes of one command."""
START_LIMIT_S = 120.0
"""A head node gets so long to start."""
POLL_S = 0.05
LOOK_EVERY_S = 0.3
"""How often a run's processes are looked up, which costs more than anything else here."""


class Site:
    """This machine: a run starts Ray itself. Other sites add to it.

    Attributes:
        folder: Everything of this site, but for Ray's sockets.
        temp: Folder for the temporary files of runs and of Ray; short, as sockets have short names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temp = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.vocabulary = write_vocabulary(folder / "bytes.tiktoken")
        self._num_outputs = 0

    def close(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.temp, ignore_errors=True)

    @property
    def inputs(self) -> str:
        if not (self.folder / "in").exists():
            write_inputs(self.folder / "in")
        return str(self.folder / "in")

    @property
    def arguments(self) -> list[str]:
        """Of the command, beside its configuration."""
        return []

    @property
    def environment(self) -> dict[str, str]:
        """Beside the tests' own."""
        (self.temp / "scratch").mkdir(exist_ok=True)
        (self.temp / "ray").mkdir(exist_ok=True)
        return {"TMPDIR": str(self.temp / "scratch"), "RAY_TMPDIR": str(self.temp / "ray")}

    @property
    def roots(self) -> list[int]:
        """Processes beside the command whose descendants work for it."""
        return []

    def new_output(self) -> str:
        """Of a run that begins with nothing."""
        self._num_outputs += 1
        return str(self.folder / f"out{self._num_outputs}")

    def settings(self, output: str) -> dict[str, Any]:
        return settings(self.inputs, output, self.vocabulary)

    def keys(self, output: str) -> set[str]:
        """What has been written by now."""
        return {item.key for item in open_storage(output).list("")}

    def targets(self) -> Mapping[str, Target]:
        """What can be struck here, with how often it is among the others."""
        return {
            "driver": _driver(4, signal.SIGKILL, -signal.SIGKILL),
            "driver, by SIGTERM": _driver(1, signal.SIGTERM, 143),
            "driver, by Ctrl-C": _driver(1, signal.SIGINT, 130),
            "decode worker": _one(4, Run.workers),
            "starting worker": _one(3, Run.starting_workers),
            "raylet": _one(2, partial(Run.titled, title="raylet/raylet"), (3,)),
            "GCS": _one(1, partial(Run.titled, title="gcs_server"), (3,)),
        }

    def leftovers(self, *, is_complete: bool) -> list[str]:
        """What lies about that a command should have removed; after the last one, scratch files too."""
        folders = [self.temp / "ray", *([self.temp / "scratch"] if is_complete else [])]
        found = [path for folder in folders for path in folder.glob("*")]
        # Ray itself makes an empty folder of its own name now and then.
        return [str(path) for path in found if path.name != "ray" or any(path.iterdir())]


@dataclass(frozen=True)
class Target:
    """What can be struck.

    Attributes:
        weight: How often it is drawn, among the others.
        strike: Strike it if it is there; whether it was.
        codes: Exit codes that a run may have after it; one that was nearly over may end with 0 all the same.
    """

    weight: int
    strike: Callable[[Run, random.Random], bool]
    codes: tuple[int, ...] = ()


def _driver(weight: int, number: signal.Signals, code: int) -> Target:
    def strike(run: Run, _: random.Random) -> bool:
        is_there = run.driver.lives
        run.driver.signal(number)
        return is_there

    return Target(weight, strike, (code,))


def _one(weight: int, find: Callable[[Run], list[Process]], codes: tuple[int, ...] = ()) -> Target:
    def strike(run: Run, _: random.Random) -> bool:
        found = find(run)[:1]
        kill(found)
        return bool(found)

    return Target(weight, strike, codes)


class Run:
    """A command in the background."""

    def __init__(self, site: Site, config: Path, said: Path, program: Sequence[str] = ()) -> None:
        """`program` runs in place of `curation`."""
        self._site = site
        self._mark = f"{site.temp.name}-{time.monotonic_ns()}"
        self._said = said
        with said.open("w") as file:
            self.process = subprocess.Popen(
                [*(program or command()), "run", "-c", str(config), *site.arguments],
                env=environment() | site.environment | {MARK: self._mark},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.driver = self._found()
        self.began_at = time.monotonic()
        self._family: set[Process] = set()
        self._looked_at = 0.0

    def _found(self) -> Process:
        """Its own process, which for a moment after its start has no environment yet."""
        while self.process.poll() is None:
            for found in processes_with(MARK, self._mark):
                return found
        raise AssertionError(f"the command ended at once: {self.said}")

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def look(self) -> bool:
        """Get to know its processes, now and then; whether it goes on."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._family |= processes_below(self.process.pid)
            self._looked_at = time.monotonic()
        return self.process.poll() is None

    def titled(self, title: str) -> list[Process]:
        """Processes of it, or of what works for it, by a part of their title; in order."""
        found = processes_below(self.process.pid, *self._site.roots)
        return sorted((each for each in found if title in each.words), key=lambda each: each.pid)

    def workers(self) -> list[Process]:
        """Processes that measure, or write shards."""
        return [*self.titled("ray::Worker"), *self.titled("ray::_call")]

    def starting_workers(self) -> list[Process]:
        """Processes that are on their way to be workers: Ray does not know them yet."""
        return [each for each in self.titled("default_worker.py") if "raylet/raylet" not in each.words]

    def left(self) -> list[Process]:
        """Processes that outlive it."""
        of_cluster = {each for pid in self._site.roots for each in processes_below(pid)}
        found = self._family | processes_with(MARK, self._mark)
        workers = {each for each in of_cluster if "ray::Worker" in each.words}
        return [each for each in (found - of_cluster) | workers if each.lives]

    def end(self) -> None:
        """Whatever happened, nothing of it goes on."""
        kill([self.driver, *processes_below(self.process.pid), *self.left()])
        self.process.wait()


class ClusterSite(Site):
    """A cluster that was there before the run; its head node can be killed, and another one started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._head: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._num_heads = 0

    def close(self) -> None:
        self._kill_head()
        super().close()

    @property
    def arguments(self) -> list[str]:
        if self._head is None:
            self._start_head()
        return ["--address", self._address]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"RAY_AUTH_MODE": "disabled"}

    @property
    def roots(self) -> list[int]:
        return [] if self._head is None else [self._head.pid]

    def targets(self) -> Mapping[str, Target]:
        return {
            "driver": _driver(2, signal.SIGKILL, -signal.SIGKILL),
            "driver, by SIGTERM": _driver(1, signal.SIGTERM, 143),
            "decode worker": _one(2, Run.workers),
            "starting worker": _one(1, Run.starting_workers),
            "head node": Target(2, lambda *_: self._kill_head(), (3,)),
        }

    def leftovers(self, *, is_complete: bool) -> list[str]:
        scratch = self.temp / "scratch"
        return [str(path) for path in scratch.glob("*")] if is_complete else []

    def _start_head(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        address = self._new_head()
        while not (address.exists() and address.read_text().strip()):
            if self._head is None or self._head.poll() is not None:  # Ray gives up where a machine is busy
                address = self._new_head()
            assert time.monotonic() < deadline, "the head node does not start"
            time.sleep(POLL_S)
        self._address = address.read_text().strip()

    def _new_head(self) -> Path:
        """Start a head; the file that will name its address."""
        self._num_heads += 1
        folder = self.temp / f"head{self._num_heads}"
        options = [
            "--block",
            "--num-cpus=2",
            "--port=0",
            "--include-dashboard=false",
            "--disable-usage-stats",
        ]
        self._head = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", f"--temp-dir={folder}", *options],
            env=environment() | self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return folder / "ray_current_cluster"

    def _kill_head(self) -> bool:
        """As if the machine lost power; whether there was one."""
        head, self._head = self._head, None
        if head is None:
            return False
        family = processes_below(head.pid)
        head.kill()
        kill(family)
        kill(processes_below(head.pid))
        head.wait()
        return True


class BucketSite(Site):
    """This machine, with its input and its output in buckets of an S3 server that goes away at times."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        super().__init__(folder)
        self._server = server
        self._inputs = server.new_bucket()
        upload(server, write_inputs(folder / "in"), self._inputs)

    @property
    def inputs(self) -> str:
        return self._inputs

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._server.environment

    def new_output(self) -> str:
        return f"{self._server.new_bucket()}/out"

    def targets(self) -> Mapping[str, Target]:
        return {
            # Who is killed holds the lease, which the next run takes over.
            "driver": _driver(2, signal.SIGKILL, -signal.SIGKILL),
            "driver, by SIGTERM": _driver(1, signal.SIGTERM, 143),
            "decode worker": _one(1, Run.workers),
            "S3 server killed": Target(2, self._kill_server, (3,)),
            "S3 server stopped": Target(2, self._stop_server, (3,)),
        }

    def _kill_server(self, _: Run, random: random.Random) -> bool:
        """It comes back on the same data."""
        self._server.kill()
        time.sleep(random.uniform(0, 3))
        self._server.start()
        return True

    def _stop_server(self, _: Run, random: random.Random) -> bool:
        """It does not answer, and goes on as if nothing had been."""
        with self._server.paused():
            time.sleep(random.uniform(0, 6))
        return True


class SmallDiskSite(Site):
    """This machine, with its output and its temporary files on small disks that others fill."""

    def __init__(self, folder: Path) -> None:
        """Raises CalledProcessError: this user may mount no disks."""
        super().__init__(folder)
        self._disks = [folder / "disk", self.temp / "scratch"]
        for disk in self._disks:
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)

    def close(self) -> None:
        for disk in self._disks:
            subprocess.run(["umount", "--lazy", disk], check=True)
        super().close()

    def new_output(self) -> str:
        for path in (self.folder / "disk").glob("out*"):
            shutil.rmtree(path)
        self._num_outputs += 1
        return str(self.folder / f"disk/out{self._num_outputs}")

    @property
    def arguments(self) -> list[str]:
        """Somebody has made room before the command is given again."""
        for disk in self._disks:
            (disk / "filler").unlink(missing_ok=True)
        return super().arguments

    def targets(self) -> Mapping[str, Target]:
        return {
            "full output": Target(2, lambda *_: self._fill(self._disks[0]), (3,)),
            "full temporary folder": Target(1, lambda *_: self._fill(self._disks[1]), (3,)),
        }

    def leftovers(self, *, is_complete: bool) -> list[str]:
        left = super().leftovers(is_complete=is_complete)
        return [path for path in left if not path.endswith("/filler")]

    @staticmethod
    def _fill(disk: Path) -> bool:
        """Leave no room; whether there was any."""
        if (disk / "filler").exists():
            return False
        with suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
            while file.write(bytes(os.sysconf("SC_PAGE_SIZE"))):
                pass
        return True
