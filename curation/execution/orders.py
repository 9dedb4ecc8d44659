"""What a run is asked to do, from what people say."""

from __future__ import annotations

from typing import Any

from curation.config import Config
from curation.errors import ConfigError
from curation.execution.run import RunOptions
from curation.ledger.unit_state import NO_RECOMPUTE, PROBE, RecomputePolicy
from curation.registry import suggestion


def order_of(
    config: Config,
    only: str | None = None,
    *,
    retry_failed: bool = False,
    recompute: bool = False,
    **work: Any,
) -> RunOptions:
    """The options of a run of everything, or of one stage.

    Args:
        config: A checked configuration.
        only: A stage by its name or its place, such as "text" or "videos.text"; None for all.
        retry_failed: Whether failed rows count as missing.
        recompute: Whether all rows of the stage count as missing; only with `only`.
        work: Further fields of `RunOptions`.

    Raises:
        ConfigError: the configuration has no such stage.
    """
    if only is None:
        if recompute:
            raise ConfigError("only one stage at a time is measured again; name it")
        stages = frozenset([PROBE, *(choice.stage.name for choice in config.choices())])
        return RunOptions(recompute=RecomputePolicy(stages) if retry_failed else NO_RECOMPUTE, **work)
    chosen = [choice for choice in config.choices() if only in (choice.key, choice.stage.name)]
    if not chosen:
        known = sorted({key for choice in config.choices() for key in (choice.key, choice.stage.name)})
        raise ConfigError(f"the configuration has no stage {only!r}; {suggestion(only, known)}")
    names = frozenset(choice.stage.name for choice in chosen) if retry_failed or recompute else frozenset()
    policy = RecomputePolicy(names, only_failed=not recompute)
    return RunOptions(only=frozenset(choice.key for choice in chosen), recompute=policy, **work)
