"""The verdicts of a few units, by column: what `verdict_groups` yields.

A group has three tables whose rows refer to each other by their places: sources, samples of each kind of
source, and leaves, which are samples or the windows of long ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger.columns import (
    FAILED,
    KEPT,
    NONE,
    OUTCOMES,
    PENDING,
    REJECTED,
    Labels,
    RuleEvaluator,
    Verdicts,
)
from curation.pipeline import Branch
from curation.pipeline.rules import Step
from curation.records import SourceKind


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one kind of source in a group of units, before windows are cut.

    Attributes:
        branch: Their rule.
        evaluator: The columns that decided, in the order of the samples.
        source: int64 [N], place of each sample's source in the group's sources.
        sample_id: [N] strings.
        start_s, end_s: float64 [N] seconds; 0 for images.
        verdicts: Of the filters alone.
    """

    branch: Branch
    evaluator: RuleEvaluator
    source: NDArray[np.int64]
    sample_id: pa.Array
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    verdicts: Verdicts


@dataclass(frozen=True)
class Leaves:
    """What ends up in a shard or not: samples, or the windows of long kept clips.

    Attributes:
        evaluator: What captions and tokens measured, in the order of the leaves; of those that the filters
            do not keep it is no verdict.
        source: int64 [M], place of the source in the group's sources.
        sample: int64 [M], place of the sample among those of its kind.
        kind: The kind of source.
        sample_id: [M] strings.
        is_window: bool [M], whether it is part of a sample.
        start_s, end_s: float64 [M] seconds.
        verdicts: Of filters, then of captions and tokens.
    """

    kind: SourceKind
    evaluator: RuleEvaluator
    source: NDArray[np.int64]
    sample: NDArray[np.int64]
    sample_id: pa.Array
    is_window: NDArray[np.bool_]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    verdicts: Verdicts


@dataclass(frozen=True, eq=False)
class Waiting:
    """The sources of one unit in which something waits to be measured.

    Attributes:
        needs: Keys of all steps that something in these sources waits for.
        places: int64 [K], the sources, as places in those of the group.
        unsplit: int64 [J], those of them that wait for their splitter.
    """

    unit: int
    needs: frozenset[str]
    places: NDArray[np.int64]
    unsplit: NDArray[np.int64]


@dataclass(frozen=True)
class VerdictGroup:
    """The verdicts of a few units.

    Attributes:
        sources: `unit`, `source_id`, `kind` and what was asked for besides, a row per source.
        gone: The same columns of the sources that are no longer in the inputs.
        of_sources: A verdict per source, which sums up those of its leaves.
        samples: By kind of source.
        leaves: By kind of source.
        rows: Step key -> the rows of these units, those of absent sources and dropped samples included:
            `sample_id`, `status`, `error_type`, the columns that decide and what was asked for besides.
        uncounted: Ids of clips in sources of which their splitter says that it failed: contradictions.
        labels: What reasons are called.
        steps: What step codes stand for.
        absent: `unit` and `source_id` of the sources that are not in the inputs, which count nowhere.
    """

    sources: pa.Table
    gone: pa.Table
    of_sources: Verdicts
    samples: Mapping[SourceKind, SampleGroup]
    leaves: Mapping[SourceKind, Leaves]
    rows: Mapping[str, pa.Table]
    uncounted: pa.Array
    labels: Labels
    steps: Sequence[Step]
    absent: pa.Table

    def absent_ids(self, unit: int) -> list[str]:
        """The sources of a unit that are not in the inputs."""
        found: list[str] = self.absent.filter(pc.equal(self.absent["unit"], unit))["source_id"].to_pylist()
        return found

    def rows_of(self, key: str, sample_id: pa.Array) -> pa.Table:
        """The rows that a step has of these samples, in their order; null where there is none."""
        rows = self.rows[key]
        places = pc.index_in(sample_id, value_set=rows["sample_id"].combine_chunks())
        return rows.take(places)

    def of_samples(self, kind: SourceKind) -> Verdicts:
        """A verdict per sample of a kind of source, which sums up those of its windows where it has some."""
        leaves = self.leaves[kind]
        found = Verdicts.kept(self.samples[kind].evaluator.number)
        sum_up(found, leaves.sample, leaves.verdicts, self.labels)
        return found

    def unsplit(self, kind: SourceKind) -> NDArray[np.bool_]:
        """Which sources [S] are of this kind and wait for their splitter."""
        found = equals(self.sources["kind"], kind)
        found &= self.of_sources.outcome == PENDING
        found[self.samples[kind].source] = False
        return found

    def waiting(self, keys: Collection[str]) -> Iterator[Waiting]:
        """The units in which something waits for one of these steps, in order."""
        wanted = np.array([step.key in keys for step in self.steps] + [False])  # NONE is the last place
        source, needs = self.needs()
        chosen = np.unique(source[wanted[needs]])
        units = self.sources["unit"].to_numpy()
        for unit in np.unique(units[chosen]):
            mine = chosen[units[chosen] == unit]
            codes = np.unique(needs[np.isin(source, mine)])
            unsplit = mine[self.of_sources.outcome[mine] == PENDING]
            unsplit = unsplit[~np.isin(unsplit, self._with_samples())]
            yield Waiting(
                int(unit),
                frozenset(self.steps[code].key for code in codes if code != NONE),
                mine,
                unsplit,
            )

    def needs(self) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """What sources and leaves wait for: places of the sources, codes of the steps, `NONE` for none."""
        places = [np.arange(self.sources.num_rows), *(leaves.source for leaves in self.leaves.values())]
        needs = [self.of_sources.needs, *(leaves.verdicts.needs for leaves in self.leaves.values())]
        return np.concatenate(places), np.concatenate(needs)

    def _with_samples(self) -> NDArray[np.int64]:
        """Places of the sources that have samples."""
        return np.concatenate([samples.source for samples in self.samples.values()])


def sum_up(into: Verdicts, whole: NDArray[np.int64], parts: Verdicts, labels: Labels) -> None:
    """The verdict of each whole with parts: kept if one is, else pending, failed or rejected.

    `whole` [N] says for each part where its whole stands in `into`.
    """
    if not len(whole):
        return
    order = np.lexsort((_RANK[parts.outcome], whole))
    sorted_whole = whole[order]
    firsts = np.flatnonzero(np.diff(sorted_whole, prepend=-1))
    found = parts.take(order[firsts])
    found.reason[found.outcome == KEPT] = NONE
    sizes = np.diff([*firsts, len(whole)])
    for place in np.flatnonzero((sizes > 1) & (found.outcome != KEPT)):
        mine = order[firsts[place] : firsts[place] + sizes[place]]
        alike = mine[parts.outcome[mine] == found.outcome[place]]
        texts = {labels.texts[code] for code in parts.reason[alike] if code != NONE}
        found.reason[place] = labels.code(", ".join(sorted(texts))) if texts else NONE
    at = sorted_whole[firsts]
    for name in ("outcome", "reason", "step", "needs"):
        getattr(into, name)[at] = getattr(found, name)


_RANK = np.array([(KEPT, PENDING, FAILED, REJECTED).index(code) for code in range(len(OUTCOMES))])
"""Outcome code -> how early it decides for the source."""


def equals(column: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    """Where a column holds this text."""
    found: NDArray[np.bool_] = pc.equal(column, text).to_numpy(zero_copy_only=False)
    return found
