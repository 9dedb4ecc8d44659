"""Strata of kept clips, which are made by column, against the clips one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.captioner.strata import stratified_clips
from curation.ledger.unit_state import decide_sample
from curation.records import Outcome
from one_by_one import scan_verdicts
from random_ledgers import a_pipeline, random_ledger


def test_strata_are_those_of_the_clips_one_by_one(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    strata = set()
    for seed in range(4):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed)
        kept = {
            sample.sample.sample_id: (state.unit, judged.source.source_id, sample)
            for state, unit in scan_verdicts(ledger, pipeline)
            for judged in unit
            for sample in judged.samples
            if sample.sample.kind == "clip"
            and decide_sample(pipeline.branches["video"], sample.rows).outcome is Outcome.KEPT
        }
        rows = [sample.rows["videos.flow"] for _, _, sample in kept.values()]
        low, high = np.quantile([row.values["flow_score"] for row in rows], [1 / 3, 2 / 3])
        clips = stratified_clips(ledger, pipeline).to_pylist()
        assert {clip["sample_id"] for clip in clips} == set(kept)
        for clip in clips:
            unit, source_id, sample = kept[clip["sample_id"]]
            assert (clip["unit"], clip["source_id"]) == (unit, source_id)
            assert (clip["start_s"], clip["end_s"]) == (sample.sample.start_s, sample.sample.end_s)
            score = sample.rows["videos.flow"].values["flow_score"]
            third = "low" if score < low else "high" if score >= high else "middle"
            length = {3.0: "0-5 s", 45.0: "20 s and more"}[round(sample.sample.duration_s, 6)]
            assert clip["stratum"] == f"{length}, motion {third}, looks unknown"
            strata.add(clip["stratum"])
    assert len(strata) > 2
