"""Claude, or any server that speaks its Messages API, as a replier.

::

    replier = ClaudeReplier()                                  # the default model, key in ANTHROPIC_API_KEY
    replier = ClaudeReplier("claude-haiku-4-5", max_cost=5.0)  # stops before five dollars
    replier = ClaudeReplier("qwen3", base_url="http://localhost:8080")
    replies = ask_all(replier, questions, path=Path("runs/x/replies.jsonl"))

The SDK retries what may pass (time-outs, broken connections, errors of the server) and :mod:`claude_pace` keeps to the
rate limit. The first question goes out alone: it fills the prompt cache, and a wrong key costs one request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modeldiff_eval.ask import Question, Reply, Usage
from modeldiff_eval.claude_endpoint import DEFAULT_MODEL, Endpoint, find_endpoint
from modeldiff_eval.claude_errors import BudgetError, failure, fatal, model_note, server_said, stopped
from modeldiff_eval.claude_pace import Pacer
from modeldiff_eval.claude_prices import cost, model_facts
from modeldiff_eval.claude_request import Answer, Wire, most_usage, read_message, request, total
from modeldiff_eval.claude_stream import stream
from modeldiff_eval.errors import AnnotationError, UsageError
from modeldiff_eval.schema_check import check_schemas

STOP_AFTER = 8
"""Failures in a row, without an answer between them, after which nothing more is asked."""


class ClaudeReplier:
    """Asks many questions at once and yields replies as they come.

    Args:
        model: a model's name.
        max_cost: US dollars that all questions of this object may cost together. A question is sent only if the limit
            holds even where every question under way takes all the tokens that it may.
        concurrency: questions under way at the same time.
        base_url: another server than ``ANTHROPIC_BASE_URL`` or Anthropic's own.
        timeout: seconds to wait for one reply.
        retries: times that the SDK tries again after an error that may pass.

    ``spent`` is what was paid so far; ``note`` a sentence about the model, or None.

    Raises:
        AnnotationError: no key.
        UsageError: ``max_cost`` for a model whose price is not known, or an impossible setting.
    """

    name = "claude"
    paid = True
    batch = False

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        max_cost: float | None = None,
        concurrency: int = 32,
        base_url: str | None = None,
        timeout: float = 120.0,
        retries: int = 5,
    ) -> None:
        if concurrency < 1 or timeout <= 0 or retries < 0:
            raise UsageError("concurrency must be at least 1, timeout above 0 and retries at least 0.")
        self.model = model
        self.max_cost = checked_limit(max_cost, model)
        self.concurrency = concurrency
        self.endpoint: Endpoint = find_endpoint(base_url)
        self.version = self.endpoint.version(model)
        self.note = model_note(model) if self.endpoint.official else None
        self.spent = 0.0
        self._options = self.endpoint.options(timeout=timeout, retries=retries)
        self._wire = Wire.of(model_facts(model))

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield one reply for every question, as they come.

        Raises:
            BudgetError: the next question could pass ``max_cost``.
            AnnotationError: a wrong key, an unknown model, no money, or no network.
        """
        check_schemas(question.schema_ for question in questions)
        return stream(lambda put: self._drive(questions, put))

    async def _drive(self, questions: Sequence[Question], put: Callable[[Reply], None]) -> None:
        import anthropic

        run = _Run(self, deque(questions), put)
        options: dict[str, Any] = self._options | {"middleware": [Pacer(2 * self.concurrency)]}
        async with anthropic.AsyncAnthropic(**options) as run.client:
            await run.work(once=True)
            await asyncio.gather(*(run.work() for _ in range(min(self.concurrency, len(run.todo)))))
        if run.stop is not None:
            raise run.stop


