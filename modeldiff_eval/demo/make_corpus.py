"""Make the demo's corpus: what the base and both tuned models answer to the packaged prompts, and some plain text.

    python -m modeldiff_eval.demo.make_corpus --out corpus.jsonl.gz

Each prompt is answered by ``--answers`` of the models in rotation, so that every model writes equally often in every
category. Rows carry ``group``, the prompt's id: answers to one prompt stay on one side of the train/held-out split.
Finished batches are kept under ``--work``: an interrupted run continues, and a rerun gives the same file (on another
processor rounding may turn a close draw).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval import models
from modeldiff_eval.errors import CorpusError, ModelDiffError, ModelError, UsageError
from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource
from modeldiff_eval.rollouts import Answer, Prompt, read_prompts, rollouts
from modeldiff_eval.store import cache_dir, write_bytes

BASE = "base"
DEFAULT_MODELS = "base,simpo,dpo"


class Plan(Record):
    """Who answers what, and how. ``answers`` models answer each prompt."""

    models: tuple[str, ...]
    answers: int = 2
    max_new_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    batch_size: int = 32


class PlainText(Record):
    """One document that no model wrote."""

    id: str
    text: str
    language: str
    category: str | None = None


Ask = Callable[[str, Sequence[Prompt]], list[Answer]]
"""Has the named model answer prompts."""


def assign(prompts: Sequence[Prompt], plan: Plan) -> dict[str, list[Prompt]]:
    """The prompts of each model: the n-th prompt goes to ``answers`` models from the n-th (in rotation) on.

    Prompts are listed by category, so the models also share every category evenly, give or take one.

    Raises:
        UsageError: ``answers`` is not between 1 and the number of models.
    """
    if not 1 <= plan.answers <= len(plan.models):
        raise UsageError(f"--answers {plan.answers}: choose 1 to {len(plan.models)}, the number of models.")
    shares: dict[str, list[Prompt]] = {name: [] for name in plan.models}
    for place, prompt in enumerate(prompts):
        for step in range(plan.answers):
            shares[plan.models[(place + step) % len(plan.models)]].append(prompt)
    return shares


def corpus_rows(
    shares: Mapping[str, Sequence[Prompt]], answers: Mapping[str, Sequence[Answer]], plain: Sequence[PlainText]
) -> list[dict[str, Any]]:
    """Rows of the corpus, answers to one prompt together, plain text last. Blank answers are left out."""
    chats: list[dict[str, Any]] = []
    for source, prompts in shares.items():
        for prompt, answer in zip(prompts, answers[source], strict=True):
            if not answer.text:
                continue
            turns = [message.model_dump() for message in prompt.messages]
            chats.append(
                {
                    "id": f"{prompt.id}-{source}",
                    "group": prompt.id,
                    "source": source,
                    "category": prompt.category,
                    "language": prompt.language,
                    "messages": [*turns, {"role": "assistant", "content": answer.text}],
                }
            )
    chats.sort(key=lambda row: str(row["group"]))
    return chats + [
        {"id": row.id, "group": row.id, "source": "plain", **row.model_dump(exclude={"id"})} for row in plain
    ]


def to_gzip(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JSONL, compressed without a time stamp or name, so that equal rows give equal bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(text.encode())
    return buffer.getvalue()


def read_plain(path: Path) -> list[PlainText]:
    """Plain documents of a JSONL file.

    Raises:
        CorpusError: the file cannot be read or a line is not a document.
    """
    try:
        return [PlainText.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CorpusError(f"Cannot read the plain text {path}: {error}") from error


def asker(plan: Plan, *, base: str, adapters: Path, work: Path) -> Ask:
    """Answers by real models: ``base`` itself, and for any other name the adapter folder of that name.

    The adapter is merged in float32 before the cast, and all models are asked through the base's chat template.
    """

    def ask(name: str, prompts: Sequence[Prompt]) -> list[Answer]:
        foundation = models.resolve(base)
        source = foundation if name == BASE else models.resolve(str(adapters / name), foundation=foundation)
        if source.adapter is None and name != BASE:
            raise ModelError(
                f"{adapters / name} is not an adapter folder. Train it with modeldiff_eval.demo.train_adapter."
            )
        device = models.pick_device(None)
        loaded = models.load(source, device=device, dtype=models.pick_dtype(None, device), cache=work)
        template = models.load_tokenizer(foundation, cache=work).chat_template
        started = time.monotonic()

        def report(done: int, wanted: int) -> None:
            print(f"{name}: {done}/{wanted} answers, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

        return rollouts(
            loaded.model,
            loaded.tokenizer,
            prompts,
            model_key=source.key,
            max_new_tokens=plan.max_new_tokens,
            temperature=plan.temperature,
            top_p=plan.top_p,
            seed=plan.seed,
            batch_size=plan.batch_size,
            cache_dir=work / "rollouts",
            chat_template=template,
            on_progress=report,
        )

    return ask


def make(prompts: Sequence[Prompt], plain: Sequence[PlainText], plan: Plan, ask: Ask) -> list[dict[str, Any]]:
    """All rows of the corpus; one model is in memory at a time."""
    shares = assign(prompts, plan)
    answers = {name: ask(name, share) for name, share in shares.items()}
    return corpus_rows(shares, answers, plain)


def _parser() -> argparse.ArgumentParser:
    default = Plan(models=(BASE,))
    parser = argparse.ArgumentParser(
        prog="python -m modeldiff_eval.demo.make_corpus", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="the corpus to write (.jsonl.gz)")
    parser.add_argument("--models", default=DEFAULT_MODELS, help=f"who answers, in rotation (default {DEFAULT_MODELS})")
    parser.add_argument("--only", help="make and keep the answers of this one of the models, write no corpus")
    parser.add_argument("--base", default=models.EMBEDDED, help="the base model (default: the embedded SmolLM2-135M)")
    parser.add_argument(
        "--adapters", type=Path, help="folder that holds the adapter folders (default: the packaged ones)"
    )
    parser.add_argument("--prompts", type=Path, help="JSONL of prompts (default: the packaged ones)")
    parser.add_argument("--plain", type=Path, help="JSONL of plain text (default: the packaged one)")
    parser.add_argument("--work", type=Path, help="where finished batches are kept (default: the cache)")
    parser.add_argument("--answers", type=int, default=default.answers, help="models that answer each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=default.max_new_tokens)
    parser.add_argument("--temperature", type=float, default=default.temperature)
    parser.add_argument("--top-p", type=float, default=default.top_p)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    return parser


def run(options: argparse.Namespace) -> str:
    """Do what parsed options ask for; returns one line that says what was made."""
    if options.out is None and options.only is None:
        raise UsageError("Give --out FILE.jsonl.gz, or --only MODEL to make one model's answers.")
    names = tuple(name.strip() for name in options.models.split(",") if name.strip())
    if options.only and options.only not in names:
        raise UsageError(f"--only {options.only} is none of --models {','.join(names)}.")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    fields = {name: getattr(options, name) for name in Plan.model_fields if name != "models"}
    plan = Plan(models=names, **fields)
    prompts = read_prompts(options.prompts or resource("demo/prompts.jsonl"))
    adapters = options.adapters or resource("demo") / "adapters"
    ask = asker(plan, base=options.base, adapters=adapters, work=options.work or cache_dir())
    if options.only:
        return f"{options.only}: {len(ask(options.only, assign(prompts, plan)[options.only]))} answers"
    rows = make(prompts, read_plain(options.plain or resource("demo/plain_text.jsonl")), plan, ask)
    size = len(write_bytes(options.out, to_gzip(rows)).read_bytes())
    counts = Counter(row["source"] for row in rows)
    return f"{options.out}: {size / 1e3:.0f} kB, " + ", ".join(f"{n} {source}" for source, n in sorted(counts.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    try:
        print(run(_parser().parse_args(arguments)))
    except ModelDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
