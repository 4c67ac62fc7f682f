"""One question as a request of the Messages API, and one message as an answer.

The answer is the input of a tool that the model is made to call. Models that refuse a forced call are told to make it.
The shared text and the tool come first and end in a cache mark, so that they are paid in full once.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from modeldiff_eval.ask import Question, Usage
from modeldiff_eval.claude_prices import ModelFacts
from modeldiff_eval.schema_check import Problem, check

CHARS_PER_TOKEN = 2.0
"""Half of what plain English has, so that estimates of input are high; other scripts count a token a byte."""
OVERHEAD_TOKENS = 600
"""What the API adds for a tool, and more."""
_BE_CALLED = "Answer by calling the tool `{tool}` exactly once. Write nothing outside of the call."
_AGAIN = "Your last answer could not be used ({problem}). Answer once more with the tool `{tool}`."


class Wire(NamedTuple):
    """What a model accepts, which :meth:`adapted` learns from its refusals."""

    forced_tool: bool = True
    thinking: str | None = None
    effort: str | None = None
    extra_tokens: int = 0

    @classmethod
    def of(cls, facts: ModelFacts | None) -> Wire:
        """From the model's line in the table; models that are not there get nothing but a forced tool."""
        if facts is None:
            return cls()
        return cls(facts.forced_tool, facts.thinking, facts.effort, facts.thinking_tokens)

    def adapted(self, refusal: str) -> Wire | None:
        """What to send after a request was refused (status 400) with this message; None where nothing would help."""
        if self.forced_tool and "tool_choice" in refusal:
            return self._replace(forced_tool=False)
        if self.thinking and "thinking" in refusal:
            return self._replace(thinking=None, extra_tokens=max(self.extra_tokens, 4000))
        if self.effort and ("effort" in refusal or "output_config" in refusal):
            return self._replace(effort=None)
        return None


class Answer(NamedTuple):
    """What a message says: a ``value``, or why there is none. ``hint``: what may be said when asking again."""

    value: dict[str, Any] | None
    failure: str | None
    usage: Usage
    hint: str | None = None


def request(question: Question, model: str, wire: Wire, *, hint: str | None = None) -> dict[str, Any]:
    """The parameters of ``messages.create`` (and of one request of a batch)."""
    system = [question.system] if question.system else []
    if not wire.forced_tool:
        system.append(_BE_CALLED.format(tool=question.tool))
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in system]
    tool: dict[str, Any] = {
        "name": question.tool,
        "description": "Takes the answer.",
        "input_schema": question.schema_,
    }
    # The cache mark stands on the last shared block; tools come before the system text.
    (blocks[-1] if blocks else tool)["cache_control"] = {"type": "ephemeral"}
    content = [{"type": "text", "text": question.text}]
    if hint:
        content.append({"type": "text", "text": _AGAIN.format(problem=hint, tool=question.tool)})
    choice = {"type": "tool", "name": question.tool} if wire.forced_tool else {"type": "auto"}
    sent: dict[str, Any] = {
        "model": model,
        "max_tokens": question.max_tokens + wire.extra_tokens,
        "tools": [tool],
        "tool_choice": choice | {"disable_parallel_tool_use": True},
        "messages": [{"role": "user", "content": content}],
    }
    if blocks:
        sent["system"] = blocks
    if wire.thinking:
        sent["thinking"] = {"type": wire.thinking}
    if wire.effort:
        sent["output_config"] = {"effort": wire.effort}
    return sent


def most_usage(question: Question, wire: Wire) -> Usage:
    """More tokens than one asking of ``question`` uses, all of the input written to a cache (the dearest case)."""
    text = question.system + question.text + json.dumps(question.schema_)
    plain = sum(map(str.isascii, text)) if not text.isascii() else len(text)
    size = plain / CHARS_PER_TOKEN + len(text.encode()) - plain
    return Usage(cache_write=int(size) + OVERHEAD_TOKENS, output=question.max_tokens + wire.extra_tokens)


def read_message(message: Any, question: Question) -> Answer:
    """The answer in a decoded message of the API, checked against the question's schema."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return Answer(None, f"unreadable reply: {_start(message)}", Usage(), "it was unreadable")
    usage = read_usage(message.get("usage"))
    stop = message.get("stop_reason")
    if stop == "refusal":
        category = (message.get("stop_details") or {}).get("category")
        return Answer(None, f"the model refused to answer{f' ({category})' if category else ''}", usage)
    if stop in ("max_tokens", "model_context_window_exceeded"):
        where = f"max_tokens ({question.max_tokens})" if stop == "max_tokens" else "the end of the model's context"
        return Answer(None, f"the reply was cut off at {where}", usage)
    value, said = _input(message["content"], question.tool)
    if value is None:
        return Answer(
            None, f"no call of the tool {question.tool!r} in the reply: {said}", usage, "the tool was not called"
        )
    if problems := check(value, question.schema_):
        return Answer(
            None, f"wrong reply: {_listed(problems)}", usage, "; ".join(f"{p.where}: {p.wanted}" for p in problems[:3])
        )
    return Answer(value, None, usage)


def _input(content: list[Any], tool: str) -> tuple[dict[str, Any] | None, str]:
    """The tool's input, or a JSON object in plain text, as servers without tools reply; and the text otherwise."""
    text = ""
    for block in content:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_use" and block.get("name") == tool:
            return _object(block.get("input")), "its input is no object"
        if block.get("type") == "text":
            text += str(block.get("text", ""))
    return _object(text), _start(text)


def _object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def _start(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _listed(problems: list[Problem]) -> str:
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(str(problem) for problem in problems[:3]) + more


def read_usage(usage: Any) -> Usage:
    """Tokens of a message; what a server leaves out counts as 0."""

    def count(name: str) -> int:
        value = usage.get(name) if isinstance(usage, dict) else None
        return value if isinstance(value, int) and value > 0 else 0

    return Usage(
        input=count("input_tokens"),
        output=count("output_tokens"),
        cache_write=count("cache_creation_input_tokens"),
        cache_read=count("cache_read_input_tokens"),
    )


def total(left: Usage, right: Usage) -> Usage:
    """The sum of two usages."""
    return Usage(
        input=left.input + right.input,
        output=left.output + right.output,
        cache_write=left.cache_write + right.cache_write,
        cache_read=left.cache_read + right.cache_read,
    )