class _Run:
    """One call of ``ask``: what is still to ask, what is under way, and why to stop."""

    client: Any

    def __init__(self, replier: ClaudeReplier, todo: deque[Question], put: Callable[[Reply], None]) -> None:
        self.replier = replier
        self.todo = todo
        self.stop: AnnotationError | None = None
        self._put = put
        self._total = len(todo)
        self._done = 0
        self._in_a_row = 0
        self._answered = False
        self._reserved = 0.0
        self._under_way = 0
        self._freed = asyncio.Condition()

    async def work(self, *, once: bool = False) -> None:
        """Ask until nothing is left or there is a reason to stop. Questions under way then still get their answer."""
        while self.todo and self.stop is None:
            question = self.todo.popleft()
            if (reserved := await self._reserve(question)) is None:
                return
            try:
                reply = await self._one(question)
            finally:
                await self._release(reserved)
            if reply is not None:
                self._done += reply.failure is None
                self._put(reply)
            if once:
                return

    def _affordable(self, dollars: float) -> bool:
        """Whether ``dollars`` more can be spent when everything under way costs the most that it can."""
        limit = self.replier.max_cost
        return limit is None or self.replier.spent + self._reserved + dollars <= limit

    async def _reserve(self, question: Question) -> float | None:
        """Set aside the most that a question may cost, waiting for others to end where it must; dollars.

        None where the run stops: another reason to, or the question cannot be paid although nothing is under way.
        """
        most = cost(most_usage(question, self.replier._wire), self.replier.model) or 0.0
        async with self._freed:
            while not self._affordable(most) and self._under_way and self.stop is None:
                await self._freed.wait()
            if self.stop is None and not self._affordable(most):
                limit = self.replier.max_cost or 0.0
                self.stop = BudgetError(self.replier.spent, limit, self._done, self._total)
            if self.stop is not None:
                return None
            self._reserved += most
            self._under_way += 1
            return most

    async def _release(self, dollars: float) -> None:
        async with self._freed:
            self._under_way -= 1
            self._reserved = self._reserved - dollars if self._under_way else 0.0
            self._freed.notify_all()

    async def _one(self, question: Question) -> Reply | None:
        """A question's reply; a wrong one is asked for once more. None where the run stops instead."""
        answer = await self._answer(question, None)
        usage = answer.usage if answer else Usage()
        # What was set aside for this question pays for asking it again.
        if answer and answer.hint and self.stop is None and self._affordable(0.0):
            second = await self._answer(question, answer.hint)
            answer = second and second._replace(failure=f"{second.failure} (asked twice)" if second.failure else None)
            usage = total(usage, second.usage) if second else usage
        if answer is None:
            return None
        return reply_of(question, answer._replace(usage=usage), self.replier)

    async def _answer(self, question: Question, hint: str | None) -> Answer | None:
        """One asking; an error is an answer with a failure, or None where it ends the run."""
        replier = self.replier
        url, key = replier.endpoint.shown, replier.endpoint.key
        try:
            message = await self._send(question, hint)
        except AnnotationError as error:
            self.stop = self.stop or error
            return None
        except Exception as error:
            if isinstance(error, ValueError) and not hint:
                return Answer(None, failure(error, key), Usage(), "it was unreadable")
            if end := fatal(error, model=replier.model, url=url, key=key):
                self.stop = self.stop or end
                return None
            self._in_a_row += 1
            if self._in_a_row >= STOP_AFTER or (_no_connection(error) and not self._answered):
                self.stop = self.stop or stopped(error, url=url, key=key, times=self._in_a_row)
            return Answer(None, failure(error, key), Usage())
        self._in_a_row, self._answered = 0, True
        answer = read_message(message, question)
        replier.spent += cost(answer.usage, replier.model, batch=False) or 0.0
        return answer

    async def _send(self, question: Question, hint: str | None) -> Any:
        """The decoded message; a request that the model's kind refuses is sent again in a form that it takes."""
        import anthropic

        replier = self.replier
        while True:
            wire = replier._wire
            try:
                raw = await self.client.messages.with_raw_response.create(
                    **request(question, replier.model, wire, hint=hint)
                )
            except anthropic.BadRequestError as error:
                if replier._wire is not wire:
                    continue
                if (adapted := wire.adapted(server_said(error, replier.endpoint.key))) is None:
                    raise
                replier._wire = adapted
                continue
            return raw.http_response.json()


def reply_of(question: Question, answer: Answer, replier: Any) -> Reply:
    """The reply to keep. ``replier`` gives its version, model and whether it pays the batch price."""
    return Reply(
        question=question.digest,
        replier=f"{replier.name}:{replier.version}",
        value=answer.value,
        failure=answer.failure,
        usage=answer.usage,
        cost=cost(answer.usage, replier.model, batch=replier.batch),
    )


def checked_limit(max_cost: float | None, model: str) -> float | None:
    """``max_cost``, if it can be kept to.

    Raises:
        UsageError: it is not above 0, or the model's price is not known.
    """
    if max_cost is None:
        return None
    if not max_cost > 0:
        raise UsageError(f"max_cost must be above 0 US dollars, not {max_cost:g}; leave it out for no limit.")
    if model_facts(model) is None:
        raise UsageError(
            f"--max-cost needs a known price, and none is known for {model!r}. Leave it out, or choose another model "
            f"with --annotator-model."
        )
    return max_cost


def _no_connection(error: Exception) -> bool:
    import anthropic

    return isinstance(error, anthropic.APIConnectionError) and not isinstance(error, anthropic.APITimeoutError)
