"""What a sample takes along from its source."""

from __future__ import annotations

from typing import Any

import pytest

from curation.ingest.metadata import drawn_text
from curation.ledger.selection import ALT_TEXT_NAMES, LICENSE_NAMES, metadata_texts


@pytest.mark.parametrize(
    ("metadata", "license_", "alt_text"),
    [
        ({}, None, None),
        ({"license": "CC-BY-4.0", "caption": "a cat"}, "CC-BY-4.0", "a cat"),
        ({"LICENSE": "MIT", "TEXT": "LAION's name for it"}, "MIT", "LAION's name for it"),
        ({"licence": "CC0", "alt": "short", "text": "long"}, "CC0", "short"),
        ({"license": "", "similarity": 0.3}, None, None),
        ({"license": 4}, "4", None),
        ({"license": ["CC0", "MIT"], "caption": "", "text": "b"}, "CC0; MIT", "b"),
    ],
)
def test_license_and_text_under_the_names_that_others_use(
    metadata: dict[str, Any], license_: str | None, alt_text: str | None
) -> None:
    assert ("; ".join(metadata_texts(metadata, LICENSE_NAMES)) or None) == license_
    assert drawn_text(metadata_texts(metadata, ALT_TEXT_NAMES), "sample") == alt_text
