"""Where a data set lies on the Hub, and which commit of it is read.

    place = place_of("hf://datasets/org/photos@v2/train")
    commit_of(place)              # the same for all of this process, until `pin_latest` asks again

A run asks for the commit once, when it looks for its inputs, and tells its workers. Otherwise a data set that
is pushed to during a run would be read partly in its old and partly in its new state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.errors import ConfigError
from curation.storage.hub.faults import named_hub_faults, patiently
from curation.storage.retries import START_LIMIT_S

HUB_SCHEME = "hf"
MAIN = "main"
NO_OUTPUT = (
    "a data set on the Hub can't be an output; choose a folder or a bucket, and bring finished shards to the "
    "Hub by `curation publish`"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_URL = re.compile(
    r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/]+))?(?:/(?P<prefix>.*))?"
)
REPLY_TIMEOUT_S = 30.0
"""Longest silence of the Hub; its client has no limit of its own."""
_PINNED: dict[str, str] = {}
"""Repository and revision, as `HubPlace.version` has them -> commit."""


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A folder of a data set.

    Attributes:
        repository: "org/name".
        revision: Branch, tag or commit that was asked for; None for the main branch.
        prefix: "" or a folder without a slash at its end.
    """

    repository: str
    revision: str | None
    prefix: str

    @property
    def url(self) -> str:
        """As people write it."""
        return self.repository_url + (f"/{self.prefix}" if self.prefix else "")

    @property
    def repository_url(self) -> str:
        """The same without the folder."""
        return f"hf://datasets/{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def version(self) -> str:
        """Repository and revision."""
        return f"{self.repository}@{self.revision or MAIN}"


def place_of(url: str) -> HubPlace:
    """The place that a URL names. Nothing in a path is escaped.

    Raises:
        ConfigError: it names no data set.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(
            f"{url} names no data set of the Hub; write hf://datasets/ORG/NAME[@REVISION]/FOLDER"
        )
    return HubPlace(found["repository"], found["revision"], (found["prefix"] or "").strip("/"))


def is_on_hub(url: str) -> bool:
    """Whether a URL is one of the Hub's."""
    return url.startswith(f"{HUB_SCHEME}://")


def commit_of(place: HubPlace) -> str:
    """The commit that this process reads.

    Raises:
        StorageError: the Hub has no such data set or revision, or not for us, or can't be reached.
    """
    if place.version not in _PINNED:
        _PINNED[place.version] = _latest(place)
    return _PINNED[place.version]


def pin_latest(urls: Iterable[str]) -> dict[str, str]:
    """Read the present commits of these places from now on: place without its folder -> commit.

    Raises: as `commit_of`.
    """
    places = [place_of(url) for url in urls]
    _PINNED.update({place.version: _latest(place) for place in places})
    return {place.repository_url: _PINNED[place.version] for place in places}


def pinned() -> Mapping[str, str]:
    """The commits that this process reads, for `pin` in another one."""
    return dict(_PINNED)


def pin(commits: Mapping[str, str]) -> None:
    """Read the commits that another process reads."""
    _PINNED.update(commits)


def hub() -> Any:
    """The Hub's client: HF_ENDPOINT and HF_TOKEN tell where and who."""
    from huggingface_hub import HfApi

    return HfApi()


def _latest(place: HubPlace) -> str:
    if place.revision and _COMMIT.fullmatch(place.revision):
        return place.revision
    with named_hub_faults(place.repository_url):
        info = patiently(
            lambda: hub().dataset_info(
                place.repository, revision=place.revision or MAIN, timeout=REPLY_TIMEOUT_S
            ),
            START_LIMIT_S,
        )
    return str(info.sha)
