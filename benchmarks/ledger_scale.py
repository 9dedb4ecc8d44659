"""A run with nothing to do, listing apart: growth exponent of CPU s from 10,000 to 100,000 images (1.05)."""

from __future__ import annotations

import hashlib
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import high_water_bytes
from curation.config import parse_config
from curation.execution.dataset_wide import filters_behind
from curation.execution.standing import Standing
from curation.ledger import Ledger, unit_name
from curation.ledger.columns import OUTCOMES
from curation.ledger.schemas import SOURCES, stage_schema
from curation.ledger.unit_state import load_unit, unit_verdicts
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline, build_pipeline
from curation.records import stable_id
from curation.storage import open_storage
from curation.storage.parquet import to_bytes

NUMBERS = (10_000, 100_000)
UNIT_IMAGES = 256


def ratio() -> float:
    """Growth exponent."""
    costs = [cost_s(number) for number in NUMBERS]
    return math.log(costs[-1] / costs[0]) / math.log(NUMBERS[-1] / NUMBERS[0])


def cost_s(number: int) -> float:
    """CPU seconds of planner and summary of a synthetic ledger, merged as a run leaves it.

    Prints them per million, those of the verdicts alone before merging, and for up to 10,000 images those of
    going through the verdicts one by one.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipeline = build_pipeline(parse_config(config_of(folder)))
        ledger = Ledger(open_storage(folder))
        fill(ledger, pipeline, number)
        started = time.process_time()
        outcomes: Counter[str] = Counter()
        for group in verdict_groups(ledger, pipeline):
            for code, times in zip(*np.unique(group.of_sources.outcome, return_counts=True), strict=True):
                outcomes[OUTCOMES[code].value] += int(times)
        verdicts = time.process_time() - started
        ledger.compact([(step.name, step.fingerprint) for step in pipeline.steps()])
        started = time.process_time()
        standing = Standing(Ledger(open_storage(folder)))
        if standing.tasks(pipeline, "filter", filters_behind(pipeline, None)):
            raise RuntimeError("there should be nothing to do")
        standing.summary(pipeline)
        cost = time.process_time() - started
        per_million = cost / number * 1e6
        print(f"      {number} images: {per_million:.1f} CPU s per million, {dict(outcomes)}")
        print(f"      verdicts alone, before merging: {verdicts / number * 1e6:.1f}")
        print(f"      peak {high_water_bytes() / 1e6:.0f} MB")
        if number <= NUMBERS[0]:
            started = time.process_time()
            for unit in ledger.units():
                unit_verdicts(pipeline, load_unit(ledger, pipeline, unit))
            scalar = time.process_time() - started
            print(
                f"      one by one: {scalar / number * 1e6:.0f} CPU s per million, {scalar / cost:.0f} times"
            )
    return cost


def config_of(folder: str) -> dict[str, Any]:
    """A rule with a branch for photos, nothing that needs weights."""
    aesthetic = {"weights": "stand-in", "head": "stand-in", "head_sha256": None}
    filters = ["resolution", {"any_of": ["aesthetic", "color"]}]
    return {
        "name": "scale",
        "input": [folder],
        "output": folder,
        "stand_ins": "allow",
        "images": {"filters": filters, "aesthetic": aesthetic},
    }


def fill(ledger: Ledger, pipeline: Pipeline, number: int) -> None:
    """Sources and random scores, unit by unit, as a run would have left them."""
    random = np.random.default_rng(0)
    steps = list(pipeline.steps())
    for unit, start in enumerate(range(0, number, UNIT_IMAGES)):
        names = range(start, min(start + UNIT_IMAGES, number))
        source_ids = [hashlib.sha256(str(name).encode()).hexdigest()[:20] for name in names]
        rows = len(source_ids)
        known = {
            "source_id": pa.array(source_ids),
            "uri": pa.array([f"images/{name:09d}.jpg" for name in names]),
            "kind": pa.array(["image"] * rows),
            "size_bytes": pa.array(random.integers(1e4, 1e6, rows)),
            "etag": pa.array([f"{name:x}" for name in names]),
            "status": pa.array(["ok"] * rows),
        }
        write_unit(ledger, f"sources/{unit_name(unit)}", SOURCES, known, rows)
        sample_ids = sorted(stable_id(source_id, 0, 0) for source_id in source_ids)
        for step in steps:
            scores = {
                name: pa.array(random.integers(0, 1200, rows) / 100).cast(column.type, safe=False)
                if name != "width" and name != "height"
                else pa.array(random.integers(400, 2000, rows)).cast(column.type)
                for name, column in step.stage.columns.items()
                if pa.types.is_primitive(column.type)
            }
            measured = {
                **scores,
                "sample_id": pa.array(sample_ids),
                "status": pa.array(["ok"] * rows),
                "seconds": pa.array(random.random(rows)),
            }
            key = f"ledger/{step.name}/{step.fingerprint}/{unit_name(unit)}"
            write_unit(ledger, key, stage_schema(step.stage.columns), measured, rows)


def write_unit(ledger: Ledger, key: str, schema: pa.Schema, known: dict[str, pa.Array], rows: int) -> None:
    """Write a file of the ledger with these columns, null in all others."""
    columns = [known.get(field.name, pa.nulls(rows, field.type)).cast(field.type) for field in schema]
    path = Path(ledger.storage.root) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(pa.table(columns, schema=schema)))


if __name__ == "__main__":
    cost_s(int(sys.argv[1]))
