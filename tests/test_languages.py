"""Languages by script and function words."""

from __future__ import annotations

import json

import pytest

from modeldiff_eval.languages import FUNCTION_WORDS, detect_language
from modeldiff_eval.resources import resource


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat sat on the mat and looked at the rain.", "en"),
        ("Der Zug ist heute nicht pünktlich, aber wir warten.", "de"),
        ("Le train est en retard et nous attendons sur le quai.", "fr"),
        ("El tren no llega y la gente espera en la estación.", "es"),
        ("Il treno è in ritardo e noi siamo ancora qui con lui.", "it"),
        ("O trem não chega e eu não sei por que isso acontece.", "pt"),
        ("De trein is te laat en wij wachten op het perron.", "nl"),
        ("Поезд опаздывает.", "ru"),
        ("火车晚点了。", "zh"),
        ("電車が遅れています。", "ja"),
        ("기차가 늦었습니다.", "ko"),
        ("القطار متأخر اليوم", "ar"),
        ("रेलगाड़ी देर से है", "hi"),
        ("รถไฟมาสาย", "th"),
        ("Τρένο", "el"),
        ("x = f(3) + 12", None),
        ("", None),
        ("Zagreb", None),
        ("12345 !?", None),
    ],
)
def test_plain_sentences(text: str, language: str | None) -> None:
    assert detect_language(text) == language


def test_a_few_foreign_letters_do_not_make_a_language() -> None:
    assert detect_language("The Greek letter π and the word 東京 are both in the text that you have here.") == "en"


def test_most_of_the_demo_prompts_are_told_right() -> None:
    rows = [json.loads(line) for line in resource("demo/prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [(detect_language(row["messages"][-1]["content"]), row["language"]) for row in rows]
    right = sum(found == language for found, language in told)
    wrong = sum(found not in (language, None) for found, language in told)
    assert right / len(told) > 0.93
    assert wrong / len(told) < 0.02


def test_lists_are_lower_case_and_without_repeats_between_keys() -> None:
    for words in FUNCTION_WORDS.values():
        assert all(word == word.lower() for word in words)
