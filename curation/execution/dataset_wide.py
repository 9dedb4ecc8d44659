"""Stages that look at all samples at once: whom they look at, what they are given, what is written.

The population of a dataset-wide step is the samples that everything before it keeps. Its rows are filed
under the step's own fingerprint joined with a digest of that population, so that a moved threshold
finds the rows of its own population or none, and moving it back finds the old ones. Nothing records
which population is the present one: the ledger's rows and the thresholds say so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import ContractError, UnsupportedMediaError
from curation.execution.worker.measure import Metrics, failed_row
from curation.ingest.metadata import metadata_json
from curation.ledger import Ledger
from curation.ledger.unit_state import (
    NO_RECOMPUTE,
    RecomputePolicy,
    SourceVerdict,
    branch_steps,
    decide_sample,
    scan_verdicts,
)
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import AllOf, Step, steps_of
from curation.records import Outcome, Row, Sample, Source, SourceKind, stable_id
from curation.stage import GIVEN_COLUMNS, DatasetStage, Setup

_MEMBERS = pa.schema([*GIVEN_COLUMNS.items(), ("unit", pa.int64())])


@dataclass(frozen=True)
class Population:
    """The samples that a step decides about together.

    Attributes:
        members: `GIVEN_COLUMNS` and `unit`, a row per sample, sorted by `sample_id`.
        num_waiting: Samples, and sources without any yet, that an earlier step still has to measure.
        metadata: Digest of what came along with their sources.
    """

    members: pa.Table
    num_waiting: int
    metadata: str = ""

    def digest(self) -> str:
        """Names this set of samples."""
        total = hashlib.sha256()
        for chunk in self.members["sample_id"].chunks:
            total.update("\n".join([*chunk.to_pylist(), ""]).encode())
        return total.hexdigest()

    def by_unit(self) -> Iterator[tuple[int, pa.Array]]:
        """Each unit with the places of its members in the table."""
        units = self.members["unit"].to_numpy()
        order = np.argsort(units, kind="stable")
        starts = np.flatnonzero(np.diff(units[order], prepend=-1))
        for places in np.split(order, starts[1:]) if len(order) else []:
            yield int(units[places[0]]), pa.array(places)


def dataset_steps(pipeline: Pipeline) -> list[tuple[SourceKind, Step]]:
    """The dataset-wide steps with the kind of source that they are for, in the order of the rules."""
    return [
        (kind, step)
        for kind, branch in pipeline.branches.items()
        for step in steps_of(branch.rule)
        if step.is_dataset_wide
    ]


def filters_behind(pipeline: Pipeline, key: str | None) -> set[str]:
    """The filters between the dataset-wide step `key` and the next one; None: those before the first."""
    found = set()
    for branch in pipeline.branches.values():
        last = None
        for step in branch_steps(branch):
            if step.is_dataset_wide:
                last = step.key
            elif last == key:
                found.add(step.key)
    return found


def bind(pipeline: Pipeline, ledger: Ledger) -> Pipeline:
    """The pipeline with the complete fingerprints of its dataset-wide steps, as the ledger stands."""
    for kind, step in dataset_steps(pipeline):
        pipeline, _ = bind_step(pipeline, ledger, kind, step)
    return pipeline


def bind_step(
    pipeline: Pipeline, ledger: Ledger, kind: SourceKind, step: Step
) -> tuple[Pipeline, Population]:
    """The pipeline with this step bound to its population; the dataset-wide steps before it must be."""
    population = _take_census(pipeline, ledger, kind, step)
    providers = [provider for provider, _ in _providers(pipeline.branches[kind], step)]
    read = sorted(provider.fingerprint for provider in providers)
    if any(provider.stage.reads_metadata() for provider in providers):
        read.append(population.metadata)
    bound = replace(step, fingerprint=stable_id(step.fingerprint, *read, population.digest()), is_bound=True)
    return pipeline.with_step(bound), population


def _take_census(pipeline: Pipeline, ledger: Ledger, kind: SourceKind, step: Step) -> Population:
    branch = pipeline.branches[kind]
    # Only this branch's filters are read: neither captions nor the other kind's measurements matter.
    part = replace(pipeline, branches={kind: branch}, enrich=AllOf(()))
    tables, num_waiting, metadata = [], 0, hashlib.sha256()
    for state, judged in scan_verdicts(ledger, part):
        members = []
        for source in judged:
            if source.source.kind != kind:
                continue
            found, waiting = _members(branch, step, source)
            members += [_given(sample, source.source) | {"unit": state.unit} for sample in found]
            num_waiting += waiting
            if found:
                metadata.update(
                    f"{source.source.source_id}{metadata_json(source.source.metadata)}\n".encode()
                )
        tables.append(pa.Table.from_pylist(members, schema=_MEMBERS))
    members_table = pa.concat_tables(tables) if tables else _MEMBERS.empty_table()
    return Population(members_table.sort_by("sample_id"), num_waiting, metadata.hexdigest())


def _members(branch: Branch, step: Step, source: SourceVerdict) -> tuple[list[Sample], int]:
    """The samples of a source that need `step` next, and how many wait for an earlier one."""
    if not source.samples:
        return [], int(source.verdict.outcome is Outcome.PENDING)
    found, waiting = [], 0
    for sample in source.samples:
        others = {key: row for key, row in sample.rows.items() if key != step.key}
        verdict = decide_sample(branch, others)
        if verdict.needs is step:
            found.append(sample.sample)
        elif verdict.needs is not None and verdict.needs.key in _keys_before(branch, step):
            waiting += 1
    return found, waiting


def _keys_before(branch: Branch, step: Step) -> set[str]:
    keys = [other.key for other in branch_steps(branch)]
    return set(keys[: keys.index(step.key)])


def _given(sample: Sample, source: Source) -> dict[str, object]:
    return {
        "sample_id": sample.sample_id,
        "start_s": sample.start_s,
        "end_s": sample.end_s,
        "duration_s": sample.duration_s,
        "width": source.width,
        "height": source.height,
        "size_bytes": source.size_bytes,
        "content_hash": source.content_hash,
    }


def measure_step(
    pipeline: Pipeline,
    ledger: Ledger,
    step: Step,
    population: Population,
    recompute: RecomputePolicy = NO_RECOMPUTE,
) -> Metrics:
    """Compute and commit the rows of a bound step, unless all of them are there.

    All or none are used: a step that was interrupted between two units is computed again as a whole.
    """
    metrics = Metrics()
    if _is_complete(ledger, step, population, recompute):
        return metrics
    started = time.perf_counter()
    stage = _dataset_stage(step)
    stage.setup(Setup("cpu", pipeline.revisions(step)))
    table, lacking = _gather(ledger, _branch_of(pipeline, step), step, population)
    measured = _checked(stage, stage.measure_all(table), table) if table.num_rows else None
    seconds = (time.perf_counter() - started) / max(1, population.members.num_rows)
    for unit, places in population.by_unit():
        ids = population.members["sample_id"].take(places)
        rows = [] if measured is None else list(_rows(measured, ids, seconds))
        rows += [
            replace(failed_row(sample_id, UnsupportedMediaError(lacking[sample_id])), seconds=seconds)
            for sample_id in ids.to_pylist()
            if sample_id in lacking
        ]
        columns = stage.columns
        replaces = ids.to_pylist()
        ledger.commit(step.name, step.fingerprint, unit, rows, columns, replaces=replaces)
        failed = sum(not row.ok for row in rows)
        metrics.record(step.key, rows=len(rows), failed=failed, seconds=seconds * len(rows))
    return metrics


def _dataset_stage(step: Step) -> DatasetStage[Any]:
    if not isinstance(step.stage, DatasetStage):
        raise ContractError(f"{step.name} is not dataset-wide")
    return step.stage


def _branch_of(pipeline: Pipeline, step: Step) -> Branch:
    return next(branch for branch in pipeline.branches.values() if step in steps_of(branch.rule))


def _is_complete(ledger: Ledger, step: Step, population: Population, recompute: RecomputePolicy) -> bool:
    for unit, places in population.by_unit():
        rows = ledger.rows(step.name, step.fingerprint, unit, without=step.large_columns)
        present = {row.sample_id for row in rows if not recompute.counts_as_missing(step.name, not row.ok)}
        if not present.issuperset(population.members["sample_id"].take(places).to_pylist()):
            return False
    return True


def _providers(branch: Branch, step: Step) -> list[tuple[Step, list[str]]]:
    """The steps before `step` that measure what it reads, with the columns that it takes of each."""
    stage = _dataset_stage(step)
    wanted = {column for column in (*stage.inputs(), *stage.optional_inputs()) if column not in GIVEN_COLUMNS}
    found = []
    for other in branch_steps(branch):
        if other.key == step.key:
            break
        taken = sorted(wanted & set(other.stage.columns))
        if taken:
            found.append((other, taken))
            wanted -= set(taken)
    return found


def _gather(
    ledger: Ledger, branch: Branch, step: Step, population: Population
) -> tuple[pa.Table, dict[str, str]]:
    """What the step is given, and why for each sample that lacks something of it."""
    parts = []
    for unit, places in population.by_unit():
        part = population.members.take(places)
        for provider, columns in _providers(branch, step):
            read = ledger.columns(provider.name, provider.fingerprint, unit, columns)
            for column in columns:
                part = part.append_column(column, _aligned(read, column, part, provider))
        parts.append(part)
    if not parts:
        return population.members.drop_columns(["unit"]), {}
    table = pa.concat_tables(parts).drop_columns(["unit"])
    table = table.take(pc.sort_indices(table["sample_id"]))
    lacking: dict[str, str] = {}
    for column in _dataset_stage(step).inputs():
        absent = table.filter(pc.is_null(table[column]))["sample_id"].to_pylist()
        lacking.update(dict.fromkeys(absent, f"there is no {column} of it"))
        table = table.filter(pc.is_valid(table[column]))
    return table, lacking


def _aligned(read: pa.Table | None, column: str, part: pa.Table, provider: Step) -> pa.ChunkedArray:
    """The column's values for the samples of `part`, null where there is none."""
    kind = _wide(provider.stage.columns[column].type)
    if read is None:
        return pa.chunked_array([pa.nulls(part.num_rows, kind)])
    places = pc.index_in(part["sample_id"], value_set=read["sample_id"].combine_chunks())
    return read[column].take(places).cast(kind)


