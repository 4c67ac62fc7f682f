"""Whose token is it: the template's, the system's, the user's, the assistant's, or plain text's.

Nothing is stored with a corpus: the chat template is rendered on a few made-up turns, what it writes between them is
learned, and every document is read back with that. So a corpus that lies in the cache already is enough.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.corpus_encode import format_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_START, _END = "start", "end"
_SAMPLES = (
    ("user",),
    ("user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user"),
    ("system", "user", "assistant", "user", "assistant"),
)
_SPECIFIC = 3
"""A piece of a template with fewer printed characters than this tells nothing."""
_SLACK = 16
"""How many characters later than in the samples a chat may begin: a template may write today's date."""
_EDGE = "\n"
"""Put before every document, so that its beginning looks like the beginning of a line."""


class TokenKind(IntEnum):
    """What a token belongs to. TEMPLATE: headers, end-of-turn marks, a default system prompt, a leading BOS."""

    TEMPLATE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TEXT = 4


@dataclass(frozen=True)
class Marks:
    """What a chat template writes around turns. ``headers`` and ``footers``: (pattern, kind of the turn)."""

    headers: tuple[tuple[re.Pattern[str], TokenKind], ...]
    footers: dict[TokenKind, re.Pattern[str]]
    beginning: re.Pattern[str]
    reach: int
    """A chat's first header ends within so many characters."""

    def turns(self, text: str) -> Iterator[tuple[int, int, TokenKind]]:
        """The turns of a chat as (first character, end, kind), without the white space around them."""
        at, limit = 0, self.reach
        while header := self._next_header(text, at):
            begin, kind = header
            if begin > limit:
                return
            following = self._next_header(text, begin, ends=False)
            stops = [following[0]] if following else []
            if (footer := self.footers.get(kind)) and (found := footer.search(text, begin)):
                stops.append(found.start())
            end = min(stops, default=len(text))
            content = text[begin:end]
            first = begin + len(content) - len(content.lstrip())
            last = begin + len(content.rstrip())
            if first < last:
                yield first, last, kind
            at, limit = end, len(text)

    def _next_header(self, text: str, at: int, *, ends: bool = True) -> tuple[int, TokenKind] | None:
        """Where the next header ends (or starts) and whose it is; of those that start together the longest."""
        found = [(match, kind) for pattern, kind in self.headers if (match := pattern.search(text, at))]
        if not found:
            return None
        match, kind = min(found, key=lambda item: (item[0].start(), -item[0].end()))
        return (match.end() if ends else match.start()), kind


def learn_marks(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Marks | None:
    """What the template writes around turns, or None where it does not show whose turn it is.

    Args:
        template: as in :func:`modeldiff_eval.corpus.tokenise`; None takes the tokenizer's own, or ``role: text``.
    """
    between: dict[tuple[str, str], set[str]] = {}
    samples = []
    for roles in _SAMPLES:
        contents = [f"Qz{role.title()}{number}zQ" for number, role in enumerate(roles)]
        try:
            text = _EDGE + format_chat(list(zip(roles, contents, strict=True)), tokenizer, template)
        except ValueError:
            continue
        parts = re.split("(" + "|".join(contents) + ")", text)
        if parts[1::2] != contents:
            continue
        samples.append((text, roles, contents))
        for pair, written in zip(itertools.pairwise((_START, *roles, _END)), parts[::2], strict=True):
            between.setdefault(pair, set()).add(written)
    marks = _marks(between)
    return marks if marks and all(_reads(marks, *sample) for sample in samples) else None


def _marks(between: dict[tuple[str, str], set[str]]) -> Marks | None:
    if not any(text.strip() for (before, _), texts in between.items() if before == "system" for text in texts):
        between = {pair: texts for pair, texts in between.items() if "system" not in pair}  # Folded into the user's.
    headers: dict[str, TokenKind] = {}
    footers = {}
    for role in ("user", "assistant", "system"):
        kind = TokenKind[role.upper()]
        into = {text for (before, after), texts in between.items() if after == role for text in texts}
        # Only a system turn's own header may differ from that of any other turn.
        system = {text for text in between.get(("system", role), set()) if text.strip()}
        # A beginning counts whole as well: it may hold a default system prompt, which is nobody's turn.
        begun = between.get((_START, role), set())
        found = _headers(into - between.get(("system", role), set())) | _headers(system)
        for header in found | {text for text in begun if text.strip()}:
            if headers.setdefault(header, kind) is not kind:
                return None
        out = {text for (before, _), texts in between.items() if before == role for text in texts if text.strip()}
        footer = _shared_beginning(sorted(out)).rstrip()
        if footer:
            footers[kind] = re.compile(_pattern(footer))
    if not {TokenKind.USER, TokenKind.ASSISTANT} <= set(headers.values()):
        return None
    starts = sorted(text for (before, _), texts in between.items() if before == _START for text in texts)
    beginning = _EDGE + _shared_beginning(starts).lstrip().split("\n", 1)[0]  # Later lines may hold a date.
    return Marks(
        headers=tuple((re.compile(_pattern(header)), kind) for header, kind in headers.items()),
        footers=footers,
        beginning=re.compile(_pattern(beginning.rstrip())),
        reach=max(map(len, starts)) + (_SLACK if beginning.strip() else 0),
    )


def _headers(written: set[str]) -> set[str]:
    """The end that all of ``written`` share, or all of them where that end could stand anywhere."""
    if not written:
        return set()
    shared = _shared_beginning([text[::-1] for text in sorted(written)])[::-1]
    if len("".join(shared.split())) >= _SPECIFIC:
        return {shared}
    return {text for text in written if text.strip()}


def _shared_beginning(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))
    return "".join(characters[0] for characters in alike)


