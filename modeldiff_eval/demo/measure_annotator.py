"""How often the offline annotator is right: ``python -m modeldiff_eval.demo.measure_annotator [--fit] [--json]``.

No labelled latents are at hand, so latents are simulated from labelled text: the demo's prompts (written for one of
the 30 categories each, by other hands than the cues) and plain passages that belong to none (``none_texts.jsonl``,
written for this measurement). A simulated latent fires on 4 to 12 passages:

* theme: two thirds or more of them come from one category, which is the right answer;
* weak: a quarter to a half do; the right answer is "none";
* token: the passages share one frequent word and nothing else; "none";
* topic: plain passages, half of them about one topic; "none";
* random: any passages; "none".

Prompts and topics with even numbers fit the three constants, those with odd numbers measure. The interval resamples
the prompts and topics (and draws new latents from them), because those are what there are few of.

What this cannot show: real latents are rarely so pure, and a prompt written to call forth a refusal does not look
like one. Read the figures as an upper limit for the categories and as a check of the confidence.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modeldiff_eval.annotate_offline import FITTED, Constants, OfflineAnnotator, choose, probabilities
from modeldiff_eval.languages import detect_language
from modeldiff_eval.resources import resource
from modeldiff_eval.taxonomy import Taxonomy

KINDS = ("theme", "weak", "token", "topic", "random")
_KIND_SHARES = (0.5, 0.2, 0.15, 0.05, 0.1)
_PASSAGE_WORDS = 36
_COMMON_WORD = 15

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Passages of one half. ``category`` is an index into the taxonomy, -1 for plain text; ``source`` the text's id."""

    texts: list[str]
    category: Ints
    source: list[str]


@dataclass(frozen=True)
class Simulated:
    """Simulated latents: the passages of each, the right answer (-1 is "none") and the kind."""

    passages: list[list[str]]
    truth: Ints
    kind: list[str]


def pools(taxonomy: Taxonomy) -> tuple[Pool, Pool]:
    """The calibration half (even numbers) and the held-out half (odd numbers)."""
    rows: list[tuple[int, str, int, str]] = []
    numbers: Counter[str] = Counter()
    for line in resource("demo/prompts.jsonl").read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)
        code = prompt["category"]
        text = " ".join(message["content"] for message in prompt["messages"])
        rows += [(numbers[code] % 2, part, taxonomy.index[code], prompt["id"]) for part in _split(text)]
        numbers[code] += 1
    topics: list[str] = []
    for line in resource("data/none_texts.jsonl").read_text(encoding="utf-8").splitlines():
        plain = json.loads(line)
        if plain["topic"] not in topics:
            topics.append(plain["topic"])
        rows.append((topics.index(plain["topic"]) % 2, plain["text"], -1, plain["topic"]))
    even, odd = ([row for row in rows if row[0] == half] for half in (0, 1))
    return _pool(even), _pool(odd)


