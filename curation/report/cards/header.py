"""The header of a dataset card, by huggingface_hub's own classes: what the Hub reads of a data set.

card_text({"license": "cc0-1.0", "configs": configs_of({"train": "train-*.parquet"})}, "# Photos")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

_LISTED = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0
c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl
ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl
zlib
"""
"""Identifiers that the Hub takes (huggingface.co/docs/hub/repositories-licenses); others go under "other"."""
_HUB_LICENSES = frozenset(_LISTED.split())
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_HEADER = re.compile(r"---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)


@dataclass(frozen=True)
class SplitSize:
    """Rows of a split, and bytes of its files."""

    num_rows: int
    num_bytes: int


def card_text(header: Mapping[str, Any], body: str) -> str:
    """A card: the header as YAML, then `body` in Markdown. None in the header is left out.

    Raises:
        ValueError: the Hub's classes read another header out of the card than was put in.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(**header)
    text = f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"
    read = DatasetCard(text, ignore_metadata_errors=False).data
    if read.to_yaml() != data.to_yaml():
        raise ValueError("the header of the card can't be read as it was written")
    return text


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The header of a card, empty where it has none that can be read, and its body."""
    found = _HEADER.match(text)
    if found is None:
        return {}, text
    try:
        header = yaml.safe_load(found[1])
    except yaml.YAMLError:
        header = None
    return header if isinstance(header, dict) else {}, text[found.end() :]


def license_fields(name: str, link: str | None = None) -> dict[str, str]:
    """`license`; for one that the Hub does not list also `license_name` and, where known, `license_link`."""
    slug = re.sub(r"[^a-z0-9.+-]+", "-", name.strip().lower()).strip("-") or "unknown"
    if slug in _HUB_LICENSES:
        return {"license": slug}
    named = {"license": "other", "license_name": slug.replace("+", "-").strip("-.") or "unknown"}
    return named | ({"license_link": link} if link else {})


def size_category(number: int) -> str:
    """The Hub's name for the size of a data set of so many rows, such as `1K<n<10K`."""
    for place, bound in enumerate(_SIZES):
        if number < 10 ** (place + 3):
            return f"n<{bound}" if place == 0 else f"{_SIZES[place - 1]}<n<{bound}"
    return f"n>{_SIZES[-1]}"


def configs_of(data_files: Mapping[str, str]) -> list[dict[str, Any]]:
    """One configuration, in which `load_dataset` finds the files of each split; `data_files` are patterns."""
    files = [{"split": split, "path": path} for split, path in data_files.items()]
    return [{"config_name": "default", "data_files": files}]


def dataset_info(features: pa.Schema, splits: Mapping[str, SplitSize]) -> dict[str, Any]:
    """Columns and sizes, as `datasets` states them."""
    total = sum(size.num_bytes for size in splits.values())
    return {
        "features": features_of(features),
        "splits": [
            {"name": name, "num_bytes": size.num_bytes, "num_examples": size.num_rows}
            for name, size in splits.items()
        ],
        "download_size": total,
        "dataset_size": total,
    }


def features_of(schema: pa.Schema | pa.StructType) -> list[dict[str, Any]]:
    """The columns of a schema, as `datasets` writes its features into a card."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner["dtype"] if inner.keys() == {"dtype"} else inner}
    if pa.types.is_struct(kind):
        return {"struct": features_of(kind)}
    names = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind))}
