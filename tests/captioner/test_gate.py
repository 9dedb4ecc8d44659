"""What is a caption and what is not. The texts are written by hand; what is wrong with each is plain."""

# ruff: noqa: RUF001  texts of other scripts

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.captioner.gate import SCRIPTS, VERDICTS, GateConfig, judge

PROMPT = "Describe this image in English in one sentence: the main subject and what it does or where it is."
GOOD = [
    "A brown dog runs across a meadow and catches a red ball while the camera follows it to the left.",
    "Two children, one in a yellow coat, build a sandcastle; the waves behind them are calm.",
    "I'm told by the sign that this is 'Platform 9': a train stands at the empty platform.",
    "A man who looks sorry holds a broken cup; he cannot look at the woman beside him.",
    "The AI laboratory's door stands open, and a robot arm moves a cup from left to right.",
]


def verdict(text: str, finish_reason: str = "stop", language: str = "English", **settings: Any) -> str | None:
    return judge(text, finish_reason, PROMPT, language, GateConfig(**settings))


@pytest.mark.parametrize("text", GOOD)
def test_captions_pass(text: str) -> None:
    assert verdict(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("!" * 200, "degenerate"),
        ("A dog!!!!!!!!!!!!!!!!", "degenerate"),
        (". . - - / / * * + + = = A", "degenerate"),
        ("I'm sorry, but I can't help with that request about the image.", "refused"),
        ("I\u2019m sorry, I can\u2019t describe people in this image at all.", "refused"),
        ("I cannot describe this image because it shows a person.", "refused"),
        ("As an AI language model, I am unable to view images directly.", "refused"),
        ("Unfortunately, I am unable to see any video in your message.", "refused"),
        ("抱歉，我无法描述这张图片中的内容。", "refused"),
        ("Sure! Describe this image in English in one sentence: the main subject and more.", "prompt_echo"),
        ("A dog runs.<|im_end|><|im_start|>user", "prompt_echo"),
        ("A dog runs and then " + "the dog runs and then " * 10, "repeated_ngrams"),
        ("一只棕色的狗跑过草地，接住了一个红色的球。", "wrong_script"),
        ("Коричневая собака бежит по лугу и ловит красный мяч.", "wrong_script"),
        ("A dog.", "too_short"),
        (" ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(601)), "too_long"),
    ],
)
def test_others_are_named(text: str, expected: str) -> None:
    assert verdict(text) == expected


def test_engine_knows_what_was_cut_off_filtered_or_repeated() -> None:
    assert verdict(GOOD[0], "length") == "cut_off"
    assert verdict(GOOD[0], "content_filter") == "refused"
    assert verdict(GOOD[0], "repetition") == "repeated_ngrams"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("Chinese", "一只棕色的狗跑过草地，接住了一个红色的球。"),
        ("Japanese", "茶色の犬が草原を走り、赤いボールをキャッチします。"),
        ("Korean", "갈색 개가 초원을 가로질러 달려가 빨간 공을 잡는다."),
        ("Russian", "Коричневая собака бежит по лугу и ловит красный мяч."),
        ("Hindi", "एक भूरा कुत्ता मैदान में दौड़ता है और लाल गेंद पकड़ता है।"),
        ("Arabic", "كلب بني يركض عبر المرج ويمسك بكرة حمراء."),
        ("Thai", "สุนัขสีน้ำตาลวิ่งข้ามทุ่งหญ้าและคาบลูกบอลสีแดง"),
        ("German", "Ein brauner Hund läuft über die Wiese und fängt einen roten Ball."),
        ("Greek", "Ένας καφέ σκύλος τρέχει στο λιβάδι και πιάνει μια κόκκινη μπάλα."),
    ],
)
def test_each_language_has_its_script(language: str, text: str) -> None:
    assert verdict(text, language=language) is None
    foreign = "Russian" if SCRIPTS[language] != SCRIPTS["Russian"] else "English"
    assert verdict(text, language=foreign) == "wrong_script"


# At the limit is still fine, one beyond is not. Counted by hand.
@pytest.mark.parametrize(
    ("settings", "fine", "beyond", "expected"),
    [
        ({"max_run": 4}, "An owl says whooooo"[:-1] + " now", "An owl says whoooooo now", "degenerate"),
        ({"min_words": 4}, "A dog runs away", "A dog runs", "too_short"),
        ({"max_words": 4}, "A dog runs away", "A dog runs away now", "too_long"),
        # 12 letters of 16 and of 17 characters.
        ({"min_letter_fraction": 0.75}, "A dog runs away. (-)", "A dog runs away. (-;)", "degenerate"),
        (
            {"max_echo_words": 4},
            "See the main subject and go",
            "See the main subject and what",
            "prompt_echo",
        ),
        # Of 5 runs of four words one has come before; of 6, two.
        ({"max_repeated_fraction": 0.2}, "a b c d a b c d", "a b c d a b c d a", "repeated_ngrams"),
    ],
)
def test_limits(settings: dict[str, Any], fine: str, beyond: str, expected: str) -> None:
    base = {"min_words": 0} | settings
    assert verdict(fine, **base) is None
    assert verdict(beyond, **base) == expected


@given(text=st.text(max_size=300), reason=st.sampled_from(["stop", "length", "unknown"]))
def test_any_text_gets_a_known_verdict(text: str, reason: str) -> None:
    for language in ("English", "Chinese"):
        assert verdict(text, reason, language) in (None, *VERDICTS)
