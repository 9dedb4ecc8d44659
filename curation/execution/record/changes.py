"""Why something is measured that an output knew already: which part of a step or of a source is another.

    reasons = step_reasons(previous, run_record)     # {"images.color": ["version 1 -> 2 of the stage"]}
    changes_of(previous, run_record, metrics)        # the same with numbers, and what became of known sources

Both records are run.json's: fingerprints are hashes, so each run records their parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from curation.execution.worker.metrics import Cause, Metrics
from curation.ledger.unit_state import PROBE
from curation.report.summary.words import changed_keys, counted, shown

_OF_SOURCES: Mapping[Cause, str] = {
    "same bytes": "new modification time, same bytes; hashed again, nothing measured",
    "other bytes": "other bytes under the same name",
    "other metadata": "what came along changed",
    "failed before": "failed before, read again",
    "recompute": "read again as asked",
}
_OF_ROWS: Mapping[Cause, str] = {
    "failed before": "failed before, tried again",
    "recompute": "measured again as asked",
}


@dataclass(frozen=True)
class Remeasurement:
    """One reason why a run measured again.

    Attributes:
        step: Key of the step; `probe` for sources.
        reason: What is another thing now.
        number: Sources that were read again, or rows that were measured.
    """

    step: str
    reason: str
    number: int

    @property
    def text(self) -> str:
        """For people, such as `18 sources: new modification time, same bytes`."""
        if self.step == PROBE:
            return f"{counted(self.number, 'source')}: {self.reason}"
        return f"{self.step}: {self.reason} ({counted(self.number, 'row')})"

    def record(self) -> dict[str, Any]:
        """For run.json."""
        return {**asdict(self), "text": self.text}


def changes_of(
    previous: Mapping[str, Any], record: Mapping[str, Any], metrics: Metrics
) -> list[Remeasurement]:
    """Every reason for which this run measured again, with numbers.

    Of a step that is another one than before, all rows that were measured count.
    """
    changes = [
        Remeasurement(step, (_OF_SOURCES if step == PROBE else _OF_ROWS)[cause], number)
        for (step, cause), number in metrics.causes.items()
        if number
    ]
    for step, reasons in step_reasons(previous, record).items():
        if metrics.rows[step]:
            changes.append(Remeasurement(step, ", ".join(reasons), metrics.rows[step]))
    return changes


def step_reasons(previous: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Key of each step whose fingerprint is another one than in the run before -> why."""
    before, now = previous.get("fingerprints", {}), record["fingerprints"]
    cut_anew = [key for key in _splitters(record) if key in before and before[key] != now.get(key)]
    found = {}
    for key, fingerprint in now.items():
        reasons = [f"{splitter} cuts other clips" for splitter in cut_anew if _cuts_for(splitter, key)]
        if key in before and before[key] != fingerprint:
            parts = previous.get("parts", {}).get(key), record["parts"][key]
            reasons = [*_part_reasons(*parts), *reasons]
        if reasons:
            found[key] = reasons
    return found


def _splitters(record: Mapping[str, Any]) -> list[str]:
    return [key for key, parts in record["parts"].items() if parts["splits"]]


def _cuts_for(splitter: str, key: str) -> bool:
    """Whether a step measures a splitter's clips: one of its section, or one that adds to kept samples."""
    section = key.partition(".")[0]
    return key != splitter and (section == splitter.partition(".")[0] or section == key)


def _part_reasons(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Which parts of a fingerprint differ; `before` is None where an older version did not record them."""
    if before is None:
        return ["another version, setting or model; the run before did not record which"]
    reasons = []
    if before["stage"] != now["stage"]:
        reasons.append(f"stage {before['stage']} -> {now['stage']}")
    elif before["version"] != now["version"]:
        reasons.append(f"version {before['version']} -> {now['version']} of the stage")
    reasons += [f"setting {line}" for line in changed_keys(before["settings"], now["settings"])]
    reasons += list(_model_reasons(before["models"], now["models"]))
    if before["columns"] != now["columns"]:
        reasons.append("other columns")
    if before["pixels"] != now["pixels"]:
        reasons.append("pixels made another way")
    return reasons or ["other samples reach it, or other numbers of them"]


def _model_reasons(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for role in sorted({*before, *now}):
        was, has = before.get(role), now.get(role)
        if was != has:
            yield f"{role} model revision {shown(was and was[:12])} -> {shown(has and has[:12])}"
