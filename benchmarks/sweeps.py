"""A sweep over a synthetic ledger: CPU time of a whole summary over that of a further point of a sweep."""

from __future__ import annotations

import sys
import tempfile
import time

from benchmarks.ledger_scale import config_of, fill
from benchmarks.measure import high_water_bytes
from curation.config import parse_config
from curation.ledger import Ledger
from curation.pipeline import build_pipeline
from curation.report.summary.summary import summarize
from curation.storage import open_storage
from curation.whatif.axes import parse_axes
from curation.whatif.sweep import sweep

NUMBER = 100_000
SWEEPS = (
    ["images.aesthetic.min_score=5"],
    ["images.aesthetic.min_score=0:10:0.1"],
    ["images.aesthetic.min_score=0:10:0.1", "images.color.min_colorfulness=0:12:0.125"],
)


def ratio(number: int = NUMBER) -> float:
    """CPU seconds of a summary over those of a further point."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = build_pipeline(parse_config(config_of(folder)))
        fill(Ledger(open_storage(folder)), pipeline, number)
        ledger = Ledger(open_storage(folder))
        ledger.compact([(step.name, step.fingerprint) for step in pipeline.steps()])
        started = time.process_time()
        summarize(ledger, pipeline)
        summary_s = time.process_time() - started
        print(f"      {number} images: a summary takes {summary_s:.2f} CPU s")
        costs = []
        for texts in SWEEPS:
            started = time.process_time()
            found = sweep(ledger, pipeline, parse_axes(texts, pipeline))
            costs.append((len(found.points), time.process_time() - started))
            peak = high_water_bytes() / 1e6
            print(f"      {costs[-1][0]} points: {costs[-1][1]:.2f} CPU s, peak {peak:.0f} MB")
        (few, one_s), *_, (many, all_s) = costs
        per_point_s = (all_s - one_s) / (many - few)
        print(f"      {per_point_s * 1e3:.2f} CPU ms per further point")
        return summary_s / per_point_s


if __name__ == "__main__":
    ratio(int(sys.argv[1]))
