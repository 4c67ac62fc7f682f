"""Questions to a chat model on this machine: no key, no network.

The model is asked for JSON and nothing else, greedily. What it writes is searched for the first JSON object, which must have
the question's schema; if it has not, the model is asked once more, with the complaint. Small models often fail at this: that
is a failed reply, never a guess. Measured with ``embedded`` (SmolLM2-135M-Instruct) on latents of the demo, answers capped at
160 tokens: 0 of 20 descriptions had the schema, and 0 of 10 categories (5 of 10 where the complaint listed all codes: five
times the first of them, with the form's own words as the reason). It is too small to name latents;
take an instruct model of several billion parameters.

The text of a question cannot end its turn: wherever the tokenizer would read a special token in it, a space is put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.ask import Question, Reply, Usage
from modeldiff_eval.errors import AnnotationError, ModelError
from modeldiff_eval.json_answer import first_object
from modeldiff_eval.models import load, load_tokenizer, pick_device, pick_dtype, public_name, resolve
from modeldiff_eval.rollouts import Message, render
from modeldiff_eval.schema_check import check, check_schemas
from modeldiff_eval.store import cache_dir, fingerprint

VERSION = "local-1"
TRIES = 2


def require_chat(model: str) -> None:
    """Refuse a model that :class:`LocalReplier` could not use, without loading its weights.

    Raises:
        ModelError: it cannot be found, or has no chat template.
    """
    if not load_tokenizer(resolve(model), cache=cache_dir()).chat_template:
        raise ModelError(
            f"{model} has no chat template, so it cannot be asked questions. Name a chat or instruct model after local:."
        )


class LocalReplier:
    """A transformers chat model as a :class:`modeldiff_eval.ask.Replier`.

    Args:
        model: ``embedded``, a folder, a ``.gguf`` file or a hub id, as :mod:`modeldiff_eval.models` understands it.
        device: None takes the best there is.
        dtype: None takes what the device computes in.
        batch_size: questions answered together.
        max_tokens: an answer's cap; the question's own cap counts where it is lower.
        cache: for de-quantised GGUF files.

    Raises:
        ModelError: the model cannot be found or loaded, or has no chat template.
    """

    paid = False

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 8,
        max_tokens: int = 400,
        trust_remote_code: bool = False,
        cache: Path | None = None,
    ) -> None:
        if not model:
            raise ModelError(
                "No model is named. Write --annotator local:MODEL, such as local:embedded or local:org/name."
            )
        place = pick_device(device)
        source = resolve(model, trust_remote_code=trust_remote_code)
        self._loaded = load(source, device=place, dtype=pick_dtype(dtype, place), cache=cache or cache_dir())
        self._tokenizer: Any = self._loaded.tokenizer
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"{model} has no chat template, so it cannot be asked questions. Name a chat or instruct model after local:."
            )
        self._batch_size, self._max_tokens = batch_size, max_tokens
        self._room = int(getattr(self._loaded.model.config, "max_position_embeddings", 0) or 1 << 30)
        self._special = special_strings(self._tokenizer)
        self.name = f"local:{public_name(model)}"
        self.version = fingerprint([VERSION, source.key, str(self._loaded.dtype), max_tokens, TRIES])

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield replies batch by batch, in order.

        Raises:
            AnnotationError: the machine's memory does not suffice.
        """
        check_schemas(question.schema_ for question in questions)
        for start in range(0, len(questions), self._batch_size):
            yield from self._batch(questions[start : start + self._batch_size])

    def _batch(self, questions: Sequence[Question]) -> list[Reply]:
        done: dict[int, Reply] = {}
        usage = [Usage() for _ in questions]
        faults: dict[int, str | None] = dict.fromkeys(range(len(questions)))
        for _ in range(TRIES):
            texts = {i: self._prompt(questions[i], fault) for i, fault in faults.items() if i not in done}
            ids = {i: self._tokenizer(text, add_special_tokens=False)["input_ids"] for i, text in texts.items()}
            for i in texts:
                if len(ids[i]) + self._cap(questions[i]) > self._room:
                    failure = f"the question has {len(ids[i])} tokens and the model has room for {self._room}, answer included"
                    done[i] = self._reply(questions[i], None, failure, usage[i])
            fitting = [i for i in texts if i not in done]
            written = self._generate([questions[i] for i in fitting], [ids[i] for i in fitting])
            for i, (text, length) in zip(fitting, written, strict=True):
                usage[i] = Usage(input=usage[i].input + len(ids[i]), output=usage[i].output + length)
                value = first_object(text)
                if value is None:
                    faults[i] = "there is no whole JSON object in the answer"
                else:
                    problems = check(value, questions[i].schema_)
                    faults[i] = f"{problems[0].where} {problems[0].wanted}" if problems else None
                if faults[i] is None:
                    done[i] = self._reply(questions[i], value, None, usage[i])
        for i, fault in faults.items():
            if i not in done:
                done[i] = self._reply(questions[i], None, f"{fault} (asked {TRIES} times)", usage[i])
        return [done[i] for i in range(len(questions))]

    def _generate(self, questions: Sequence[Question], ids: Sequence[list[int]]) -> list[tuple[str, int]]:
        """What the model writes after each prompt, its given beginning included, and the number of its tokens."""
        if not ids:
            return []
        import torch
        from transformers import StoppingCriteriaList

        width = max(map(len, ids))
        begins = [opening(question.schema_) for question in questions]
        pad = self._tokenizer.pad_token_id
        tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=self._loaded.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=self._loaded.device)

        def whole(rows: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            """Rows that hold a whole object; looked at only where one may just have ended."""
            ended = ["}" in self._tokenizer.decode(row[-1:]) for row in rows]
            texts = [self._tokenizer.decode(row[width:]) if end else "" for row, end in zip(rows, ended, strict=True)]
            found = [
                bool(text) and first_object(begin + text) is not None for begin, text in zip(begins, texts, strict=True)
            ]
            return torch.tensor(found, device=rows.device)

        try:
            with torch.inference_mode():
                output = self._loaded.model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    max_new_tokens=max(map(self._cap, questions)),
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=pad,
                    stopping_criteria=StoppingCriteriaList([whole]),
                )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise AnnotationError(
                f"The memory does not suffice to ask {self.name} {len(ids)} questions together. Take a smaller model."
            ) from error
        written = [[token for token in row if token != pad] for row in output[:, width:].tolist()]
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return [(begin + text, len(row)) for begin, text, row in zip(begins, texts, written, strict=True)]

    def _cap(self, question: Question) -> int:
        return min(self._max_tokens, question.max_tokens)

    def _prompt(self, question: Question, fault: str | None) -> str:
        """The conversation through the chat template, with the beginning of the answer."""
        text = question.text if fault is None else f"{question.text}\n\nAn earlier answer could not be used: {fault}."
        messages = (
            Message(role="system", content=inert(question.system, self._special)),
            Message(role="user", content=inert(f"{text}\n\n{json_request(question)}", self._special)),
        )
        return render(self._tokenizer, messages) + opening(question.schema_)

    def _reply(self, question: Question, value: dict[str, Any] | None, failure: str | None, usage: Usage) -> Reply:
        return Reply(question=question.digest, replier=self.name, value=value, failure=failure, usage=usage, cost=0.0)


