"""The JSON schema of a configuration, made from the classes that check it.

An editor completes and checks by it; what only running code can tell, such as which columns a filter needs,
is left to `curation` itself. The schema may let pass what is refused then, and never refuses what is right.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic.json_schema import models_json_schema

from curation.config.choices import SAMPLES, adds_to_kept, is_filter
from curation.config.config import General, Prices, RunSettings
from curation.registry import SHARDS, STAGES, load
from curation.splitter import Splitter
from curation.stage import PATH_FORMAT, Stage, StageConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MODE: Literal["validation"] = "validation"
Schema = dict[str, Any]


def configuration_schema() -> Schema:
    """The schema, for all stages that are registered."""
    stages = {name: STAGES.load(name) for name in STAGES}
    sections = {"run": RunSettings, "prices": Prices, "shards": load(SHARDS).Config}
    sections |= {name: stage.Config for name, stage in stages.items() if adds_to_kept(stage)}
    classes = {General, *sections.values(), *(stage.Config for stage in stages.values())}
    definitions = _Definitions(classes)
    general = definitions.of(General)
    properties = {
        **general["properties"],
        "stages": {
            "description": "Stages of one's own: name -> module:Class.",
            "type": ["object", "null"],
            "additionalProperties": {"type": "string"},
        },
        **{kind: _branch(kind, stages, definitions) for kind in SAMPLES},
        **{key: definitions.section(kind) for key, kind in sections.items()},
    }
    return {
        "$schema": DIALECT,
        "title": "A configuration of curation",
        "type": "object",
        "properties": properties,
        "required": general["required"],
        "anyOf": [{"required": [kind]} for kind in SAMPLES],
        "if": {"not": {"required": ["stages"]}},
        "then": _only_known(properties, stages),
        "$defs": {
            "filters": _filters({"type": "string"}, "#/$defs/filters"),
            "known filters": _filters({"enum": _filter_names(stages)}, "#/$defs/known filters"),
            **definitions.all(),
        },
    }


def _filter_names(stages: Mapping[str, type[Stage[Any]]]) -> list[str]:
    return [name for name, stage in stages.items() if is_filter(stage)]


def _only_known(properties: Mapping[str, Schema], stages: Mapping[str, type[Stage[Any]]]) -> Schema:
    """What holds where no stages of one's own are named: every name is a known one."""
    return {
        "propertyNames": {"enum": [*properties]},
        "properties": {
            kind: {
                "propertyNames": {"enum": [*properties[kind]["properties"]]},
                "properties": {"filters": {"$ref": "#/$defs/known filters"}},
            }
            for kind in SAMPLES
        },
    }


def _filters(names: Schema, itself: str) -> Schema:
    """A list of stages, `any_of` and `all_of`, which hold such lists."""
    rule = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    inner = {"allOf": [{"$ref": itself}], "minItems": 1}
    rule |= {"properties": {"any_of": inner, "all_of": inner}}
    return {"type": "array", "items": {"anyOf": [names, rule]}}


def _branch(kind: str, stages: Mapping[str, type[Stage[Any]]], definitions: _Definitions) -> Schema:
    """The section of one kind of source."""
    able = {
        name: stage
        for name, stage in stages.items()
        if (is_filter(stage) and SAMPLES[kind] in stage.kinds)
        or (kind == "videos" and issubclass(stage, Splitter))
    }
    filters = {
        "description": "All must let a sample pass, in this order; any_of: [...] and all_of: [...] nest.",
        "$ref": "#/$defs/filters",
    }
    return {
        "type": "object",
        "properties": {
            "filters": filters,
            **{name: definitions.section(stage.Config) for name, stage in able.items()},
        },
    }


class _Definitions:
    """The schemas of classes of settings, each with the string below a field as its description."""

    def __init__(self, classes: Iterable[type[StageConfig]]) -> None:
        every = sorted({*_with_sections(classes)}, key=lambda kind: (kind.__module__, kind.__name__))
        names, schema = models_json_schema([(kind, _MODE) for kind in every], ref_template="#/$defs/{model}")
        self._refs: dict[type[StageConfig], str] = {kind: names[kind, _MODE]["$ref"] for kind in every}
        self._all: dict[str, Schema] = schema["$defs"]
        for kind in every:
            self._complete(kind)

    def of(self, kind: type[StageConfig]) -> Schema:
        """The schema of a class."""
        schema: Schema = _plain(self._all[self._name_of(kind)])
        return schema

    def section(self, kind: type[StageConfig]) -> Schema:
        """What may stand where a section of this class does: nothing is the defaults."""
        if self.of(kind).get("required"):
            return {"$ref": self._refs[kind]}
        return {"anyOf": [{"$ref": self._refs[kind]}, {"type": "null"}]}

    def all(self) -> dict[str, Schema]:
        """Name -> schema, as they refer to each other."""
        return {name: _plain(schema) for name, schema in sorted(self._all.items())}

    def _name_of(self, kind: type[StageConfig]) -> str:
        return self._refs[kind].rpartition("/")[2]

    def _complete(self, kind: type[StageConfig]) -> None:
        properties = self._all[self._name_of(kind)].setdefault("properties", {})
        for name, text in field_descriptions(kind).items():
            properties[name]["description"] = text
        for key in sorted(kind.known_keys()):
            section = kind.section_class(key)
            if key not in properties and section is not None:
                properties[key] = self.section(section)


def _with_sections(classes: Iterable[type[StageConfig]]) -> Iterator[type[StageConfig]]:
    """Classes, and those of the sections inside of them."""
    for kind in classes:
        yield kind
        yield from _with_sections(
            section for key in kind.known_keys() if (section := kind.section_class(key)) is not None
        )


def field_descriptions(kind: type[StageConfig]) -> dict[str, str]:
    """Name of each setting -> the string below it, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, StageConfig) and base is not StageConfig:
            found |= _strings_below(base)
    return {name: text for name, text in found.items() if name in kind.model_fields}


def _strings_below(kind: type[StageConfig]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _plain(schema: Any, *, of_names: bool = False) -> Any:
    """A schema without the titles that pydantic makes of names.

    A path's pattern goes, too: it holds for what the path is after its variables are replaced.
    """
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = set() if of_names else {"title"}
    if schema.get("format") == PATH_FORMAT:
        left_out |= {"pattern"}
    return {
        key: _plain(value, of_names=key == "properties" and not of_names)
        for key, value in schema.items()
        if key not in left_out
    }
