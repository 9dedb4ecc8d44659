"""run.json: what a run was asked, what it was measured with, and what the last one that had work did."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from curation import __version__
from curation.errors import DamagedFileError
from curation.errors.redaction import redact_settings
from curation.execution.worker.metrics import Metrics, PoolMetrics
from curation.ledger.unit_state import PROBE
from curation.pipeline import Pipeline
from curation.report.summary.funnel import untrained_notice
from curation.storage import Storage

RUN = "run.json"
_CORE_PACKAGES = ("av", "numpy", "opencv-python-headless", "pillow", "pyarrow", "ray")
"""Packages that every run's numbers or files come from; stages name theirs by `Stage.distributions`."""


def last_work_record(metrics: Metrics, seconds: float) -> dict[str, Any]:
    """What a run measured, and how long that took."""
    keys = [PROBE, *(key for key in metrics.seconds if key != PROBE)]
    decoded = metrics.frames_decoded
    return {
        "seconds": round(seconds, 1),
        "steps": [
            {
                "step": key,
                "rows": metrics.rows[key],
                "failed": metrics.failed[key],
                "seconds": round(metrics.seconds[key], 3),
                "usage": {name: round(number, 3) for name, number in metrics.usage.get(key, {}).items()},
            }
            for key in keys
            if metrics.rows[key]
        ],
        "pools": [{"pool": name, **_rounded(asdict(pool))} for name, pool in metrics.pools.items()],
        "frames_decoded": decoded.total(),
        "images_decoded": metrics.images_decoded.total(),
        "decodes_per_frame": round(decoded["filter"] / metrics.frames_held, 3)
        if metrics.frames_held
        else None,
        "bytes_stored": dict(metrics.bytes_stored),
        "bytes_read": dict(metrics.bytes_read),
        "reads_per_byte": {
            phase: round(metrics.bytes_read[phase] / stored, 3)
            for phase, stored in metrics.bytes_stored.items()
            if stored
        },
    }


def _rounded(pool: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, dict) else round(value, 3) for key, value in pool.items()}


def run_record(pipeline: Pipeline, listing: Any, last_work: Any) -> dict[str, Any]:
    """All of run.json."""
    return {
        "untrained": untrained_notice(pipeline),
        "curation": __version__,
        "config": redact_settings(pipeline.config.resolved),
        "models": [asdict(model) for model in pipeline.models],
        "fingerprints": {step.key: step.fingerprint for step in pipeline.steps() if step.is_bound},
        "versions": {"python": platform.python_version(), **_versions(pipeline)},
        "listing": listing,
        "last_work": last_work,
    }


def _versions(pipeline: Pipeline) -> dict[str, str]:
    found = {}
    for package in sorted({*_CORE_PACKAGES, *pipeline.distributions()}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_run(storage: Storage, pipeline: Pipeline, listing: Any, last_work: Any) -> dict[str, Any]:
    """Write run.json, unless it says so already; what is in it."""
    record = run_record(pipeline, listing, last_work)
    if not storage.compares_versions:
        record["conditional_writes"] = False
    write_if_changed(storage, RUN, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def read_run(storage: Storage) -> dict[str, Any]:
    """What is in run.json; nothing where there is none.

    Raises:
        DamagedFileError: it is damaged.
    """
    data = storage.read(RUN)
    if data is None:
        return {}
    try:
        record: dict[str, Any] = json.loads(data)
        _Record.model_validate(record)
    except (ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DamagedFileError.of({f"{storage.root}/{RUN}": why}) from error
    if record.get("last_work"):
        record["last_work"] = _completed(record["last_work"])
    return record


def _completed(last_work: Mapping[str, Any]) -> dict[str, Any]:
    """With what an older version did not write as if there had been none of it."""
    step = {"rows": 0, "failed": 0, "seconds": 0.0, "usage": {}}
    pool = _rounded(asdict(PoolMetrics()))
    found = _with(last_work_record(Metrics(), 0.0), last_work)
    found["steps"] = [_with(step, one) for one in found["steps"]]
    found["pools"] = [_with(pool, one) for one in found["pools"]]
    return found


def _with(defaults: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in its own order, so that it is written as it was read; what it lacks comes after."""
    return {**record, **{name: value for name, value in defaults.items() if name not in record}}


class _Model(BaseModel):
    step: str
    role: str
    name: str
    asked: str | None
    revision: str


class _ListingRecord(BaseModel):
    lines: list[str] = []


class _LastWork(BaseModel):
    steps: list[dict[str, Any]] = []
    pools: list[dict[str, Any]] = []
    seconds: float = 0.0


class _Record(BaseModel):
    """What is read back of run.json: the models by the next run, the rest by the report.

    What older versions did not write has a default.
    """

    model_config = ConfigDict(strict=True)

    models: list[_Model] = []
    listing: _ListingRecord | None = None
    last_work: _LastWork | None = None


def forget_run(storage: Storage) -> None:
    """Put an empty run.json into the place of a damaged one, by which the output is still known as one."""
    storage.write(RUN, b"{}\n")


def write_if_changed(storage: Storage, key: str, text: str) -> None:
    """Write a text, unless it is there already."""
    data = text.encode()
    if storage.read(key) != data:
        storage.write(key, data)
