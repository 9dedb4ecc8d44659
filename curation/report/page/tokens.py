"""A look at tokens: how much of the codebook each shard uses, and samples decoded beside their originals.

What was found is kept in `report/tokens.json` by the shard's sha256, so a shard is looked at once.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter

from curation.errors import (
    ConfigError,
    ContractError,
    EnvironmentFault,
    LedgerError,
    MissingDependencyError,
    SampleError,
    StorageError,
)
from curation.ingest.media_readers import read_again
from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict, SourceVerdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import stable_id
from curation.registry import CODEBOOK, PREVIEW, READ_MANIFEST, load
from curation.report.page.html import render
from curation.report.summary.funnel import untrained_notice
from curation.report.tables.lookup import Hit, find, is_meant, is_prefix, judged_sources, name_hint
from curation.stage import Setup
from curation.storage import Storage, storage_of

CACHE = "report/tokens.json"
MAX_SAMPLES = 8
"""Samples that a page shows, at most."""
REPORT_SIDE_PX = 256
_FAULTS = tuple(f"{fault.__name__}:" for fault in (EnvironmentFault, MissingDependencyError, StorageError))


@dataclass(frozen=True)
class SampleLook:
    """A sample decoded from its tokens; `png` is base64, or absent where `error` says why.

    `decoded` names what was decoded: the codes, and what made them.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    sample_id: str
    title: str
    png: str | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    error: str | None = None
    decoded: str | None = None


@dataclass(frozen=True)
class _CachedShard:
    """What is kept of a shard under its sha256. `kinds` is absent in what older versions kept."""

    asked: int
    use: dict[str, Any]
    samples: list[SampleLook]
    kinds: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardLook:
    """A shard.

    Attributes:
        name: Of its file.
        use: Of the codebook, as the tokenizer's `codebook_use` gives it; None of a file that can't be read.
        kinds: Kind of sample -> documents, tokens, codes and frames; empty where documents are packed.
        samples: Some samples, decoded.
    """

    name: str
    use: dict[str, float] | None
    kinds: dict[str, dict[str, int]]
    samples: list[SampleLook]


@dataclass(frozen=True)
class _Leaf:
    unit: int
    source: SourceVerdict
    leaf: SampleVerdict

    @property
    def title(self) -> str:
        sample = self.leaf.sample
        when = "" if sample.kind == "image" else f" {sample.start_s:.2f}-{sample.end_s:.2f} s"
        return f"{self.source.source.uri.rpartition('/')[2]}{when}"


class Looker:
    """Decodes samples with the pipeline's own tokenizer, which is loaded when the first one is asked for."""

    def __init__(self, ledger: Ledger, pipeline: Pipeline, step: Step) -> None:
        self._ledger, self._pipeline, self._step = ledger, pipeline, step
        self._previewer: Any = None

    def look(self, found: _Leaf, *, max_side_px: int = 512, known: SampleLook | None = None) -> SampleLook:
        """The sample beside its original; an error that concerns it alone is told, not raised.

        `known` is given back if the codes are still those that it shows.
        """
        sample, title = found.leaf.sample, found.title
        view = self._step.stage.view(sample.kind)
        if view is None:
            raise ContractError("the tokenizer looks at no pixels")
        values = self._values(found.unit, sample.sample_id)
        decoded = stable_id(self._step.fingerprint, values["codes"].hex())
        if known is not None and known.decoded == decoded and known.error is None:
            return known
        try:
            self._previewer = self._previewer or self._load()
            config = self._pipeline.config
            media = read_again(found.source.source, sample, view, decoder=config.decoder)
            preview = self._previewer.preview(sample, media, values, max_side_px=max_side_px)
        except (SampleError, StorageError, EnvironmentFault) as error:
            return SampleLook(sample.sample_id, title, error=f"{type(error).__name__}: {error}")
        png = base64.b64encode(preview.png).decode()
        return SampleLook(sample.sample_id, title, png, preview.psnr_db, preview.ssim, decoded=decoded)

    def _values(self, unit: int, sample_id: str) -> dict[str, Any]:
        """What the tokenizer measured of a sample."""
        step = self._step
        rows = self._ledger.columns(step.name, step.fingerprint, unit, list(step.stage.columns))
        if rows is None:
            raise LedgerError(f"unit {unit} has no rows of {step.key} any more")
        found: dict[str, Any] = rows.filter(pc.equal(rows["sample_id"], sample_id)).to_pylist()[0]
        return found

    def _load(self) -> Any:
        return load(PREVIEW)(self._step.stage, Setup(self._device(), self._pipeline.revisions(self._step)))

    def _device(self) -> Literal["cpu", "cuda"]:
        # A report may be written where no GPU is, whatever the workers had.
        return "cuda" if self._pipeline.config.general.device == "cuda" else "cpu"


