"""What lies beside an export's data: its card, `export.json`, and for tables `croissant.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from curation.report.cards.croissant import DescribedFile, Description, render_croissant
from curation.report.cards.header import SplitSize, card_text, configs_of, dataset_info, split_card
from curation.report.summary.funnel import UNTRAINED
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import Export, Exported, FinishedShards
from curation.tokenize_shards.shards.manifest import SPLITS, digest_object

CARD, CROISSANT, RECORD = "README.md", "croissant.json", "export.json"
_MADE_HEADING = "## Sources"
_END_HEADING = "## Columns"
"""From where to where a card tells how samples were chosen, which is true of an export as well."""


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export; `shard` is the one that all of its samples are from, if it is one."""

    name: str
    size_bytes: int
    sha256: str
    shard: str | None


def describe(name: str, chosen: Export[Any], shards: FinishedShards, target: Storage, done: Exported) -> None:
    """Write card, `croissant.json` and, last, `export.json`, which names the shard behind each file."""
    files = [
        ExportedFile(item.key, item.size_bytes, digest_object(target, item.key), done.made_of.get(item.key))
        for item in sorted(target.list(""), key=lambda item: item.key)
    ]
    header, body = split_card((shards.storage.read(CARD) or b"").decode(errors="replace"))
    patterns = _patterns(chosen.data_files, files)
    named = patterns or _patterns(chosen.unread_files, files)
    splits = {split: _size(pattern, files, shards, split, done) for split, pattern in patterns.items()}
    first = next(iter(shards.manifest.shards), None)
    schema = None if first is None else chosen.loaded_schema(shards.schema(first))
    info = dataset_info(schema, splits) if splits and schema is not None else None
    own = {"configs": configs_of(named) if named else None, "dataset_info": info}
    title = f"{header.get('pretty_name') or 'Shards'}, exported as {name}"
    card = card_text({**header, **own, "pretty_name": title}, _body(title, chosen, body, done, shards))
    target.write(CARD, card.encode())
    if chosen.table_type is not None and schema is not None and splits:
        described = Description(
            name=title,
            text=_text(title, body),
            license=str(header.get("license_name") or header.get("license") or "unknown"),
            selection=shards.manifest.selection,
            patterns=patterns,
            columns={field.name: field.type for field in schema},
            media_type=chosen.table_type,
        )
        target.write(CROISSANT, render_croissant(described, _of_splits(files, patterns)).encode())
    record = {
        "format": name,
        "settings": chosen.config.model_dump(mode="json"),
        "selection": shards.manifest.selection,
        "num_samples": done.num_samples,
        "left_out": {reason: number for reason, number in done.left_out.items() if number},
        "files": [asdict(file) for file in files],
    }
    target.write(RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _patterns(data_files: str | None, files: list[ExportedFile]) -> dict[str, str]:
    """Split -> pattern of its files, of the splits that have some; `data_files` holds `{split}`."""
    found = {split: (data_files or "").format(split=split) for split in SPLITS}
    return {
        split: pattern
        for split, pattern in found.items()
        if any(fnmatchcase(file.name, pattern) for file in files)
    }


def _size(
    pattern: str, files: list[ExportedFile], shards: FinishedShards, split: str, done: Exported
) -> SplitSize:
    samples = sum(shard.num_samples for shard in shards.manifest.of_split(split))
    num_bytes = sum(file.size_bytes for file in files if fnmatchcase(file.name, pattern))
    return SplitSize(done.num_rows.get(split, samples), num_bytes)


def _notice(body: str) -> str | None:
    """What the card of the shards says of untrained models, as it says it."""
    return next((line for line in body.splitlines() if UNTRAINED in line), None)


def _text(title: str, body: str) -> str:
    """What it is, in a sentence, after what is said of untrained models."""
    notice = _notice(body)
    return f"{notice.strip('> *')} {title}." if notice else f"{title}."


def _body(title: str, chosen: Export[Any], body: str, done: Exported, shards: FinishedShards) -> str:
    left_out = [f"- left out: {number} {reason}" for reason, number in done.left_out.items() if number]
    start, end = body.find(_MADE_HEADING), body.find(_END_HEADING)
    parts = [
        _notice(body),
        f"# {title}",
        chosen.about,
        "\n".join(
            [f"- {done.num_samples} samples of {shards.manifest.num_samples} in the shards", *left_out]
        ),
        f"`{RECORD}` holds the sha256 of every file, and the shard that its samples come from.",
        f"## How to load it\n\n```python\n{chosen.usage}\n```" if chosen.usage else None,
        body[start : end if end > start else None].strip() if start >= 0 else None,
    ]
    return "\n\n".join(part for part in parts if part)


def _of_splits(files: list[ExportedFile], patterns: Mapping[str, str]) -> list[DescribedFile]:
    """The files of data among all."""
    return [
        DescribedFile(file.name, file.size_bytes, file.sha256)
        for file in files
        if any(fnmatchcase(file.name, pattern) for pattern in patterns.values())
    ]
