"""Rollouts: a model's own answers to chat prompts, seeded, batched and cached on disk.

A close fine-tune is invisible on generic text; its difference shows in what the models write. So both models of a pair
answer the same prompts, and the answers join the corpus.

Every answer is drawn with its own random stream, seeded by ``(seed, prompt)``: it does not depend on the order of the
prompts, and an interrupted run continues with the text it would have written. (Low precision rounds differently in a
batch of another width, so adding prompts may turn a close draw of those that are new.) Answers are kept in an
append-only JSONL file, one finished batch a line, flushed to the disk; a line torn by an interruption is dropped and
its batch remade.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from modeldiff_eval.backoff import Room
from modeldiff_eval.errors import CorpusError, ModelError, OutputError, SettingsError
from modeldiff_eval.locks import locked
from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource
from modeldiff_eval.store import fingerprint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CANDIDATES = 256
"""Sampling looks at no more than this many of the likeliest tokens, so that the vocabulary is never sorted."""


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Prompt(Record):
    """A conversation that waits for an answer. ``category`` is a taxonomy code, ``language`` an ISO 639-1 code."""

    id: str
    category: str | None = None
    language: str | None = None
    messages: tuple[Message, ...] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Hash of the conversation alone; the same words under another id are the same prompt."""
        return fingerprint([message.model_dump() for message in self.messages])


class Answer(Record):
    """One model's answer to one prompt. ``finished`` is False when ``max_new_tokens`` cut it off."""

    prompt_id: str
    text: str
    n_tokens: int
    finished: bool


class Sampling(Record):
    """How answers are drawn. ``temperature`` 0 always takes the likeliest token."""

    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    seed: int = 0


def rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    model_key: str,
    max_new_tokens: int = 64,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int = 0,
    batch_size: int = 32,
    cache_dir: Path | None = None,
    chat_template: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """The model's answers, in the order of ``prompts``.

    Args:
        model_key: identifies the weights (``Source.key``); answers are cached under it, the settings and the prompt.
        cache_dir: folder of the cached answers; ``None`` keeps nothing.
        chat_template: replaces the tokenizer's own template. Give the tuned model's, so that both are asked alike.
        on_progress: called with (answers there, answers wanted) at the start and after every batch.

    Raises:
        SettingsError: a sampling setting is out of range.
        ModelError: there is no chat template.
        OutputError: the cache cannot be written.
    """
    try:
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"rollouts: {first['loc'][0]} = {first['input']!r}: {first['msg']}.") from error
    if batch_size < 1:
        raise SettingsError(f"rollouts: batch_size = {batch_size} must be at least 1.")
    texts = [render(tokenizer, prompt.messages, chat_template=chat_template) for prompt in prompts]
    ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    settings = [model_key, sampling.model_dump(), str(model.dtype), chat_template or tokenizer.chat_template]
    file = cache_dir / f"{fingerprint(settings)}.jsonl" if cache_dir else None
    keys = [prompt.key for prompt in prompts]
    room = Room("Answering prompts", "Try --dtype bfloat16 or --device cpu, or fewer rollout_tokens in --config.")
    try:
        with locked(file) if file else nullcontext():
            known = read_answers(file) if file else {}
            wanted = len(set(keys))
            if on_progress:
                on_progress(len(known.keys() & set(keys)), wanted)
            for batch in _batches(keys, ids, batch_size=batch_size):
                missing = [i for i in batch if keys[i] not in known]
                if not missing:
                    continue

                def answers(part: slice, missing: list[int] = missing) -> dict[str, dict[str, Any]]:
                    return _answer(model, tokenizer, [(keys[i], ids[i]) for i in missing[part]], sampling)

                longest = max(len(ids[i]) for i in missing) + max_new_tokens
                for _, made in room.parts(len(missing), longest, answers):
                    if file:
                        _append(file, made)
                    known.update(made)
                    if on_progress:
                        on_progress(len(known.keys() & set(keys)), wanted)
    except OSError as error:
        raise OutputError(f"Cannot keep answers in {cache_dir}: {error.strerror or error}.") from error
    return [Answer(prompt_id=prompt.id, **known[key]) for prompt, key in zip(prompts, keys, strict=True)]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, chat_template: str | None = None) -> str:
    """The conversation through the chat template, up to where the answer begins.

    A template that knows no system turn gets its words at the head of the first user turn.

    Raises:
        ModelError: neither the tokenizer nor the caller has a template, or the template fails.
    """
    from jinja2 import TemplateError

    if not (chat_template or tokenizer.chat_template):
        raise ModelError(
            "The tokenizer has no chat template, so the model cannot be asked questions. "
            "Name a chat model as --tuned (its template serves both), or switch rollouts off with --rollouts 0."
        )
    turns = [message.model_dump() for message in messages]
    try:
        return _apply(tokenizer, turns, chat_template)
    except TemplateError as error:
        if turns[0]["role"] != "system" or len(turns) < 2:
            raise ModelError(f"The chat template fails: {error}") from error
    head, first, *rest = turns
    merged = {"role": first["role"], "content": f"{head['content']}\n\n{first['content']}"}
    try:
        return _apply(tokenizer, [merged, *rest], chat_template)
    except TemplateError as error:
        raise ModelError(f"The chat template fails: {error}") from error


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], chat_template: str | None) -> str:
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, chat_template=chat_template or tokenizer.chat_template
    )
    return str(text)


