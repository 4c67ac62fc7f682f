"""Measure what an adapter changed, on prompts that its training did not see.

    python -m modeldiff_eval.demo.evaluate_adapter --adapter DIR --pairs FILE_OR_HUB_ID

``DIR/recipe.json`` names the settings, so the same prompts are held out again. Three questions, each with a 95 %
bootstrap interval over prompts:

1. Can a simple classifier tell the tuned model's answers from the base's? (logistic regression on word and character
   n-grams, cross-validated, all answers to one prompt in one fold)
2. Does the tuned model prefer the chosen answer more than the base does?
3. Are its answers longer or shorter?

The figures go into ``recipe.json`` under ``measured``; the answers only where ``--answers`` says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeldiff_eval.demo.pairs import Pair
from modeldiff_eval.demo.train_adapter import TrainSettings, load_base, load_pairs, render_prompt, write_recipe
from modeldiff_eval.errors import EvidenceError, MissingDependencyError, ModelDiffError, ModelError, UsageError
from modeldiff_eval.models import EMBEDDED, resolve
from modeldiff_eval.records import Estimate
from modeldiff_eval.rollouts import Answer, Message, Prompt, rollouts
from modeldiff_eval.stats import estimate
from modeldiff_eval.stats_bootstrap import bootstrap_mean, bootstrap_ratio
from modeldiff_eval.store import cache_dir

FOLDS = 5

_REFUSAL = re.compile(
    r"\b(sorry|apologi[sz]e|can(?:'|\u2019)?t assist|can(?:not|'t|\u2019t) (?:help|provide|assist|fulfill|answer)|"
    r"not able to|unable to|not appropriate|as an ai)\b",
    re.IGNORECASE,
)
_LIST_LINE = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s", re.MULTILINE)


def told_apart(
    base: Sequence[str], tuned: Sequence[str], groups: Sequence[str], *, rng: np.random.Generator
) -> dict[str, Any]:
    """How well a classifier that never saw a prompt tells whose answer it is.

    Args:
        base: the base's answers, in the order of ``groups``.
        tuned: the tuned model's answers to the same prompts.
        groups: prompt of each pair of answers; all of a prompt's answers share a fold.
        rng: of the folds and the bootstrap.

    Returns:
        ``accuracy`` over all answers (chance is 0.5), ``tuned_recognised`` over the tuned model's, ``pair_accuracy``:
        the share of prompts where the tuned answer scores higher than the base's. Ties count half.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
        EvidenceError: fewer prompts than folds.
    """
    scores = _cross_validated(base, tuned, groups, seed=int(rng.integers(2**31)))
    base_scores, tuned_scores = scores[: len(base)], scores[len(base) :]
    right = (1 + np.sign(np.stack([-base_scores, tuned_scores], axis=1))) / 2
    wins = (1 + np.sign(tuned_scores - base_scores)) / 2
    return {
        "accuracy": _mean(right.mean(axis=1), groups, rng),
        "tuned_recognised": _mean(right[:, 1], groups, rng),
        "pair_accuracy": _mean(wins, groups, rng),
        "answers": len(scores),
        "prompts": len(set(groups)),
        "folds": FOLDS,
    }


def _cross_validated(
    base: Sequence[str], tuned: Sequence[str], groups: Sequence[str], *, seed: int
) -> NDArray[np.float64]:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline, make_union
    except ImportError as error:
        raise MissingDependencyError(
            "The classifier needs scikit-learn: pip install 'modeldiff-eval[train]'."
        ) from error
    if len(set(groups)) < FOLDS:
        raise EvidenceError(f"{len(set(groups))} held-out prompts are too few for {FOLDS} folds; raise --held-out.")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    classifier = make_pipeline(make_union(words, characters), LogisticRegression(C=10.0, max_iter=2000))
    scores = cross_val_predict(
        classifier,
        [text or " " for text in (*base, *tuned)],
        [0] * len(base) + [1] * len(tuned),
        groups=[*groups, *groups],
        cv=GroupKFold(FOLDS, shuffle=True, random_state=seed),
        method="decision_function",
    )
    return np.asarray(scores, dtype=np.float64).round(9)


def style(
    base: Sequence[Answer], tuned: Sequence[Answer], groups: Sequence[str], *, rng: np.random.Generator
) -> dict[str, Any]:
    """Length and manner of both models' answers. Tokens count up to the limit; ``cut_*`` is the share that met it."""
    lengths = [np.array([answer.n_tokens for answer in part], dtype=float) for part in (base, tuned)]
    words = [np.array([len(answer.text.split()) for answer in part], dtype=float) for part in (base, tuned)]
    result: dict[str, Any] = {
        "tokens_base": _mean(lengths[0], groups, rng),
        "tokens_tuned": _mean(lengths[1], groups, rng),
        "tokens_change": _mean(lengths[1] - lengths[0], groups, rng),
        "words_change": _mean(words[1] - words[0], groups, rng),
        "cut_base": round(float(np.mean([not answer.finished for answer in base])), 3),
        "cut_tuned": round(float(np.mean([not answer.finished for answer in tuned])), 3),
    }
    for name, pattern in (("refusal_words", _REFUSAL), ("list", _LIST_LINE)):
        seen = [np.array([bool(pattern.search(answer.text)) for answer in part], dtype=float) for part in (base, tuned)]
        result[f"{name}_base"], result[f"{name}_tuned"] = (_mean(part, groups, rng) for part in seen)
        result[f"{name}_change"] = _mean(seen[1] - seen[0], groups, rng)
    return result