def json_request(question: Question) -> str:
    """How an answer is asked for where there are no tools: a form, since small models write a schema down again."""
    fields = ", ".join(f'"{name}": {_blank(part)}' for name, part in question.schema_["properties"].items())
    return (
        f"There are no tools here: instead of calling {question.tool}, write one JSON object and nothing before or after "
        f"it. Fill in this form:\n{{{fields}}}"
    )


def _blank(schema: dict[str, Any]) -> str:
    """What stands in the form for a value of this kind."""
    kind = schema.get("type")
    if "enum" in schema:
        options = [str(option) for option in schema["enum"]]
        return f'"one of: {", ".join(options)}"' if len(options) <= 5 else '"a code from the list"'
    if kind == "array":
        return f"[{_blank(schema.get('items', {}))}]"
    if kind in ("number", "integer"):
        return f"a number from {schema.get('minimum', '...')} to {schema.get('maximum', '...')}"
    return '"..."' if kind == "string" else "true or false" if kind == "boolean" else "{...}"


def opening(schema: dict[str, Any]) -> str:
    """How every answer of this schema begins; the model is made to go on from there."""
    name, part = next(iter(schema["properties"].items()))
    begin = f'{{"{name}": '
    if part.get("type") == "array" and part.get("items", {}).get("type") == "string":
        return begin + '["'
    return begin + '"' if part.get("type") == "string" else begin


def special_strings(tokenizer: Any) -> tuple[str, ...]:
    """Every string that the tokenizer reads as one special or added token, longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    every = {text.strip() for text in added | set(map(str, tokenizer.all_special_tokens))}
    known = {text for text in every if len(text) > 1}
    return tuple(sorted(known, key=lambda text: (-len(text), text)))


def inert(text: str, special: Sequence[str]) -> str:
    """``text`` with a space inside every special token, so that it is read as plain characters."""
    while found := [token for token in special if token in text]:
        for token in found:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
