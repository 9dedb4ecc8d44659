"""Where runs read and write: one small interface over folders now and buckets later."""

from __future__ import annotations

from curation.errors import ConfigError
from curation.storage.base import Listed, Storage
from curation.storage.local import LocalStorage

__all__ = ["Listed", "Storage", "open_storage"]


def open_storage(root: str) -> Storage:
    """The storage behind a folder or URL.

    Raises:
        ConfigError: the URL's scheme is not supported.
    """
    scheme, separator, rest = root.partition("://")
    if not separator:
        return LocalStorage(root)
    if scheme == "file":
        return LocalStorage(rest)
    raise ConfigError(f"{root}: storage of kind {scheme!r} is not supported; use a folder")
