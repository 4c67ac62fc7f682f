"""What a card says in words about how well its latents are named."""

from __future__ import annotations

import math

from modeldiff_eval.records import AnnotationQuality, Card, Estimate, Kappa
from modeldiff_eval.render_text import interval, markdown, number, percent

NOT_MEASURED = (
    "How well the latents are named was not measured: no description was tried on passages it was not made from."
)


def caveats(quality: AnnotationQuality | None) -> list[str]:
    """What the scores mean and what they leave out."""
    if quality is None:
        return [NOT_MEASURED]
    out = []
    if quality.detection is None:
        out.append(
            "No name was tried on passages: each latent fires in too few documents beyond those shown, has no name, or its question failed."
        )
    else:
        out.append(
            f"Detection: from each description {quality.detector} told which of at most {quality.passages} passages make the latent fire, "
            "half of them firing (in documents that its annotator was not shown, strong and weak alike) and half silent; 0.5 is a "
            f"guess. {quality.scored} of {quality.asked} latents behind the claims were scored."
        )
        if quality.reader == "offline":
            out.append(
                "The reader of the descriptions was a sentence encoder, which misses what a person or a language model would see: low "
                "scores are evidence against name and reader together. Its silent passages are random ones."
            )
        out.append(
            f"Weak = detection below {number(quality.bar, 2)}, a bar that {percent(guess_rate(quality), 0)} of guesses on so many passages "
            "reach. Weak names stay in every share; the shares without them stand beside."
        )
    if quality.repeats == 1:
        out.append("Intervals of class shares do not cover the annotator's own noise: every latent was named once.")
    return out


def guess_rate(quality: AnnotationQuality) -> float:
    """Share of guesses that reach the bar: half of the passages named at random, hypergeometric."""
    n = quality.passages // 2
    need = math.ceil(round((quality.bar or 0.0) * n, 9))
    return sum(math.comb(n, hits) ** 2 for hits in range(need, n + 1)) / math.comb(2 * n, n)


def kappa_words(kappa: Kappa) -> str:
    """``Fleiss κ of 5 repeats by classes: 0.61 (0.50 … 0.70), 40 latents, 72 % with one answer``."""
    value = "not defined" if kappa.value.value is None else _with_interval(kappa.value)
    agree = "" if kappa.agree is None else f", {percent(kappa.agree, 0)} with one answer"
    return f"{kappa.statistic} κ of {kappa.of} by {kappa.level}: {value}, {number(kappa.latents, 0)} latents{agree}"


def detection_words(quality: AnnotationQuality) -> str:
    """The mean, its interval, and how many names are weak."""
    if quality.detection is None:
        return "Detection: not measured"
    return (
        f"Detection from the names by {quality.detector}: {_with_interval(quality.detection)}, {number(quality.scored, 0)} latents "
        f"(0.5 is a guess); {number(quality.weak, 0)} weak, below {number(quality.bar, 2)}"
    )


def strong_rows(card: Card) -> list[tuple[str, str, str, str, str]]:
    """Each class's difference with all names and without the weak ones: name, counts, difference, counts, difference."""
    quality = card.annotation_quality
    if quality is None or quality.without_weak is None:
        return []
    strong = {row.code: row for row in quality.without_weak}
    out = []
    for row in card.classes:
        own = strong.get(row.code)
        if own is not None:
            out.append(
                (
                    f"{row.code} {row.name}",
                    f"{row.base.count} → {row.tuned.count}",
                    _points(row.diff),
                    f"{own.base.count} → {own.tuned.count}",
                    _points(own.diff),
                )
            )
    return out


def lines(card: Card) -> list[str]:
    """Detection and every κ, a sentence each; one that says so where nothing was measured."""
    quality = card.annotation_quality
    if quality is None:
        return ["Quality of the names: not measured"]
    return [detection_words(quality), *map(kappa_words, quality.kappas)]


def markdown_lines(card: Card) -> str:
    """The same for a pull-request comment, the shares without weak names folded."""
    body = "\n".join(f"- {line}." for line in map(markdown, lines(card)))
    rows = strong_rows(card)
    if not rows:
        return body
    table = [
        "| Class | Latents | Δ points (95 %) | Latents, no weak names | Δ points (95 %) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    table += ["| " + " | ".join(markdown(cell, limit=120) for cell in row) + " |" for row in rows]
    folded = "\n".join(table)
    return f"{body}\n\n<details><summary>Class shares without weak names</summary>\n\n{folded}\n\n</details>"


def terminal_lines(card: Card) -> list[str]:
    """One line, where detection was measured."""
    quality = card.annotation_quality
    return [] if quality is None or quality.detection is None else [detection_words(quality)]


def _points(value: Estimate) -> str:
    if value.value is None:
        return "not defined"
    return f"{number(value.value, signed=True)} ({interval(value)})"


def _with_interval(value: Estimate) -> str:
    return f"{number(value.value, 2)} ({interval(value, 2, signed=False)})"
