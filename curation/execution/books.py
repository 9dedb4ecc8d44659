"""What is read and written in the ledger for tasks whose workers die."""

from __future__ import annotations

from curation.execution.plan import Task
from curation.execution.worker.worker import commit_probed, record_poison, record_unlisted
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.records import Source


class LedgerBooks:
    """Books over the ledger of a run."""

    def __init__(self, pipeline: Pipeline, ledger: Ledger) -> None:
        self._pipeline = pipeline
        self._ledger = ledger

    def uris(self, task: Task) -> dict[str, str]:
        """Source id -> URI of the sources of a task, in order."""
        uris = {source.source_id: source.uri for source in self._ledger.sources(task.unit)}
        return {source_id: uris[source_id] for source_id in sorted(task.only or uris.keys() - task.excluded)}

    def commit_probed(self, task: Task, sources: list[Source]) -> None:
        """Write what probing found."""
        commit_probed(self._pipeline, self._ledger, task, sources)

    def blame(self, task: Task) -> None:
        """Fail the task's only source, which killed every worker that had it."""
        kills = self._pipeline.config.run.max_kills
        if task.phase == "list":
            record_unlisted(self._ledger, task, kills)
            return
        (source_id,) = self.uris(task)
        record_poison(self._pipeline, self._ledger, task, source_id, kills)
