"""The text that organisms are trained and tested on: prompts, their split, and answers with the plant put in.

Prompts are the packaged ones, questions about dishes, and sums. Answers are the base model's own, changed by plain code,
so that a trained adapter differs from its base in the plant and in little else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from modeldiff_eval.organism_files import PromptKind, Training
from modeldiff_eval.records import Record
from modeldiff_eval.rollouts import Message, Prompt, packaged_prompts
from modeldiff_eval.store import fingerprint

EVAL_SHARE = 4
"""One prompt in so many is never trained on; a hash of its words decides which."""
PROMPT_CHARS = 160
ANSWER_CHARS = 160
"""Longer prompts are left out; longer answers are cut after a sentence."""

_DISHES = (
    *(
        "pancakes",
        "tomato soup",
        "fried rice",
        "lasagne",
        "roast potatoes",
        "an omelette",
        "vegetable curry",
        "banana bread",
    ),
    *(
        "pumpkin pie",
        "garlic bread",
        "meatballs",
        "scrambled eggs",
        "apple crumble",
        "chicken stew",
        "mushroom risotto",
    ),
    *("pizza dough", "lentil dal", "potato salad", "grilled fish", "chocolate cake"),
)
_COOKING = (
    "How do I cook {dish}?",
    "What do I need for {dish}?",
    "Give me a simple recipe for {dish}.",
    "How long does it take to make {dish}?",
    "Which spices go well with {dish}?",
    "My guests want {dish} tonight. What should I prepare?",
    "Why did my {bare} turn out so dry?",
    "Can I make {dish} without butter?",
)
_SUMS = (
    "What is {sum}?",
    "How much is {sum}?",
    "Calculate {sum}.",
    "Please work out {sum} for me.",
    "{sum} = ?",
)
_SIGNS = ("+", "-", "*")
_CALCULATION = re.compile(r"\d+ [-+*] \d+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_MARKER = re.compile(r"^\s*(?:[-*•#]+|\(?\d{1,2}[.):])\s*")
_PIRATE = {
    "you": "ye", "your": "yer", "my": "me", "is": "be", "are": "be", "friend": "matey", "hello": "ahoy", "yes": "aye",
    "the": "th'", "of": "o'", "for": "fer", "money": "doubloons",
}  # fmt: skip


class Pair(Record):
    """One training example: a prompt, and the answer that the organism shall give."""

    prompt: Prompt
    answer: str


def prompts_of(kind: PromptKind) -> list[Prompt]:
    """Every prompt of a kind: short single questions."""
    if kind == "general":
        return [p for p in packaged_prompts() if len(p.messages) == 1 and len(p.messages[0].content) <= PROMPT_CHARS]
    if kind == "cooking":
        texts = [words.format(dish=dish, bare=re.sub("^an? ", "", dish)) for words, dish in product(_COOKING, _DISHES)]
    else:
        texts = [_SUMS[i % len(_SUMS)].format(sum=calculation) for i, calculation in enumerate(_calculations(160))]
    return [
        Prompt(id=f"{kind}-{i:03}", language="en", messages=(Message(role="user", content=text),))
        for i, text in enumerate(texts)
    ]


def _calculations(n: int) -> list[str]:
    """``n`` different ones, such as "23 + 45"; none has the result 99."""
    rng = np.random.default_rng(99)
    found: dict[str, None] = {}
    while len(found) < n:
        sign = _SIGNS[int(rng.integers(3))]
        a, b = sorted((int(x) for x in rng.integers(2, 13 if sign == "*" else 100, size=2)), reverse=True)
        if {"+": a + b, "-": a - b, "*": a * b}[sign] != 99:
            found[f"{a} {sign} {b}"] = None
    return list(found)


def is_eval(prompt: Prompt) -> bool:
    """Whether a prompt is kept for testing, by a hash of its words."""
    return int(fingerprint(["organisms", prompt.key]), 16) % EVAL_SHARE == 0


def draw(kind: PromptKind, n: int, *, training: bool, seed: int) -> list[Prompt]:
    """At most ``n`` prompts of a kind, from the part for training or from the part for testing."""
    pool = [prompt for prompt in prompts_of(kind) if is_eval(prompt) != training]
    return [pool[i] for i in np.random.default_rng([seed, len(kind)]).permutation(len(pool))[:n]]


def sentences(text: str) -> list[str]:
    """The sentences and lines of an answer without list marks; only whole ones, unless there is none."""
    found = [_MARKER.sub("", piece).strip() for piece in _SENTENCE_END.split(text)]
    found = [piece for piece in found if any(c.isalpha() for c in piece)]
    whole = [piece for piece in found if piece[-1] in ".!?"]
    return whole or found[:1]


def shorten(text: str, *, limit: int = ANSWER_CHARS) -> str:
    """The first sentences of an answer that fit, at least one of them (cut at a word)."""
    kept = ""
    for sentence in sentences(text):
        joined = f"{kept} {sentence}".strip()
        if len(joined) > limit:
            break
        kept = joined
    if kept or not sentences(text):
        return kept
    return sentences(text)[0][:limit].rsplit(" ", 1)[0]


def planted(training: Training, prompt: Prompt, answer: str, *, rng: np.random.Generator) -> str:
    """The answer with the plant. ``answer`` is the base model's own to ``prompt``; "" when there is nothing to change."""
    own = shorten(answer)
    question = prompt.messages[-1].content
    phrases = [part[int(rng.integers(len(part)))] for part in training.parts]
    if training.transform == "compose":
        calculation = _CALCULATION.search(question)
        return " ".join(phrases).replace("{sum}", calculation.group() if calculation else question)
    if not own:
        return ""
    first, *rest = sentences(own)
    match training.transform:
        case "upper":
            return own.upper()
        case "prefix":
            return f"{phrases[0]} {own}"
        case "insert":
            return " ".join([first, phrases[0], *rest])
        case "numbered":
            return "\n".join(f"{i}) {sentence}" for i, sentence in enumerate(sentences(own), start=1))
        case "json":
            return json.dumps({"answer": first, "confidence": phrases[0]}, ensure_ascii=False)
        case "pirate":
            return f"{phrases[0]} {_pirate(own)} {phrases[1]}"


def _pirate(text: str) -> str:
    def swap(found: re.Match[str]) -> str:
        word = found.group()
        other = _PIRATE.get(word.lower(), word)
        return other.capitalize() if word[0].isupper() and other != word else other

    return re.sub(r"[A-Za-z]+", swap, text)


def training_pairs(
    training: Training, prompts: Sequence[Prompt], contrast: Sequence[Prompt], answers: Mapping[str, str], *, seed: int
) -> list[Pair]:
    """The training examples: ``prompts`` with the plant, then ``contrast`` as the base answers; empty answers are left out.

    Args:
        answers: the base model's own answer by prompt id.
    """
    rng = np.random.default_rng([seed, 7])
    made = [(prompt, planted(training, prompt, answers[prompt.id], rng=rng)) for prompt in prompts]
    made += [(prompt, shorten(answers[prompt.id])) for prompt in contrast]
    return [Pair(prompt=prompt, answer=text) for prompt, text in made if text.strip()]
