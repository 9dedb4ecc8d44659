"""Plans the tasks of each pass: the units in which a required row is missing. Never opens media."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.config import Config
from curation.config.config import RunSettings
from curation.execution.copies import Copy
from curation.execution.new_units import new_units
from curation.execution.segments import WHOLE_VIDEO, Segment, segments_of
from curation.ingest.listed import ListedSources
from curation.ingest.listing import Listing
from curation.ledger import Ledger
from curation.ledger.present import match_names
from curation.ledger.schemas import sources_to_table
from curation.ledger.unit_state import NO_RECOMPUTE, PROBE, RecomputePolicy, branch_steps
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.media.decode import SEEKABLE_CODECS
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import Source, SourceKind
from curation.splitter import Splitter

Phase = Literal["list", "probe", "filter", "enrich"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Task:
    """Work on one unit, done by one worker in one call, or in one call per segment.

    Attributes:
        phase: Which pass.
        unit: Number of the unit.
        sources: What is read for the first time, as listed: for probing, and for filtering a new unit, whose
            sources are probed in the same go; for listing, one container.
        renewed: For probing: sources that the unit holds and that carry something else now, as listed.
        rewrites: For probing: whether the unit is there already and is written anew.
        steps: Keys of the steps that may be measured.
        needs: Steps that this task may run: the first missing one and all after it.
        recompute: Rows that count as missing.
        only: Work on these source ids alone; None for all of the unit that wait.
        excluded: Source ids of the unit that this task leaves alone: those that are not in the inputs, and
            those that have tasks of their own.
        segment: Of a video whose cuts are known, only the clips that begin there.
        segments: Those of the task's only video, if it is split by several workers.
        copy: Of that video, with a worker that has read it.
        services: Step key -> what the service that runs beside it said.
        num_sources: How many sources will be touched, for progress.
    """

    phase: Phase
    unit: int
    sources: Sequence[Source] = field(default=(), compare=False)
    renewed: Sequence[Source] = field(default=(), compare=False)
    rewrites: bool = False
    steps: frozenset[str] = frozenset()
    needs: frozenset[str] = field(default=frozenset(), compare=False)
    recompute: RecomputePolicy = NO_RECOMPUTE
    only: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    segment: Segment = WHOLE_VIDEO
    segments: tuple[Segment, ...] = ()
    copy: Copy | None = field(default=None, compare=False)
    services: Mapping[str, Mapping[str, str]] = field(default_factory=dict, compare=False)
    num_sources: int = field(default=0, compare=False)


def plan_listing(containers: Iterable[Source]) -> list[Task]:
    """One task per container, so that one which kills its worker is known at once."""
    return [Task("list", number, (container,), num_sources=1) for number, container in enumerate(containers)]


def plan_probes(
    ledger: Ledger,
    listing: Listing,
    config: Config,
    *,
    limit: int | None = None,
    recompute: RecomputePolicy = NO_RECOMPUTE,
    filters: Mapping[SourceKind, frozenset[str]] = MappingProxyType({}),
) -> list[Task]:
    """New units for sources that no unit holds yet, and units to rewrite: those with sources that have
    another date or other metadata than before, or that failed and are read again.

    At most the first `limit` sources of the listing are read. New units of a kind in `filters` go
    through these steps while they are probed, so that no source is read twice for it.
    """
    known = ledger.sources_table(("uri", "etag", "carried", "carried_etag", "status"))
    matched = _match(known, listing.sources.table, limit)
    tasks = list(_rewrites(listing.sources, known, matched, recompute))
    free = _free_units(ledger)
    for kind, group in _new_units(listing.sources.take(matched.fresh), config.run):
        task = Task("probe", next(free), group, num_sources=len(group))
        steps = filters.get(kind)
        tasks.append(replace(task, phase="filter", steps=steps, needs=steps) if steps else task)
    return tasks


def _new_units(fresh: ListedSources, settings: RunSettings) -> Iterator[tuple[SourceKind, ListedSources]]:
    """New sources by units, which are of one kind."""
    kinds: tuple[SourceKind, ...] = ("image", "video", "container")
    num_bytes = fresh.table["size_bytes"].to_numpy().astype(np.float64)
    for kind in kinds:
        of_kind = np.flatnonzero(pc.equal(fresh.table["kind"], kind))
        units = list(new_units(kind, num_bytes[of_kind], settings))
        if not units:
            continue
        # Once for all: units are slices of one table.
        in_order, start = fresh.take(of_kind[np.concatenate(units)]), 0
        for places in units:
            yield kind, in_order[start : start + len(places)]
            start += len(places)


def _free_units(ledger: Ledger) -> Iterator[int]:
    """Numbers for new units.

    Not those that have rows while their sources are lost: a file's id is that of its name, so rows of what
    a file held before would be taken for rows of what it holds now.
    """
    used = ledger.used_units()
    yield from (number for number in count() if number not in used)


def filters_of_new(pipeline: Pipeline, steps: Collection[str]) -> dict[SourceKind, frozenset[str]]:
    """For each kind of source, which of these steps measure new units while these are read."""
    return {
        kind: frozenset(step.key for step in branch_steps(branch) if not step.is_dataset_wide)
        & frozenset(steps)
        for kind, branch in pipeline.branches.items()
    }


@dataclass(frozen=True)
class _Matched:
    """The ledger's sources matched with the listing; places are places in the listing.

    Attributes:
        place_of: For each known source the place of its file, -1 where it is gone.
        fresh: Places of files that the ledger does not know.
        changed: Places of files whose etag it does not know.
        changed_unit: For each of these the unit of the newest version.
        is_current: For each known source whether its file is listed with its etag.
        has_other_metadata: And carries something else than it did.
    """

    place_of: NDArray[np.int64]
    fresh: NDArray[np.int64]
    changed: NDArray[np.int64]
    changed_unit: NDArray[np.int64]
    is_current: NDArray[np.bool_]
    has_other_metadata: NDArray[np.bool_]


def _match(known: pa.Table, listed: pa.Table, limit: int | None) -> _Matched:
    places = pc.index_in(match_names(known["uri"]), value_set=match_names(listed["uri"]))
    is_same = np.asarray(pc.equal(known["etag"], listed["etag"].take(places)).fill_null(False))
    place_of = np.asarray(places.fill_null(-1)).astype(np.int64)
    unit_of = np.full(listed.num_rows, -1)
    unit_of[place_of[place_of >= 0]] = known["unit"].to_numpy()[place_of >= 0]  # of several, the last
    is_known = np.zeros(listed.num_rows, bool)
    is_known[place_of[is_same]] = True
    open_to_read = np.flatnonzero(~is_known[:limit])
    is_fresh = unit_of[open_to_read] < 0
    return _Matched(
        place_of,
        fresh=open_to_read[is_fresh],
        changed=open_to_read[~is_fresh],
        changed_unit=unit_of[open_to_read[~is_fresh]],
        is_current=is_same,
        has_other_metadata=is_same & _has_other_metadata(known, listed, places),
    )


def _has_other_metadata(known: pa.Table, listed: pa.Table, places: pa.Array) -> NDArray[np.bool_]:
    """Whether a source has other metadata than before, or may have, so that it has to be read.

    What is put together from sidecars and lists is compared by its etag, anything else itself.
    """

    def differs(column: str) -> pa.ChunkedArray:
        return pc.not_equal(known[column].fill_null(""), listed[column].take(places).fill_null(""))

    is_put_together = listed["carried_etag"].take(places).is_valid()
    differs_itself = pc.and_(differs("carried"), pc.invert(is_put_together))
    return np.asarray(pc.or_(differs("carried_etag"), differs_itself))


def _rewrites(
    sources: ListedSources, known: pa.Table, matched: _Matched, recompute: RecomputePolicy
) -> Iterator[Task]:
    """Tasks that rewrite units."""
    units = known["unit"].to_numpy()
    has_failed = np.asarray(pc.equal(known["status"], "failed"))
    is_recomputed = np.array([recompute.counts_as_missing(PROBE, failed) for failed in (False, True)])[
        has_failed.astype(int)
    ]
    is_recomputed &= matched.is_current
    to_read = _ByUnit(
        np.append(units[is_recomputed], matched.changed_unit),
        np.append(matched.place_of[is_recomputed], matched.changed),
    )
    renewed = _ByUnit(units[matched.has_other_metadata], matched.place_of[matched.has_other_metadata])
    for unit in np.union1d(to_read.units, renewed.units).tolist():
        places = to_read.places(unit)
        num_rows = np.diff(np.searchsorted(units, [unit, unit + 1])).item()
        yield Task(
            "probe",
            unit,
            sources.take(places),
            renewed=sources.take(renewed.places(unit)),
            rewrites=True,
            num_sources=len(places) or num_rows,
        )


class _ByUnit:
    """Places in a listing, by unit."""

    def __init__(self, units: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        order = np.lexsort((places, units))
        self.units, self._places = units[order], places[order]

    def places(self, unit: int) -> NDArray[np.int64]:
        """The places of a unit in order, each once."""
        start, end = np.searchsorted(self.units, [unit, unit + 1])
        return np.unique(self._places[start:end])


def in_groups(items: Sequence[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`items` in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


class PassPlan:
    """The tasks of one pass, from groups of verdicts: `tasks` grows with every group that is added."""

    SOURCE_COLUMNS: ClassVar = ("codec", "duration_s", "num_discontinuities")
    """What the groups' sources must hold besides."""

    def __init__(
        self, pipeline: Pipeline, phase: Phase, steps: Collection[str], recompute: RecomputePolicy
    ) -> None:
        """`steps` are the keys that may be measured, of the phase's own."""
        self._pipeline = pipeline
        self._in_order = [step.key for step in phase_steps(pipeline, phase) if step.key in steps]
        self._task = Task(phase, 0, steps=frozenset(self._in_order), recompute=recompute)
        self.tasks: list[Task] = []

    def add(self, group: VerdictGroup) -> None:
        """Plan the units of a group in which something waits."""
        if not self._in_order:
            return
        is_long = _is_long(self._pipeline, group.sources)
        for waiting in group.waiting(self._task.steps):
            first = min(self._in_order.index(key) for key in waiting.needs & self._task.steps)
            needs = frozenset(self._in_order[first:])
            task = replace(self._task, unit=waiting.unit, needs=needs)
            alone = waiting.places[is_long[waiting.places]]
            ids = group.sources["source_id"].take(pa.array(alone)).to_pylist()
            for place, source_id in zip(alone.tolist(), ids, strict=True):
                duration_s = group.sources["duration_s"][place].as_py()
                single = replace(task, only=frozenset([source_id]), num_sources=1)
                if place in waiting.unsplit:
                    self.tasks.append(in_segments(self._pipeline, single, duration_s))
                else:
                    self.tasks += _by_segment(self._pipeline, single, duration_s)
            num_together = len(waiting.places) - len(alone)
            if num_together:
                excluded = frozenset([*ids, *group.absent_ids(waiting.unit)])
                self.tasks.append(replace(task, excluded=excluded, num_sources=num_together))


