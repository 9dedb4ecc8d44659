"""What is to do: units, required minus present. Never opens media."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.config import Config
from curation.execution.segments import WHOLE_VIDEO, Segment, segments_of
from curation.ingest.listing import Listing
from curation.ingest.metadata import metadata_json
from curation.ledger import Ledger
from curation.ledger.present import match_names
from curation.ledger.schemas import sources_to_table
from curation.ledger.unit_state import NO_RECOMPUTE, PROBE, RecomputePolicy, branch_steps
from curation.ledger.verdicts import VerdictGroup, verdict_groups
from curation.media.decode import SEEKABLE_CODECS
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import Source, SourceKind
from curation.splitter import Splitter

Phase = Literal["list", "probe", "filter", "enrich"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Task:
    """Work on one unit that one worker does in one go.

    Attributes:
        phase: Which pass.
        unit: Number of the unit.
        sources: What is read for the first time, as listed: for probing, and for filtering a new unit, whose
            sources are probed in the same go; for listing, one container.
        known: For probing: what the unit holds already; it is written anew.
        steps: Keys of the steps that may be measured.
        needs: Keys of the steps that it comes to, as far as that is known: those that something waits for,
            and those after them.
        recompute: Rows that count as missing.
        only: Work on these source ids alone; None for all of the unit that wait.
        excluded: Source ids of the unit that this task leaves alone: those that are not in the inputs, and
            those that have tasks of their own.
        segment: Of a video whose cuts are known, only the clips that begin there.
        segments: Those of the task's only video, if it is split by several workers.
        services: Step key -> what the service that runs beside it said.
        num_sources: How many sources will be touched, for progress.
    """

    phase: Phase
    unit: int
    sources: tuple[Source, ...] = ()
    known: tuple[Source, ...] = ()
    steps: frozenset[str] = frozenset()
    needs: frozenset[str] = field(default=frozenset(), compare=False)
    recompute: RecomputePolicy = NO_RECOMPUTE
    only: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    segment: Segment = WHOLE_VIDEO
    segments: tuple[Segment, ...] = ()
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
) -> list[Task]:
    """Units for sources that no unit holds yet, and units to write anew: those with sources that have
    another date, carry something else than before, or failed and are read again.

    At most the first `limit` sources of the listing are read.
    """
    known = ledger.sources_table(("uri", "etag", "carried", "status"))
    matched = _match(known, listing.sources, limit)
    tasks = list(_rewrites(ledger, listing.sources, known, matched, recompute))
    used = set(ledger.units())
    free = (number for number in count() if number not in used)
    sizes: dict[SourceKind, int] = {
        "image": config.run.unit_images,
        "video": config.run.unit_videos,
        "container": config.run.unit_images,
    }
    fresh = [listing.sources[place] for place in matched.fresh]
    for kind, size in sizes.items():
        for group in in_groups([source for source in fresh if source.kind == kind], size):
            tasks.append(Task("probe", next(free), group, num_sources=len(group)))
    return tasks


def filtered_as_read(pipeline: Pipeline, probe: Task, steps: Collection[str]) -> Task:
    """A task that filters a new unit while its sources are probed, so that none is read twice for it.

    `probe` itself for units that are written anew, and where there is nothing to filter by.
    """
    branch = pipeline.branches.get(probe.sources[0].kind) if probe.sources and not probe.known else None
    allowed = {step.key for step in branch_steps(branch) if not step.is_dataset_wide} if branch else set()
    allowed &= set(steps)
    if not allowed:
        return probe
    return replace(probe, phase="filter", steps=frozenset(allowed), needs=frozenset(allowed))


@dataclass(frozen=True)
class _Matched:
    """The ledger's sources and the listing, held against each other; places are those in the listing.

    Attributes:
        place_of: For each known source the place of its file, -1 where it is gone.
        fresh: Places of files that the ledger does not know.
        changed: Places of files whose etag it does not know -> the unit of their newest version.
        is_current: For each known source whether its file is listed with its etag.
        has_other_metadata: And carries something else than it did.
    """

    place_of: NDArray[np.int64]
    fresh: list[int]
    changed: Mapping[int, int]
    is_current: NDArray[np.bool_]
    has_other_metadata: NDArray[np.bool_]


def _match(known: pa.Table, sources: Sequence[Source], limit: int | None) -> _Matched:
    listed = pa.table(
        {
            "uri": pa.array([source.uri for source in sources], pa.string()),
            "etag": pa.array([source.etag for source in sources], pa.string()),
            "carried": pa.array([metadata_json(source.metadata) for source in sources], pa.string()),
        }
    )
    places = pc.index_in(match_names(known["uri"]), value_set=match_names(listed["uri"]))
    is_same = np.asarray(pc.equal(known["etag"], listed["etag"].take(places)).fill_null(False))
    metadata, now = (
        pc.fill_null(column, "") for column in (known["carried"], listed["carried"].take(places))
    )
    place_of = np.asarray(pc.fill_null(places, -1), np.int64)
    unit_of = np.full(len(sources), -1)
    unit_of[place_of[place_of >= 0]] = known["unit"].to_numpy()[place_of >= 0]  # of several, the last
    is_known = np.zeros(len(sources), bool)
    is_known[place_of[is_same]] = True
    open_to_read = np.flatnonzero(~is_known[:limit])
    return _Matched(
        place_of,
        fresh=[int(place) for place in open_to_read if unit_of[place] < 0],
        changed={int(place): int(unit_of[place]) for place in open_to_read if unit_of[place] >= 0},
        is_current=is_same,
        has_other_metadata=is_same & np.asarray(pc.not_equal(metadata, now)),
    )


def _rewrites(
    ledger: Ledger, sources: Sequence[Source], known: pa.Table, matched: _Matched, recompute: RecomputePolicy
) -> Iterator[Task]:
    """The units that are there already and are written anew."""
    units = known["unit"].to_numpy()
    has_failed = np.asarray(pc.equal(known["status"], "failed"))
    is_recomputed = np.array([recompute.counts_as_missing(PROBE, failed) for failed in (False, True)])[
        has_failed.astype(int)
    ]
    is_recomputed &= matched.is_current
    by_unit: dict[int, list[int]] = {}
    for place, unit in matched.changed.items():
        by_unit.setdefault(unit, []).append(place)
    for unit in sorted({*units[matched.has_other_metadata | is_recomputed].tolist(), *by_unit}):
        rows = np.arange(*np.searchsorted(units, [unit, unit + 1]))
        changed = by_unit.get(unit, [])
        again = {int(place) for place in matched.place_of[rows[is_recomputed[rows]]]}
        to_read = [sources[place] for place in sorted(again.union(changed))]
        yield Task(
            "probe",
            unit,
            tuple(to_read),
            known=tuple(
                replace(source, metadata=sources[matched.place_of[row]].metadata)
                if matched.has_other_metadata[row]
                else source
                for source, row in zip(ledger.sources(unit), rows, strict=True)
            ),
            num_sources=len(to_read) or len(rows),
        )


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
                self.tasks += self._in_segments(single, duration_s, is_unsplit=place in waiting.unsplit)
            num_together = len(waiting.places) - len(alone)
            if num_together:
                excluded = frozenset([*ids, *group.absent_ids(waiting.unit)])
                self.tasks.append(replace(task, excluded=excluded, num_sources=num_together))

    def _in_segments(self, alone: Task, duration_s: float, *, is_unsplit: bool) -> Iterator[Task]:
        """Tasks for the segments of a long video, which several workers can look at."""
        segments = segments_of(duration_s, self._pipeline.config.run.segment_s or math.inf)
        splitter = self._pipeline.branches["video"].splitter
        if not is_unsplit:
            # Clips are known: each belongs to one segment, and the segments know nothing of each other.
            for number, segment in enumerate(segments):
                yield replace(alone, segment=segment, num_sources=int(number == 0))
        elif splitter and isinstance(splitter.stage, Splitter) and splitter.stage.lookback_s is not None:
            yield replace(alone, segments=segments)
        else:
            yield alone


def _is_long(pipeline: Pipeline, sources: pa.Table) -> NDArray[np.bool_]:
    """Which sources are worth looking at in segments: bool [N]."""
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
