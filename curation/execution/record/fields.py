"""The fields of run.json that are read back, with their types: what does not fit them is damaged.

    check_fields(json.loads(data))      # raises ValidationError

The next run reads the models; the report, comparisons and `curation explain` read the rest.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Fields(BaseModel):
    """What older versions did not write has a default, and what later ones will write is passed over."""

    model_config = ConfigDict(strict=True)


class _Model(_Fields):
    step: str
    role: str
    name: str
    asked: str | None
    revision: str
    stand_in: bool = False
    precision: str | None = None


class _ListingLines(_Fields):
    """The lines say all that the other fields tell machines, which nobody here reads back."""

    lines: list[str] = []


class _Parts(_Fields):
    stage: str
    version: int
    columns: list[str]
    settings: dict[str, Any]
    models: dict[str, str]
    pixels: list[str]
    splits: bool


class _Step(_Fields):
    step: str
    rows: int = 0
    failed: int = 0
    seconds: float = 0.0
    usage: dict[str, float] = {}


class _Pool(_Fields):
    """As `PoolMetrics`, with its name."""

    pool: str
    num_workers: int = 0
    nodes: dict[str, int] = {}
    load_s: float = 0.0
    load_cpu_s: float = 0.0
    pass_s: float = 0.0
    gpu_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    waited_s: float = 0.0
    num_calls: int = 0
    num_samples: int = 0
    bytes_sent: int = 0
    most_bytes_out: int = 0
    peak_memory_bytes: int = 0


class _LastWork(_Fields):
    """As `last_work_record` makes it."""

    seconds: float = 0.0
    resumed_from: str | None = None
    steps: list[_Step] = []
    cpus: int = 0
    gpu_s: float = 0.0
    output_bytes: int | None = None
    pools: list[_Pool] = []
    frames_decoded: int = 0
    images_decoded: int = 0
    decodes_per_frame: float | None = None
    bytes_stored: dict[str, int] = {}
    bytes_read: dict[str, int] = {}
    reads_per_byte: dict[str, float] = {}


class _Before(_Fields):
    """What is kept of the run before, and is so of this one."""

    started: str | None = None
    ended: str | None = None
    curation: str = ""
    config: dict[str, Any] = {}
    outcomes: dict[str, dict[str, int]] | None = None
    thresholds: dict[str, dict[str, Any]] = {}
    fingerprints: dict[str, str] = {}
    parts: dict[str, _Parts] = {}
    models: list[_Model] = []
    versions: dict[str, str] = {}


class _Remeasurement(_Fields):
    text: str


class _Record(_Before):
    """Every version has written the fields that have no default."""

    untrained: str | None = None
    curation: str
    config: dict[str, Any]
    models: list[_Model]
    fingerprints: dict[str, str]
    versions: dict[str, str]
    listing: _ListingLines | None
    last_work: _LastWork | None
    host: str | None = None
    command: str | None = None
    sources: dict[str, int] = {}
    measured_again: list[_Remeasurement] = []
    previous: _Before | None = None


def check_fields(record: Any) -> None:
    """Make sure that a record is what a run has written, or the empty one that stands for a damaged one.

    Raises:
        ValidationError: a field is missing, or of another type.
    """
    if record != {}:
        _Record.model_validate(record)