def _wide(kind: pa.DataType) -> pa.DataType:
    """Offsets of 64 bits, since the embeddings of a million samples are more than 2 GB."""
    return pa.large_binary() if pa.types.is_binary(kind) else kind


def _checked(stage: DatasetStage[Any], measured: pa.Table, table: pa.Table) -> pa.Table:
    """The stage's answer with `sample_id`.

    Raises:
        ContractError: it has other columns, types or rows than declared, or numbers that are none.
    """
    declared = pa.schema([(name, column.type) for name, column in stage.columns.items()])
    if sorted(measured.column_names) != sorted(declared.names):
        odd = ", ".join(sorted(set(measured.column_names) ^ set(declared.names)))
        raise ContractError(f"stage {stage.name} declares other columns than it returned: {odd}")
    if measured.num_rows != table.num_rows:
        raise ContractError(
            f"stage {stage.name} returned {measured.num_rows} rows for {table.num_rows} samples"
        )
    try:
        measured = measured.select(declared.names).cast(declared)
    except pa.ArrowException as error:
        raise ContractError(f"stage {stage.name}: values do not fit the declared columns: {error}") from error
    for column in measured.columns:
        # Of nulls alone, Arrow does not know whether they are finite, unless it needs no value for that.
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
            raise ContractError(f"stage {stage.name} returned a number that is not finite")
    return measured.append_column("sample_id", table["sample_id"])


def _rows(measured: pa.Table, ids: pa.ChunkedArray, seconds: float) -> Iterator[Row]:
    """The rows of these samples, of those that were measured."""
    places = pc.index_in(ids, value_set=measured["sample_id"].combine_chunks())
    for record in measured.take(places.drop_null()).to_pylist():
        yield Row(record.pop("sample_id"), record, seconds=seconds)
