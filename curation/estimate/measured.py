"""What a pilot measured, source by source: samples, rows, tokens, bytes and seconds.

measured = measure_pilot(pilot)
measured.values["clips"]            # float64 [n], one for each source that was drawn
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.estimate.pilot import Pilot
from curation.execution.worker.metrics import SpentTime
from curation.ledger import Ledger
from curation.ledger.columns import KEPT, OUTCOMES, RuleEvaluator
from curation.ledger.present import match_names
from curation.ledger.schemas import SOURCES
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import steps_of
from curation.records import Outcome
from curation.storage import parquet
from curation.storage.footer import read_footer

Floats = NDArray[np.float64]
OF_SHARDS = ("source_id", "num_tokens")


@dataclass(frozen=True)
class FileSize:
    """How large files of a kind of rows are.

    Attributes:
        per_file: Bytes of a file apart from its rows.
        per_row: Bytes of a row, in the mean.
    """

    per_file: float
    per_row: float


@dataclass
class PilotValues:
    """What a pilot measured.

    Attributes:
        kinds: [n] strings, the kind of each drawn source.
        sizes: float64 [n], their bytes.
        values: Name -> float64 [n]. `samples`, `kept`, `tokens`, `shard_bytes`, `failed` (0 or 1);
            `rows KEY`, `passed KEY`, `seconds KEY` and `bytes KEY` of each step, and `bytes ` of the sources
            themselves; `wall PHASE` and `cpu PHASE`, seconds of decode workers.
        per_file: Step key -> bytes that each file of the ledger has besides its rows; "" for sources.
        per_shard: Bytes that each file of the shards has besides its rows.
        num_shards: How many such files there are.
    """

    kinds: NDArray[np.str_]
    sizes: Floats
    values: dict[str, Floats] = field(default_factory=dict)
    per_file: dict[str, float] = field(default_factory=dict)
    per_shard: float = 0.0
    num_shards: int = 0

    def add(self, name: str, places: NDArray[np.int64], amounts: Floats | float = 1.0) -> None:
        """Add amounts to the sources at these places."""
        values = self.values.setdefault(name, np.zeros(len(self.sizes)))
        np.add.at(values, places, amounts)


def measure_pilot(pilot: Pilot) -> PilotValues:
    """Everything that the pilot's ledger and shards say of each source that was drawn."""
    drawn = pilot.sources.listed.take(pa.array(pilot.sources.drawn))
    measured = PilotValues(
        np.array(drawn["kind"].to_pylist(), np.str_), drawn["size_bytes"].to_numpy().astype(float)
    )
    names = match_names(drawn["uri"])
    pipeline, ledger = pilot.result.pipeline, pilot.ledger
    ids: dict[str, int] = {}
    groups = verdict_groups(
        ledger,
        pipeline,
        source_columns=("uri",),
        columns={step.key: ("seconds",) for step in pipeline.steps()},
    )
    for group in groups:
        places = pc.index_in(match_names(group.sources["uri"]), value_set=names).to_numpy()
        ids.update(zip(group.sources["source_id"].to_pylist(), places.tolist(), strict=True))
        _add_group(measured, group, places.astype(np.int64))
    _add_ledger_bytes(measured, ledger, pipeline)
    _add_shards(measured, pilot, ids)
    _add_time(measured, pilot)
    return measured


def _add_group(measured: PilotValues, group: VerdictGroup, places: NDArray[np.int64]) -> None:
    """What the verdicts of a group of units say; `places` are those of its sources among the drawn."""
    failed = group.of_sources.outcome == OUTCOMES.index(Outcome.FAILED)
    measured.add("failed", places[failed])
    for kind, samples in group.samples.items():
        _add_steps(measured, group, samples.evaluator, samples.sample_id, places[samples.source])
        leaves = group.leaves[kind]
        of_leaf = places[leaves.source]
        _add_steps(measured, group, leaves.evaluator, leaves.sample_id, of_leaf)
        measured.add("samples", of_leaf)
        measured.add(f"{'clips' if samples.branch.splitter else 'images'}", of_leaf)
        measured.add("kept", of_leaf[leaves.verdicts.outcome == KEPT])


def _add_steps(
    measured: PilotValues,
    group: VerdictGroup,
    evaluator: RuleEvaluator,
    sample_id: pa.Array,
    place_of: NDArray[np.int64],
) -> None:
    for key, rows in evaluator.measured.items():
        step = group.steps[evaluator.steps[key]]
        seconds = pc.fill_null(group.rows_of(key, sample_id)["seconds"], 0.0).to_numpy()
        passed = rows.present & (evaluator.decide(step).outcome == KEPT)
        measured.add(f"rows {key}", place_of[rows.present])
        measured.add(f"passed {key}", place_of[passed])
        measured.add(f"seconds {key}", place_of, seconds)


