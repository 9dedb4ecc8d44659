"""What is in run.json: what a run was asked, what it measures with, and what the last one that had work did.

`Recorder` writes it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from curation.errors import DamagedFileError
from curation.errors.redaction import redact_settings
from curation.execution.record.fields import check_fields
from curation.execution.worker.metrics import DECODE, Metrics, PoolMetrics
from curation.ledger.unit_state import PROBE
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.report.summary.funnel import untrained_notice
from curation.splitter import Splitter
from curation.storage import Storage
from curation.version import __version__

RUN = "run.json"
_CORE_PACKAGES = ("av", "numpy", "opencv-python-headless", "pillow", "pyarrow", "ray")
"""Packages that every run's numbers or files come from; stages name theirs by `Stage.distributions`."""


def last_work_record(metrics: Metrics, seconds: float) -> dict[str, Any]:
    """What a run measured, and how long that took.

    `resumed_from` is when a run began that was broken off and that this one took up: what was measured by
    then is not counted here. `cpus` is the most decode workers, each of which has a CPU core, and
    `output_bytes` what ledger and shards hold, where that is known.
    """
    keys = [PROBE, *(key for key in metrics.seconds if key != PROBE)]
    decoded = metrics.frames_decoded
    return {
        "seconds": round(seconds, 1),
        "resumed_from": None,
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
        "cpus": max(
            (pool.num_workers for name, pool in metrics.pools.items() if name.endswith(DECODE)), default=0
        ),
        "gpu_s": round(metrics.gpu_s, 1),
        "output_bytes": None,
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


def description(pipeline: Pipeline, listing: Any) -> dict[str, Any]:
    """What a run is asked, what it measures with, and what lies in the inputs."""
    bound = [step for step in pipeline.steps() if step.is_bound]
    record = {
        "untrained": untrained_notice(pipeline),
        "curation": __version__,
        "config": redact_settings(pipeline.config.resolved),
        "models": [asdict(model) for model in pipeline.models],
        "thresholds": {step.key: values for step in pipeline.steps() if (values := _thresholds(step))},
        "fingerprints": {step.key: step.fingerprint for step in bound},
        "parts": {step.key: _parts(step) for step in pipeline.steps()},
        "versions": {"python": platform.python_version(), **_versions(pipeline)},
        "listing": listing,
    }
    as_read_back: dict[str, Any] = json.loads(json.dumps(record))
    return as_read_back


def _thresholds(step: Step) -> dict[str, float]:
    """The thresholds of a step that are switched on."""
    values = {name: getattr(step.stage.config, name) for name in step.stage.thresholds()}
    return {name: value for name, value in values.items() if value is not None}


def _parts(step: Step) -> dict[str, Any]:
    """What a fingerprint is the hash of, and whether the step makes samples of sources."""
    return {**asdict(step.parts), "splits": isinstance(step.stage, Splitter)}


def _versions(pipeline: Pipeline) -> dict[str, str]:
    found = {}
    for package in sorted({*_CORE_PACKAGES, *pipeline.distributions()}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
        check_fields(record)
    except (ValueError, RecursionError) as error:
        why = _first_of(error) if isinstance(error, ValidationError) else str(error)
        raise DamagedFileError.of({f"{storage.root}/{RUN}": why}) from error
    if record.get("last_work"):
        record["last_work"] = _completed(record["last_work"])
    return record


def _first_of(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


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


def forget_run(storage: Storage) -> None:
    """Put an empty run.json into the place of a damaged one, by which the output is still known as one."""
    storage.write(RUN, b"{}\n")


def write_if_changed(storage: Storage, key: str, text: str) -> None:
    """Write a text, unless it is there already."""
    data = text.encode()
    if storage.read(key) != data:
        storage.write(key, data)
