"""The URIs of sources: a file's own path, or the container's path and what is meant in it.

    photos/a.jpg                    a file
    tar://photos/0001.tar#a.jpg     a member of a tar
    parquet://photos/0001.parquet#7   a row of a Parquet file, the first being 0
    lines://photos/metadata.jsonl#3   a line of a list of files, the first being 1, if its file is not there
    tar://photos/0001.tar           a container as a whole, listed only if something is wrong with it

In a container's path `#` and `%` are written %23 and %25, and bytes that are not UTF-8 as %FF, so that
it can be opened by its URI whatever it is called. A part's etag is that of its container,
`@`, and its position there, so that replacing the container replaces all of its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from curation.errors import ChangedError, ProbeError
from curation.ingest.reach import InputStorage
from curation.records import Source
from curation.storage import open_storage

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""How Python spells bytes of a file's name that are not UTF-8."""
CONTAINER_SCHEMES = ("tar", "parquet", "lines")
LEADING_DOTS = rf"^((?:{'|'.join(CONTAINER_SCHEMES)})://)?(?:\./)+"
"""Matches the start of a URI with `./` before its path, as older ledgers have it; group 1 is the scheme."""


@dataclass(frozen=True, slots=True)
class Locator:
    """Where a source is: scheme ("" for a file), path of the file, and the part of it that is meant."""

    scheme: str
    path: str
    part: str = ""

    @property
    def uri(self) -> str:
        """As it stands in the ledger."""
        if not self.scheme:
            return self.path
        part = f"#{self.part}" if self.part else ""
        return f"{self.scheme}://{_quoted(self.path)}{part}"

    def open_storage(self) -> tuple[InputStorage, str]:
        """The folder that the file lies in, and its key there."""
        root, _, key = self.path.rpartition("/")
        return InputStorage(open_storage(root or "/")), key


def locator_of(uri: str) -> Locator:
    """Inverse of `Locator.uri`."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in CONTAINER_SCHEMES:
        return Locator("", uri)
    path, _, part = rest.partition("#")
    return Locator(scheme, unquote(path, errors="surrogateescape"), part)


def plain_uri(uri: str) -> str:
    """`uri` without `./` before its path: what two spellings of one place have in common."""
    return re.sub(LEADING_DOTS, r"\1", uri)


def _quoted(path: str) -> str:
    text = path.replace("%", "%25").replace("#", "%23")
    return _NOT_UTF8.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def printable(text: str) -> str:
    r"""`text` as it can be stored: what is not Unicode is spelled out.

    Bytes of a name that are not UTF-8 become \xff, half a surrogate pair becomes \ud800. A file of such
    a name can't be opened by its URI, and fails with that.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def position_of(source: Source) -> int:
    """Where in its container a part begins."""
    return int(source.etag.rpartition("@")[2])


def version_of(source: Source) -> tuple[str, str]:
    """The file that a source is or is in, and the etag of that file."""
    locator = locator_of(source.uri)
    if not locator.part:
        return source.uri, source.etag
    return Locator(locator.scheme, locator.path).uri, source.etag.rpartition("@")[0]


def check_unchanged(source: Source, storage: InputStorage, key: str) -> None:
    """Make sure that positions still hold.

    Raises:
        ProbeError: the container is gone.
        ChangedError: it is not the one that was listed.
    """
    found = storage.find(key)
    if found is None:
        raise ProbeError(f"{key} is not there any more")
    if found.etag != version_of(source)[1]:
        raise ChangedError(f"{key} was changed since it was listed; the next run takes it up anew")