def look_at(ledger: Ledger, pipeline: Pipeline, wanted: str) -> list[SampleLook]:
    """The tokens of a sample, or of a source's first samples, decoded beside the original.

    Args:
        ledger: Where they are.
        pipeline: What made them.
        wanted: A sample or source id, the start of one, a URI or a file name.

    Raises:
        ConfigError: nothing has this name, or what has it has no tokens.
    """
    step = pipeline.producer("codes")
    if step is None:
        raise ConfigError("the configuration has no tokens")
    first: _Leaf | None = None
    ready: list[_Leaf] = []
    for found in _meant(find(ledger, pipeline, wanted), wanted):
        first = first or found
        ready += [found] if _has_tokens(found, step) else []
        if len(ready) == MAX_SAMPLES:
            break
    if first is None:
        if any(hit.is_gone for hit in find(ledger, pipeline, wanted)):
            raise ConfigError(f"{wanted!r} is no longer in the inputs")
        raise ConfigError(f"there is no sample of {wanted!r} in this output{name_hint(ledger, wanted)}")
    if not ready:
        verdict = first.leaf.verdict
        reason = f" ({verdict.reason})" if verdict.reason else ""
        raise ConfigError(f"{first.title} has no tokens: it is {verdict.outcome}{reason}")
    looker = Looker(ledger, pipeline, step)
    return [looker.look(found) for found in ready]


def _has_tokens(found: _Leaf, step: Step) -> bool:
    row = found.leaf.rows.get(step.key)
    return row is not None and row.ok


def _meant(hits: Iterable[Hit], wanted: str) -> Iterator[_Leaf]:
    """What may have tokens of sources and samples that are meant: samples, or windows of them."""
    for hit in hits:
        if hit.is_gone:
            continue
        for sample in hit.samples or hit.judged.samples:
            is_whole = not hit.samples or is_prefix(sample.sample.sample_id, wanted)
            for leaf in sample.leaves():
                if is_whole or is_meant(leaf, wanted):
                    yield _Leaf(hit.unit, hit.judged, leaf)


def write_preview(pipeline: Pipeline, looks: list[SampleLook], target: str) -> None:
    """Write looks to a file: the first picture (.png), or else a page that needs nothing beside it.

    Raises:
        ConfigError: `target` names no file.
        StorageError: it can't be written.
    """
    if target.endswith(".png"):
        data = base64.b64decode(next(look.png for look in looks if look.png))
    else:
        data = _page(pipeline, looks).encode()
    storage, key = storage_of(target)
    storage.write(key, data)


def _page(pipeline: Pipeline, looks: list[SampleLook]) -> str:
    return render(
        "preview.html.j2",
        name=pipeline.config.general.name,
        notice=untrained_notice(pipeline),
        looks=looks,
    )


def look_at_shards(ledger: Ledger, pipeline: Pipeline) -> list[ShardLook]:
    """Every shard of this output; none where none were written yet."""
    step = pipeline.producer("codes")
    folder = pipeline.config.shards_folder
    manifest = load(READ_MANIFEST)(ledger.storage, folder)
    if step is None or manifest is None:
        return []
    cached = _cached(ledger.storage)
    shards: list[dict[str, Any]] = asdict(manifest)["shards"]
    per_shard = pipeline.config.run.report_samples
    entries: dict[str, Any] = {}
    picked: dict[str, list[_DrawnRow]] = {}
    for shard in shards:
        entry = cached.get(shard["sha256"])
        if entry is None or entry["asked"] != per_shard or "kinds" not in entry:
            room = MAX_SAMPLES - sum(map(len, picked.values()))
            found = _look_into(ledger.storage, folder, shard, min(per_shard, room))
            if found is None:
                continue
            use, kinds, picked[shard["sha256"]] = found
            entry = {"asked": per_shard, "use": use, "kinds": kinds, "samples": []}
        entries[shard["sha256"]] = entry
    known = [SampleLook(**sample) for entry in cached.values() for sample in entry["samples"]]
    _fill(ledger, pipeline, step, entries, picked, {look.sample_id: look for look in known})
    # What can't be shown here, for want of weights, may be shown elsewhere.
    kept = {sha: entry for sha, entry in entries.items() if not any(map(_is_for_want_of, entry["samples"]))}
    text = json.dumps(kept, indent=1).encode()
    if text != ledger.storage.read(CACHE):
        ledger.storage.write(CACHE, text)
    return [_shard_look(shard["name"], entries.get(shard["sha256"])) for shard in shards]


