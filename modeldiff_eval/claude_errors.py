"""What the API's errors mean for a run: one question fails, or nothing more can be asked."""

from __future__ import annotations

from typing import Any

from modeldiff_eval.errors import AnnotationError, did_you_mean
from modeldiff_eval.redact import redact

KEPT = "Finished answers are kept; the next run asks only for the rest."
_SPENT = ("credit balance", "spend limit", "spending limit", "billing", "quota")


class BudgetError(AnnotationError):
    """Asking on could pass ``--max-cost``. ``spent`` and ``limit`` are US dollars, ``done`` of ``total`` are answered."""

    def __init__(self, spent: float, limit: float, done: int, total: int) -> None:
        self.spent, self.limit, self.done, self.total = spent, limit, done, total
        super().__init__(
            f"Stopped before --max-cost {limit:g}: ${spent:.4f} spent, {done} of {total} questions answered, and the next "
            f"one could pass the limit. Run again with a larger --max-cost: nothing is asked twice."
        )


class StoppedError(AnnotationError):
    """The server does not answer any more."""


def known_models() -> tuple[str, ...]:
    """The names of models in the installed SDK, newest first as it lists them."""
    from typing import Literal, get_args, get_origin

    from anthropic.types.model import Model

    names: list[str] = []
    for part in get_args(Model):
        if get_origin(part) is Literal:
            names += get_args(part)
    return tuple(names)


def deprecated_models() -> dict[str, str]:
    """When which model ends, as far as the installed SDK says."""
    try:
        from anthropic._data import DEPRECATED_MODELS
    except ImportError:  # another release keeps them elsewhere
        return {}
    return dict(DEPRECATED_MODELS)


def model_note(model: str) -> str | None:
    """A sentence about a model that is deprecated or that the installed SDK does not know; None for all others."""
    if until := deprecated_models().get(model):
        return f"{model} is deprecated and ends on {until}; a newer one: {known_models()[2]}."
    known = known_models()
    if model not in known:
        return f"The installed anthropic library does not know the model {model!r}.{did_you_mean(model, known)}"
    return None


def fatal(error: Exception, *, model: str, url: str, key: str | None) -> AnnotationError | None:
    """The error to stop with, or None where only one question failed.

    A wrong key, an unknown model and a spent budget stop the run.
    """
    import anthropic

    if not isinstance(error, anthropic.APIStatusError):
        return None
    said = server_said(error, key)
    code = str(getattr(error, "error_code", "") or "")
    kind = str(getattr(error, "type", "") or "")
    if error.status_code == 401:
        return AnnotationError(
            f"{url} refused the key ({said}). Check ANTHROPIC_API_KEY, and ANTHROPIC_BASE_URL where it is set. {KEPT}"
        )
    low = said.lower()
    if (
        error.status_code == 402
        or "billing" in kind
        or "spend_limit" in code
        or (error.status_code in (400, 403, 429) and any(word in low for word in _SPENT[:3]))
    ):
        return AnnotationError(
            f"The account at {url} has no money left for this ({said}). Add credit or raise its limit, then run again. {KEPT}"
        )
    if error.status_code == 403:
        return AnnotationError(
            f"{url} does not allow this key to ask {model!r} ({said}). Use another key or model. {KEPT}"
        )
    if error.status_code == 404:
        names = known_models()
        return AnnotationError(
            f"{url} has no model {model!r} ({said}).{did_you_mean(model, names)} "
            f"Choose one with --annotator-model: {', '.join(names[:6])}, … {KEPT}"
        )
    return None


def server_said(error: Exception, key: str | None) -> str:
    """The server's own words in one short line, without keys."""
    body: Any = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    words = inner.get("message") if isinstance(inner, dict) else None
    status = getattr(error, "status_code", None)
    text = redact(" ".join(str(words or error).split()), key)
    text = text if len(text) <= 200 else text[:199] + "…"
    return f"{status}: {text}" if status and words else text


def failure(error: Exception, key: str | None) -> str:
    """Why one question has no answer."""
    import anthropic

    if isinstance(error, anthropic.APITimeoutError):
        return "the server did not reply in time"
    if isinstance(error, anthropic.APIConnectionError):
        return "the connection broke"
    if isinstance(error, anthropic.APIStatusError):
        return f"the server refused or failed ({server_said(error, key)})"
    return f"unreadable reply ({type(error).__name__}: {server_said(error, key)})"


def stopped(error: Exception, *, url: str, key: str | None, times: int) -> StoppedError:
    """The error after ``times`` failures in a row without an answer between them."""
    return StoppedError(
        f"{url} gave no answer {times} times in a row; the last time: {failure(error, key)}. "
        f"Is it running and reachable? {KEPT}"
    )
