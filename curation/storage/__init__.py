"""Where runs read and write: one small interface over folders and buckets."""

from __future__ import annotations

from pathlib import Path

from curation.errors import ConfigError
from curation.storage.base import Listed, Storage
from curation.storage.buckets.connection import BUCKET_SCHEMES
from curation.storage.hub.place import HUB_SCHEME
from curation.storage.local import LocalStorage

_SCHEMES = (*BUCKET_SCHEMES, HUB_SCHEME)

__all__ = ["Listed", "Storage", "full_root", "open_storage", "storage_of"]


def open_storage(root: str) -> Storage:
    """The storage behind a folder or URL.

    Raises:
        ConfigError: the URL's scheme is not supported, or it names no bucket.
    """
    scheme, separator, rest = root.partition("://")
    if not separator:
        return LocalStorage(root)
    if scheme == "file":
        return LocalStorage(rest)
    if scheme in BUCKET_SCHEMES:
        from curation.storage.buckets.bucket import BucketStorage

        return BucketStorage(root)
    if scheme == HUB_SCHEME:
        from curation.storage.hub.repository import HubStorage

        return HubStorage(root)
    raise ConfigError(
        f"{root}: storage of kind {scheme!r} is not supported; use a folder, or a URL that begins with "
        f"{', '.join(f'{known}://' for known in _SCHEMES)}"
    )


def full_root(storage: Storage) -> str:
    """The root of a storage in one spelling: of a folder without links, `..` or what it was relative to."""
    return str(Path(storage.root).resolve()) if storage.is_local else storage.root.rstrip("/")


def storage_of(path: str) -> tuple[Storage, str]:
    """The storage of the folder that a file lies in, and the file's key there, of a path or a URL.

    Raises:
        ConfigError: as `open_storage`, or it names a bucket and no file.
    """
    folder, separator, name = path.rpartition("/")
    if not name or folder.endswith(":/"):
        raise ConfigError(f"{path} names no file")
    return open_storage(folder or separator or "."), name
