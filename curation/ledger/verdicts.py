"""A verdict for every source and sample of the ledger, by column, a few units at a time.

    for group in verdict_groups(ledger, pipeline):
        group.of_sources.outcome, group.leaves["image"].verdicts.needs      # see `verdict_group.py`

The same verdicts as `source_verdict` gives one by one, which reads whole rows and is for a single unit. Here
only what decides is read: ids, status, error types, and the columns of thresholds. The planner, the
summary, the selection of shards and the table stand on this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger import Ledger
from curation.ledger.absent import Absent, absent_sources
from curation.ledger.columns import (
    FAILED,
    KEPT,
    PENDING,
    REJECTED,
    Labels,
    Measured,
    RuleEvaluator,
    Verdicts,
)
from curation.ledger.schemas import stage_schema
from curation.ledger.unit_state import NO_RECOMPUTE, RecomputePolicy, branch_steps
from curation.ledger.verdict_group import Leaves, SampleGroup, VerdictGroup, equals, sum_up
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import HDR_TRANSFERS, Sample, SourceKind, image_ids
from curation.splitter import Splitter
from curation.storage.requests import in_order

UNITS_AT_A_TIME = 32
"""Units whose rows are judged together: enough to make the cost per call small."""
_SOURCE_COLUMNS = ("source_id", "kind", "status", "error_type", "color_transfer")
_ROW_COLUMNS = ("sample_id", "status", "error_type")
_SPAN_COLUMNS = ("source_id", "start_s", "end_s")


def verdict_groups(
    ledger: Ledger,
    pipeline: Pipeline,
    *,
    recompute: RecomputePolicy = NO_RECOMPUTE,
    units: Iterable[int] | None = None,
    source_columns: Collection[str] = (),
    columns: Mapping[str, Collection[str]] | None = None,
    absent: Absent | None = None,
    all_windows: bool = False,
) -> Iterator[VerdictGroup]:
    """Every unit with its verdicts, of the sources that are in the inputs, in order of units.

    Args:
        ledger: Where the rows are.
        pipeline: The rules.
        recompute: Rows that count as missing.
        units: The units; None for all.
        source_columns: What to read of sources besides what decides.
        columns: Step key -> what to read of its rows besides what decides.
        absent: The absent sources, where the caller knows them: to find them, all sources are read.
        all_windows: Cut windows of samples that are not kept, too, for a caller who asks what other
            thresholds would keep. Each of them has the verdict of its sample.
    """
    absent = absent_sources(ledger) if absent is None else absent
    reader = _Reader(ledger, pipeline, recompute, columns or {}, absent, all_windows=all_windows)
    todo = list(ledger.units() if units is None else units)
    sources = ledger.scan_sources(list(dict.fromkeys([*_SOURCE_COLUMNS, *source_columns])), todo)
    while parts := list(islice(sources, UNITS_AT_A_TIME)):
        yield reader.group(parts)


class _Reader:
    """Reads groups of units and judges them."""

    def __init__(
        self,
        ledger: Ledger,
        pipeline: Pipeline,
        recompute: RecomputePolicy,
        columns: Mapping[str, Collection[str]],
        absent: Absent,
        *,
        all_windows: bool,
    ) -> None:
        self._pipeline, self._recompute, self._all_windows = pipeline, recompute, all_windows
        steps = list(pipeline.steps())
        snapshots = in_order(ledger.storage, lambda step: ledger.snapshot(step.name, step.fingerprint), steps)
        self._measured = {step.key: snapshot for step, snapshot in zip(steps, snapshots, strict=True)}
        self._gone = absent.gone_sources["source_id"].combine_chunks()
        self._absent = absent.source_ids
        self._steps = list({step.key: step for step in pipeline.steps()}.values())
        self._codes = {step.key: code for code, step in enumerate(self._steps)}
        self._labels = Labels()
        self._wanted = {step.key: _wanted_columns(step, columns.get(step.key, ())) for step in self._steps}

    def group(self, parts: Sequence[tuple[int, pa.Table]]) -> VerdictGroup:
        """The verdicts of units, given the columns of their sources."""
        sources, gone, absent = self._present(parts)
        rows = {step.key: self._rows(step, [unit for unit, _ in parts]) for step in self._steps}
        uncounted = [pa.array([], pa.string())]
        of_sources = self._header_verdicts(sources)
        samples: dict[SourceKind, SampleGroup] = {}
        leaves: dict[SourceKind, Leaves] = {}
        usable = of_sources.outcome == PENDING
        for kind, branch in self._pipeline.branches.items():
            places = np.flatnonzero(usable & equals(sources["kind"], kind))
            if branch.splitter is None:
                found = self._images(branch, sources, places, rows)
            else:
                found, clashing = self._clips(branch, branch.splitter, sources, places, rows, of_sources)
                uncounted.append(clashing)
            samples[kind] = found
            leaves[kind] = self._leaves(kind, found, sources, rows)
            sum_up(of_sources, leaves[kind].source, leaves[kind].verdicts, self._labels)
        return VerdictGroup(
            sources,
            gone,
            of_sources,
            samples,
            leaves,
            rows,
            pa.concat_arrays(uncounted),
            self._labels,
            self._steps,
            absent,
        )

    def _present(self, parts: Sequence[tuple[int, pa.Table]]) -> tuple[pa.Table, pa.Table, pa.Table]:
        """The sources that are in the inputs, those that are gone, and the ids of all others; with `unit`."""
        table = pa.concat_tables(
            part.append_column("unit", pa.array(np.full(part.num_rows, unit))) for unit, part in parts
        )
        gone = absent = table.slice(0, 0)
        if len(self._absent):
            is_absent = pc.is_in(table["source_id"], value_set=self._absent)
            absent, table = table.filter(is_absent), table.filter(pc.invert(is_absent))
            gone = absent.filter(pc.is_in(absent["source_id"], value_set=self._gone))
        return table.combine_chunks(), gone.combine_chunks(), absent.select(["unit", "source_id"])

    def _header_verdicts(self, sources: pa.Table) -> Verdicts:
        """Of what the headers say: FAILED, or REJECTED where none such are wanted; else PENDING."""
        found = Verdicts.kept(sources.num_rows)
        found.outcome[:] = PENDING
        for kind in pc.unique(sources["kind"]).to_pylist():
            if kind not in self._pipeline.branches:
                of_kind = equals(sources["kind"], kind)
                found.outcome[of_kind] = REJECTED
                found.reason[of_kind] = self._labels.code(f"no_rule_for_{kind}s")
        if self._pipeline.config.general.hdr == "reject":
            transfers = pa.array(sorted(HDR_TRANSFERS))
            is_hdr = pc.is_in(sources["color_transfer"], value_set=transfers).to_numpy(zero_copy_only=False)
            is_hdr &= found.outcome == PENDING
            found.outcome[is_hdr] = REJECTED
            found.reason[is_hdr] = self._labels.code("hdr_rejected")
        failed = ~equals(sources["status"], "ok")
        found.outcome[failed] = FAILED
        found.reason[failed] = self._labels.codes(sources["error_type"])[failed]
        return found

    def _images(
        self, branch: Branch, sources: pa.Table, places: NDArray[np.int64], rows: Mapping[str, pa.Table]
    ) -> SampleGroup:
        source_ids = sources["source_id"].take(pa.array(places)).to_pylist()
        sample_id = pa.array(image_ids(source_ids), pa.string())
        nothing = np.zeros(len(places))
        return self._judged(branch, places, sample_id, nothing, nothing, rows)

    def _clips(
        self,
        branch: Branch,
        splitter: Step,
        sources: pa.Table,
        places: NDArray[np.int64],
        rows: Mapping[str, pa.Table],
        of_sources: Verdicts,
    ) -> tuple[SampleGroup, pa.Array]:
        """The clips of the sources at these places, and the ids of those that contradict the splitter."""
        found = rows[splitter.key]
        source_ids = sources["source_id"].combine_chunks()
        splittable = np.zeros(sources.num_rows, np.bool_)
        splittable[places] = True
        is_span = equals(found["status"], "ok")
        broken = self._fail_unsplit(splitter, source_ids, found.filter(pa.array(~is_span)), splittable)
        of_sources.put(broken.outcome == FAILED, broken)
        waiting = splittable & (broken.outcome != FAILED)
        parent = _places(source_ids, found["source_id"])
        is_span &= parent >= 0
        chosen, clashing = is_span.copy(), is_span.copy()
        chosen[is_span] = waiting[parent[is_span]]
        clashing[is_span] = (splittable & ~waiting)[parent[is_span]]
        split = np.zeros(sources.num_rows, np.bool_)
        split[parent[chosen]] = True
        of_sources.needs[waiting & ~split] = self._codes[splitter.key]
        spans = found.filter(pa.array(chosen))
        source, start_s = parent[chosen], spans["start_s"].to_numpy()
        order = np.lexsort((start_s, source))
        samples = self._judged(
            branch,
            source[order],
            spans["sample_id"].combine_chunks().take(pa.array(order)),
            start_s[order],
            spans["end_s"].to_numpy()[order],
            rows,
        )
        return samples, found["sample_id"].filter(pa.array(clashing)).combine_chunks()

    def _fail_unsplit(
        self, splitter: Step, source_ids: pa.Array, broken: pa.Table, splittable: NDArray[np.bool_]
    ) -> Verdicts:
        """FAILED for each splittable source that has one of these failed rows of its splitter."""
        found = Verdicts.kept(len(source_ids))
        places = _places(source_ids, broken["sample_id"])
        counts = places >= 0
        counts[counts] = splittable[places[counts]]
        at = places[counts]
        found.outcome[at] = FAILED
        found.reason[at] = self._labels.codes(broken["error_type"])[counts]
        found.step[at] = self._codes[splitter.key]
        return found

    def _judged(
        self,
        branch: Branch,
        source: NDArray[np.int64],
        sample_id: pa.Array,
        start_s: NDArray[np.float64],
        end_s: NDArray[np.float64],
        rows: Mapping[str, pa.Table],
    ) -> SampleGroup:
        evaluator = self._evaluator(branch_steps(branch), sample_id, rows)
        verdicts = evaluator.decide(branch.whole_rule)
        return SampleGroup(branch, evaluator, source, sample_id, start_s, end_s, verdicts)

    def _evaluator(
        self, steps: Iterable[Step], sample_id: pa.Array, rows: Mapping[str, pa.Table]
    ) -> RuleEvaluator:
        measured = {step.key: self._measurements(step, sample_id, rows[step.key]) for step in steps}
        return RuleEvaluator(measured, len(sample_id), self._codes, self._labels)

    def _measurements(self, step: Step, sample_id: pa.Array, rows: pa.Table) -> Measured:
        """What a step measured of these samples."""
        all_rows = Measured(
            np.ones(rows.num_rows, np.bool_),
            equals(rows["status"], "ok"),
            self._labels.codes(rows["error_type"]),
            {column: _numbers(rows[column]) for column in _deciding(step)},
        )
        return all_rows.take(_places(rows["sample_id"].combine_chunks(), sample_id))

    def _rows(self, step: Step, units: Sequence[int]) -> pa.Table:
        """The wanted columns of a step's rows in the units, without those that are recomputed."""
        wanted = self._wanted[step.key]
        parts = [part for _, part in self._measured[step.key].scan(units, wanted)]
        if not parts:
            declared = stage_schema(step.stage.columns)
            return pa.schema([declared.field(name) for name in wanted]).empty_table()
        table = pa.concat_tables(parts).combine_chunks()
        if step.name in self._recompute.stages:
            stays = equals(table["status"], "ok") & self._recompute.only_failed
            table = table.filter(pa.array(stays)).combine_chunks()
        return table

    def _leaves(
        self, kind: SourceKind, samples: SampleGroup, sources: pa.Table, rows: Mapping[str, pa.Table]
    ) -> Leaves:
        """Every sample that is not kept, and what is captioned and tokenized of those that are."""
        kept = np.flatnonzero((samples.verdicts.outcome == KEPT) | self._all_windows)
        finish = self._pipeline.enrich
        windows = self._windows(kind, samples, sources, kept) if finish.rules else {}
        stays = np.ones(samples.evaluator.number, np.bool_)
        stays[list(windows)] = False
        whole = np.flatnonzero(stays)
        parts = [(place, window) for place, found in windows.items() for window in found]
        sample = np.array([*whole, *(place for place, _ in parts)], np.int64)
        order = np.argsort(sample, kind="stable")
        ids = [
            samples.sample_id.take(pa.array(whole)),
            pa.array([w.sample_id for _, w in parts], pa.string()),
        ]
        sample_id = pa.concat_arrays(ids).take(pa.array(order))
        is_window = (np.arange(len(sample)) >= len(whole))[order]
        start_s = np.array([*samples.start_s[whole], *(w.start_s for _, w in parts)])[order]
        end_s = np.array([*samples.end_s[whole], *(w.end_s for _, w in parts)])[order]
        sample = sample[order]
        verdicts = samples.verdicts.take(sample)
        evaluator = self._evaluator(steps_of(finish), sample_id, rows)
        verdicts.put(verdicts.outcome == KEPT, evaluator.decide(finish))
        source = samples.source[sample]
        return Leaves(kind, evaluator, source, sample, sample_id, is_window, start_s, end_s, verdicts)

    def _windows(
        self, kind: SourceKind, samples: SampleGroup, sources: pa.Table, kept: NDArray[np.int64]
    ) -> dict[int, list[Sample]]:
        """Place of a sample -> its windows, of those kept samples that are not captioned whole."""
        if kind != "video":
            return {}
        source_ids = sources["source_id"].take(pa.array(samples.source[kept])).to_pylist()
        sample_ids = samples.sample_id.take(pa.array(kept)).to_pylist()
        spans = zip(samples.start_s[kept].tolist(), samples.end_s[kept].tolist(), strict=True)
        found = {}
        for place, source_id, sample_id, (start_s, end_s) in zip(
            kept.tolist(), source_ids, sample_ids, spans, strict=True
        ):
            clip = Sample(sample_id=sample_id, source_id=source_id, kind="clip", start_s=start_s, end_s=end_s)
            windows = self._pipeline.windows(clip)
            if len(windows) != 1 or windows[0].sample_id != sample_id:
                found[place] = windows
        return found


def _wanted_columns(step: Step, besides: Iterable[str]) -> list[str]:
    """What is read of a step's rows: what verdicts need of them, and what was asked for besides."""
    spans = _SPAN_COLUMNS if isinstance(step.stage, Splitter) else ()
    return list(dict.fromkeys([*_ROW_COLUMNS, *spans, *_deciding(step), *besides]))


def _deciding(step: Step) -> list[str]:
    """The columns that the step's thresholds look at."""
    return list(dict.fromkeys(mark.column for mark in step.stage.thresholds().values()))


def _places(value_set: pa.Array, column: Any) -> NDArray[np.int64]:
    """Where each text of `column` stands in `value_set`; -1 where it does not."""
    found = pc.index_in(column, value_set=value_set)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    places: NDArray[np.int64] = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """float64, NaN for null."""
    found: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found
