"""An output of a run, open for reading from Python.

output = curation.open("s3://bucket/out")
output.summary.outcome_totals()
output.samples().to_pandas()
output.sample("0d4c1e")["steps"]["images.aesthetic"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.api.settings import Location, config_of
from curation.errors import ConfigError
from curation.execution.pictures import pictures_of
from curation.execution.run import open_pipeline, write_report
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.registry import DATASET, MANIFEST, READ_MANIFEST, load
from curation.report.gallery.samples import LocatedSample
from curation.report.summary.summary import Summary, summarize
from curation.report.tables.facts import facts_of, located_sample, sample_facts
from curation.report.tables.table import FlatTable
from curation.storage import Storage

PICTURE_S = 600.0
"""Longest that somebody who asks for pictures of a sample waits."""
SOURCE_LEVEL, SAMPLE_LEVELS = ("source",), ("sample", "window")


def open_output(
    output: Location,
    *,
    config: Location | Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
) -> Output:
    """The output of a run, to read from; no model needs to be there, and nothing is measured.

    Args:
        output: Folder or URL.
        config: A YAML file or its settings, by which samples are judged; None for what it was made with.
        set: Dotted name -> value, such as {"images.aesthetic.min_score": 5.2}: what would be kept then.

    Raises:
        ConfigError: it is no output, or tells no configuration that this version can read.
        DamagedFileError: its run.json is damaged.
        StorageError: it can't be reached.
    """
    return Output(*open_pipeline(config_of(config, output=output, changes=set)))


class Output:
    """What was found, measured and decided. Each call reads what is there now; open again after a run."""

    def __init__(self, pipeline: Pipeline, ledger: Ledger) -> None:
        self._pipeline, self._ledger = pipeline, ledger

    def __repr__(self) -> str:
        return f"<curation.Output {self.folder}>"

    @property
    def folder(self) -> str:
        """The folder or URL of the output."""
        return self._ledger.storage.root

    @property
    def config(self) -> dict[str, Any]:
        """The settings by which samples are judged."""
        return dict(self._pipeline.config.resolved)

    @property
    def summary(self) -> Summary:
        """What became of everything: outcomes, reasons, steps, failures.

        Raises:
            LedgerError: the counts don't add up, or a file is damaged.
        """
        return summarize(self._ledger, self._pipeline)

    def table(self) -> pa.Table:
        """A row per source, sample and window, with every column, outcome and reason, in memory."""
        return self.stream().read_all()

    def sources(self) -> pa.Table:
        """The rows of `table` that are sources."""
        return self.stream(SOURCE_LEVEL).read_all()

    def samples(self) -> pa.Table:
        """The rows of `table` that are samples, or windows of long ones."""
        return self.stream(SAMPLE_LEVELS).read_all()

    def stream(self, levels: tuple[str, ...] = (*SOURCE_LEVEL, *SAMPLE_LEVELS)) -> pa.RecordBatchReader:
        """`table` in batches, a few units at a time, however large it is; DuckDB reads it as it is.

        `levels` are those of the rows that are wanted: "source", "sample", "window".
        """
        flat = FlatTable(self._ledger, self._pipeline)
        return pa.RecordBatchReader.from_batches(flat.schema, _batches(flat, levels))

    def explain(self, wanted: str) -> dict[str, Any]:
        """Everything about one source and its samples, and why each was kept or not, as data.

        `wanted` is an id of a source or of a sample, the start of one, a URI or a file name.

        Raises:
            ConfigError: nothing, or more than one source, has this name.
        """
        return facts_of(self._ledger, self._pipeline, wanted)

    def sample(self, sample_id: str) -> dict[str, Any]:
        """Everything about one sample or window, by its id or the start of one; with its `source`.

        Raises:
            ConfigError: nothing, or more than one sample, has this id.
        """
        return sample_facts(self._ledger, self._pipeline, sample_id)

    def pictures(self, sample_id: str) -> list[bytes]:
        """JPEG files of a sample: one of an image, a few of a clip, in order of time.

        Those that the report keeps need no media; for others the source is opened, and none are there where
        it is away or damaged.

        Raises:
            ConfigError: nothing, or more than one sample, has this id.
        """
        unit, sample = located_sample(self._ledger, self._pipeline, sample_id)
        found = pictures_of(
            self._ledger, self._pipeline, [LocatedSample(unit, sample)], map, limit_s=PICTURE_S
        )
        return found.get(sample.sample_id, [])

    def picture(self, sample_id: str) -> bytes:
        """The first of `pictures`.

        Raises:
            ConfigError: nothing, or more than one sample, has this id, or there is no picture of it.
        """
        found = self.pictures(sample_id)
        if not found:
            raise ConfigError(f"there is no picture of {sample_id!r}: its source is away or damaged")
        return found[0]

    @property
    def shards(self) -> Shards:
        """The training shards.

        Raises:
            ConfigError: none were written.
        """
        folder = self._pipeline.config.shards_folder
        if self._ledger.storage.find(f"{folder}/{load(MANIFEST)}") is None:
            raise ConfigError(f"{self.folder} has no shards")
        return Shards(self._ledger.storage, folder)

    def report(self) -> str:
        """Write the HTML report anew; its path."""
        _, path = write_report(self._pipeline, self._ledger)
        return path


@dataclass(frozen=True)
class Shards:
    """Finished training shards."""

    _storage: Storage
    _key: str

    @property
    def folder(self) -> str:
        """Their folder or URL."""
        return f"{self._storage.root}/{self._key}"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest: sha256, rows, tokens and more of each shard.

        Raises:
            DamagedFileError: it is damaged.
        """
        return asdict(load(READ_MANIFEST)(self._storage, self._key))

    def dataset(self, **settings: Any) -> Any:
        """The shards as a `torch.utils.data.IterableDataset` of packed documents.

        `settings` are those of `curation.tokenize_shards.shards.loader.ShardDataset`, such as `context`.

        Raises:
            ConfigError: a setting is not possible.
        """
        return load(DATASET)(self.folder, **settings)


def _batches(flat: FlatTable, levels: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(levels, pa.string())
    for part in flat.parts():
        yield from part.filter(pc.is_in(part["level"], value_set=wanted)).to_batches()
