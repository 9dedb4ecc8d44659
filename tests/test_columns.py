"""Rules by column against the scalar `decide`: random rules, random rows, equal row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.ledger.columns import NONE, OUTCOMES, Labels, Measured, RuleEvaluator
from curation.pipeline.rules import AllOf, AnyOf, Rule, Step, decide, passed_by
from curation.records import Row
from curation.stages.aesthetic import AestheticConfig, AestheticStage
from curation.stages.color import ColorConfig, ColorStage
from curation.stages.duplicates import DuplicatesConfig, DuplicatesStage
from curation.stages.flow import FlowConfig, FlowStage
from curation.stages.resolution import ResolutionConfig, ResolutionStage

STAND_IN = AestheticConfig(weights="stand-in", head="stand-in", min_score=0.1)
STEPS = (
    Step("resolution", ResolutionStage(ResolutionConfig(min_width=512, min_height=256)), "r"),
    Step("aesthetic", AestheticStage(STAND_IN), "a"),
    Step("color", ColorStage(ColorConfig(min_colorfulness=5.0, min_untinted_colorfulness=None)), "c"),
    Step("flow", FlowStage(FlowConfig(min_score=0.1, max_score=0.3)), "f"),
    Step("duplicates", DuplicatesStage(DuplicatesConfig(min_distance=5.0)), "d"),
)
COLUMNS = {step.key: [mark.column for mark in step.stage.thresholds().values()] for step in STEPS}
AT_BOUNDS = [0.1, 0.3, 5.0, 512.0, 256.0]
SCORES = st.one_of(
    st.sampled_from([*AT_BOUNDS, *(float(np.float32(bound)) for bound in AT_BOUNDS)]),
    st.sampled_from([float(np.nextafter(bound, side)) for bound in AT_BOUNDS for side in (0.0, 1e9)]),
    st.floats(0, 1000, width=32),
)
RULES: st.SearchStrategy[Rule] = st.recursive(
    st.sampled_from(STEPS),
    lambda rules: st.one_of(
        st.lists(rules, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(rules, min_size=1, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=7,
)


@st.composite
def rows_of_a_sample(draw: st.DrawFn) -> dict[str, Row]:
    rows = {}
    for step in STEPS:
        what = draw(st.sampled_from(["absent", "failed", "ok", "ok", "ok"]))
        if what == "failed":
            rows[step.key] = Row("s", {}, draw(st.sampled_from(["DecodeError", "PoisonSource"])), "why")
        elif what == "ok":
            nullable = step.key == "duplicates"
            score = st.none() | SCORES if nullable else SCORES
            rows[step.key] = Row("s", {column: draw(score) for column in COLUMNS[step.key]})
    return rows


def measured(samples: Sequence[Mapping[str, Row]], labels: Labels) -> dict[str, Measured]:
    found = {}
    for step in STEPS:
        rows = [rows.get(step.key) for rows in samples]
        errors = pa.array([row.error_type if row else None for row in rows], pa.string())
        values: dict[str, Any] = {
            column: np.array([row.values.get(column) if row else None for row in rows], np.float64)
            for column in COLUMNS[step.key]
        }
        found[step.key] = Measured(
            np.array([row is not None for row in rows], np.bool_),
            np.array([row is not None and row.ok for row in rows], np.bool_),
            labels.codes(errors),
            values,
        )
    return found


def name(texts: Sequence[str], code: int) -> str | None:
    return None if code == NONE else texts[code]


@settings(deadline=None)  # the first one imports Arrow's kernels
@given(RULES, st.lists(rows_of_a_sample(), max_size=8))
@example(AnyOf((STEPS[1], STEPS[3])), [{"aesthetic": Row("s", {"aesthetic_score": float(np.float32(0.1))})}])
def test_columns_agree_with_the_scalar_decision(rule: Rule, samples: list[dict[str, Row]]) -> None:
    labels = Labels()
    keys = [step.key for step in STEPS]
    evaluator = RuleEvaluator(
        measured(samples, labels), len(samples), {key: code for code, key in enumerate(keys)}, labels
    )
    verdicts = evaluator.decide(rule)
    passed = evaluator.passed_by(rule)
    for place, rows in enumerate(samples):
        said = decide(rule, rows)
        assert OUTCOMES[verdicts.outcome[place]] is said.outcome
        assert name(labels.texts, verdicts.reason[place]) == said.reason
        assert name(keys, verdicts.step[place]) == (said.step.key if said.step else None)
        assert name(keys, verdicts.needs[place]) == (said.needs.key if said.needs else None)
        assert [(any_of, part) for any_of, part, who in passed if who[place]] == list(passed_by(rule, rows))


class Noting(dict[str, Row]):
    """Rows of a sample that note which of them `decide` looks for."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        super().__init__(rows)
        self.looked_for: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_for.add(key)
        return super().get(key, default)


@settings(deadline=None)
@given(RULES, st.lists(rows_of_a_sample(), max_size=8))
def test_steps_that_a_rule_comes_to_are_those_that_the_scalar_decision_looks_for(
    rule: Rule, samples: list[dict[str, Row]]
) -> None:
    labels = Labels()
    codes = {step.key: code for code, step in enumerate(STEPS)}
    evaluator = RuleEvaluator(measured(samples, labels), len(samples), codes, labels)
    among = np.arange(len(samples)) % 3 != 1
    asked = evaluator.asked(rule, among)
    for place, rows in enumerate(samples):
        noting = Noting(rows)
        decide(rule, noting)
        expected = noting.looked_for if among[place] else set()
        assert {key for key, of_key in asked.items() if of_key[place]} == expected


def test_taking_none_gives_a_sample_without_a_row() -> None:
    one = measured([{"aesthetic": Row("s", {"aesthetic_score": 7.0})}], Labels())["aesthetic"]
    taken = one.take(np.array([0, -1]))
    assert taken.present.tolist() == [True, False]
    assert taken.ok.tolist() == [True, False]
    assert taken.values["aesthetic_score"][0] == 7.0
    nothing = measured([], Labels())["aesthetic"].take(np.array([-1, -1]))
    assert nothing.present.tolist() == [False, False]


def test_labels_keep_their_codes() -> None:
    labels = Labels()
    assert labels.codes(pa.array(["b", None, "a", "b"])).tolist() == [0, NONE, 1, 0]
    assert labels.codes(pa.chunked_array([["a"], [None, "c"]])).tolist() == [1, NONE, 2]
    assert labels.column(np.array([2, NONE, 0])).to_pylist() == ["c", None, "b"]
