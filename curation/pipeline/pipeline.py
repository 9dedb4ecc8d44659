"""A configuration made ready to run: stages built, model revisions resolved, fingerprints known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from curation.config import BranchChoice, Config, RuleChoice, StageChoice
from curation.dataset_stage import DatasetStage
from curation.errors import ConfigError
from curation.errors.redaction import redact, redact_settings
from curation.media.halvings import HALVINGS_VERSION
from curation.media.pictures.render import PIXELS_VERSION
from curation.pipeline.models import Checklist, check_package, check_reachable, resolve_revision
from curation.pipeline.parts import StepParts
from curation.pipeline.rules import AllOf, AnyOf, Rule, Step, steps_of, with_step
from curation.records import Sample, SourceKind
from curation.registry import STAGES
from curation.splitter import Splitter
from curation.stage import ModelRef, Stage


@dataclass(frozen=True)
class ResolvedModel:
    """A model as a run uses it, its name without secrets; goes to run.json, where the next run finds it."""

    step: str
    role: str
    name: str
    asked: str | None
    revision: str
    stand_in: bool
    precision: str | None = None


@dataclass(frozen=True)
class Branch:
    """The way of one kind of source: a splitter for videos, and the rule for its samples."""

    splitter: Step | None
    rule: Rule

    @property
    def whole_rule(self) -> Rule:
        """The rule that every sample goes through; the splitter's own thresholds come first."""
        return AllOf((self.splitter, self.rule)) if self.splitter else self.rule


@dataclass(frozen=True)
class Pipeline:
    """Everything that planner, workers and report share. Picklable; weights are loaded by workers."""

    config: Config
    branches: Mapping[SourceKind, Branch]
    enrich: AllOf
    models: tuple[ResolvedModel, ...]

    def steps(self) -> Iterator[Step]:
        """Every step, in the order of the work."""
        for branch in self.branches.values():
            if branch.splitter:
                yield branch.splitter
            yield from steps_of(branch.rule)
        yield from steps_of(self.enrich)

    def step_of(self, key: str) -> Step | None:
        """The step at a place of the configuration."""
        return next((step for step in self.steps() if step.key == key), None)

    def producer(self, column: str) -> Step | None:
        """The step that adds this column to kept samples, such as "caption"."""
        return next((step for step in steps_of(self.enrich) if step.stage.produces == column), None)

    def with_step(self, step: Step) -> Pipeline:
        """The pipeline with `step` in place of the one with its key, in a rule."""
        branches = {
            kind: replace(branch, rule=with_step(branch.rule, step)) for kind, branch in self.branches.items()
        }
        return replace(self, branches=branches)

    def windows(self, sample: Sample) -> list[Sample]:
        """What is worked on of a kept sample: the sample itself, or the windows of a long clip."""
        samples = [sample]
        for step in steps_of(self.enrich):
            samples = [window for part in samples for window in step.stage.expand(part)]
        return samples

    def revisions(self, step: Step) -> dict[str, str]:
        """Role -> revision of a step's models."""
        return {model.role: model.revision for model in self.models if model.step == step.key}

    def distributions(self) -> set[str]:
        """Installed packages that the steps' numbers come from, those of other people's stages included."""
        stages = [step.stage for step in self.steps()]
        named = [name for stage in stages for name in stage.distributions()]
        return {*named, *(dist for stage in stages for dist in STAGES.distributions(stage.name, type(stage)))}

    @property
    def stand_ins(self) -> list[ResolvedModel]:
        """The models that are untrained."""
        return [model for model in self.models if model.stand_in]


@dataclass(frozen=True)
class Readiness:
    """What a run checks of models that its output has not been measured with before, and where it notes it.

    Attributes:
        packages: Whether the packages that stages import must be on this machine.
    """

    checklist: Checklist
    packages: bool


def build_pipeline(
    config: Config,
    recorded: list[dict[str, Any]] | None = None,
    *,
    accept_new_models: bool = False,
    as_recorded: bool = False,
    readiness: Readiness | None = None,
) -> Pipeline:
    """Build the stages and resolve their models.

    Args:
        config: A checked configuration.
        recorded: `models` of this output's run.json, which hub names keep standing for.
        accept_new_models: Resolve anew and take what comes.
        as_recorded: For reading: recorded models are what they were, and need not be there any more.
        readiness: Whether new models must be ready for use. What is missing is then noted there, and the
            caller, who may have more to check, raises it.

    Raises:
        ConfigError: a model is not the recorded one, and that was not accepted.
        MissingDependencyError: a model can't be resolved.
    """
    known = (
        {}
        if accept_new_models
        else {(m["name"], m["asked"], m["role"]): m["revision"] for m in recorded or []}
    )
    checklist = Checklist() if readiness is None else readiness.checklist
    builder = _Builder(
        known,
        checklist,
        readiness,
        as_recorded=as_recorded,
        tone_maps=config.decoder.tone_maps,
        image_short_side=config.general.image_decode_short_side,
    )
    branches: dict[SourceKind, Branch] = {}
    if config.images:
        branches["image"] = builder.branch(config.images)
    if config.videos:
        branches["video"] = builder.branch(config.videos, PIXELS_VERSION)
    additions = [builder.step(choice) for choice in config.additions.values()]
    if readiness is None:
        builder.checklist.finish()
    return Pipeline(config, branches, AllOf(tuple(additions)), tuple(builder.models))


