"""Pictures of samples, in every recipe: a thumbnail of an image, a few frames of a clip.

    pictures = pictures_of(ledger, pipeline, samples, pool.spread)      # in a run
    pictures = pictures_of(ledger, pipeline, samples, side_by_side)     # without a cluster

Media are not trusted, so each call of `spread` has a child process decode them. What can't be decoded, or is
away, has no picture, and nothing else comes of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import IO, Annotated, TypeVar, cast

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from curation.config import Config
from curation.dataset_stage import Spread
from curation.errors import EnvironmentFault
from curation.execution.worker import filmstrips
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.records import Sample, Source
from curation.report.gallery.samples import LocatedSample, units_of
from curation.report.gallery.stored import (
    SamplePictures,
    fitted,
    read_pictures,
    version_of_pictures,
    write_pictures,
)
from curation.storage.hub.place import pinned

A = TypeVar("A")
R = TypeVar("R")

BATCH = 16
"""Samples that one child process renders: enough to be worth its start."""
MAX_S = 60.0
"""Time for all pictures that are asked for at once; those that are not ready then are left out."""
MAX_CHILDREN = 8
"""Child processes of one process at the same time; each takes about 150 MB."""
_MAX_SILENCE_S = 120.0
"""For the start of a child, and for each sample."""
_MAX_END_S = 5.0
_MAX_LINE_BYTES = 1 << 20
_JPEG = b"\xff\xd8\xff"
Job = tuple[Source, Sample]


@dataclass(frozen=True)
class Settings:
    """How to render.

    Attributes:
        child: What the child process is told, in JSON.
        limit_s: Time for one batch.
    """

    child: str
    limit_s: float

    @staticmethod
    def of(config: Config, limit_s: float) -> Settings:
        """Render as a configuration says."""
        run = config.run
        child = {
            "decoder": asdict(config.decoder),
            "scratch": run.scratch,
            "scratch_bytes": run.scratch_bytes,
            "commits": dict(pinned()),
        }
        return Settings(json.dumps(child), limit_s)


def pictures_of(
    ledger: Ledger,
    pipeline: Pipeline,
    samples: Sequence[LocatedSample],
    spread: Spread,
    *,
    limit_s: float = MAX_S,
) -> dict[str, list[bytes]]:
    """Sample id -> JPEG files: one of an image, a few of a clip, in order of time; nothing is written.

    Those that the report keeps are not rendered again. A sample without a picture is left out.
    """
    found = rendered(ledger, pipeline, samples, spread, limit_s=limit_s)
    return {sample_id: list(one.pictures) for sample_id, one in found.items() if one.pictures}


def rendered(
    ledger: Ledger,
    pipeline: Pipeline,
    samples: Sequence[LocatedSample],
    spread: Spread,
    *,
    limit_s: float = MAX_S,
) -> dict[str, SamplePictures]:
    """`pictures_of` with their versions. A sample that can't be decoded has none, and is not tried again.

    One that is missing here is away, or was not ready in time.
    """
    known = read_pictures(ledger.storage)
    found: dict[str, SamplePictures] = {}
    versions: dict[str, str] = {}
    jobs: list[Job] = []
    for source, sample in _with_sources(ledger, samples):
        version = versions[sample.sample_id] = version_of_pictures(source)
        kept = known.get(sample.sample_id)
        if kept is not None and kept.version == version:
            found[sample.sample_id] = kept
        else:
            jobs.append((source, sample))
    settings = Settings.of(pipeline.config, limit_s)
    for source_id, answer in _answers(settings, jobs, spread, limit_s):
        sample_id = answer.sample_id
        if answer.pictures or answer.lasting:
            found[sample_id] = SamplePictures(source_id, versions[sample_id], answer.pictures)
    return found


def keep_pictures(
    ledger: Ledger, pipeline: Pipeline, samples: Sequence[LocatedSample], spread: Spread
) -> None:
    """Render what the report shows, and keep it beside the report; nothing new, nothing written."""
    found = rendered(ledger, pipeline, samples, spread)
    order = [one.sample.sample_id for one in samples]
    write_pictures(ledger.storage, fitted({name: found[name] for name in order if name in found}))


def side_by_side(function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[R]:
    """A `Spread` without a cluster: a call per CPU at a time, in threads, as a child does the work.

    Who stops before the end, by Ctrl-C for one, does not wait for calls that are under way.
    """
    children = _Children()
    number = min(MAX_CHILDREN, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(number, initializer=_THREAD.__setattr__, initargs=("children", children))
    try:
        yield from pool.map(function, arguments)
    finally:
        children.stop()
        pool.shutdown(cancel_futures=True)


class _Children:
    """The child processes of the threads of one call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """A child was started; it is killed at once where all are to stop."""
        with self._lock:
            self._running.add(process)
            if self._is_stopped:
                process.kill()

    def ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Forget a child; whether all are to stop."""
        with self._lock:
            self._running.discard(process)
            return self._is_stopped

    def stop(self) -> None:
        """Kill all that run and all that come."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                process.kill()


