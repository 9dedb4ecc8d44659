"""The stages that a configuration chooses, and the rules that it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from curation.config.problems import Problems
from curation.dataset_stage import GIVEN_COLUMNS, DatasetStage
from curation.errors import ConfigError
from curation.records import SampleKind
from curation.registry import SPLITTER, STAGES
from curation.splitter import Splitter
from curation.stage import Stage, StageConfig

SAMPLES: Mapping[str, SampleKind] = {"images": "image", "videos": "clip"}
"""Section of the configuration -> what its filters measure."""
_SPLIT = frozenset({"videos"})
"""Sections whose sources are split into samples."""
Mode = Literal["all", "any"]


@dataclass(frozen=True)
class StageChoice:
    """A stage chosen in the configuration: where, which class, with what settings."""

    key: str
    stage: type[Stage[Any]]
    settings: StageConfig

    def build(self) -> Stage[Any]:
        """The stage itself; cheap, no weights."""
        return self.stage(self.settings)


@dataclass(frozen=True)
class RuleChoice:
    """`all` or `any` of stages (by their key) and further rules."""

    mode: Mode
    parts: tuple[str | RuleChoice, ...]


@dataclass(frozen=True)
class BranchChoice:
    """What happens to one kind of source: how it is split, and the rule that its samples go through."""

    rule: RuleChoice
    splitter: StageChoice | None
    stages: Mapping[str, StageChoice]


class StageNames:
    """The stages that a configuration may name: the registered ones, and those of its own `stages:` section.

    A stage is imported when it is asked for, so that one which is broken disturbs only those who use it.
    """

    def __init__(self, section: Any, problems: Problems) -> None:
        self._own: dict[str, type[Stage[Any]]] = {}
        if section is None:
            return
        if not isinstance(section, Mapping):
            problems.add("stages", "must map a stage's name to 'module:Class'")
            return
        for name, target in section.items():
            try:
                self._own[str(name)] = STAGES.load_from(str(target))
            except ConfigError as error:
                problems.add(f"stages.{name}", str(error))

    def __iter__(self) -> Iterator[str]:
        """Registered names in the order of the registry, then the configuration's own."""
        yield from STAGES
        yield from (name for name in self._own if name not in STAGES)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in STAGES

    def load(self, name: str) -> type[Stage[Any]]:
        """The class of a stage; the configuration's own goes first.

        Raises:
            ConfigError: the registry can't load it.
        """
        own = self._own.get(name)
        if own is not None:
            return own
        stage: type[Stage[Any]] = STAGES.load(name)
        return stage

    def matching(self, wanted: Callable[[type[Stage[Any]]], bool]) -> list[str]:
        """The names of all stages that are wanted. Imports every one; those that are broken are left out."""
        found = []
        for name in self:
            try:
                if wanted(self.load(name)):
                    found.append(name)
            except ConfigError:
                continue
        return found


def is_filter(stage: type[Stage[Any]]) -> bool:
    """Whether it stands in `filters`: it neither splits sources nor adds something to kept samples."""
    return stage.produces is None and not issubclass(stage, Splitter)


def adds_to_kept(stage: type[Stage[Any]]) -> bool:
    """Whether it has a section of its own at the top of a configuration, and measures what is kept."""
    return stage.produces is not None


