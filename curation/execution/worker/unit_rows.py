"""The rows of one unit while a worker measures it: those of the ledger, and those to be committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from curation.execution.plan import Task
from curation.ledger import Ledger
from curation.ledger.unit_state import UnitState
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import Row
from curation.splitter import Splitter
from curation.storage.requests import in_order


class UnitRows:
    """Adds new rows to a unit's state, and commits them per step.

    Attributes:
        state: The unit's sources and rows, new ones included.
    """

    def __init__(self, state: UnitState) -> None:
        self.state = state
        self._new: dict[str, list[Row]] = {}

    def add(self, step: Step, row: Row) -> None:
        """Add a new row."""
        self.state.add(step, row)
        self._new.setdefault(step.key, []).append(row)

    def new_ids(self, step: Step) -> set[str]:
        """Ids of the samples, or sources, that have a new row of a step."""
        return {row.sample_id for row in self._new.get(step.key, ())}

    def num_again(self) -> dict[str, int]:
        """Step key -> how many new rows take the place of rows that count as missing; of a source that was
        split again, one.
        """
        found = {}
        for key, forgotten in self.state.forgotten.items():
            rows = self._new.get(key, ())
            ids = {*(row.sample_id for row in rows), *(row.values.get("source_id") for row in rows)}
            found[key] = len(forgotten & ids)
        return found

    def complete(self, splitter: Step, source_id: str, values: Mapping[str, Any]) -> None:
        """Set `values` in the new rows of all clips of a source."""
        rows = self._new.get(splitter.key, [])
        for number, row in enumerate(rows):
            if row.values.get("source_id") == source_id:
                rows[number] = replace(row, values={**row.values, **values})
                self.state.add(splitter, rows[number])

    def drop(self, sample_ids: Collection[str]) -> None:
        """Forget the rows of samples."""
        for key, rows in self._new.items():
            self._new[key] = [row for row in rows if row.sample_id not in sample_ids]
            for sample_id in set(sample_ids) & set(self.state.rows.get(key, {})):
                del self.state.rows[key][sample_id]

    def commit(self, ledger: Ledger, pipeline: Pipeline, task: Task) -> None:
        """Write the new rows: one commit per step."""
        steps = {step.key: step for step in pipeline.steps()}

        def commit(key: str) -> None:
            step, rows = steps[key], self._new[key]
            replaces = self._replaced(ledger, step, rows) if task.recompute.stages else set()
            columns = step.stage.columns
            ledger.commit(step.name, step.fingerprint, task.unit, rows, columns, replaces=replaces)

        for _ in in_order(ledger.storage, commit, self._new):
            pass

    def _replaced(self, ledger: Ledger, step: Step, rows: Sequence[Row]) -> set[str]:
        """The rows that new ones take the place of; of a source that was split again, all its clips."""
        replaced = {row.sample_id for row in rows}
        if isinstance(step.stage, Splitter):
            replaced |= {row.values["source_id"] for row in rows if row.ok}
            present = ledger.rows(step.name, step.fingerprint, self.state.unit, without=step.large_columns)
            replaced |= {row.sample_id for row in present if row.values.get("source_id") in replaced}
        return replaced
