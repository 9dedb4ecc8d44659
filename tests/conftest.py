"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

import datasets_media as datasets


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real media and expected values, where there is one."""
    folder = (datasets.ROOT / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset's folder; read-only."""
    return datasets.write_media(tmp_path_factory.mktemp("media") / "in")


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary file of single bytes."""
    return datasets.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "bytes.tiktoken")
