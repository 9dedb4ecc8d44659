"""Three ways to list a folder, and pictures to put into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.ingest.listing import Listing, list_inputs
from datasets_media import List, built, config_data, write_photo


@pytest.fixture
def photos(tmp_path: Path) -> list[bytes]:
    """Three pictures, as the bytes of JPEG files."""
    for seed in range(3):
        write_photo(tmp_path / f"{seed}.jpg", seed, size=(24, 20))
    return [(tmp_path / f"{seed}.jpg").read_bytes() for seed in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty input folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def listed(folder: Path, vocabulary: Path, tmp_path: Path) -> List:
    """Lists the input folder, or others."""

    def list_them(*roots: Path) -> Listing:
        config, _ = built(config_data(folder, tmp_path / "out", vocabulary))
        general = config.general.model_copy(update={"input": [str(root) for root in roots or (folder,)]})
        return list_inputs(type(config)(**{**vars(config), "general": general}))

    return list_them
