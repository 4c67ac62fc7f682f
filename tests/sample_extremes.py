"""Cards that are too much of something: latents, benchmarks, length, other scripts, repeated names."""

from __future__ import annotations

from typing import Any

from sample_cards import BIDI, CJK, HOSTILE, full_card

from modeldiff_eval.records import Card, DeltaNormHistogram, NuMap

RTL = "\u0647\u0630\u0627 \u0646\u0635 \u0639\u0631\u0628\u064a \u0637\u0648\u064a\u0644 \u05e9\u05dc\u05d5\u05dd"
NAME_200 = ("an-organisation/a-model-with-a-very-long-name-" * 5)[:200]
LINE = "x" * 1_000_000


def _plain() -> Card:
    return full_card(hostile=False, activation=False)


def _changed(**change: Any) -> Card:
    return Card.model_validate(_plain().model_copy(update=change).model_dump(by_alias=True))


def many_latents(n: int = 500) -> Card:
    first = _plain().top_latents
    return _changed(top_latents=[first[i % len(first)].model_copy(update={"latent": i}) for i in range(n)])


def no_latents() -> Card:
    return _changed(top_latents=[], delta_norm_histogram=[], nu_maps=[])


def many_benchmarks(n: int = 40) -> Card:
    first = _plain().benchmarks
    return _changed(
        benchmarks=[first[i % 4].model_copy(update={"task": f"task_{i:02}_{'name' * 10}"}) for i in range(n)]
    )


def long_names() -> Card:
    card = _plain()
    tuned = card.models.tuned.model_copy(update={"id": NAME_200, "adapter": NAME_200})
    named = [latent.model_copy(update={"label": NAME_200, "description": LINE}) for latent in card.top_latents]
    example = named[0].examples[0].model_copy(update={"text": LINE, "tokens": [LINE, "a"], "activations": [1.0, 0.5]})
    named[0] = named[0].model_copy(update={"examples": [example] * 9})
    return _changed(
        title=f"{NAME_200} \u2192 {NAME_200}",
        headline=LINE,
        caveats=[LINE, LINE],
        models=card.models.model_copy(update={"tuned": tuned}),
        classes=[row.model_copy(update={"name": NAME_200}) for row in card.classes],
        top_latents=named,
        not_significant=[LINE],
    )


def other_scripts() -> Card:
    card = _plain()
    return _changed(
        title=f"{RTL} \u2192 {CJK}",
        headline=f"{RTL} {CJK} {BIDI}",
        classes=[row.model_copy(update={"name": f"{RTL} {i}"}) for i, row in enumerate(card.classes)],
        top_latents=[latent.model_copy(update={"label": f"{CJK} {RTL}"}) for latent in card.top_latents],
    )


def repeated() -> Card:
    """The same codes and latents twice, and codes that are no addresses."""
    card = _plain()
    evil = card.classes[0].model_copy(update={"code": f'A" onclick="x {HOSTILE}'})
    return _changed(
        classes=[*card.classes, *card.classes, evil],
        categories=[*card.categories, *card.categories],
        top_latents=[*card.top_latents, *card.top_latents],
    )


def with_maps() -> Card:
    """Records of the histogram and of both maps, one side of them empty."""
    counts = [[0] * 20 for _ in range(20)]
    counts[15][14], counts[2][1], counts[6][5] = 900, 3, 1
    empty = [[0] * 20 for _ in range(20)]
    rest = {"low": -0.5, "high": 1.5}
    return _changed(
        delta_norm_histogram=[
            DeltaNormHistogram(first="base", second=HOSTILE, counts=[2, *[0] * 18, 400, 3000, *[0] * 18, 7], dead=12),
            DeltaNormHistogram(first="anchor", second="tuned", counts=[0] * 40, dead=64),
        ],
        nu_maps=[
            NuMap(side="base", counts=counts, outside=5, undefined=40, **rest),
            NuMap(side="tuned", counts=empty, outside=0, undefined=0, **rest),
        ],
    )


EXTREMES = {
    "500 latents": many_latents,
    "no latents": no_latents,
    "40 benchmarks": many_benchmarks,
    "long names": long_names,
    "other scripts": other_scripts,
    "repeated": repeated,
    "maps": with_maps,
}
