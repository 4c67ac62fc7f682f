"""One document, and how a row of any table or JSONL file becomes one."""

from __future__ import annotations

import hashlib
from typing import Any

from modeldiff_eval.records import Record

CHAT_COLUMNS = ("messages", "conversation", "conversations")
TEXT_COLUMNS = ("text", "content")


class Document(Record):
    """One text or one chat. Documents of one ``group`` are never split between training and held out."""

    id: str
    group: str
    source: str
    language: str | None = None
    category: str | None = None
    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None


def to_document(row: Any, default_id: str, source: str) -> tuple[Document | None, str]:
    """One row as a document, or None with what is wrong with it. Half a surrogate pair in it becomes U+FFFD."""
    if not isinstance(row, dict):
        return None, "the row is not an object"
    common = {
        "id": _whole(str(row.get("id") or default_id)),
        "source": _whole(str(row.get("source") or source)),
        "language": _optional(row, "language"),
        "category": _optional(row, "category"),
    }
    messages = next((row[key] for key in CHAT_COLUMNS if row.get(key)), None)
    if messages is not None:
        try:
            turns = tuple((_role(m), _content(m)) for m in _rows(messages))
        except (TypeError, KeyError, AttributeError, ValueError):
            return None, "a message has no role and content"
        if not any(content.strip() for _, content in turns):
            return None, "every message is empty"
        group = row.get("group") or text_group(next((c for r, c in turns if r == "user"), turns[0][1]))
        return Document(**common, group=_whole(str(group)), messages=turns), ""
    text = row.get("text", row.get("content"))
    if not isinstance(text, str) or not text.strip():
        return None, "neither 'text' nor 'messages' holds any text"
    text = _whole(text)
    return Document(**common, group=_whole(str(row.get("group") or text_group(text))), text=text), ""


def _rows(messages: Any) -> Any:
    """A table may hold the messages as columns: {"role": [...], "content": [...]}."""
    if not isinstance(messages, dict):
        return messages
    return [dict(zip(messages, values, strict=True)) for values in zip(*messages.values(), strict=True)]


def _optional(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    return _whole(str(value)) if value else None


def _role(message: Any) -> str:
    role = str(message.get("role") or {"human": "user", "gpt": "assistant"}.get(message["from"], message["from"]))
    return role if role in ("system", "user", "assistant") else "user"


def _content(message: Any) -> str:
    content = message.get("content", message.get("value"))
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return _whole(content)


def _whole(text: str) -> str:
    """Text that UTF-8 can hold: JSON can hold one half of a surrogate pair without the other."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def text_group(text: str) -> str:
    """Documents with this text, or this first question, are of one group."""
    return hashlib.blake2b(text.strip().encode(errors="replace"), digest_size=8).hexdigest()
