"""Writes run.json while a run goes on: when it began, on what, what it ended with, and what was so before.

    recorder = Recorder(storage, command)
    recorder.begin(pipeline, listing.record(), came)
    recorder.working()                                  # before the first thing is measured
    record = recorder.end(pipeline, outcomes, metrics, seconds)

A run that changes nothing leaves run.json as it was, so these facts belong to the last run that measured or
decided something. One that was broken off leaves `ended: null`; the next run goes on from there, and what
was so "before" stays that of the last run that came to its end.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from curation.execution.record.changes import changes_of, step_reasons
from curation.execution.record.run_record import (
    RUN,
    description,
    last_work_record,
    read_run,
    write_if_changed,
)
from curation.execution.worker.metrics import Metrics
from curation.pipeline import Pipeline
from curation.storage import Storage

_BEFORE = ("started", "ended", "curation", "config", "outcomes", "thresholds", "fingerprints", "parts")
"""What is kept of the run before, besides its models and versions."""

_DECIDING = ("models", "thresholds", "fingerprints", "outcomes")
"""By what of a record it is known whether it decides as another one."""


def now() -> str:
    """The present time, ISO 8601 in UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def snapshot(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a finished run is compared with the next; empty where there was none."""
    if not record.get("fingerprints"):
        return {}
    return {name: record[name] for name in (*_BEFORE, "models", "versions") if name in record}


class Recorder:
    """Keeps run.json of one run.

    Attributes:
        previous: What is known of the run before; empty for the first one.
    """

    def __init__(self, storage: Storage, command: str | None) -> None:
        """`command` is the command line, without secrets; None if the run was started otherwise."""
        self._storage = storage
        self._command = command
        self._started = now()
        self._before = read_run(storage)
        self._is_resumed = "started" in self._before and self._before.get("ended") is None
        self.previous = self._before.get("previous", {}) if self._is_resumed else snapshot(self._before)
        self._sources = {"new": 0, "gone": 0}
        self._description: dict[str, Any] = {}
        self._is_written = False

    def begin(self, pipeline: Pipeline, listing: Any, sources: Mapping[str, int]) -> None:
        """Write what the run is asked, unless run.json says so already.

        `sources` counts those that are `new` in the inputs since the run before, and those that are `gone`.
        """
        earlier = self._before.get("sources", {}) if self._is_resumed else {}
        self._sources = {name: number + earlier.get(name, 0) for name, number in sources.items()}
        self._describe(pipeline, listing)
        if self._differs():
            self.working()

    def steps_changed(self, known_steps: Collection[tuple[str, str]]) -> list[str]:
        """The steps that will be measured again, and why, as lines; no row is there that they could use.

        `known_steps` are name and fingerprint of what the ledger has rows of.
        """
        record = self._description
        reasons = step_reasons(self.previous, record)
        has_rows = {
            key
            for key, parts in record["parts"].items()
            if (parts["stage"], record["fingerprints"].get(key)) in known_steps
        }
        return [f"{key}: {', '.join(why)}" for key, why in reasons.items() if key not in has_rows]

    def working(self) -> None:
        """Write that the run is going on."""
        if not self._is_written:
            self._is_written = True
            self._write(self._record(self._before.get("last_work"), None, self._before.get("outcomes")))

    def describe_again(self, pipeline: Pipeline, listing: Any) -> None:
        """Write what has become known of the inputs meanwhile."""
        self._describe(pipeline, listing)
        if self._is_written or self._differs():
            self._is_written = False
            self.working()

    def end(
        self, pipeline: Pipeline, outcomes: Mapping[str, Any], metrics: Metrics, seconds: float
    ) -> dict[str, Any]:
        """Write what came of it; all of run.json, as it was where nothing has changed."""
        self._describe(pipeline, self._description["listing"])
        did_work = metrics.rows.total() > 0
        is_as_before = not (did_work or self._is_resumed or self._is_written or self._differs())
        if is_as_before and self._before.get("outcomes") == outcomes:
            return self._before
        last_work = self._before.get("last_work")
        if did_work:
            last_work = last_work_record(metrics, seconds)
            last_work["output_bytes"] = _output_bytes(self._storage)
            last_work["resumed_from"] = self._before["started"] if self._is_resumed else None
        record = self._record(last_work, now(), outcomes)
        record["measured_again"] = [item.record() for item in changes_of(self.previous, record, metrics)]
        self._write(record)
        return record

    def _describe(self, pipeline: Pipeline, listing: Any) -> None:
        self._description = description(pipeline, listing)
        if not self._storage.compares_versions:
            self._description["conditional_writes"] = False
        # Of a dataset-wide step nothing is known before its samples are: until then it is as it was.
        known = self._before.get("fingerprints", {})
        fingerprints = self._description["fingerprints"]
        unbound = {step.key for step in pipeline.steps() if not step.is_bound} & known.keys()
        fingerprints.update({key: known[key] for key in unbound})

    def _differs(self) -> bool:
        return any(self._before.get(name) != value for name, value in self._description.items())

    def _record(self, last_work: Any, ended: str | None, outcomes: Any) -> dict[str, Any]:
        return {
            **self._description,
            "last_work": last_work,
            "started": self._started,
            "ended": ended,
            "host": platform.node(),
            "command": self._command,
            "outcomes": outcomes,
            "sources": self._sources,
            "measured_again": [],
            "previous": self.previous,
        }

    def _write(self, record: Mapping[str, Any]) -> None:
        write_if_changed(self._storage, RUN, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _output_bytes(storage: Storage) -> int:
    """What ledger and shards hold; page and card are small, and change with what is said about them."""
    folders = ("sources", "ledger", "shards")
    return sum(item.size_bytes for folder in folders for item in storage.list(folder))


def record_now(storage: Storage, pipeline: Pipeline, outcomes: Mapping[str, Any]) -> dict[str, Any]:
    """run.json as it is; where the configuration decides otherwise than the last run, as that would be.

    Nothing is written, and a run that has not been has no beginning and no end. Versions stay those of the
    last run: this machine may be another one, and has measured nothing.
    """
    before = read_run(storage)
    asked = {**description(pipeline, before.get("listing")), "outcomes": outcomes}
    if all(before.get(name) == asked[name] for name in _DECIDING):
        return before
    kept: dict[str, Any] = {
        name: before[name] for name in ("versions", "curation", "conditional_writes") if name in before
    }
    facts = {"sources": {}, "measured_again": [], "previous": snapshot(before)}
    return {**asked, **kept, "last_work": before.get("last_work"), "started": None, "ended": None, **facts}