def _pattern(text: str) -> str:
    """``text`` as a pattern that takes more or less white space: tokens decoded one by one may lose some.

    Nothing is tried twice, so that a page of empty lines costs no more than any other page.
    """
    parts = re.split(r"(\s+)", text)
    space = [r"\s*+" for _ in parts[1::2]]
    if not parts[0] and space and "\n" in parts[1]:
        space[0] = r"(?<!\n)\n\s*+"
    if not parts[-1] and space and "\n" not in parts[-2]:  # The next line belongs to the turn.
        space[-1] = r"[^\S\n]*+"
    return "".join(
        itertools.chain.from_iterable(itertools.zip_longest(map(re.escape, parts[::2]), space, fillvalue=""))
    )


def _reads(marks: Marks, text: str, roles: Sequence[str], contents: Sequence[str]) -> bool:
    """Whether the turns of a sample come out as they went in; a folded system turn may be the user's."""
    kinds = [TokenKind[role.upper()] for role in roles]
    found = [(text[first:end], kind) for first, end, kind in marks.turns(text)]
    if roles[0] == "system" and TokenKind.SYSTEM not in {kind for _, kind in found}:
        return [kind for _, kind in found] == kinds[1:] and [part for part, _ in found[1:]] == list(contents[2:])
    return found == list(zip(contents, kinds, strict=True))


def token_kinds(
    corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> Int[np.ndarray, " tokens"]:
    """The :class:`TokenKind` of every token of the corpus, as int8.

    A document is a chat where it begins as the template begins one; all other documents are TEXT, and so are all where
    the template does not show whose turn it is. A system turn that the template folds into the user's is USER. A text
    that spells out the template's own marks is read as the marks, which is how the model reads it too.

    Args:
        corpus: whole documents, whose sequences lie in order (a sample of one does too).
        tokenizer, template: what the corpus was tokenised with.
    """
    kinds = np.full(corpus.tokens, TokenKind.TEXT, dtype=np.int8)
    marks = learn_marks(tokenizer, template)
    used = np.unique(corpus.ids)
    pieces = {int(i): str(tokenizer.decode([int(i)], clean_up_tokenization_spaces=False)) for i in used}
    for first, end in document_bounds(corpus):
        parts = [pieces[int(i)] for i in corpus.ids[first:end]]
        text = _EDGE + "".join(parts)
        if marks and marks.beginning.match(text) and (turns := list(marks.turns(text))):
            kinds[first:end] = _by_token(parts, turns)
        elif corpus.ids[first] == tokenizer.bos_token_id:
            kinds[first] = TokenKind.TEMPLATE
    return kinds


def _by_token(parts: Sequence[str], turns: Sequence[tuple[int, int, TokenKind]]) -> Int[np.ndarray, " tokens"]:
    """A token that touches a turn belongs to it; all others are the template's."""
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    stops = len(_EDGE) + np.cumsum(lengths)
    starts = stops - lengths
    kinds = np.zeros(len(parts), dtype=np.int8)
    for first, end, kind in turns:
        kinds[(starts < end) & (stops > first)] = kind
    return kinds


def document_bounds(corpus: TokenCorpus) -> Int[np.ndarray, "documents 2"]:
    """First token and end of every document that has tokens, in the corpus's order."""
    document = corpus.sequences[:, 2]
    begins = np.flatnonzero(np.diff(document, prepend=document[0] - 1))
    ends = np.append(begins[1:], len(document)) - 1
    return np.stack([corpus.sequences[begins, 0], corpus.sequences[ends, 1]], axis=1)


def answer_places(corpus: TokenCorpus, kinds: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """1 for the first token of an assistant turn, 2 for the next …; 0 for every token that is not the assistant's."""
    own = kinds == TokenKind.ASSISTANT
    edges = document_bounds(corpus)[:, 0]
    begins = own & np.append(True, ~own[:-1])
    begins[edges] = own[edges]
    index = np.arange(len(kinds))
    return np.where(own, index - np.maximum.accumulate(np.where(begins, index, 0)) + 1, 0)
