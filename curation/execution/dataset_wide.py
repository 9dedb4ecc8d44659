"""Dataset-wide stages: which samples they measure together, what they read, what is written.

The population of a dataset-wide step is the samples that all steps before it keep. Its rows are filed
under the step's own fingerprint joined with a digest of that population, so that a moved threshold
finds the rows of its own population or none, and moving it back finds the old ones. Nothing records
which population is the present one: the ledger's rows and the thresholds say so.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.dataset_stage import GIVEN_COLUMNS, DatasetStage, Spread, SpreadStage
from curation.errors import ContractError, UnsupportedMediaError
from curation.execution.cluster.tasks import in_process
from curation.execution.population import Inputs, Population
from curation.execution.worker.loading import load_stage
from curation.execution.worker.metrics import Metrics
from curation.ledger import Ledger
from curation.ledger.columns import RuleEvaluator
from curation.ledger.schemas import stage_schema
from curation.ledger.unit_state import NO_RECOMPUTE, RecomputePolicy, branch_steps
from curation.ledger.verdict_group import SampleGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import AllOf, Step, steps_of
from curation.records import SourceKind, stable_id
from curation.stage import Setup

_SOURCE_COLUMNS = ("width", "height", "size_bytes", "content_hash")
_MEMBERS = pa.schema([*GIVEN_COLUMNS.items(), ("unit", pa.int64())])


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
    branch = pipeline.branches[kind]
    providers = [provider for provider, _ in _providers(branch, step)]
    reads_metadata = any(provider.stage.reads_metadata() for provider in providers)
    population = _take_census(pipeline, ledger, kind, step, with_metadata=reads_metadata)
    read = sorted(provider.fingerprint for provider in providers)
    if reads_metadata:
        read.append(population.metadata)
    bound = replace(step, fingerprint=stable_id(step.fingerprint, *read, population.digest()), is_bound=True)
    return pipeline.with_step(bound), population


def _take_census(
    pipeline: Pipeline, ledger: Ledger, kind: SourceKind, step: Step, *, with_metadata: bool
) -> Population:
    branch = pipeline.branches[kind]
    # Only this branch's filters are read: neither captions nor the other kind's measurements matter.
    part = replace(pipeline, branches={kind: branch}, enrich=AllOf(()))
    source_columns = [*_SOURCE_COLUMNS, *(["carried"] if with_metadata else [])]
    tables, num_waiting, metadata = [_MEMBERS.empty_table()], 0, hashlib.sha256()
    for group in verdict_groups(ledger, part, source_columns=source_columns):
        samples = group.samples[kind]
        is_member, is_waiting = needing(samples.evaluator, branch, step)
        num_waiting += int(is_waiting.sum() + group.unsplit(kind).sum())
        tables.append(_members(group.sources, samples, np.flatnonzero(is_member)))
        if with_metadata:
            _add_metadata(metadata, group.sources, np.unique(samples.source[is_member]))
    members = pa.concat_tables(tables).sort_by("sample_id").combine_chunks()
    return Population(members, num_waiting, metadata.hexdigest() if with_metadata else "")


def needing(
    evaluator: RuleEvaluator, branch: Branch, step: Step
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples need `step` next, whatever it measured before, and which wait for an earlier step."""
    forgotten = evaluator.measured[step.key].take(np.full(evaluator.number, -1))
    evaluator = replace(evaluator, measured={**evaluator.measured, step.key: forgotten})
    needs = evaluator.decide(branch.whole_rule).needs
    keys = [other.key for other in branch_steps(branch)]
    before = [evaluator.steps[key] for key in keys[: keys.index(step.key)]]
    return needs == evaluator.steps[step.key], np.isin(needs, before)


def _members(sources: pa.Table, samples: SampleGroup, places: NDArray[np.int64]) -> pa.Table:
    parents = sources.take(pa.array(samples.source[places]))
    start_s, end_s = samples.start_s[places], samples.end_s[places]
    found = {
        "sample_id": samples.sample_id.take(pa.array(places)),
        "start_s": start_s,
        "end_s": end_s,
        "duration_s": end_s - start_s,
        **{name: parents[name] for name in (*_SOURCE_COLUMNS, "unit")},
    }
    return pa.table([found[name] for name in _MEMBERS.names], schema=_MEMBERS)


def _add_metadata(digest: Any, sources: pa.Table, places: NDArray[np.int64]) -> None:
    found = sources.select(["source_id", "carried"]).take(pa.array(places))
    for source_id, metadata in zip(*(found[name].to_pylist() for name in found.column_names), strict=True):
        digest.update(f"{source_id}{metadata}\n".encode())


