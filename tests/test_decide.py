"""Verdicts from rows and thresholds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.pipeline.rules import (
    AllOf,
    AnyOf,
    Rule,
    Step,
    any_ofs_of,
    decide,
    describe_rule,
    passed_by,
    steps_of,
)
from curation.records import Outcome, Row
from curation.stages.aesthetic import AestheticConfig, AestheticStage
from curation.stages.color import ColorConfig, ColorStage
from curation.stages.flow import FlowConfig, FlowStage
from curation.stages.resolution import ResolutionConfig, ResolutionStage
from curation.stages.text import TextConfig, TextStage

RESOLUTION = Step("resolution", ResolutionStage(ResolutionConfig()), "r")
AESTHETIC = Step("aesthetic", AestheticStage(AestheticConfig(weights="stand-in", head="stand-in")), "a")
COLOR = Step("color", ColorStage(ColorConfig()), "c")
TEXT = Step("text", TextStage(TextConfig()), "t")
EMU3 = AllOf((RESOLUTION, AnyOf((AESTHETIC, AllOf((COLOR, TEXT))))))

BIG = Row("s", {"width": 512, "height": 512})
UGLY = Row("s", {"aesthetic_score": 5.49})
NICE = Row("s", {"aesthetic_score": 5.5})
COLORFUL = Row("s", {"colorfulness": 5.0, "untinted_colorfulness": 6.0})
GRAY = Row("s", {"colorfulness": 0.0, "untinted_colorfulness": 0.0})
PLAIN = Row("s", {"text_coverage": 0.1})
WORDY = Row("s", {"text_coverage": 0.11})
BROKEN = Row("s", {}, "DecodeError", "gone")


def outcome(**rows: Row) -> tuple[str, str | None, str | None]:
    verdict = decide(EMU3, rows)
    return verdict.outcome.value, verdict.reason, verdict.needs.key if verdict.needs else None


def test_first_missing_measurement_is_what_is_needed() -> None:
    assert outcome() == ("pending", None, "resolution")
    assert outcome(resolution=BIG) == ("pending", None, "aesthetic")


def test_second_branch_is_needed_only_after_the_first_rejects() -> None:
    assert outcome(resolution=BIG, aesthetic=NICE) == ("kept", None, None)
    assert outcome(resolution=BIG, aesthetic=UGLY) == ("pending", None, "color")
    assert outcome(resolution=BIG, aesthetic=UGLY, color=COLORFUL) == ("pending", None, "text")
    assert outcome(resolution=BIG, aesthetic=UGLY, color=COLORFUL, text=PLAIN) == ("kept", None, None)


def test_rejected_early_needs_nothing_more() -> None:
    small = Row("s", {"width": 511, "height": 512})
    assert outcome(resolution=small) == ("rejected", "width_below_min", None)


def test_reasons_of_all_branches_are_given() -> None:
    reason = "aesthetic_score_below_min+colorfulness_below_min"
    assert outcome(resolution=BIG, aesthetic=UGLY, color=GRAY) == ("rejected", reason, None)
    reason = "aesthetic_score_below_min+text_coverage_above_max"
    assert outcome(resolution=BIG, aesthetic=UGLY, color=COLORFUL, text=WORDY) == ("rejected", reason, None)


def test_failed_branch_leaves_the_other_a_chance_but_is_not_a_rejection() -> None:
    assert outcome(resolution=BIG, aesthetic=BROKEN) == ("pending", None, "color")
    assert outcome(resolution=BIG, aesthetic=BROKEN, color=COLORFUL, text=PLAIN)[0] == "kept"
    assert outcome(resolution=BIG, aesthetic=BROKEN, color=GRAY) == ("failed", "DecodeError", None)


def test_both_flow_bounds_apply_with_reasons_of_their_own() -> None:
    flow = FlowStage(FlowConfig(min_score=0.25, max_score=0.5))
    reasons = [flow.reject_reason({"flow_score": score}) for score in (0.249, 0.25, 0.5, 0.501)]
    assert reasons == ["flow_score_below_min", None, None, "flow_score_above_max"]


def test_threshold_that_is_off_rejects_nothing() -> None:
    assert TextStage(TextConfig(max_text_coverage=None)).reject_reason({"text_coverage": 1.0}) is None


STEPS = (RESOLUTION, AESTHETIC, COLOR, TEXT)
GOOD = {"resolution": BIG, "aesthetic": NICE, "color": COLORFUL, "text": PLAIN}
BAD = {"resolution": Row("s", {"width": 1, "height": 1}), "aesthetic": UGLY, "color": GRAY, "text": WORDY}
RULES: st.SearchStrategy[Rule] = st.recursive(
    st.sampled_from(STEPS),
    lambda rules: st.one_of(
        st.lists(rules, min_size=1, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(rules, min_size=1, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=6,
)


def holds(rule: Rule, good: set[str]) -> bool:
    """Plain Boolean logic, as the reference."""
    if isinstance(rule, Step):
        return rule.key in good
    values = [holds(part, good) for part in rule.rules]
    return all(values) if isinstance(rule, AllOf) else any(values)


@given(RULES)
def test_measured_rules_agree_with_boolean_logic(rule: Rule) -> None:
    for flags in itertools.product((True, False), repeat=4):
        good = {step.key for step, flag in zip(STEPS, flags, strict=True) if flag}
        rows = {key: GOOD[key] if key in good else BAD[key] for key in GOOD}
        assert (decide(rule, rows).outcome is Outcome.KEPT) == holds(rule, good)


@given(RULES, st.sets(st.sampled_from([step.key for step in STEPS])))
def test_measuring_what_is_needed_ends_in_a_verdict(rule: Rule, good: set[str]) -> None:
    rows: dict[str, Row] = {}
    for _ in range(10):
        needs = decide(rule, rows).needs
        if needs is None:
            break
        assert needs.key not in rows
        rows[needs.key] = GOOD[needs.key] if needs.key in good else BAD[needs.key]
    assert (decide(rule, rows).outcome is Outcome.KEPT) == holds(rule, good)


@pytest.mark.parametrize("rule", [EMU3])
def test_steps_come_in_the_order_of_the_rule(rule: Rule) -> None:
    assert [step.key for step in steps_of(rule)] == ["resolution", "aesthetic", "color", "text"]


def passages(rule: Rule, **rows: Row) -> list[str]:
    return [describe_rule(part) for _, part in passed_by(rule, rows)]


def test_branch_that_kept_a_sample_is_named() -> None:
    assert passages(EMU3, resolution=BIG, aesthetic=NICE) == ["aesthetic"]
    assert passages(EMU3, resolution=BIG, aesthetic=NICE, color=COLORFUL, text=PLAIN) == ["aesthetic"]
    assert passages(EMU3, resolution=BIG, aesthetic=UGLY, color=COLORFUL, text=PLAIN) == ["color then text"]
    assert passages(EMU3, resolution=BIG, aesthetic=UGLY, color=COLORFUL, text=WORDY) == []
    assert passages(EMU3, resolution=BIG, aesthetic=UGLY, color=COLORFUL) == []
    assert passages(EMU3, resolution=BAD["resolution"], aesthetic=NICE) == []


def test_nested_branches_are_all_named() -> None:
    rule = AnyOf((AESTHETIC, AllOf((RESOLUTION, AnyOf((COLOR, TEXT))))))
    rows = {"aesthetic": UGLY, "resolution": BIG, "color": GRAY, "text": PLAIN}
    assert passages(rule, **rows) == ["resolution then (color or text)", "text"]
    assert [describe_rule(part) for part in any_ofs_of(rule)] == [describe_rule(rule), "color or text"]


@given(RULES, st.sets(st.sampled_from([step.key for step in STEPS])))
def test_what_kept_a_sample_keeps_it(rule: Rule, good: set[str]) -> None:
    rows = {key: GOOD[key] if key in good else BAD[key] for key in GOOD}
    for any_of, part in passed_by(rule, rows):
        assert part in any_of.rules
        assert holds(part, good)
    if isinstance(rule, AnyOf):
        assert bool(list(passed_by(rule, rows))) == holds(rule, good)
