"""Finding sources and samples by what people call them: ids by column first, then their units alone.

    for hit in find(ledger, pipeline, "beach.jpg"):
        hit.judged, hit.samples

Whatever was measured of anything else is not read.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import ConfigError
from curation.ingest.locator import locator_of
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, load_unit, source_verdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import ID_LENGTH, Sample, image_ids

MIN_PREFIX = 6
"""Characters of an id that stand for it, at least."""
MAX_NAMED = 5
"""Sources that a message names, at most."""
MAX_COMPARED = 10_000
"""File names that one which was not found is compared with: enough for a hint at once."""
_SPANS = ("sample_id", "source_id", "start_s", "end_s")


@dataclass(frozen=True)
class Hit:
    """A source that is meant, or that has samples that are.

    Attributes:
        unit: Where it is.
        judged: The source with all its samples.
        samples: Those that are meant; none where it is the source.
        is_gone: Whether it is no longer in the inputs.
    """

    unit: int
    judged: SourceVerdict
    samples: tuple[SampleVerdict, ...]
    is_gone: bool


def find(ledger: Ledger, pipeline: Pipeline, wanted: str) -> Iterator[Hit]:
    """All that `wanted` can mean, in order of the units, each of which is read when its turn comes.

    `wanted` is a URI, a file name, or an id of a source, a sample or a window, of which the first
    characters will do.
    """
    places = _candidates(ledger, pipeline, wanted)
    absent = absent_sources(ledger) if places else None
    for unit, judged in _judged(ledger, pipeline, places):
        source_id = judged.source.source_id
        if absent is None or source_id in absent.replaced:
            continue
        samples = tuple(sample for sample in judged.samples if is_meant(sample, wanted))
        if samples or is_source(judged, wanted):
            yield Hit(unit, judged, samples, source_id in absent.gone)


def find_one(ledger: Ledger, pipeline: Pipeline, wanted: str) -> Hit:
    """The one source that `wanted` means, or whose samples it means; what is in the inputs goes first.

    Raises:
        ConfigError: nothing, or more than one source, has this name.
    """
    hits: list[Hit] = []
    gone: list[Hit] = []
    for hit in find(ledger, pipeline, wanted):
        (gone if hit.is_gone else hits).append(hit)
        if len(hits) > MAX_NAMED:
            break
    found = hits or gone
    if not found:
        raise ConfigError(
            f"there is no source or sample {wanted!r} in this output{name_hint(ledger, wanted)}"
        )
    if len(found) > 1:
        names = ", ".join(hit.judged.source.uri for hit in found[:MAX_NAMED])
        raise ConfigError(f"{wanted!r} is ambiguous: {names}")
    return found[0]


def name_hint(ledger: Ledger, wanted: str) -> str:
    """The file name that was probably meant, to end a message with; empty where none is like it."""
    names: list[str] = []
    for _, sources in ledger.scan_sources(["uri"], ledger.units()):
        names += [uri.rpartition("/")[2] for uri in sources["uri"].to_pylist()]
        if len(names) >= MAX_COMPARED:
            break
    close = difflib.get_close_matches(wanted.rpartition("/")[2], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def judged_sources(
    ledger: Ledger, pipeline: Pipeline, source_ids: Collection[str]
) -> Iterator[tuple[int, SourceVerdict]]:
    """The units and verdicts of sources that are known by their whole ids."""
    yield from _judged(ledger, pipeline, _places(ledger, set(source_ids)))


def is_source(judged: SourceVerdict, wanted: str) -> bool:
    """Whether `wanted` names the source: its URI, file name, id, or the start of its id."""
    source = judged.source
    locator = locator_of(source.uri)
    names = (source.uri, source.uri.rpartition("/")[2], locator.part)
    return (bool(wanted) and wanted in names) or is_prefix(source.source_id, wanted)


def is_meant(judged: SampleVerdict, wanted: str) -> bool:
    """Whether `wanted` is the id of the sample or of a window of it, or the start of one."""
    return any(is_prefix(item.sample.sample_id, wanted) for item in (judged, *judged.windows))


def is_prefix(identifier: str, wanted: str) -> bool:
    """Whether `wanted` is the start of an id, and enough of it to mean that."""
    return len(wanted) >= MIN_PREFIX and identifier.startswith(wanted)


def _judged(
    ledger: Ledger, pipeline: Pipeline, places: Mapping[int, Collection[str]]
) -> Iterator[tuple[int, SourceVerdict]]:
    for unit, source_ids in sorted(places.items()):
        state = load_unit(ledger, pipeline, unit)
        for source in state.sources:
            if source.source_id in source_ids:
                yield unit, source_verdict(pipeline, state, source)


def _places(ledger: Ledger, source_ids: Collection[str]) -> dict[int, set[str]]:
    """Unit -> which of these sources it holds."""
    found = {}
    wanted = pa.array(sorted(source_ids), pa.string())
    for unit, sources in ledger.scan_sources(["source_id"], ledger.units()):
        mine = sources["source_id"].filter(pc.is_in(sources["source_id"], value_set=wanted))
        if len(mine):
            found[unit] = set(mine.to_pylist())
    return found


def _candidates(ledger: Ledger, pipeline: Pipeline, wanted: str) -> dict[int, set[str]]:
    """Unit -> sources of it that may be meant, or have samples that may be."""
    may_be_id = MIN_PREFIX <= len(wanted) <= ID_LENGTH and set(wanted) <= set(string.hexdigits)
    units = ledger.units()
    found: dict[int, set[str]] = {}
    for unit, sources in ledger.scan_sources(["source_id", "uri", "kind"], units):
        ids = sources["source_id"].filter(_is_named(sources, wanted)).to_pylist()
        if may_be_id:
            images = sources["source_id"].filter(pc.equal(sources["kind"], "image")).to_pylist()
            hits = zip(images, image_ids(images), strict=True)
            ids += [source_id for source_id, sample_id in hits if sample_id.startswith(wanted)]
        if ids:
            found.setdefault(unit, set()).update(ids)
    if found and len(wanted) == ID_LENGTH:
        return found
    for branch in pipeline.branches.values():
        if branch.splitter is not None and may_be_id:
            for unit, source_id in _with_clips(ledger, pipeline, branch.splitter, units, wanted):
                found.setdefault(unit, set()).add(source_id)
    return found


def _is_named(sources: pa.Table, wanted: str) -> pa.ChunkedArray:
    """The sources that have this URI or end like one with this name, or whose id begins like this."""
    named = pc.equal(sources["uri"], wanted)
    for separator in "/#":
        named = pc.or_(named, pc.ends_with(sources["uri"], separator + wanted))
    if len(wanted) >= MIN_PREFIX:
        named = pc.or_(named, pc.starts_with(sources["source_id"], wanted))
    return named


def _with_clips(
    ledger: Ledger, pipeline: Pipeline, splitter: Step, units: Collection[int], wanted: str
) -> Iterator[tuple[int, str]]:
    """Unit and source of each clip that has an id that begins like this, or a window that has."""
    measured = ledger.snapshot(splitter.name, splitter.fingerprint)
    for unit, rows in measured.scan(units, [*_SPANS, "status"]):
        clips = rows.filter(pc.equal(rows["status"], "ok"))
        columns = (clips[name].to_pylist() for name in _SPANS)
        for sample_id, source_id, start_s, end_s in zip(*columns, strict=True):
            clip = Sample(sample_id=sample_id, source_id=source_id, kind="clip", start_s=start_s, end_s=end_s)
            windows = pipeline.windows(clip)
            if any(sample.sample_id.startswith(wanted) for sample in (clip, *windows)):
                yield unit, source_id