def in_segments(pipeline: Pipeline, alone: Task, duration_s: float) -> Task:
    """The task of a long video that is to be split, in segments if its splitter can work so."""
    splitter = pipeline.branches["video"].splitter
    if splitter and isinstance(splitter.stage, Splitter) and splitter.stage.lookback_s is not None:
        return replace(alone, segments=_segments(pipeline, duration_s))
    return alone


def _by_segment(pipeline: Pipeline, alone: Task, duration_s: float) -> Iterator[Task]:
    """Tasks for the segments of a long video whose clips are known.

    Each clip belongs to one segment, and the segments know nothing of each other.
    """
    for number, segment in enumerate(_segments(pipeline, duration_s)):
        yield replace(alone, segment=segment, num_sources=int(number == 0))


def _segments(pipeline: Pipeline, duration_s: float) -> tuple[Segment, ...]:
    return segments_of(duration_s, pipeline.config.run.segment_s or math.inf)


def _is_long(pipeline: Pipeline, sources: pa.Table) -> NDArray[np.bool_]:
    """Which sources are worth processing in segments: bool [N]."""
    segment_s = pipeline.config.run.segment_s
    if segment_s is None or "video" not in pipeline.branches:
        return np.zeros(sources.num_rows, np.bool_)
    is_seekable = pc.is_in(sources["codec"], value_set=pa.array(sorted(SEEKABLE_CODECS)))
    has_jumps = pc.fill_null(pc.greater(sources["num_discontinuities"], 0), False)
    is_long = pc.fill_null(pc.greater(sources["duration_s"], segment_s), False)
    is_video = pc.equal(sources["kind"], "video")
    found = pc.and_(pc.and_(is_video, is_seekable), pc.and_not(is_long, has_jumps))
    return np.asarray(found)


def is_shared(pipeline: Pipeline, source: Source) -> bool:
    """Whether a source is worth looking at in segments, by several workers."""
    return bool(_is_long(pipeline, sources_to_table([source]))[0])


def plan_pass(
    ledger: Ledger,
    pipeline: Pipeline,
    phase: Phase,
    steps: Collection[str],
    *,
    recompute: RecomputePolicy = NO_RECOMPUTE,
) -> list[Task]:
    """The units in which `phase` has something to measure."""
    plan = PassPlan(pipeline, phase, steps, recompute)
    for group in verdict_groups(
        ledger, pipeline, recompute=recompute, source_columns=PassPlan.SOURCE_COLUMNS
    ):
        plan.add(group)
    return plan.tasks


def phase_steps(pipeline: Pipeline, phase: Phase) -> list[Step]:
    """The steps that a pass measures unit by unit: filters in one, captions and tokens in the other."""
    if phase == "filter":
        steps = [step for branch in pipeline.branches.values() for step in branch_steps(branch)]
        return [step for step in steps if not step.is_dataset_wide]
    return list(steps_of(pipeline.enrich)) if phase == "enrich" else []