class Chooser:
    """Reads the sections of a configuration that choose stages, and notes what is wrong with them."""

    def __init__(self, names: StageNames, problems: Problems) -> None:
        self._names, self._problems = names, problems
        self._named: dict[str, type[Stage[Any]]] = {}
        """Key -> stage of everything that is chosen, also where its settings are wrong."""

    def choice(self, key: str, name: str, settings: Any) -> StageChoice | None:
        """The stage `name` at the place `key`; None after noting why not."""
        stage = self._stage(key, name)
        if stage is not None:
            self._named[key] = stage
        checked = None if stage is None else self._problems.check(stage.Config, key, settings)
        return None if stage is None or checked is None else StageChoice(key, stage, checked)

    def additions(self, sections: Mapping[str, Any]) -> tuple[dict[str, StageChoice], list[str]]:
        """Top-level sections that add something to kept samples, in the order of the work; and other keys."""
        found: dict[str, StageChoice | None] = {}
        for name in self._names:
            stage = self._stage(name, name) if name in sections else None
            if stage is not None and adds_to_kept(stage):
                found[name] = self.choice(name, name, sections[name])
        chosen = {key: choice for key, choice in found.items() if choice}
        self._check_products(list(chosen.values()))
        return chosen, [key for key in sections if key not in found]

    def branch(self, kind: str, section: Any) -> BranchChoice | None:
        """The section of one kind of source."""
        if not isinstance(section, Mapping):
            self._problems.add(kind, "must be a mapping of settings")
            return None
        used: list[str] = []
        rule = self._rule(kind, section.get("filters", []), "all", used)
        splitter = self._splitter(kind, section, used) if kind in _SPLIT else None
        self._check_keys(kind, section, used)
        stages = {
            key: choice
            for name in used
            if (choice := self.choice(key := f"{kind}.{name}", name, section.get(name)))
        }
        self._check_kinds(kind, stages)
        chosen = [*filter(None, [splitter]), *stages.values()]
        self._check_inputs(kind, {choice.key: choice for choice in chosen})
        return BranchChoice(rule, splitter, stages)

    def _stage(self, where: str, name: str) -> type[Stage[Any]] | None:
        """A stage that is known; None after noting why it can't be loaded."""
        try:
            return self._names.load(name)
        except ConfigError as error:
            self._problems.add(where, str(error))
            return None

    def _rule(self, kind: str, parts: Any, mode: Mode, used: list[str]) -> RuleChoice:
        where = f"{kind}.filters"
        if not isinstance(parts, list):
            self._problems.add(where, "must be a list of stages, any_of: [...] and all_of: [...]")
            return RuleChoice(mode, ())
        found: list[str | RuleChoice] = []
        for part in parts:
            if isinstance(part, str) and part in used:
                self._problems.add(where, f"{part} stands there twice")
            elif isinstance(part, str):
                if self._is_filter(where, part):
                    used.append(part)
                    found.append(f"{kind}.{part}")
            elif isinstance(part, Mapping) and len(part) == 1 and next(iter(part)) in ("any_of", "all_of"):
                ((key, inner),) = part.items()
                if inner == []:
                    self._problems.add(where, f"{key} is empty")
                found.append(self._rule(kind, inner, "any" if key == "any_of" else "all", used))
            else:
                self._problems.unknown(where, str(part), self._names.matching(is_filter))
        return RuleChoice(mode, tuple(found))

    def _is_filter(self, where: str, name: str) -> bool:
        """Whether `name` may stand in `filters`; False after noting why not."""
        if name in self._names:
            stage = self._stage(where, name)
            if stage is None or is_filter(stage):
                return stage is not None
        self._problems.unknown(where, name, self._names.matching(is_filter))
        return False

    def _splitter(self, kind: str, section: Mapping[str, Any], used: list[str]) -> StageChoice | None:
        """The splitter whose settings stand in the section; by default the registry's."""
        named = [str(key) for key in section if key in self._names and key not in used and self._splits(key)]
        if len(named) > 1:
            self._problems.add(kind, f"{' and '.join(named)} both split; keep one of them")
        name = named[0] if named else SPLITTER
        return self.choice(f"{kind}.{name}", name, section.get(name))

    def _splits(self, name: str) -> bool:
        try:
            return issubclass(self._names.load(name), Splitter)
        except ConfigError:
            return False

    def _check_keys(self, kind: str, section: Mapping[str, Any], used: list[str]) -> None:
        """Every key of a section is `filters`, its splitter, or a filter that is used."""
        for key in section:
            if (
                key == "filters"
                or key in used
                or (kind in _SPLIT and key in self._names and self._splits(key))
            ):
                continue
            able = self._names.matching(is_filter)
            if key in able:
                self._problems.add(
                    f"{kind}.{key}",
                    f"has settings but does not stand in {kind}.filters; put it there, or drop {kind}.{key} "
                    f"(by --set {kind}.{key}=null on the command line)",
                )
            else:
                splitters = self._names.matching(_is_splitter) if kind in _SPLIT else []
                self._problems.unknown(kind, str(key), {*able, "filters", *splitters})

    def _check_kinds(self, section: str, stages: Mapping[str, StageChoice]) -> None:
        """A filter must be able to measure what the section holds."""
        kind = SAMPLES[section]
        for choice in stages.values():
            if kind not in choice.stage.kinds:
                able = self._names.matching(lambda stage: is_filter(stage) and kind in stage.kinds)
                name = choice.key.rpartition(".")[2]
                self._problems.add(
                    f"{section}.filters", f"{name} measures no {kind}s; {', '.join(sorted(able))} do"
                )

    def _check_inputs(self, section: str, choices: Mapping[str, StageChoice]) -> None:
        """A dataset-wide stage reads columns that a stage before it in the rule must measure.

        `choices` are those of the section whose settings are right, by key.
        """
        known = set(GIVEN_COLUMNS)
        for key, stage in self._named.items():
            if not key.startswith(f"{section}."):
                continue
            chosen = choices[key].build() if key in choices else None
            for column in chosen.inputs() if isinstance(chosen, DatasetStage) else ():
                if column not in known:
                    able = self._names.matching(partial(_measures, column))
                    hint = f"put {' or '.join(able)} before it" if able else "no stage has it"
                    self._problems.add(key, f"needs the column {column}; {hint}")
            known |= set(stage.columns)

    def _check_products(self, choices: Sequence[StageChoice]) -> None:
        """Two stages that add the same would leave open which one counts."""
        first: dict[str | None, str] = {}
        for choice in choices:
            product = choice.stage.produces
            other = first.setdefault(product, choice.key)
            if other != choice.key:
                self._problems.add(choice.key, f"adds the {product}, as {other} does; drop one of them")

    def check_needs(self, where: str, needs: Sequence[str]) -> None:
        """`where` takes what stages with sections of their own must add."""
        added = {stage.produces for stage in self._named.values()}
        for product in needs:
            if product not in added:
                able = self._names.matching(partial(_produces, product))
                missing = f"needs {' or '.join(able)}, which the configuration does not have"
                self._problems.add(where, f"{missing}; add it or drop {where}")


def _is_splitter(stage: type[Stage[Any]]) -> bool:
    return issubclass(stage, Splitter)


def _measures(column: str, stage: type[Stage[Any]]) -> bool:
    return column in stage.columns


def _produces(product: str, stage: type[Stage[Any]]) -> bool:
    return stage.produces == product