class _Builder:
    def __init__(
        self,
        known: Mapping[tuple[str, str | None, str], str],
        checklist: Checklist,
        readiness: Readiness | None,
        *,
        as_recorded: bool,
        tone_maps: bool,
        image_short_side: int | None,
    ) -> None:
        self._known = known
        self._as_recorded = as_recorded
        self._tone_maps = tone_maps
        self._image_short_side = image_short_side
        self._readiness = readiness
        self._resolved: dict[ModelRef, str] = {}
        self.checklist = checklist
        self.models: list[ResolvedModel] = []

    def branch(self, choice: BranchChoice, pixels: int | None = None) -> Branch:
        """`pixels` is the version of what the branch's stages look at, where that may change."""
        steps = {key: self.step(stage, pixels) for key, stage in choice.stages.items()}
        splitter = self.step(choice.splitter, pixels) if choice.splitter else None
        return Branch(splitter, self._rule(choice.rule, steps))

    def _rule(self, choice: RuleChoice, steps: Mapping[str, Step]) -> Rule:
        parts = tuple(
            steps[part] if isinstance(part, str) else self._rule(part, steps) for part in choice.parts
        )
        return AllOf(parts) if choice.mode == "all" else AnyOf(parts)

    def step(self, choice: StageChoice, pixels: int | None = None) -> Step:
        stage = choice.build()
        revisions = {}
        for ref in stage.models():
            revisions[ref.role] = self.checklist.attempt(choice.key, partial(self._revision, ref)) or ""
            self.models.append(
                ResolvedModel(
                    choice.key,
                    ref.role,
                    redact(ref.name),
                    ref.revision,
                    revisions[ref.role],
                    ref.stand_in,
                    ref.precision,
                )
            )
        self._check_packages(choice.key, stage)
        parts = StepParts(
            stage.name,
            stage.version,
            tuple(sorted(stage.columns)),
            redact_settings(stage.measure_settings()),
            revisions,
            tuple(self._looked_at(choice, stage, pixels)),
        )
        is_bound = not isinstance(stage, DatasetStage)
        return Step(choice.key, stage, parts.fingerprint(), is_bound=is_bound, parts=parts)

    def _looked_at(self, choice: StageChoice, stage: Stage[Any], pixels: int | None) -> list[str]:
        """What the numbers of a stage that looks at pixels depend on besides itself.

        What is added to kept samples is added to images, too, which shall not be measured anew because
        videos change: there, only HDR that is not tone-mapped counts.
        """
        view = stage.view("image" if choice.key.startswith("images.") else "clip")
        halved = [f"halvings {HALVINGS_VERSION}"] if view is not None and view.halved else []
        if choice.key.startswith("images.") and view is not None and self._image_short_side is not None:
            return [*halved, f"JPEGs decoded to {self._image_short_side}"]
        if choice.key.startswith("images.") or (view is None and not isinstance(stage, Splitter)):
            return halved
        version = halved if pixels is None else [*halved, f"pixels {pixels}"]
        return version if self._tone_maps else [*version, "hdr not tone-mapped"]

    def _check_packages(self, key: str, stage: Stage[Any]) -> None:
        """What a stage imports, unless its models were all there when the output was begun."""
        if self._readiness is None or not self._readiness.packages:
            return
        if all(self._known_revision(ref) is not None for ref in stage.models()):
            return
        for package, extra in stage.packages().items():
            self.checklist.attempt(key, partial(check_package, package, extra))

    def _known_revision(self, ref: ModelRef) -> str | None:
        return self._known.get((redact(ref.name), ref.revision, ref.role))

    def _revision(self, ref: ModelRef) -> str:
        if ref not in self._resolved:
            self._resolved[ref] = self._resolve(ref)
        return self._resolved[ref]

    def _resolve(self, ref: ModelRef) -> str:
        known = self._known_revision(ref)
        if known is not None and (self._as_recorded or ref.is_on_hub):
            return known
        now = resolve_revision(ref)
        if known is None and self._readiness is not None:
            check_reachable(ref, now)
        if known not in (None, now):
            raise ConfigError(
                f"the {ref.role} model {ref.name} was {known[:12]} when this output was begun and is "
                f"{now[:12]} now; use --accept-new-models to measure again with the new one"
            )
        return now