def _cached(storage: Storage) -> dict[str, Any]:
    """What was found before; nothing where that can't be read, since it is found again."""
    try:
        found: dict[str, Any] = json.loads(storage.read(CACHE) or b"{}")
        TypeAdapter(dict[str, _CachedShard]).validate_python(found)
    except (ValueError, RecursionError):
        return {}
    return found


def _is_for_want_of(sample: Mapping[str, Any]) -> bool:
    """Whether a sample can't be shown because of this machine."""
    return (sample["error"] or "").startswith(_FAULTS)


def _shard_look(name: str, entry: dict[str, Any] | None) -> ShardLook:
    if entry is None:
        return ShardLook(name, None, {}, [])
    samples = [SampleLook(**sample) for sample in entry["samples"]]
    return ShardLook(name, entry["use"], entry["kinds"], samples)


@dataclass(frozen=True)
class _DrawnRow:
    sample_id: str
    source_id: str


def _look_into(
    storage: Storage, folder: str, shard: Mapping[str, Any], number: int
) -> tuple[dict[str, float], dict[str, dict[str, int]], list[_DrawnRow]] | None:
    """How a shard of the manifest uses the codebook, what it holds by kind, and `number` samples of it.

    None if it can't be read.
    """
    key = f"{folder}/{shard['name']}"
    if storage.find(key) is None:
        return None
    with storage.open(key) as data:
        try:
            file = pq.ParquetFile(data, pre_buffer=False, page_checksum_verification=True)
            # The writer counted, unless it was one of before it did.
            return shard.get("codebook_use") or _use(file), _by_kind(file), _pick(file, number)
        except (pa.ArrowException, OSError):  # a checksum that is wrong is an OSError
            return None


def _use(shard: pq.ParquetFile) -> dict[str, float]:
    batches = shard.iter_batches(batch_size=64, columns=["codes"], use_threads=False)
    found: dict[str, float] = asdict(
        load(CODEBOOK)(codes for batch in batches for codes in batch["codes"].to_pylist())
    )
    return found


def _by_kind(shard: pq.ParquetFile) -> dict[str, dict[str, int]]:
    """Kind of sample -> how many documents, tokens, codes and frames a shard holds of it."""
    columns = ["kind", "num_tokens", "grid_t", "grid_h", "grid_w"]
    if not set(columns) <= set(shard.schema_arrow.names):
        return {}
    found: dict[str, Counter[str]] = {}
    for batch in shard.iter_batches(columns=columns, use_threads=False):
        frames, height, width = (batch[name].cast(pa.int64()) for name in columns[2:])
        rows = pa.table(
            {
                "kind": batch["kind"].cast(pa.string()),
                "tokens": batch["num_tokens"].cast(pa.int64()),
                "frames": frames,
                "codes": pc.multiply(frames, pc.multiply(height, width)),
            }
        )
        sums = [(name, "sum") for name in ("tokens", "codes", "frames")]
        grouped = rows.group_by("kind", use_threads=False).aggregate([*sums, ("kind", "count")])
        for row in grouped.to_pylist():
            of_kind = {name: row[f"{name}_sum"] or 0 for name, _ in sums}
            found.setdefault(row["kind"], Counter()).update(documents=row["kind_count"], **of_kind)
    return {kind: dict(counts) for kind, counts in found.items()}


def _pick(shard: pq.ParquetFile, number: int) -> list[_DrawnRow]:
    """A draw that depends on the sample ids alone."""
    if number <= 0:
        return []
    ids = shard.read(["sample_id", "source_id"], use_threads=False).to_pylist()
    drawn = sorted(ids, key=lambda row: stable_id("report", row["sample_id"]))[:number]
    return [_DrawnRow(**row) for row in drawn]


def _fill(
    ledger: Ledger,
    pipeline: Pipeline,
    step: Step,
    entries: dict[str, dict[str, Any]],
    picked: dict[str, list[_DrawnRow]],
    known: Mapping[str, SampleLook],
) -> None:
    """Look at the samples picked of new shards; only their units are read.

    `known` are looks of earlier shards by sample id: a moved threshold decodes only what it brings in.
    """
    sources = {one.source_id for ones in picked.values() for one in ones}
    judged = judged_sources(ledger, pipeline, sources) if sources else ()
    found = {
        leaf.sample.sample_id: _Leaf(unit, source, leaf)
        for unit, source in judged
        for leaf in source.leaves()
    }
    looker = Looker(ledger, pipeline, step)
    for digest, ones in picked.items():
        looks = [
            looker.look(found[one.sample_id], max_side_px=REPORT_SIDE_PX, known=known.get(one.sample_id))
            for one in ones
            if one.sample_id in found
        ]
        entries[digest]["samples"] = [asdict(look) for look in looks]
