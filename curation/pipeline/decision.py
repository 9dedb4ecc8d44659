"""What decided about keeping when shards were written, and where a configuration would decide otherwise.

The shards' manifest holds the decision, so that nobody takes what was tried with `--set` for what the
configuration file says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.config import Config
from curation.errors.redaction import redact

_DECIDING_KEYS = ("hdr",)
"""Settings at the top that decide, besides the sections of stages."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The settings that decided, and where they came from.

    Attributes:
        settings: Such as `images.aesthetic.min_score` and `images.filters`; a threshold of null is off.
        overrides: Those of `--set` that decided, in their order.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @staticmethod
    def of(config: Config) -> Decision:
        """What a configuration decides with."""
        settings: dict[str, Any] = {key: getattr(config.general, key) for key in _DECIDING_KEYS}
        for section in ("images", "videos"):
            if section in config.resolved:
                settings[f"{section}.filters"] = config.resolved[section].get("filters", [])
        for choice in config.choices():
            for name in choice.stage.thresholds():
                settings[f"{choice.key}.{name}"] = getattr(choice.settings, name)
        deciding = tuple(redact(text) for text in config.overrides if _decides(text, settings))
        return Decision(settings=settings, overrides=deciding)

    def differences(self, config: Config) -> Iterator[str]:
        """Where a configuration decides otherwise, a sentence each."""
        now = Decision.of(config).settings
        for key in dict.fromkeys([*self.settings, *now]):
            if key not in self.settings or key not in now or self.settings[key] != now[key]:
                then, asked = (_shown(found, key) for found in (self.settings, now))
                yield f"shards were decided with {key}={then}; this configuration says {asked}"

    def lines(self) -> Iterator[str]:
        """What was decided otherwise than the configuration file says, for people."""
        if self.overrides:
            yield f"Otherwise than the file says: {', '.join(self.overrides)}."


def _decides(override: str, settings: Mapping[str, Any]) -> bool:
    """Whether an override concerns one of the settings that decide, or a whole section that holds some."""
    name = override.partition("=")[0].strip()
    return any(key == name or key.startswith(f"{name}.") for key in settings)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "nothing of the kind"
