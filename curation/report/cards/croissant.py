"""Croissant: what a folder of Parquet or JSON Lines files holds, for machines.

The format is docs.mlcommons.org/croissant, version 1.0. It is written as plain JSON-LD, since the fields that
it needs are few and known; tests load it with mlcroissant. The names of files are relative to the folder in
which `croissant.json` lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from curation.report.cards.header import license_fields

PARQUET, JSON_LINES = "application/x-parquet", "application/jsonlines"
"""Media types by which Croissant's readers know files."""
_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification, by which short names stand for their addresses."""
_TYPES: Mapping[str, str] = {
    "bool": "sc:Boolean",
    "double": "cr:Float64",
    "float": "cr:Float32",
    "halffloat": "cr:Float16",
    **{
        f"{sign}int{bits}": f"cr:{'UInt' if sign else 'Int'}{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
"""Arrow type -> type of a field; all others, of texts and of bytes, are `sc:Text`."""


@dataclass(frozen=True)
class DescribedFile:
    """A file of data: its name in the folder, its size and its sha256."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What is said of a data set.

    Attributes:
        name: Its name.
        text: What it is, in a sentence or two; whether its models were untrained comes first.
        license: As the configuration or a card names it.
        selection: Digest of the samples and settings, which its version is made of.
        patterns: Split -> pattern of its files.
        columns: Column -> its Arrow type.
        meanings: Column -> what it says, where that is known.
        license_link: Where the text of the license is.
        media_type: Of the files: `PARQUET` or `JSON_LINES`.
    """

    name: str
    text: str
    license: str
    selection: str
    patterns: Mapping[str, str]
    columns: Mapping[str, pa.DataType]
    meanings: Mapping[str, str] = field(default_factory=dict)
    license_link: str | None = None
    media_type: str = PARQUET


def render_croissant(described: Description, files: Sequence[DescribedFile]) -> str:
    """The JSON-LD of a data set whose rows are in these files."""
    record = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": re.sub(r"[^\w .,-]+", " ", described.name).strip() or "dataset",
        "description": described.text,
        "license": described.license_link or _license(described.license),
        "version": f"1.0.0+{described.selection}",
        "distribution": [
            *(_file_object(file, described.media_type) for file in files),
            *(
                _file_set(split, pattern, described.media_type)
                for split, pattern in described.patterns.items()
            ),
        ],
        "rai": "http://mlcommons.org/croissant/RAI/",
        "recordSet": [_record_set(described, split) for split in described.patterns],
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def digests_in(text: str) -> dict[str, str]:
    """Name -> sha256 of the files that a croissant.json describes; empty where it is none."""
    try:
        listed = json.loads(text)["distribution"]
        return {item["contentUrl"]: item["sha256"] for item in listed if item["@type"] == "cr:FileObject"}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _license(name: str) -> str:
    """Its page among those of SPDX, if it is one that the Hub knows; else its name."""
    known = license_fields(name)["license"]
    return name if known in ("other", "unknown") else f"https://spdx.org/licenses/{known}"


def _file_object(file: DescribedFile, media_type: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.size_bytes} B",
        "encodingFormat": media_type,
        "sha256": file.sha256,
    }


def _file_set(split: str, pattern: str, media_type: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "description": f"The files of the split {split}.",
        "encodingFormat": media_type,
        "includes": pattern,
    }


def _record_set(described: Description, split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The rows of the split {split}.",
        "field": [
            _field(split, name, kind, described.meanings.get(name))
            for name, kind in described.columns.items()
        ],
    }


def _field(split: str, name: str, kind: pa.DataType, meaning: str | None) -> dict[str, Any]:
    is_list = pa.types.is_list(kind)
    while pa.types.is_list(kind):
        kind = kind.value_type
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{name}",
        "name": name,
        **({"description": meaning} if meaning else {}),
        "dataType": _TYPES.get(str(kind), "sc:Text"),
        **({"repeated": True} if is_list else {}),
        "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": name}},
    }