_THREAD = threading.local()


def _with_sources(ledger: Ledger, samples: Sequence[LocatedSample]) -> Iterator[Job]:
    """The samples with their sources, source by source, so that each one's follow each other."""
    for unit, by_source in sorted(units_of(samples).items()):
        for source in ledger.sources(unit):
            for sample in by_source.get(source.source_id, ()):
                yield source, sample


class RenderedSample(BaseModel):
    """What a child made of a sample.

    Attributes:
        sample_id: The sample.
        pictures: JPEG files.
        lasting: Whether another attempt would come to the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: str
    pictures: Annotated[tuple[Base64Bytes, ...], Field(max_length=filmstrips.NUM_FRAMES)] = ()
    lasting: bool


def _answers(
    settings: Settings, jobs: Sequence[Job], spread: Spread, limit_s: float
) -> Iterator[tuple[str, RenderedSample]]:
    """Source id and answer of each job that is done in time."""
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    sources = {sample.sample_id: source.source_id for source, sample in jobs}
    ends = time.monotonic() + limit_s
    try:
        for answers in spread(partial(render_batch, settings), batches) if batches else ():
            for answer in answers:
                yield sources[answer.sample_id], answer
            if time.monotonic() > ends:
                return
    except EnvironmentFault:
        return  # a task was lost; a picture is no reason to stop a run


def render_batch(settings: Settings, jobs: Sequence[Job]) -> list[RenderedSample]:
    """Answers to the jobs, in order, as far as there is time; a child that ends early is replaced."""
    ends = time.monotonic() + settings.limit_s
    found: list[RenderedSample] = []
    while len(found) < len(jobs):
        child = _ask_child(settings.child, jobs[len(found) :], ends)
        found += child.answers
        if child.is_over:
            break
        sample = jobs[len(found)][1]
        found.append(RenderedSample(sample_id=sample.sample_id, lasting=child.ended_itself))
    return found


@dataclass(frozen=True)
class _Child:
    """What came of a child process.

    Attributes:
        answers: To its first jobs.
        is_over: It answered to all, could not start, or had no more time.
        ended_itself: It ended by the sample that came next; nobody killed it.
    """

    answers: Sequence[RenderedSample]
    is_over: bool
    ended_itself: bool = False


def _ask_child(settings: str, jobs: Sequence[Job], ends: float) -> _Child:
    """Have a child process do the jobs, at most until the time `ends`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    children: _Children = getattr(_THREAD, "children", None) or _Children()
    with subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-m", filmstrips.__name__, settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the run
    ) as process:
        children.add(process)
        lines = _lines(process, ends)
        try:
            _send(jobs, cast("IO[bytes]", process.stdin))
            is_ready = next(lines, None) == filmstrips.READY
            answers = list(_checked(lines, jobs)) if is_ready else []
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_MAX_END_S)
            process.kill()
            is_stopped = children.ended(process)
    is_over = not is_ready or len(answers) == len(jobs) or is_stopped or time.monotonic() > ends
    return _Child(answers, is_over, process.returncode != -signal.SIGKILL)


def _send(jobs: Sequence[Job], file: IO[bytes]) -> None:
    """Tell the child its jobs. `file` stays open: when it is closed, the child ends."""
    with suppress(BrokenPipeError):
        file.write(filmstrips.jobs_to_bytes(jobs))
        file.flush()


def _lines(process: subprocess.Popen[bytes], ends: float) -> Iterator[str]:
    """The lines that a child writes; it is killed when it has been silent for too long, or at `ends`."""
    output = cast("IO[bytes]", process.stdout)
    while True:
        timer = threading.Timer(max(0.0, min(_MAX_SILENCE_S, ends - time.monotonic())), process.kill)
        timer.start()
        line = output.readline(_MAX_LINE_BYTES)
        timer.cancel()
        if not line.endswith(b"\n"):
            return
        yield line.decode("ascii", "replace").rstrip("\n")


def _checked(lines: Iterable[str], jobs: Sequence[Job]) -> Iterator[RenderedSample]:
    """Answers, as long as they are what was asked: the child has been at work on media that nobody trusts."""
    for line, (_, sample) in zip(lines, jobs, strict=False):
        try:
            answer = RenderedSample.model_validate_json(line)
        except ValidationError:
            return
        if answer.sample_id != sample.sample_id or not all(map(_is_jpeg, answer.pictures)):
            return
        yield answer


def _is_jpeg(picture: bytes) -> bool:
    return picture.startswith(_JPEG) and len(picture) <= filmstrips.MAX_PICTURE_BYTES