def simulate(pool: Pool, *, latents: int, n_categories: int, rng: np.random.Generator) -> Simulated:
    """Draw latents from a pool, of the kinds and shares given above."""
    everything = np.arange(len(pool.texts))
    plain = everything[pool.category == -1]
    topics = sorted({pool.source[i] for i in plain})
    words = [set(re.findall(r"[a-z']+", text.lower())) for text in pool.texts]
    counts = Counter(word for found in words for word in found)
    common = sorted(word for word, count in counts.items() if count >= _COMMON_WORD)
    passages, truth, kinds = [], [], []
    for _ in range(latents):
        kind = str(rng.choice(KINDS, p=_KIND_SHARES))
        count = int(rng.choice([4, 8, 12]))
        answer = -1
        if kind in ("theme", "weak"):
            category = int(rng.integers(n_categories))
            share = rng.uniform(2 / 3, 1) if kind == "theme" else rng.uniform(0.25, 0.5)
            own = round(count * share)
            inside, outside = everything[pool.category == category], everything[pool.category != category]
            chosen = [*_draw(inside, own, rng), *_draw(outside, count - own, rng)]
            answer = category if kind == "theme" else -1
        elif kind == "token":
            word = str(rng.choice(common))
            chosen = _draw(np.array([i for i in everything if word in words[i]]), count, rng)
        elif kind == "topic":
            topic = str(rng.choice(topics))
            inside = np.array([i for i in plain if pool.source[i] == topic])
            chosen = [*_draw(inside, count // 2, rng), *_draw(plain, count - count // 2, rng)]
        else:
            chosen = _draw(everything, count, rng)
        passages.append([pool.texts[i] for i in chosen])
        truth.append(answer)
        kinds.append(kind)
    return Simulated(passages, np.array(truth), kinds)


def resample(pool: Pool, rng: np.random.Generator) -> Pool:
    """Draw prompts with replacement within each category, and plain topics among themselves."""
    by_source: dict[tuple[int, str], list[int]] = {}
    for i, (category, source) in enumerate(zip(pool.category.tolist(), pool.source, strict=True)):
        by_source.setdefault((category, source), []).append(i)
    chosen: list[int] = []
    for category in sorted({key[0] for key in by_source}):
        sources = sorted(key for key in by_source if key[0] == category)
        for pick in rng.integers(len(sources), size=len(sources)):
            chosen += by_source[sources[pick]]
    return Pool([pool.texts[i] for i in chosen], pool.category[chosen], [pool.source[i] for i in chosen])


@dataclass(frozen=True)
class Judge:
    """The annotator over one half: scores of simulated latents, and probabilities for given constants."""

    annotator: OfflineAnnotator

    def read(self, drawn: Simulated) -> tuple[Floats, Ints, Floats]:
        """Scores, documents and signals of the simulated latents."""
        groups = [list(dict.fromkeys(group)) for group in drawn.passages]
        scores = self.annotator.score(groups)
        signal = np.zeros_like(scores)
        for k, category in enumerate(self.annotator.taxonomy.categories):
            if category.signal == "non_english":
                for i, group in enumerate(groups):
                    told = [name for text in group if (name := detect_language(text)) is not None]
                    signal[i, k] = 2 * sum(name != "en" for name in told) / len(told) - 1 if told else 0.0
        return scores, np.array([len(group) for group in groups]), signal


def fit(judge: Judge, pool: Pool, *, rng: np.random.Generator) -> Constants:
    """Slope, bar and few-documents constant of greatest likelihood on simulated latents of the calibration half."""
    from scipy.optimize import minimize

    drawn = simulate(pool, latents=6000, n_categories=len(judge.annotator.taxonomy.categories), rng=rng)
    scores, documents, signal = judge.read(drawn)
    rows = np.arange(len(scores))

    def loss(x: Floats) -> float:
        tried = Constants(slope=x[0], bar=x[1], few=abs(x[2]))
        chance = probabilities(scores, documents, signal, constants=tried)
        return float(-np.log(chance[rows, drawn.truth] + 1e-12).mean())

    found = minimize(loss, np.array([60.0, 7.0, 1.0]), method="Nelder-Mead", options={"maxiter": 400})
    slope, bar, few = (float(value) for value in found.x)
    return Constants(slope=slope, bar=bar, few=abs(few))


def figures(chance: Floats, drawn: Simulated, taxonomy: Taxonomy) -> dict[str, Any]:
    """Shares (in [0, 1]) of right answers, by kind, and the mean of the confidence where it is high and low."""
    answer = choose(chance)
    classes = np.array([taxonomy.classes.index(taxonomy.class_of(c.code)) for c in taxonomy.categories] + [-1])
    right, kind = answer == drawn.truth, np.array(drawn.kind)
    theme, named = drawn.truth >= 0, answer >= 0
    best = chance[:, :-1].max(axis=1)
    confidence = np.where(named, best, 1.0 - best)
    sure = confidence >= 0.8
    return {
        "latents": len(answer),
        "accuracy": _share(right),
        "theme_right": _share(right[theme]),
        "theme_class_right": _share(classes[answer[theme]] == classes[drawn.truth[theme]]),
        "theme_none": _share(~named[theme]),
        "named_right": _share(right[named]),
        **{f"none_kept_{name}": _share(~named[kind == name]) for name in KINDS[1:]},
        "confidence": float(confidence.mean()),
        "accuracy_where_sure": _share(right[sure]),
        "accuracy_where_unsure": _share(right[~sure]),
    }


def measure(*, resamples: int = 200, latents: int = 4000, seed: int = 0, refit: bool = False) -> dict[str, Any]:
    """Everything the command prints: figures on the held-out half with 95 % intervals, per category, confusions."""
    taxonomy = Taxonomy.load()
    calibration, held_out = pools(taxonomy)
    names = [category.code for category in taxonomy.categories]
    # The background is text that was used to fit; the held-out half does not see itself.
    judge = Judge(OfflineAnnotator(taxonomy, background=calibration.texts))
    rng = np.random.default_rng(seed)
    constants = fit(judge, calibration, rng=rng) if refit else FITTED
    drawn = simulate(held_out, latents=latents, n_categories=len(names), rng=rng)
    chance = probabilities(*judge.read(drawn), constants=constants)
    point = figures(chance, drawn, taxonomy)
    draws = []
    for _ in range(resamples):
        again = simulate(resample(held_out, rng), latents=400, n_categories=len(names), rng=rng)
        draws.append(figures(probabilities(*judge.read(again), constants=constants), again, taxonomy))
    answer = choose(chance)
    pairs: Counter[tuple[str, str]] = Counter()
    for truth, said in zip(drawn.truth, answer, strict=True):
        pairs[(names[truth] if truth >= 0 else "none", names[said] if said >= 0 else "none")] += 1
    totals = Counter(names[truth] for truth in drawn.truth if truth >= 0)
    return {
        "constants": asdict(constants),
        "figures": {
            key: {"value": value, **_interval(value, [draw[key] for draw in draws])}
            for key, value in point.items()
            if key != "latents"
        },
        "latents": latents,
        "per_category": {code: pairs[(code, code)] / totals[code] for code in names if totals[code]},
        "confusions": [
            {"truth": t, "answer": a, "count": n}
            for (t, a), n in pairs.most_common()
            if t != a and "none" not in (t, a)
        ][:12],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the offline annotator on simulated latents.")
    parser.add_argument("--fit", action="store_true", help="fit the constants again on the calibration half")
    parser.add_argument("--resamples", type=int, default=200, help="resamples for the intervals (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    result = measure(resamples=options.resamples, seed=options.seed, refit=options.fit)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print("constants:", ", ".join(f"{name} {value:.3f}" for name, value in result["constants"].items()))
    print(f"held-out half, {result['latents']} simulated latents")
    for name, figure in result["figures"].items():
        print(f"  {name:22s} {_percent(figure['value'])}  [{_percent(figure['low'])} … {_percent(figure['high'])}]")
    print("right by category:", ", ".join(f"{code} {_percent(v)}" for code, v in result["per_category"].items()))
    print("confusions:", ", ".join(f"{c['truth']}→{c['answer']} {c['count']}" for c in result["confusions"]))
    return 0


def _split(text: str) -> list[str]:
    """Passages of at most ``_PASSAGE_WORDS`` words; a short tail is dropped."""
    words = text.split()
    starts = range(0, max(1, len(words) - 8), _PASSAGE_WORDS)
    return [" ".join(words[start : start + _PASSAGE_WORDS]) for start in starts]


def _pool(rows: list[tuple[int, str, int, str]]) -> Pool:
    return Pool([row[1] for row in rows], np.array([row[2] for row in rows]), [row[3] for row in rows])


def _draw(among: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.choice(among, size=count, replace=count > len(among))]


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _interval(value: float | None, draws: Sequence[float | None]) -> dict[str, float | None]:
    """Standard bootstrap interval. Percentiles would be off: a resample has fewer different prompts than the sample."""
    known = [draw for draw in draws if draw is not None]
    if value is None or len(known) < 20:
        return {"low": None, "high": None}
    half = 1.96 * float(np.std(known, ddof=1))
    return {"low": max(0.0, value - half), "high": min(1.0, value + half)}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
