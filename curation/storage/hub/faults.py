"""What goes wrong between us and the Hub: tried again where that may help, and said in one sentence.

with named_hub_faults("hf://datasets/org/name"):
    info = patiently(lambda: hub().dataset_info("org/name"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from curation.errors import StorageError
from curation.storage.retries import Attempts

T = TypeVar("T")

_MAX_WAIT_S = 300.0
"""For a Hub that names the time after which it takes requests again."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be gone at the next attempt."""
_COMMITTED_SINCE = 412
"""HTTP status of a commit whose parent is not the last one any more."""


def patiently(ask: Callable[[], T], limit_s: float | None = None) -> T:
    """What `ask` gives; it is asked again while the Hub is out of reach, or has no time.

    `limit_s` as `Attempts` takes it.
    """
    attempts = Attempts(limit_s)
    while True:
        try:
            return ask()
        except _hub_errors() as error:
            if not _may_pass(error) or not attempts.wait(_asked_wait_s(error)):
                raise


@contextmanager
def named_hub_faults(url: str) -> Iterator[None]:
    """What the Hub's client says about a data set, as a StorageError.

    Raises:
        FileNotFoundError: the data set is there and has no such file.
        StorageError: all else.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    except EntryNotFoundError as error:
        raise FileNotFoundError(url) from error
    except FileNotFoundError:
        raise
    except _hub_errors() as error:
        # An upload's own error lies below one that names the file alone.
        said = error.__cause__ if isinstance(error, RuntimeError) else None
        raise StorageError(f"{url}: {_reason(said if isinstance(said, Exception) else error)}") from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises: its errors, those of the HTTP library below it, those of odd answers and,
    as a RuntimeError, those of uploads.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError, ValueError, RuntimeError


def _may_pass(error: Exception) -> bool:
    """Whether the next attempt may find something else."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status_of(error)
    if status is not None:
        return status in _PASSING
    return not isinstance(error, OfflineModeIsEnabled | FileNotFoundError | ValueError | RuntimeError)


def _status_of(error: Exception) -> int | None:
    """The HTTP status of an answer that says no."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _asked_wait_s(error: Exception) -> float:
    """How long the Hub asks us to wait."""
    from huggingface_hub.errors import HfHubHTTPError

    said = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(said), _MAX_WAIT_S) if said.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    """One sentence, with what to do about it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = _status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the Hub, and data sets are read from nowhere else; unset it"
    if isinstance(error, GatedRepoError):
        return "the data set is gated; ask for access on its page, and put that account's token into HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        whose = (
            "the account of HF_TOKEN has no access to it" if get_token() else "it wants a token in HF_TOKEN"
        )
        return f"the Hub has no such data set, or {whose}"
    if isinstance(error, RevisionNotFoundError):
        return "the data set has no such revision"
    if status in (401, 403):
        return f"the Hub refuses this to the token in HF_TOKEN: has it expired, may it do this? ({status})"
    if status == _COMMITTED_SINCE:
        return "somebody else has committed since; try again"
    if status is not None:
        return f"the Hub answered {status}: {_first_line(error)}"
    return f"the Hub is out of reach or broke off: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
