"""The error tree, ordered by what a run does about each error.

CurationError
├── ConfigError              exit 2, before any work
├── EnvironmentFault         exit 3, before any work or at once; nothing is recorded of a source
│   ├── MissingDependencyError
│   └── DeviceMemoryFault    one sample alone does not fit: stop
├── ContractError            a stage broke its own declaration: stop
├── LedgerError              damaged file or summary that don't balance: stop, nothing lost
│   └── DamagedFileError     files of the output are not what was written: named, with what to do
├── StorageError             input, output or temporary folder out of reach or full: stop, nothing lost
│   ├── NoSuchObject         nothing is there under this key
│   └── WriteConflict        someone else wrote first: read again and merge
├── WorkerError              replace the worker, retry its unit
└── SampleError              record the sample as FAILED, go on
    ├── ProbeError  ├── ChangedError  ├── DecodeError  ├── UnsupportedMediaError
    ├── MeasureError  ├── CaptionError  ├── TokenizeError  └── PoisonSource

Every constructor takes one message, because extra positional arguments do not survive pickling
between processes. Secrets in it are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

from curation.errors.redaction import redact

MENDING = "`curation gc --damaged` removes what is damaged, and the next run makes it anew"
_MAX_NAMED = 10


class CurationError(Exception):
    """Anything that this project raises on purpose."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class ConfigError(CurationError):
    """The configuration or the command line cannot be carried out as written."""

    exit_code = 2


class EnvironmentFault(CurationError):
    """This machine lacks something that the configuration asks for, or a part of it has failed."""

    exit_code = 3


class MissingDependencyError(EnvironmentFault):
    """A package or a model's files are not here; the message names what to install.

    Attributes:
        role: What a model is wanted for, where that begins the message; one file may have several.
    """

    def __init__(self, message: str = "", *, role: str = "") -> None:
        super().__init__(message)
        self.role = role


class DeviceMemoryFault(EnvironmentFault):
    """A GPU has too little memory for what a stage does."""


class ContractError(CurationError):
    """A stage returned something other than what it declares."""


class LedgerError(CurationError):
    """A ledger file is damaged, or the counts don't add up."""


class DamagedFileError(LedgerError):
    """Files of the output are not what was written.

    Attributes:
        found: Each file, and what is wrong with it.
    """

    def __init__(self, message: str = "", *, found: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.found = dict(found or {})

    @classmethod
    def of(cls, found: Mapping[str, str]) -> DamagedFileError:
        """Name the files, and say what mends them."""
        texts = [f"{name} is damaged: {' '.join(why.split())}" for name, why in found.items()]
        shown = "; ".join(texts[:_MAX_NAMED])
        more = f"; so are {len(texts) - _MAX_NAMED} more files" if len(texts) > _MAX_NAMED else ""
        return cls(f"{shown}{more}; {MENDING}", found=found)


class StorageError(CurationError):
    """The input, the output or the folder for temporary files cannot be reached, or is full."""

    exit_code = 3


class NoSuchObject(StorageError):
    """There is no file or object of this name."""


class WriteConflict(StorageError):
    """The object was written by someone else since it was read."""


class WorkerError(CurationError):
    """A worker is in no state to go on; its unit is retried elsewhere.

    Attributes:
        is_blameless: Whether the unit can't be the cause, as when it had not been begun.
    """

    def __init__(self, message: str = "", *, is_blameless: bool = False) -> None:
        super().__init__(message)
        self.is_blameless = is_blameless


class SampleError(CurationError):
    """One sample (or source) could not be measured; the rest of the run goes on."""


class ProbeError(SampleError):
    """The file is not media, or its header cannot be read."""


class ChangedError(SampleError):
    """The file is not the one that was listed any more; the next run takes the new one up."""


class DecodeError(SampleError):
    """The header is fine, the pixels are not."""


class UnsupportedMediaError(SampleError):
    """Decodable, but not something that this stage can measure."""


class MeasureError(SampleError):
    """A stage raised something that it does not declare; the message names it."""


class CaptionError(SampleError):
    """No acceptable caption was obtained."""


class TokenizeError(SampleError):
    """Pixels or text could not be turned into tokens."""


class PoisonSource(SampleError):
    """The source killed its worker again and again."""
