"""What failed in a group of units: sources, and steps of samples, by column."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger.columns import FAILED, KEPT, NONE
from curation.ledger.unit_state import PROBE
from curation.ledger.verdict_group import VerdictGroup
from curation.records import SourceKind

_SCHEMA = pa.schema(
    [
        ("source", pa.int64()),
        ("leaf", pa.int64()),
        ("sample_id", pa.string()),
        ("step", pa.int64()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)


def failures_of(group: VerdictGroup) -> pa.Table:
    """A row per thing that failed, in order of the sources and their samples.

    `source` is the place of its source in the group, `sample_id` null where no sample could be found in
    it; `step` is the key of a step, or `probe`; `error_type` and `error` say why. Several steps that failed
    a sample by the same error, as those that share a decoder do, are one failure, of the last of them.

    The group must have been read with the column `error` of sources and of all steps.
    """
    parts = [_of_sources(group)]
    for kind in group.samples:
        parts += _of_leaves(group, kind)
    what = ["source", "leaf", "sample_id", "error_type", "error"]
    steps = [("step", "min"), ("step", "max")]
    found = pa.concat_tables(parts).group_by(what, use_threads=False).aggregate(steps)
    in_order = found.sort_by([("source", "ascending"), ("leaf", "ascending"), ("step_min", "ascending")])
    keys = pa.array([PROBE, *(step.key for step in group.steps)])
    places = pc.subtract(in_order["step_max"], NONE)
    return in_order.select(["source", "sample_id", "error_type", "error"]).append_column(
        "step", keys.take(places.combine_chunks())
    )


def source_errors(group: VerdictGroup) -> pa.Array:
    """Why each source can't be read or split [N], null for all others. Read as for `failures_of`."""
    failed = _without_samples(group)
    found = pc.if_else(
        pa.array(failed), group.sources["error"].combine_chunks(), pa.scalar(None, pa.string())
    )
    steps = group.of_sources.step
    for code in np.unique(steps[failed & (steps != NONE)]):
        mine = pa.array(failed & (steps == code))
        ids = group.sources["source_id"].combine_chunks()
        errors = group.rows_of(group.steps[code].key, ids)["error"].combine_chunks()
        found = pc.if_else(mine, errors, found)
    return found


def _without_samples(group: VerdictGroup) -> NDArray[np.bool_]:
    """The failed sources that no sample could be found in."""
    failed = np.equal(group.of_sources.outcome, FAILED)
    for samples in group.samples.values():
        failed[samples.source] = False
    return np.asarray(failed, np.bool_)


def _of_sources(group: VerdictGroup) -> pa.Table:
    places = np.flatnonzero(_without_samples(group))
    nobody = pa.nulls(len(places), pa.string())
    verdicts = group.of_sources.take(places)
    errors = source_errors(group).take(pa.array(places))
    return _table(group, places, places, nobody, verdicts.step, verdicts.reason, errors)


def _of_leaves(group: VerdictGroup, kind: SourceKind) -> Iterator[pa.Table]:
    """Of samples and windows, by each step that is asked about them."""
    samples, leaves = group.samples[kind], group.leaves[kind]
    passed = samples.verdicts.outcome[leaves.sample] == KEPT
    for code, step in enumerate(group.steps):
        if step.key in samples.evaluator.measured:
            measured = samples.evaluator.measured[step.key].take(leaves.sample)
            failed = measured.present & ~measured.ok & ~leaves.is_window
        elif step.key in leaves.evaluator.measured:
            measured = leaves.evaluator.measured[step.key]
            failed = measured.present & ~measured.ok & passed
        else:
            continue
        places = np.flatnonzero(failed)
        if len(places):
            ids = leaves.sample_id.take(pa.array(places))
            errors = group.rows_of(step.key, ids)["error"]
            steps = np.full(len(places), code)
            yield _table(group, leaves.source[places], places, ids, steps, measured.error[places], errors)


def _table(
    group: VerdictGroup,
    source: NDArray[np.int64],
    leaf: NDArray[np.int64],
    sample_id: pa.Array,
    step: NDArray[np.integer],
    error_type: NDArray[np.int32],
    error: pa.Array | pa.ChunkedArray,
) -> pa.Table:
    types = group.labels.column(error_type).cast(pa.string())
    return pa.table([source, leaf, sample_id, step.astype(np.int64), types, error], schema=_SCHEMA)
