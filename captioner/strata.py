"""Clips that the filters keep, each with the part of the data that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger import Ledger
from curation.ledger.columns import KEPT
from curation.ledger.unit_state import branch_steps
from curation.ledger.verdict_group import SampleGroup, VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline

DURATIONS_S = (5.0, 10.0, 20.0)
"""Bounds of the strata of length."""
SCORES = {"flow_score": "motion", "aesthetic_score": "looks"}
"""Columns whose thirds are strata, and what they stand for."""
_CLIPS = pa.schema(
    [
        ("unit", pa.int64()),
        ("source_id", pa.string()),
        ("sample_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        *((name, pa.float64()) for name in SCORES),
    ]
)


def stratified_clips(ledger: Ledger, pipeline: Pipeline) -> pa.Table:
    """Clips that the filters keep: `unit`, `source_id`, `sample_id`, `start_s`, `end_s`, `stratum`."""
    steps = [step for branch in pipeline.branches.values() for step in branch_steps(branch)]
    columns = {step.key: [name for name in SCORES if name in step.stage.columns] for step in steps}
    groups = verdict_groups(ledger, pipeline, columns=columns)
    parts = [
        _kept_clips(group, samples, columns)
        for group in groups
        for samples in group.samples.values()
        if samples.branch.splitter is not None
    ]
    clips = pa.concat_tables([_CLIPS.empty_table(), *parts])
    names = [_durations(clips["end_s"].to_numpy() - clips["start_s"].to_numpy())]
    names += [_thirds(SCORES[column], clips[column].to_numpy()) for column in SCORES]
    strata = pc.binary_join_element_wise(*names, ", ")
    return clips.drop_columns(list(SCORES)).append_column("stratum", strata)


def _kept_clips(group: VerdictGroup, samples: SampleGroup, columns: Mapping[str, Sequence[str]]) -> pa.Table:
    kept = np.flatnonzero(samples.verdicts.outcome == KEPT)
    sources = group.sources.take(pa.array(samples.source[kept]))
    sample_id = samples.sample_id.take(pa.array(kept))
    scores = {name: np.full(len(kept), np.nan) for name in SCORES}
    for key, names in reversed(list(columns.items())):
        if not names or key not in samples.evaluator.measured:
            continue
        # Where several steps measure a score, the first one in the rule counts.
        rows, ok = group.rows_of(key, sample_id), samples.evaluator.measured[key].ok[kept]
        for name in names:
            measured = rows[name].cast(pa.float64()).to_numpy()
            scores[name] = np.where(ok, measured, scores[name])
    return pa.table(
        {
            "unit": sources["unit"],
            "source_id": sources["source_id"],
            "sample_id": sample_id,
            "start_s": samples.start_s[kept],
            "end_s": samples.end_s[kept],
            **scores,
        },
        schema=_CLIPS,
    )


def _thirds(what: str, scores: NDArray[np.float64]) -> pa.Array:
    """For each clip, in which third its score is; NaN is unknown."""
    known = scores[~np.isnan(scores)]
    bounds = np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.zeros(2)
    places = np.where(np.isnan(scores), 3, np.searchsorted(bounds, scores, side="right"))
    return pa.array([f"{what} {third}" for third in ("low", "middle", "high", "unknown")]).take(
        pa.array(places)
    )


def _durations(seconds: NDArray[np.float64]) -> pa.Array:
    """For each clip, between which bounds its length is."""
    lows = [0.0, *DURATIONS_S]
    names = [f"{low:g}-{high:g} s" for low, high in pairwise(lows)]
    places = np.searchsorted(DURATIONS_S, seconds, side="right")
    return pa.array([*names, f"{lows[-1]:g} s and more"]).take(pa.array(places))