def packaged_prompts(n: int | None = None, *, seed: int = 0) -> list[Prompt]:
    """``n`` of the prompts packaged for the 30 categories, or all of them.

    The draw takes one prompt of every category in turn, so counts by category differ by at most one; with the same
    seed a smaller draw is the beginning of a larger one.

    Raises:
        SettingsError: more prompts are asked for than there are.
    """
    prompts = read_prompts(resource("demo/prompts.jsonl"))
    if n is None:
        return prompts
    if not 0 <= n <= len(prompts):
        raise SettingsError(
            f"--rollouts {n}: choose a number from 0 to {len(prompts)}, the number of packaged prompts."
        )
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.category or "", []).append(prompt)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    rounds = [
        [shuffled[i][turn] for i in rng.permutation(len(shuffled)) if turn < len(shuffled[i])]
        for turn in range(max(len(group) for group in shuffled))
    ]
    return [prompt for round_ in rounds for prompt in round_][:n]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSONL file.

    Raises:
        CorpusError: the file cannot be read, or a line is not a prompt (its number and fault are named).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CorpusError(f"Cannot read the prompts {path}: {error.strerror or error}.") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompts.append(Prompt.model_validate_json(line))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the line"
            raise CorpusError(f"{path}:{number}: {where}: {fault['msg']}. Each line is one JSON prompt.") from error
    return prompts


def read_answers(file: Path) -> dict[str, dict[str, Any]]:
    """Cached answers by prompt key; torn or foreign lines are skipped, the first answer to a prompt stays."""
    known: dict[str, dict[str, Any]] = {}
    if not file.exists():
        return known
    for line in file.read_bytes().split(b"\n"):
        try:
            batch = json.loads(line)["answers"]
            fresh = {key: _checked(answer) for key, answer in batch.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        known = fresh | known
    return known


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    return Answer(prompt_id="", **answer).model_dump(exclude={"prompt_id"})


def _append(file: Path, answers: dict[str, dict[str, Any]]) -> None:
    """Add one batch as one line and wait until it is on the disk; an unfinished last line is closed first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps({"answers": answers}, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _batches(keys: Sequence[str], ids: Sequence[Sequence[int]], *, batch_size: int) -> Iterator[list[int]]:
    """Indices of distinct prompts in batches of similar length, the longest first (so memory peaks at once)."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = sorted(first.values(), key=lambda i: (-len(ids[i]), keys[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[tuple[str, list[int]]],
    sampling: Sampling,
) -> dict[str, dict[str, Any]]:
    """Answers of one batch by prompt key: left padding, key-value cache, one random stream a prompt."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    stops = _stop_ids(model, tokenizer)
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    width = max(len(ids) for _, ids in batch)
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for _, ids in batch], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in batch], device=model.device)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=sorted(stops) or None,
    )
    draw = SeededSampler([key for key, _ in batch], sampling, prompt_length=width, stops=sorted(stops))
    with torch.inference_mode():
        output = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([draw]),
        )
    made: dict[str, dict[str, Any]] = {}
    for (key, _), row in zip(batch, output[:, width:].tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if token in stops), None)
        kept = row if end is None else row[:end]
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        made[key] = {"text": text, "n_tokens": len(kept), "finished": end is not None}
    return made


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer, by the tokenizer and by the model's generation settings."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    listed = stated if isinstance(stated, list) else [stated]
    return {int(token) for token in [tokenizer.eos_token_id, *listed] if token is not None}


class SeededSampler:
    """A logits processor that draws each row's next token from that row's own random stream.

    Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751) by inverting the cumulative distribution of the sorted
    candidates; all other scores become minus infinity, so that a greedy decoder takes the drawn token. The first token
    is never a stop token: no answer is empty.
    """

    def __init__(self, keys: Sequence[str], sampling: Sampling, *, prompt_length: int, stops: Sequence[int]) -> None:
        self.streams = [np.random.default_rng(_stream_seed(sampling.seed, key)) for key in keys]
        self.sampling = sampling
        self.prompt_length = prompt_length
        self.stops = list(stops)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with only the drawn token left above minus infinity."""
        import torch

        scores = scores.float()
        if input_ids.shape[1] == self.prompt_length and self.stops:
            scores = scores.index_fill(1, torch.tensor(self.stops, device=scores.device), float("-inf"))
        if self.sampling.temperature == 0:
            return scores
        top = torch.topk(scores / self.sampling.temperature, min(CANDIDATES, scores.shape[1]), dim=1)
        share = torch.softmax(top.values.double(), dim=1)
        below = share.cumsum(dim=1) - share
        share = share * (below < self.sampling.top_p)
        uniform = torch.tensor([[stream.random()] for stream in self.streams], dtype=share.dtype, device=share.device)
        cumulative = share.cumsum(dim=1)
        place = (cumulative <= uniform * cumulative[:, -1:]).sum(dim=1, keepdim=True)
        drawn = top.indices.gather(1, place)
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)


def _stream_seed(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")
