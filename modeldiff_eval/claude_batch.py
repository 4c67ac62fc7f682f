"""Claude through the Message Batches API: half the price, answers within a day, and a run that may end meanwhile.

::

    replier = ClaudeBatchReplier(path=run / "batches.jsonl")
    replies = ask_all(replier, questions, path=run / "replies.jsonl")

What was submitted is written to ``path`` before and after each submission (:mod:`claude_batch_file`), so that a killed
run takes up its batches where they are instead of paying for them again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.ask import Question, Reply, Usage
from modeldiff_eval.claude import checked_limit, reply_of
from modeldiff_eval.claude_batch_file import Batch, BatchFile
from modeldiff_eval.claude_endpoint import DEFAULT_MODEL, find_endpoint
from modeldiff_eval.claude_errors import KEPT, BudgetError, fatal, model_note, server_said, stopped
from modeldiff_eval.claude_prices import cost, model_facts
from modeldiff_eval.claude_request import Answer, Wire, most_usage, read_message, request
from modeldiff_eval.errors import AnnotationError, UsageError
from modeldiff_eval.redact import redact
from modeldiff_eval.schema_check import check_schemas

MOST_REQUESTS = 5_000
MOST_BYTES = 32_000_000
"""Size of one submission: well under the API's 100,000 requests and 256 MB, so that little is held in memory."""
SLOWEST_POLL = 60.0