def answer_logps(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, max_length: int) -> NDArray[np.float64]:
    """Sum of log-probabilities and number of tokens of each answer [pairs, (chosen, rejected), (sum, tokens)].

    The text is rendered and cut to ``max_length`` tokens as in training, the end-of-turn token included.
    """
    import torch

    table = np.zeros((len(pairs), 2, 2))
    with torch.no_grad():
        for row, pair in enumerate(pairs):
            prompt = tokenizer(render_prompt(pair, tokenizer), add_special_tokens=False)["input_ids"]
            for column, answer in enumerate((pair.chosen, pair.rejected)):
                tail = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
                ids = torch.tensor([[*prompt, *tail][:max_length]], device=model.device)
                kept = ids.shape[1] - len(prompt) + 1
                logits = model(input_ids=ids, logits_to_keep=kept).logits[0, :-1].float()
                logps = torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])
                table[row, column] = float(logps.sum()), logps.shape[0]
    return table


def preference(
    base: NDArray[np.float64], tuned: NDArray[np.float64], groups: Sequence[str], *, rng: np.random.Generator
) -> dict[str, Any]:
    """Margins and accuracies of tables of :func:`answer_logps`.

    ``margin_change``: tuned minus base of (chosen minus rejected), in nats of the whole answer; times β it is DPO's
    reward margin. ``margin_change_per_token``: the same of mean log-probabilities; times β it is SimPO's.
    ``reward_accuracy``: share of pairs whose margin grew. ``accuracy_*``: share of pairs whose chosen answer has the
    higher mean log-probability.
    """
    total = tuned[..., 0] - base[..., 0]
    margin = total[:, 0] - total[:, 1]
    mean_base, mean_tuned = base[..., 0] / base[..., 1], tuned[..., 0] / tuned[..., 1]
    gap_base, gap_tuned = (part[:, 0] - part[:, 1] for part in (mean_base, mean_tuned))
    right_base, right_tuned = (gap_base > 0).astype(float), (gap_tuned > 0).astype(float)
    return {
        "margin_change": _mean(margin, groups, rng),
        "margin_change_per_token": _mean(gap_tuned - gap_base, groups, rng),
        "reward_accuracy": _mean((margin > 0).astype(float), groups, rng),
        "accuracy_base": _mean(right_base, groups, rng),
        "accuracy_tuned": _mean(right_tuned, groups, rng),
        "accuracy_change": _mean(right_tuned - right_base, groups, rng),
        "pairs": len(margin),
    }