def _add_ledger_bytes(measured: PilotValues, ledger: Ledger, pipeline: Pipeline) -> None:
    """Bytes of rows, and of files apart from their rows: full units hold more rows than the pilot's."""
    for step in pipeline.steps():
        columns = [*step.stage.columns, "sample_id", "status", "error_type", "error", "seconds"]
        units = ledger.measured_units(step.name, step.fingerprint)
        tables = [table for _, table in ledger.snapshot(step.name, step.fingerprint).scan(units, columns)]
        rows = measured.values.get(f"rows {step.key}")
        if tables and rows is not None:
            size = file_size(pa.concat_tables(tables))
            measured.per_file[step.key] = size.per_file
            measured.values[f"bytes {step.key}"] = size.per_row * rows
    sources = ledger.sources_table(SOURCES.names).drop_columns(["unit"])
    size = file_size(sources)
    measured.per_file[""] = size.per_file
    measured.values["bytes "] = np.full(len(measured.sizes), size.per_row)


def file_size(table: pa.Table) -> FileSize:
    """By what such a table takes as a file, and half of it."""
    whole = len(parquet.to_bytes(table.combine_chunks()))
    half = table.num_rows // 2
    if not half:
        return FileSize(float(whole), 0.0)
    part = len(parquet.to_bytes(table.slice(0, half).combine_chunks()))
    per_row = max(0.0, (whole - part) / (table.num_rows - half))
    return FileSize(max(0.0, whole - per_row * table.num_rows), per_row)


def _add_shards(measured: PilotValues, pilot: Pilot, ids: Mapping[str, int]) -> None:
    """Tokens and bytes in the shards."""
    storage, tables, around, of_rows = pilot.ledger.storage, [], [], 0.0
    for item in storage.list(pilot.config.shards_folder):
        if not item.key.endswith(".parquet"):
            continue
        with storage.open(item.key) as file:
            tables.append(parquet.read_columns(file, item.key, OF_SHARDS))
            in_row_groups = _row_group_bytes(read_footer(file, item.key))
        around.append(item.size_bytes - in_row_groups)
        of_rows += in_row_groups
    if not tables:
        return
    rows = pa.concat_tables(tables)
    places = np.array([ids[one] for one in rows["source_id"].to_pylist()], np.int64)
    tokens = rows["num_tokens"].to_numpy().astype(float)
    measured.add("tokens", places, tokens)
    measured.add("documents", places)
    measured.num_shards, measured.per_shard = len(around), sum(around) / len(around)
    measured.add("shard_bytes", places, of_rows * tokens / tokens.sum())


def _row_group_bytes(footer: pq.FileMetaData) -> int:
    """Bytes of all that is no footer."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return sum(
        group.column(number).total_compressed_size for group in groups for number in range(group.num_columns)
    )


def _add_time(measured: PilotValues, pilot: Pilot) -> None:
    """Share the decode workers' time among the sources that they worked on.

    What measuring a sample took is in its rows. All else, such as decoding, goes with the size of the file.
    """
    pipeline = pilot.result.pipeline
    enrich = {step.key for step in steps_of(pipeline.enrich)}
    for (phase, kind), spent in pilot.result.metrics.spent_s.items():
        among = measured.kinds == kind if kind in measured.kinds else np.ones(len(measured.sizes), np.bool_)
        keys = [step.key for step in pipeline.steps() if (step.key in enrich) == (phase == "enrich")]
        known = np.sum([measured.values.get(f"seconds {key}", 0.0 * measured.sizes) for key in keys], axis=0)
        if phase == "enrich":
            among &= measured.values.get("rows " + keys[0], known) > 0 if keys else among
        _share(measured, phase, spent, np.flatnonzero(among), known)


def _share(
    measured: PilotValues, phase: str, spent: SpentTime, places: NDArray[np.int64], known: Floats
) -> None:
    """Share time among the sources at these places, of which measuring took `known` seconds."""
    if not len(places):
        return
    rest = max(0.0, spent.wall_s - float(known[places].sum()))
    sizes = np.maximum(measured.sizes[places], 1.0)
    each = known[places] + rest * sizes / sizes.sum()
    total = float(each.sum()) or 1.0
    measured.add(f"wall {phase}", places, each * spent.wall_s / total)
    measured.add(f"cpu {phase}", places, each * spent.cpu_s / total)