class ClaudeBatchReplier:
    """Asks in batches. It has the name and version of :class:`ClaudeReplier`, so both find each other's replies.

    Args:
        path: JSON lines with the batches of a run, beside its replies.
        max_cost: US dollars that all questions of this object may cost together, at batch prices.
        poll: seconds between two looks at a batch; grows to a minute.
        on_wait: told in one line what is being waited for.
        base_url, timeout, retries: as for :class:`ClaudeReplier`.

    Raises:
        AnnotationError: no key.
        UsageError: ``max_cost`` for a model whose price is not known, or an impossible setting.
    """

    name = "claude"
    paid = True
    batch = True

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        path: Path,
        max_cost: float | None = None,
        base_url: str | None = None,
        timeout: float = 300.0,
        retries: int = 5,
        poll: float = 5.0,
        on_wait: Callable[[str], None] | None = None,
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        if poll <= 0 or timeout <= 0 or retries < 0 or most_requests < 1:
            raise UsageError("poll and timeout must be above 0, retries at least 0, most_requests at least 1.")
        self.model = model
        self.path = path
        self.max_cost = checked_limit(max_cost, model)
        self.endpoint = find_endpoint(base_url)
        self.version = self.endpoint.version(model)
        self.note = model_note(model) if self.endpoint.official else None
        self.spent = 0.0
        self.poll, self.on_wait = poll, on_wait
        self.most_requests, self.most_bytes = most_requests, most_bytes
        self._options = self.endpoint.options(timeout=timeout, retries=retries)
        self._wire = Wire.of(model_facts(model))

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield one reply for every question, batch by batch. A request that failed is a failure, asked again next time.

        Raises:
            BudgetError: the next question could pass ``max_cost``.
            AnnotationError: a wrong key, an unknown model, no money, no network, or a batch that is not there any more.
            OutputError: ``path`` cannot be read or written.
        """
        check_schemas(question.schema_ for question in questions)
        return self._ask(questions)

    def _ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        import anthropic

        wanted = {question.digest: question for question in questions}
        done = 0
        with anthropic.Anthropic(**self._options) as client, BatchFile(self.path, self.version) as file:
            self._adopt(client, file)
            waiting = [batch for batch in file.open_batches() if wanted.keys() & set(batch.questions)]
            under_way = {digest for batch in waiting for digest in batch.questions}
            todo = [question for digest, question in wanted.items() if digest not in under_way]
            todo.reverse()
            while todo or waiting:
                reserved = sum(self._most(wanted[d]) for batch in waiting for d in batch.questions if d in wanted)
                while todo and (chunk := self._chunk(todo, reserved)):
                    reserved += sum(map(self._most, chunk))
                    waiting.append(self._submit(client, file, chunk))
                if not waiting:
                    raise BudgetError(self.spent, self.max_cost or 0.0, done, len(wanted))
                batch = self._ended(client, waiting)
                for reply in self._results(client, batch, wanted):
                    done += reply.failure is None
                    self.spent += reply.cost or 0.0
                    yield reply
                file.close_batch(batch)
                waiting.remove(batch)

    def _most(self, question: Question) -> float:
        """Dollars that a question cannot pass; 0 where no limit asks for it."""
        if self.max_cost is None:
            return 0.0
        return cost(most_usage(question, self._wire), self.model, batch=True) or 0.0

    def _chunk(self, todo: list[Question], reserved: float) -> list[Question]:
        """The next questions to submit together, taken off the end of ``todo``; none where the money does not suffice."""
        chunk: list[Question] = []
        size = 0
        dollars = self.spent + reserved
        while todo and len(chunk) < self.most_requests:
            question = todo[-1]
            dollars += self._most(question)
            size += len(json.dumps(request(question, self.model, self._wire), ensure_ascii=False).encode())
            if (self.max_cost is not None and dollars > self.max_cost) or (chunk and size > self.most_bytes):
                break
            chunk.append(todo.pop())
        return chunk

    def _submit(self, client: Any, file: BatchFile, chunk: list[Question]) -> Batch:
        """Submit one batch and write its id down at once."""
        intent = file.intend([question.digest for question in chunk])
        requests = [
            {"custom_id": intent.custom_id(question.digest), "params": request(question, self.model, self._wire)}
            for question in chunk
        ]
        try:
            # The SDK must not repeat this on a broken connection: the first one may have gone through.
            made = client.with_options(max_retries=0).messages.batches.create(requests=requests)
        except Exception as error:
            made = self._after_trouble(client, file, intent, requests, error)
        return file.submitted(intent, made.id)

    def _after_trouble(self, client: Any, file: BatchFile, intent: Batch, requests: list[Any], error: Exception) -> Any:
        """Look whether a submission that broke went through; submit it again where it did not."""
        import anthropic

        pause = 0.5
        for _ in range(self._options["max_retries"]):
            if not isinstance(error, anthropic.APIConnectionError) and getattr(error, "status_code", 0) not in (
                408, 409, 429, *range(500, 600),
            ):  # fmt: skip
                break
            time.sleep(_retry_after(error) or pause)
            pause = min(2 * pause, 8.0)
            try:
                return self._find(client, file, intent) or client.with_options(max_retries=0).messages.batches.create(
                    requests=requests
                )
            except Exception as again:
                error = again
        raise self._error(error) from error

    def _adopt(self, client: Any, file: BatchFile) -> None:
        """Take up what was submitted by a run that was killed before it could write down the id."""
        for intent in file.intents():
            if made := self._call(self._find, client, file, intent):
                file.submitted(intent, made.id)
            else:
                file.forget(intent)

    def _find(self, client: Any, file: BatchFile, intent: Batch) -> Any:
        """A batch on the server that is not in the file, as young as ``intent`` and as large; None where there is none."""
        known = file.known_ids()
        for batch in client.messages.batches.list(limit=100).data:
            counts = batch.request_counts
            size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id not in known and size == len(intent.questions) and intent.before(batch.created_at):
                return batch
        return None

    def _ended(self, client: Any, waiting: list[Batch]) -> Batch:
        """Wait until one batch has ended."""
        pause = self.poll
        while True:
            for batch in waiting:
                if self._call(client.messages.batches.retrieve, batch.id).processing_status == "ended":
                    return batch
            if self.on_wait:
                count = sum(len(batch.questions) for batch in waiting)
                self.on_wait(f"{len(waiting)} batches with {count} questions are under way; this may take up to a day.")
            time.sleep(pause)
            pause = min(1.5 * pause, max(SLOWEST_POLL, self.poll))

    def _results(self, client: Any, batch: Batch, wanted: dict[str, Question]) -> Iterator[Reply]:
        """The replies in an ended batch to questions that are still wanted; what is not in it becomes a failure."""
        left = {batch.custom_id(digest): wanted[digest] for digest in batch.questions if digest in wanted}
        ours = False
        for attempt in range(3):
            try:
                for line in self._call(client.messages.batches.results, batch.id):
                    ours |= batch.owns(line.custom_id)
                    if question := left.pop(line.custom_id, None):
                        yield reply_of(question, self._read(line.to_dict()["result"], question), self)
                break
            except AnnotationError:
                raise
            except Exception as error:  # the connection may break in the middle of the lines
                if attempt == 2:
                    raise self._error(error) from error
                time.sleep(self.poll)
        why = "it is missing from the batch's results" if ours else "another batch was found in the place of this one"
        for question in left.values():
            yield reply_of(question, Answer(None, why, Usage()), self)

    def _read(self, result: Any, question: Question) -> Answer:
        if result["type"] == "succeeded":
            return read_message(result["message"], question)
        said = result["type"]
        if said == "errored":
            inner = (result.get("error") or {}).get("error") or {}
            said = f"{inner.get('type', 'error')}: {redact(str(inner.get('message', '')), self.endpoint.key)[:200]}"
        return Answer(None, f"the batch did not answer it ({said})", Usage())

    def _call(self, call: Callable[..., Any], *given: Any) -> Any:
        try:
            return call(*given)
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> AnnotationError:
        """The error to stop with."""
        url, key = self.endpoint.shown, self.endpoint.key
        request_url = str(getattr(getattr(error, "request", None), "url", ""))
        if getattr(error, "status_code", None) == 404 and "/batches/" in request_url:
            return AnnotationError(
                f"{url} does not have a batch of this run ({server_said(error, key)}). Batches belong to the workspace of "
                f"the key, and their results are kept for 29 days. With the right key they are found again; to pay for "
                f"these questions once more, delete {self.path}. {KEPT}"
            )
        if getattr(error, "status_code", None) == 404:
            return AnnotationError(
                f"{url} has no Message Batches ({server_said(error, key)}). Run without --batch. {KEPT}"
            )
        return fatal(error, model=self.model, url=url, key=key) or stopped(
            error, url=url, key=key, times=self._options["max_retries"] + 1
        )


def _retry_after(error: Exception) -> float:
    response = getattr(error, "response", None)
    try:
        return min(float(response.headers["retry-after"]), SLOWEST_POLL) if response is not None else 0.0
    except (KeyError, ValueError):
        return 0.0