def _mean(values: ArrayLike, groups: Sequence[str], rng: np.random.Generator) -> dict[str, float | None]:
    """Mean over rows with a 95 % interval that resamples whole prompts."""
    column = np.asarray(values, dtype=np.float64)
    places = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(places, weights=column)
    counts = np.bincount(places).astype(np.float64)
    low_high = bootstrap_ratio(sums, counts, rng=rng) if counts.max() > 1 else bootstrap_mean(sums, rng=rng)
    value: Estimate = estimate(float(low_high.value[0]), float(low_high.low[0]), float(low_high.high[0]))
    return {name: None if bound is None else round(bound, 4) for name, bound in value.model_dump().items()}


def read_recipe(adapter: Path) -> dict[str, Any]:
    """The ``recipe.json`` beside an adapter.

    Raises:
        UsageError: there is none, or it is not one.
    """
    try:
        recipe = json.loads((adapter / "recipe.json").read_text(encoding="utf-8"))
        TrainSettings(**recipe["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{adapter} has no usable recipe.json ({error}); give a folder made by modeldiff_eval.demo.train_adapter."
        ) from error
    return dict(recipe)


def evaluate(
    adapter: Path, pairs: str, *, base: str | None, max_new_tokens: int, temperature: float, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures for ``recipe.json`` and the answers they come from.

    Raises:
        UsageError: the pairs are not those of the recipe. ModelError: the adapter does not fit the base.
    """
    from peft import PeftModel

    recipe = read_recipe(adapter)
    settings = TrainSettings(**recipe["settings"])
    model, tokenizer = load_base(base, dtype="bfloat16" if settings.bf16 else "float32")
    _, held_out, preparation = load_pairs(pairs, tokenizer, settings)
    if preparation.sha256 != recipe["data"]["sha256"]:
        raise UsageError(f"{pairs} is not the data of {adapter}/recipe.json, so its prompts may have been trained on.")
    try:
        wrapped = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"The adapter {adapter} does not fit the base: {error}") from error
    inner = wrapped.get_base_model()
    first = list({pair.key: pair for pair in held_out}.values())
    prompts = [
        Prompt(id=pair.key, messages=tuple(Message(role=turn.role, content=turn.content) for turn in pair.turns))
        for pair in first
    ]
    sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    options: dict[str, Any] = {**sampling, "cache_dir": cache_dir() / "rollouts", "on_progress": _progress}
    foundation = resolve(base or EMBEDDED)
    with wrapped.disable_adapter():
        base_answers = rollouts(inner, tokenizer, prompts, model_key=foundation.key, **options)
        base_table = answer_logps(inner, tokenizer, held_out, max_length=settings.max_length)
    tuned_key = resolve(str(adapter), foundation=foundation).key
    tuned_answers = rollouts(inner, tokenizer, prompts, model_key=f"unmerged-{tuned_key}", **options)
    tuned_table = answer_logps(inner, tokenizer, held_out, max_length=settings.max_length)
    rng = np.random.default_rng(seed)
    groups = [pair.key for pair in first]
    base_texts, tuned_texts = ([answer.text for answer in part] for part in (base_answers, tuned_answers))
    measured = {
        "sampling": sampling,
        "told_apart": told_apart(base_texts, tuned_texts, groups, rng=rng),
        "preference": preference(base_table, tuned_table, [pair.key for pair in held_out], rng=rng),
        "answers": style(base_answers, tuned_answers, groups, rng=rng),
    }
    rows = [
        {"prompt": pair.turns[-1].content, "source": pair.source, "base": one, "tuned": other}
        for pair, one, other in zip(first, base_texts, tuned_texts, strict=True)
    ]
    return measured, rows


def _progress(done: int, wanted: int) -> None:
    print(f"answers: {done} of {wanted}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modeldiff_eval.demo.evaluate_adapter", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument(
        "--adapter", required=True, type=Path, help="folder made by train_adapter, with its recipe.json"
    )
    parser.add_argument("--pairs", required=True, help="the preference file or hub id that it was trained on")
    parser.add_argument("--base", help="GGUF file, folder or hub id (default: the packaged SmolLM2-135M-Instruct)")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=Path, help="write prompts and both answers to this JSONL file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        measured, rows = evaluate(
            options.adapter,
            options.pairs,
            base=options.base,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
        write_recipe(options.adapter, {**read_recipe(options.adapter), "measured": measured})
    except ModelDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.answers:
        options.answers.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    print(json.dumps(measured, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