def measure_step(
    pipeline: Pipeline,
    ledger: Ledger,
    step: Step,
    population: Population,
    recompute: RecomputePolicy = NO_RECOMPUTE,
    spread: Spread = in_process,
) -> Metrics:
    """Compute and commit the rows of a bound step, unless all of them are there.

    All or none are used: a step that was interrupted between two units is computed again as a whole.
    """
    metrics = Metrics()
    if _is_complete(ledger, step, population, recompute):
        return metrics
    started = time.perf_counter()
    stage = _dataset_stage(step)
    load_stage(step, Setup("cpu", pipeline.revisions(step)))
    inputs = Inputs(ledger, _providers(_branch_of(pipeline, step), step), population)
    lacking = inputs.lacking(stage.inputs(), spread)
    places = np.flatnonzero(pc.is_null(lacking).to_numpy(zero_copy_only=False))
    measured = _measure(stage, inputs, places, spread)
    seconds = (time.perf_counter() - started) / max(1, population.members.num_rows)
    rows = _ledger_rows(stage, population, measured, places, lacking, seconds)
    for unit, own in population.by_unit():
        table = rows.take(pa.array(own))
        ids = table["sample_id"].to_pylist()
        ledger.commit_table(step.name, step.fingerprint, unit, table, replaces=ids)
    failed = len(rows) - len(places)
    metrics.record(step.key, rows=len(rows), failed=failed, seconds=seconds * len(rows))
    return metrics


def _dataset_stage(step: Step) -> DatasetStage[Any]:
    if not isinstance(step.stage, DatasetStage):
        raise ContractError(f"{step.name} is not dataset-wide")
    return step.stage


def _branch_of(pipeline: Pipeline, step: Step) -> Branch:
    return next(branch for branch in pipeline.branches.values() if step in steps_of(branch.rule))


def _is_complete(ledger: Ledger, step: Step, population: Population, recompute: RecomputePolicy) -> bool:
    own = dict(population.by_unit())
    num_present = 0
    for unit, rows in ledger.snapshot(step.name, step.fingerprint).scan(list(own), ["sample_id", "status"]):
        for failed in (False, True):
            if recompute.counts_as_missing(step.name, failed):
                rows = rows.filter(pc.equal(rows["status"], "ok" if failed else "failed"))
        ids = population.members["sample_id"].take(pa.array(own[unit]))
        num_present += pc.sum(pc.is_in(ids, value_set=rows["sample_id"].combine_chunks())).as_py() or 0
    return bool(num_present == population.members.num_rows)


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


def _measure(stage: DatasetStage[Any], inputs: Inputs, places: NDArray[np.int64], spread: Spread) -> pa.Table:
    """The stage's answer for the members at `places`."""
    if not len(places):
        return _declared(stage).empty_table()
    table = inputs.small().take(pa.array(places))
    if isinstance(stage, SpreadStage):
        return _checked(stage, stage.measure_parts(table, inputs.parts(places), spread), table)
    large = inputs.large_columns
    if large:
        parts = inputs.parts(places)
        order = np.argsort(np.concatenate([part.places for part in parts]))
        read = pa.concat_tables([part.read(large) for part in parts]).take(pa.array(order))
        for name in large:
            table = table.append_column(name, read[name])
    return _checked(stage, stage.measure_all(table), table)


def _declared(stage: DatasetStage[Any]) -> pa.Schema:
    """The declared columns of a stage."""
    return pa.schema([(name, column.type) for name, column in stage.columns.items()])


def _checked(stage: DatasetStage[Any], measured: pa.Table, table: pa.Table) -> pa.Table:
    """The stage's answer.

    Raises:
        ContractError: it has other columns, types or rows than declared, or numbers that are none.
    """
    declared = _declared(stage)
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
    return measured


def _ledger_rows(
    stage: DatasetStage[Any],
    population: Population,
    measured: pa.Table,
    places: NDArray[np.int64],
    lacking: pa.Array,
    seconds: float,
) -> pa.Table:
    """A row per member: what was measured of those at `places`, or why it could not be."""
    number = population.members.num_rows
    index = np.full(number, -1)
    index[places] = np.arange(len(places))
    at = pa.array(index, mask=index < 0)
    failed = pc.is_valid(lacking)
    found = {
        "sample_id": population.members["sample_id"],
        **{name: measured[name].take(at) for name in stage.columns},
        "status": pc.if_else(failed, "failed", "ok"),
        "error_type": pc.if_else(failed, UnsupportedMediaError.__name__, pa.scalar(None, pa.string())),
        "error": lacking,
        "seconds": np.full(number, seconds),
    }
    schema = stage_schema(stage.columns)
    return pa.table([found[name] for name in schema.names], schema=schema)
