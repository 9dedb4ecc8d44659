"""What a stage is that looks at all samples at once, at what earlier stages measured instead of at pixels.

A `DatasetStage` names the columns that it reads by `inputs`, and gives a row per sample by `measure_all`;
`stages/representatives.py` is the smallest. A `SpreadStage` divides its work among the machines of a cluster:
`stages/duplicates.py` is one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from curation.stage import Media, Stage, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.records import Sample

A = TypeVar("A")
R = TypeVar("R")
C = TypeVar("C", bound=StageConfig)

GIVEN_COLUMNS: Mapping[str, pa.DataType] = {
    "sample_id": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "duration_s": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "size_bytes": pa.int64(),
    "content_hash": pa.string(),
}
"""What a dataset-wide stage gets to see of every sample and its source, besides measured columns."""


class DatasetStage(Stage[C]):
    """A stage that looks at all samples at once: a row each, from what earlier stages measured of them.

    Its population is the samples that the rules before it keep. Its rows belong to that population: when
    a sample joins or leaves, all are computed anew, from stored columns and never from media. What a
    threshold can decide should therefore be left to one.
    """

    @abc.abstractmethod
    def inputs(self) -> Sequence[str]:
        """Columns of earlier stages that it reads. A sample that lacks one is FAILED here."""

    def optional_inputs(self) -> Sequence[str]:
        """Columns that it reads if an earlier stage of the rule measures them; else they are absent."""
        return ()

    @abc.abstractmethod
    def measure_all(self, population: pa.Table) -> pa.Table:
        """A row per row of `population`, in order, holding exactly `columns`.

        `population` is sorted by `sample_id` and holds `GIVEN_COLUMNS`, `inputs` without nulls, and
        those `optional_inputs` that there are. The result may not depend on anything else, so that a
        run that was killed comes to the same rows.
        """

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        raise NotImplementedError("a dataset-wide stage works on columns, by measure_all()")


class Spread(Protocol):
    """Calls a function for each argument; the results come in the order of the arguments."""

    def __call__(self, function: Callable[[A], R], arguments: Sequence[A], /) -> Iterator[R]:
        """Function and arguments are pickled; a call may be made more than once."""


class PopulationPart(Protocol):
    """Some samples of a population, whose large columns are read where they are worked on."""

    @property
    def places(self) -> NDArray[np.int64]:
        """[N], where the samples are in the population."""

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns of the N samples, in the order of `places`."""


@dataclass(frozen=True)
class TablePart:
    """All samples of a population that is held in memory."""

    table: pa.Table

    @property
    def places(self) -> NDArray[np.int64]:
        import numpy as np

        return np.arange(self.table.num_rows)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self.table.select(columns)


class SpreadStage(DatasetStage[C]):
    """A dataset-wide stage whose work is many calls, spread over the cluster.

    The process that spreads them never holds a column that is `large`.
    """

    @abc.abstractmethod
    def measure_parts(
        self, population: pa.Table, parts: Sequence[PopulationPart], spread: Spread
    ) -> pa.Table:
        """A row per row of `population`, as `measure_all`.

        `population` lacks the inputs that are `large`: the parts have them, without nulls, of each sample
        once. The result may depend neither on how the samples are divided into parts nor on `spread`.
        """

    def measure_all(self, population: pa.Table) -> pa.Table:
        return self.measure_parts(population, [TablePart(population)], map)
