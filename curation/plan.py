"""What is there and what is to do: listing, units, required minus present. Never opens media."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal, TypeVar

from curation.config import Config
from curation.decide import Step, steps_of
from curation.errors import ConfigError
from curation.judge import NO_REDO, PROBE, JudgedSource, Redo, branch_steps, walk
from curation.ledger import Ledger
from curation.media.decode import SEEKABLE_CODECS
from curation.media.probe import kind_of
from curation.parts import WHOLE, Part, parts_of
from curation.pipeline import Pipeline
from curation.records import Source, SourceKind, stable_id
from curation.stage import Splitter
from curation.storage import open_storage

Phase = Literal["probe", "filter", "finish"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Listing:
    """The media below the inputs, sorted by URI, and how many other files lie there."""

    sources: list[Source]
    num_ignored: int


@dataclass(frozen=True)
class Task:
    """Work on one unit that one worker does in one go.

    Attributes:
        phase: Which pass.
        unit: Number of the unit.
        sources: For probing, the sources as listed.
        steps: Keys of the steps that may be measured.
        redo: Rows that count as missing.
        only: Work on these source ids alone; None for all.
        part: Of a video whose cuts are known, only the clips that begin there.
        parts: The cuts of the only video are looked for in these parts, each by whoever is free.
        num_sources: How many sources will be touched, for progress.
    """

    phase: Phase
    unit: int
    sources: tuple[Source, ...] = ()
    steps: frozenset[str] = frozenset()
    redo: Redo = NO_REDO
    only: frozenset[str] | None = None
    part: Part = WHOLE
    parts: tuple[Part, ...] = ()
    num_sources: int = field(default=0, compare=False)


def list_inputs(config: Config) -> Listing:
    """List the configured inputs.

    Raises:
        ConfigError: an input is missing or holds no media.
    """
    sources: dict[str, Source] = {}
    num_ignored = 0
    for root in config.general.input:
        listed = open_storage(root).list("")
        before = len(sources)
        for item in listed:
            kind = kind_of(item.key)
            if kind is None:
                num_ignored += 1
                continue
            uri = f"{root.rstrip('/')}/{item.key}"
            sources[uri] = Source(
                source_id=stable_id(uri), uri=uri, kind=kind, size_bytes=item.size_bytes, etag=item.etag
            )
        if len(sources) == before:
            raise ConfigError(f"input {root}: {_nothing_found(root, len(listed))}")
    return Listing([sources[uri] for uri in sorted(sources)], num_ignored)


def _nothing_found(root: str, num_files: int) -> str:
    if num_files:
        return f"none of its {num_files} files is an image or a video"
    return "there is no such folder, or nothing is in it"


def plan_probes(
    ledger: Ledger, listing: Listing, config: Config, *, limit: int | None = None, redo: Redo = NO_REDO
) -> list[Task]:
    """Units for the sources that no unit holds yet, and those whose failed headers are read again."""
    known: dict[str, Source] = {}
    tasks = []
    for unit in ledger.units():
        sources = ledger.sources(unit)
        known.update((source.uri, source) for source in sources)
        if any(redo.drops(PROBE, not source.ok) for source in sources):
            tasks.append(Task("probe", unit, tuple(sources), redo=redo, num_sources=len(sources)))
    fresh = [
        source if source.uri not in known else _changed(source)
        for source in listing.sources[:limit]
        if source.uri not in known or known[source.uri].etag != source.etag
    ]
    used = set(ledger.units())
    free = (number for number in count() if number not in used)
    sizes: dict[SourceKind, int] = {"image": config.run.unit_images, "video": config.run.unit_videos}
    for kind, size in sizes.items():
        for group in in_groups([source for source in fresh if source.kind == kind], size):
            tasks.append(Task("probe", next(free), group, num_sources=len(group)))
    return tasks


def in_groups(items: Sequence[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`items` in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def _changed(source: Source) -> Source:
    """A file that was replaced under its old name is another source."""
    return replace(source, source_id=stable_id(source.uri, source.etag))


def plan_pass(
    ledger: Ledger, pipeline: Pipeline, phase: Phase, steps: Collection[str], *, redo: Redo = NO_REDO
) -> Iterator[Task]:
    """The units in which `phase` has something to measure, one after the other."""
    of_phase = {step.key for step in phase_steps(pipeline, phase)} & set(steps)
    if not of_phase:
        return
    for state, judged in walk(ledger, pipeline, redo):
        waiting = [source for source in judged if missing_steps([source]) & of_phase]
        whole = Task(phase, state.unit, steps=frozenset(of_phase), redo=redo)
        together = []
        for source in waiting:
            parts = _parts(pipeline, source)
            if len(parts) < 2:
                together.append(source)
            else:
                alone = replace(whole, only=frozenset([source.source.source_id]), num_sources=1)
                yield from _in_parts(pipeline, source, alone, parts)
        if together:
            only = frozenset(source.source.source_id for source in together)
            yield replace(whole, only=only, num_sources=len(together))


def _parts(pipeline: Pipeline, judged: JudgedSource) -> tuple[Part, ...]:
    """The parts in which several workers can look at a source; one or none if it is not worth it."""
    source, segment_s = judged.source, pipeline.config.run.segment_s
    if segment_s is None or source.kind != "video" or source.codec not in SEEKABLE_CODECS:
        return ()
    return parts_of(source.duration_s or 0.0, segment_s)


def _in_parts(
    pipeline: Pipeline, judged: JudgedSource, alone: Task, parts: tuple[Part, ...]
) -> Iterator[Task]:
    splitter = pipeline.branches[judged.source.kind].splitter
    if judged.verdict.needs is not splitter:
        # Clips are known: each is some part's, and the parts know nothing of each other.
        for number, part in enumerate(parts):
            yield replace(alone, part=part, num_sources=int(number == 0))
    elif splitter and isinstance(splitter.stage, Splitter) and splitter.stage.lookback_s is not None:
        yield replace(alone, parts=parts)
    else:
        yield alone


def phase_steps(pipeline: Pipeline, phase: Phase) -> list[Step]:
    """The steps that a pass measures: filters in one, captions and tokens of what is kept in the other."""
    if phase == "filter":
        return [step for branch in pipeline.branches.values() for step in branch_steps(branch)]
    return list(steps_of(pipeline.finish)) if phase == "finish" else []


def missing_steps(judged: Iterable[JudgedSource]) -> set[str]:
    """Keys of the steps that something waits for."""
    verdicts = [
        verdict
        for source in judged
        for verdict in (source.verdict, *(leaf.verdict for leaf in source.leaves()))
    ]
    return {verdict.needs.key for verdict in verdicts if verdict.needs}
