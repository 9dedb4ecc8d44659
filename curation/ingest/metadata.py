"""What comes with a source: the text and JSON beside it, the other columns of its row.

One bad value is one bad value: what can't be kept is left out, and `carried_error` names it. Text is
UTF-8, or UTF-16 or UTF-32 by its byte order mark; nothing is guessed and nothing replaced.
"""

from __future__ import annotations

import codecs
import datetime as dt
import decimal
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.errors.visible import spelled
from curation.ingest.locator import printable
from curation.records import MetadataValue, stable_id

MAX_SIDECAR_BYTES = 1 << 20
"""A larger .txt or .json file is not about one picture, and is left alone; so is a larger value."""
SIDECAR_SUFFIXES = (".json", ".txt")
"""In the order in which they are read: where both name a caption, that of .txt counts."""
CAPTION = "caption"
PROBLEM = "carried_error"
"""Under this name stands what could not be kept, and why."""

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark its own begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Unkept:
    """Stands in the place of a value that can't be kept."""

    why: str


def encoding_of(data: bytes) -> str:
    """The encoding that the first bytes of a text say: that of its byte order mark, else UTF-8."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def decoded(data: bytes) -> str:
    """The text in these bytes.

    Raises:
        UnicodeError: they are not UTF-8, nor UTF-16 or UTF-32 with a byte order mark.
    """
    return data.decode(encoding_of(data))


def kept(values: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """The values that fit a column; dates become text, lists of texts stay lists.

    What is null, nested, bytes or infinite has no place in a column and is left out. What should have
    one and can't be kept is named under `carried_error`.
    """
    found: dict[str, MetadataValue] = {}
    problems = []
    for name, value in values.items():
        value = _fitting(value)
        if isinstance(value, Unkept):
            problems.append(f"{printable(name)}: {value.why}")
        elif not is_text(name):
            problems.append(f"{printable(name)}: its name is not Unicode text")
        elif value is not None:
            found[name] = value
    return found | _named(problems)


def _fitting(value: Any) -> MetadataValue | Unkept | None:
    if isinstance(value, str):
        return _fitting_text(value)
    if isinstance(value, bool | int | Unkept):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.date | dt.time | decimal.Decimal):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return next(
            (Unkept(item.why) for item in map(_fitting_text, value) if isinstance(item, Unkept)), value
        )
    return None


def _fitting_text(text: str) -> str | Unkept:
    if len(text) > MAX_SIDECAR_BYTES:
        return Unkept(f"{len(text)} characters are too many for one value")
    return text if is_text(text) else Unkept("it is not Unicode text: not UTF-8, or half a surrogate pair")


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; one with half a surrogate pair can't."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def from_sidecar(suffix: str, data: bytes) -> dict[str, MetadataValue]:
    """What a .txt or .json file says; `suffix` in lower case."""
    try:
        text = decoded(data)
    except UnicodeError:
        return _named([f"the {suffix} file beside it is not UTF-8, nor UTF-16 or UTF-32 with a mark"])
    if suffix == ".txt":
        return kept({CAPTION: text.strip()})
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _named([f"the .json file beside it can't be read: {error}"])
    return kept(values) if isinstance(values, dict) else _named(["the .json file beside it is no object"])


def from_sidecars(said: Mapping[str, Mapping[str, MetadataValue]]) -> dict[str, MetadataValue]:
    """What all sidecars of a source say; `said` is by suffix."""
    found: dict[str, MetadataValue] = {}
    problems: list[str] = []
    for suffix in SIDECAR_SUFFIXES:
        found.update(said.get(suffix, {}))
        problems += texts_of(found.pop(PROBLEM, None))
    return found | _named(problems)


def merged(
    first: Mapping[str, MetadataValue], second: Mapping[str, MetadataValue]
) -> dict[str, MetadataValue]:
    """What two places say about one source.

    Texts of one name that differ are all kept, as a list, those of `first` first. Of other values that
    differ the first counts, and `carried_error` names the second.
    """
    found = dict(first)
    problems = []
    for name, value in second.items():
        known = found.get(name)
        if known is None:
            found[name] = value
        elif isinstance(known, str | list) and isinstance(value, str | list):
            texts = list(dict.fromkeys([*texts_of(known), *texts_of(value)]))
            found[name] = texts if len(texts) > 1 else texts[0]
        elif known != value:
            problems.append(f"{name}: it came with {known!r} and with {value!r}; the first counts")
    return merged(found, _named(problems)) if problems else found


def texts_of(value: MetadataValue | None) -> list[str]:
    """The texts of one name: none, one, or several."""
    if isinstance(value, list):
        return value
    return [] if value is None else [str(value)]


def drawn_text(value: MetadataValue | None, sample_id: str, seed: int = 0) -> str | None:
    """The text that counts for a sample: where several came, one is drawn.

    A pure function of the texts, the sample's id and the seed. None if there is no text.
    """
    texts = texts_of(value)
    if not texts:
        return None
    return min(texts, key=lambda text: stable_id("carried", seed, sample_id, text))


def _named(problems: Iterable[str]) -> dict[str, MetadataValue]:
    """`carried_error`, if there are problems."""
    found = list(problems)
    if not found:
        return {}
    return {PROBLEM: found if len(found) > 1 else found[0]}


def metadata_json(metadata: Mapping[str, MetadataValue]) -> str | None:
    """What came with a source as JSON; null where that is nothing."""
    return _ENCODER.encode(_spelled(metadata)) if metadata else None


def metadata_jsons(several: Iterable[Mapping[str, MetadataValue]]) -> list[str | None]:
    """`metadata_json` of each, but at once: setting up the encoder takes longer than most have to say."""
    objects = [_spelled(metadata) for metadata in several]
    filled = [values for values in objects if values]
    texts = _ENCODER.encode(filled)[2:-2].split("}, {")
    if len(texts) != len(filled):  # one of the texts holds what stands between objects
        return [metadata_json(values) for values in objects]
    found = iter(texts)
    return [f"{{{next(found)}}}" if values else None for values in objects]


def _spelled(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    # Spelled out before it becomes JSON, or reading it would bring the halves of surrogates back.
    return {spelled(name): spelled_value(value) for name, value in metadata.items()}


def spelled_value(value: Any) -> Any:
    """`spelled` of a text, and of each text in a list; anything else as it is."""
    if isinstance(value, list):
        return [spelled_value(item) for item in value]
    return spelled(value) if isinstance(value, str) else value
