"""Turns raw images and videos into captioned, filtered, pre-tokenized training shards.

    import curation

    run = curation.run("emu3.yaml", output="s3://bucket/out", set={"images.aesthetic.min_score": 5.2})
    run.outcomes, run.paths, run.ok

    output = curation.open("s3://bucket/out")
    output.table(), output.summary, output.sample("0d4c1e")

Nothing is printed unless asked for, and what goes wrong is an exception of `curation.errors`. What stands
here is imported when it is first used: `import curation` alone costs nothing.
"""

from __future__ import annotations

from curation.version import __version__

TYPE_CHECKING = False  # typing's own, which type checkers know by its name; its import would take 10 ms
if TYPE_CHECKING:
    from typing import Any

    from curation.api.output import Output, Shards
    from curation.api.output import open_output as open
    from curation.api.running import Run, run
    from curation.errors import (
        ConfigError,
        CurationError,
        DamagedFileError,
        EnvironmentFault,
        LedgerError,
        MissingDependencyError,
        StorageError,
    )

__all__ = [
    "ConfigError",
    "CurationError",
    "DamagedFileError",
    "EnvironmentFault",
    "LedgerError",
    "MissingDependencyError",
    "Output",
    "Run",
    "Shards",
    "StorageError",
    "__version__",
    "open",
    "run",
]

_PLACES = {
    "Output": "curation.api.output:Output",
    "Run": "curation.api.running:Run",
    "Shards": "curation.api.output:Shards",
    "open": "curation.api.output:open_output",
    "run": "curation.api.running:run",
}
"""Where each name is defined; errors are all in one place."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, _, attribute = _PLACES.get(name, f"curation.errors:{name}").partition(":")
        found = globals()[name] = getattr(import_module(module), attribute)
        return found

    def __dir__() -> list[str]:
        """Every name, those that are not yet imported as well."""
        return sorted({*globals(), *__all__})
