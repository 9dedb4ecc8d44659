"""What is to do: units, required minus present. Never opens media."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal, TypeVar

from curation.config import Config
from curation.decide import Step, steps_of
from curation.ingest.listing import Listing
from curation.judge import NO_REDO, PROBE, JudgedSource, Redo, branch_steps, walk
from curation.ledger import Ledger
from curation.media.decode import SEEKABLE_CODECS
from curation.parts import WHOLE, Part, parts_of
from curation.pipeline import Pipeline
from curation.records import Source, SourceKind, stable_id
from curation.splitter import Splitter

Phase = Literal["list", "probe", "filter", "finish"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Task:
    """Work on one unit that one worker does in one go.

    Attributes:
        phase: Which pass.
        unit: Number of the unit.
        sources: For probing, the sources as listed; for listing, one container.
        steps: Keys of the steps that may be measured.
        needs: Keys of the steps that it comes to, as far as that is known: those that something waits for,
            and those after them.
        redo: Rows that count as missing.
        rewrites: For probing: the unit is there already, and is written anew.
        only: Work on these source ids alone; None for all.
        part: Of a video whose cuts are known, only the clips that begin there.
        parts: The cuts of the only video are looked for in these parts, each by whoever is free.
        services: Step key -> what the service that runs beside it said.
        num_sources: How many sources will be touched, for progress.
    """

    phase: Phase
    unit: int
    sources: tuple[Source, ...] = ()
    steps: frozenset[str] = frozenset()
    needs: frozenset[str] = field(default=frozenset(), compare=False)
    redo: Redo = NO_REDO
    rewrites: bool = False
    only: frozenset[str] | None = None
    part: Part = WHOLE
    parts: tuple[Part, ...] = ()
    services: Mapping[str, Mapping[str, str]] = field(default_factory=dict, compare=False)
    num_sources: int = field(default=0, compare=False)


def plan_listing(containers: Iterable[Source]) -> list[Task]:
    """One task per container, so that one which kills its worker is known at once."""
    return [Task("list", number, (container,), num_sources=1) for number, container in enumerate(containers)]


def plan_probes(
    ledger: Ledger, listing: Listing, config: Config, *, limit: int | None = None, redo: Redo = NO_REDO
) -> list[Task]:
    """Units for the sources that no unit holds yet; those whose failed headers are read again; those with
    sources that carry something else than before.
    """
    known: dict[str, Source] = {}
    listed = {source.uri: source for source in listing.sources}
    tasks = []
    for unit in ledger.units():
        sources = ledger.sources(unit)
        known.update((source.uri, source) for source in sources)
        updated = [_with_carried(source, listed.get(source.uri)) for source in sources]
        if updated != sources or any(redo.drops(PROBE, not source.ok) for source in sources):
            tasks.append(
                Task("probe", unit, tuple(updated), redo=redo, rewrites=True, num_sources=len(sources))
            )
    fresh = [
        source if source.uri not in known else _changed(source)
        for source in listing.sources[:limit]
        if source.uri not in known or known[source.uri].etag != source.etag
    ]
    used = set(ledger.units())
    free = (number for number in count() if number not in used)
    sizes: dict[SourceKind, int] = {
        "image": config.run.unit_images,
        "video": config.run.unit_videos,
        "container": config.run.unit_images,
    }
    for kind, size in sizes.items():
        for group in in_groups([source for source in fresh if source.kind == kind], size):
            tasks.append(Task("probe", next(free), group, num_sources=len(group)))
    return tasks


def in_groups(items: Sequence[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`items` in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def _with_carried(source: Source, listed: Source | None) -> Source:
    """A known source with what it carries now; nothing is measured again for that."""
    if listed is None or listed.etag != source.etag:
        return source
    return replace(source, carried=listed.carried)


def _changed(source: Source) -> Source:
    """A file that was replaced under its old name is another source."""
    return replace(source, source_id=stable_id(source.uri, source.etag))


def plan_pass(
    ledger: Ledger, pipeline: Pipeline, phase: Phase, steps: Collection[str], *, redo: Redo = NO_REDO
) -> Iterator[Task]:
    """The units in which `phase` has something to measure, one after the other."""
    in_order = [step.key for step in phase_steps(pipeline, phase) if step.key in steps]
    of_phase = set(in_order)
    if not of_phase:
        return
    for state, judged in walk(ledger, pipeline, redo):
        waiting = [source for source in judged if missing_steps([source]) & of_phase]
        if not waiting:
            continue
        first = min(in_order.index(key) for key in missing_steps(waiting) & of_phase)
        needs = frozenset(in_order[first:])
        whole = Task(phase, state.unit, steps=frozenset(of_phase), needs=needs, redo=redo)
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
    """The steps that a pass measures unit by unit: filters in one, captions and tokens in the other."""
    if phase == "filter":
        steps = [step for branch in pipeline.branches.values() for step in branch_steps(branch)]
        return [step for step in steps if not step.is_dataset_wide]
    return list(steps_of(pipeline.finish)) if phase == "finish" else []


def missing_steps(judged: Iterable[JudgedSource]) -> set[str]:
    """Keys of the steps that something waits for."""
    verdicts = [
        verdict
        for source in judged
        for verdict in (source.verdict, *(leaf.verdict for leaf in source.leaves()))
    ]
    return {verdict.needs.key for verdict in verdicts if verdict.needs}
