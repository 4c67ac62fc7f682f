"""Plain facts about a latent's excerpts: where peaks fall, which words stand out, which language; and a label.

Nothing here follows what a document says. Every document has one vote, a label needs votes of several documents, and
text is cleaned and cut before it is shown.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modeldiff_eval.annotation import Excerpt
from modeldiff_eval.languages import FUNCTION_WORDS, detect_language

LABEL_CHARS = 60
_PHRASE_WORDS = 5
_PHRASE_TOKENS = 8
_DOMINANT = 0.5
_FRAGMENT = "part of a character"
_NEAR = 6
_WORD = re.compile(r"[^\W\d_][\w'’-]{2,19}")
_TEMPLATE = re.compile(r"<\|[^|<>\s]{1,24}\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>|<bos>|<eos>")
_ROLE_LINE = re.compile(
    r"(?:<\|(?:im_start|start_header_id)\|>|<start_of_turn>)[^\S\n]*(?:system|user|assistant|model)?(?:<\|end_header_id\|>)?"
)
_PUNCTUATION = {
    ".": "full stop",
    ",": "comma",
    ":": "colon",
    ";": "semicolon",
    "?": "question mark",
    "!": "exclamation mark",
    "-": "hyphen",
    "*": "asterisk",
    "**": "bold mark",
    "#": "hash sign",
    "(": "opening bracket",
    ")": "closing bracket",
    '"': "quotation mark",
    "'": "apostrophe",
    "`": "backtick",
    "```": "code fence",
    "|": "vertical bar",
    "=": "equals sign",
    "+": "plus sign",
    "/": "slash",
    "$": "dollar sign",
    "%": "percent sign",
}
# Words that say nothing about a passage, beside the detector's function words.
_PLAIN_WORDS = (
    "also any all am been being could did does done each every few get got had just like many may might more most much "
    "must need new one only other our out over own same should some such than them then these those too two under up "
    "us use used using very want when where while who why"
)
_PLAIN = FUNCTION_WORDS["en"] | frozenset(_PLAIN_WORDS.split())
LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hy": "Armenian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ka": "Georgian", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be counted in the excerpts of one latent. Shares are of documents, in [0, 1]."""

    documents: int
    peak: str | None
    peak_share: float
    phrase: str | None
    words: tuple[str, ...]
    language: str | None
    language_share: float
    non_english: float | None
    role: str | None
    role_share: float
    boilerplate_share: float


class Background:
    """In how many of many ordinary passages each word stands."""

    def __init__(self, passages: Iterable[str]) -> None:
        self.count: Counter[str] = Counter()
        self.passages = 0
        for passage in passages:
            self.passages += 1
            self.count.update(words_of(passage))

    def odds(self, hits: float, of: int, word: str) -> float:
        """z-score of the log-odds of ``word``: in ``hits`` of ``of`` passages here, against the background.

        A prior worth two passages with the background's rate shrinks it (after Monroe, Colaresi and Quinn 2008).
        """
        rate = (self.count[word] + 0.5) / (self.passages + 1.0)
        here, not_here = hits + 2.0 * rate, of - hits + 2.0 * (1.0 - rate)
        there, not_there = self.count[word] + 0.5, self.passages - self.count[word] + 0.5
        spread = math.sqrt(1.0 / here + 1.0 / not_here + 1.0 / there + 1.0 / not_there)
        return (math.log(here / not_here) - math.log(there / not_there)) / spread


def lines_of(text: str) -> list[str]:
    """The lines of a passage without chat-template marks; blank ones are dropped."""
    lines = _TEMPLATE.sub("\n", _ROLE_LINE.sub("\n", text)).split("\n")
    return [line.strip() for line in lines if line.strip()]


@functools.lru_cache(maxsize=16_384)
def clean(text: str, boilerplate: frozenset[str] = frozenset()) -> str:
    """Text without chat-template marks and without the lines that ``boilerplate`` names, whole or cut at either end."""
    lines = lines_of(text)
    last = len(lines) - 1
    return "\n".join(
        line
        for i, line in enumerate(lines)
        if line not in boilerplate
        and not (i in (0, last) and len(line) >= 8 and any(line in whole for whole in boilerplate))
    )


def find_boilerplate(passages: Sequence[str]) -> frozenset[str]:
    """Lines that very many passages hold word for word, such as the system prompt that a chat template puts in front.

    At least 5 words, in at least 5 and 3 % of the passages. They say nothing about a latent: most documents have them.
    """
    counts = Counter(line for text in passages for line in set(lines_of(text)))
    need = max(5.0, 0.03 * len(passages))
    return frozenset(line for line, count in counts.items() if count >= need and len(line.split()) >= 5)


def safe(text: str, limit: int = LABEL_CHARS) -> str:
    """One line fit to print: no control or formatting characters, no runs of blanks, at most ``limit`` characters."""
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join(kept.replace("\ufffd", "").split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


@functools.lru_cache(maxsize=16_384)
def words_of(passage: str) -> frozenset[str]:
    """The distinct words of a cleaned passage in lower case, 3 to 20 characters."""
    return frozenset(word.lower() for word in _WORD.findall(passage))


def peak_of(excerpt: Excerpt) -> int | None:
    """Position of the highest activation, None when there are no tokens."""
    count = min(len(excerpt.tokens), len(excerpt.activations))
    return max(range(count), key=lambda i: excerpt.activations[i]) if count else None


def distinct(excerpts: Sequence[Excerpt]) -> list[Excerpt]:
    """The first (strongest) excerpt of each document; equal passages count as one document."""
    seen: set[str] = set()
    kept = []
    for excerpt in excerpts:
        marks = {f"text:{excerpt.passage}"} | ({f"id:{excerpt.document}"} if excerpt.document is not None else set())
        if not marks & seen:
            kept.append(excerpt)
        seen |= marks
    return kept


def gather(
    excerpts: Sequence[Excerpt],
    texts: Sequence[str],
    background: Background,
    *,
    boilerplate: frozenset[str] = frozenset(),
    languages: Sequence[str | None] | None = None,
) -> Facts:
    """Count.

    ``excerpts`` has one entry for each document (:func:`distinct`), ``texts`` their cleaned passages, ``languages``
    the languages of these, if known.
    """
    found = [detect_language(text) for text in texts] if languages is None else list(languages)
    told = [language for language in found if language is not None]
    language, language_votes = _most(told)
    role, role_votes = _most([e.role for e in excerpts if e.role is not None])
    peaks = [(e, p) for e in excerpts if (p := peak_of(e)) is not None]
    peak, peak_votes = _most([_normal(e.tokens[p]) for e, p in peaks])
    total = max(1, len(excerpts))
    dominant = peak is not None and peak_votes >= 2 and peak_votes / total >= _DOMINANT
    return Facts(
        documents=len(excerpts),
        peak=peak,
        peak_share=peak_votes / total,
        phrase=_phrase([(e, p) for e, p in peaks if _normal(e.tokens[p]) == peak], total) if dominant else None,
        words=_words(excerpts, texts, background),
        language=language,
        language_share=language_votes / total,
        non_english=sum(name != "en" for name in told) / len(told) if told else None,
        role=role,
        role_share=role_votes / total,
        boilerplate_share=sum(_in_boilerplate(e, p, boilerplate) for e, p in peaks) / total,
    )


def label(facts: Facts, category: str | None) -> str | None:
    """One to five readable words, or None when nothing stands out. ``category`` (a name) is the last resort."""
    foreign = facts.language not in (None, "en") and facts.language_share >= 0.6
    if facts.phrase is not None and facts.phrase != _FRAGMENT:
        return f"template text {facts.phrase}" if facts.boilerplate_share >= _DOMINANT else facts.phrase
    if facts.boilerplate_share >= _DOMINANT:
        return "template text"
    if foreign:
        return f"{LANGUAGES.get(facts.language or '', facts.language)} text"
    if facts.non_english is not None and facts.non_english >= 0.6:
        return "text in several languages"
    if facts.words:
        return safe(", ".join(facts.words[:3]))
    if facts.peak is not None and facts.peak_share >= 0.34:
        return _name(facts.peak)
    return category


def describe(facts: Facts) -> str:
    """Two or three sentences of facts."""
    documents = f"{facts.documents} document{'s' if facts.documents != 1 else ''}"
    if facts.peak is None:
        parts = [f"Top passages from {documents}."]
    elif facts.peak_share >= 0.25:
        longer = facts.phrase is not None and facts.phrase.casefold() not in (_name(facts.peak), f"“{facts.peak}”")
        phrase = f", within {facts.phrase}" if longer else ""
        parts = [f"In {facts.peak_share:.0%} of the top {documents} the peak falls on {_name(facts.peak)}{phrase}."]
    else:
        parts = [f"The peaks in the top {documents} fall on different tokens."]
    if facts.boilerplate_share >= _DOMINANT:
        share = f"{facts.boilerplate_share:.0%}"
        parts.append(
            f"In {share} it lies in text that the chat template or the system prompt puts into most documents."
        )
    if facts.words:
        quoted = ", ".join(f"“{word}”" for word in facts.words)
        parts.append(f"Words that set the passages apart from other text: {quoted}.")
    else:
        parts.append("No word sets the passages apart from other text.")
    tail = []
    if facts.language not in (None, "en"):
        name = LANGUAGES.get(facts.language or "", facts.language)
        tail.append(f"{facts.language_share:.0%} of them read as {name}")
    if facts.role is not None:
        tail.append(f"{facts.role_share:.0%} of the peaks lie in the {safe(facts.role, 20)}'s turn")
    if tail:
        parts.append(f"{'; '.join(tail)}.")
    return " ".join(parts)


def _most(values: Sequence[str]) -> tuple[str | None, int]:
    """The commonest value and its count; ties go to the one seen first."""
    return Counter(values).most_common(1)[0] if values else (None, 0)


def _normal(token: str) -> str:
    """What counts as the same peak token: case and blanks around it do not matter, digits are all one."""
    bare = token.strip()
    if not bare:
        return "\n" if "\n" in token else " "
    return "0" if bare.isdigit() else bare.casefold()


def _name(token: str) -> str:
    """A peak token in words."""
    if token in ("\n", " "):
        return "line break" if token == "\n" else "blank"
    if token == "0":
        return "numbers"
    if _TEMPLATE.fullmatch(token):
        return f"template token {safe(token, 30)}"
    if token in _PUNCTUATION:
        return _PUNCTUATION[token]
    shown = safe(token, 30)
    if not shown:
        return _FRAGMENT
    return f"“{shown}”" if any(c.isalnum() for c in shown) else f"symbol {shown}"


def _phrase(peaks: Sequence[tuple[Excerpt, int]], total: int) -> str:
    """The peak token with the neighbours that at least half of all documents share, as a label."""
    need = max(2, math.ceil(_DOMINANT * total))
    start = stop = 0
    alive = list(peaks)

    def shared(offset: int) -> list[tuple[Excerpt, int]]:
        at = [(e, p) for e, p in alive if 0 <= p + offset < len(e.tokens)]
        token, votes = _most([e.tokens[p + offset].casefold() for e, p in at])
        if token is None or votes < need or (not token.strip() and token != " "):
            return []
        return [(e, p) for e, p in at if e.tokens[p + offset].casefold() == token]

    alone = _name(_normal(peaks[0][0].tokens[peaks[0][1]]))
    for step in (-1, 1):
        while stop - start < _PHRASE_TOKENS:
            offset = start - 1 if step < 0 else stop + 1
            kept = shared(offset)
            if not kept:
                break
            alive = kept
            start, stop = (offset, stop) if step < 0 else (start, offset)
    excerpt, p = alive[0]
    text = "".join(excerpt.tokens[p + start : p + stop + 1])
    core = excerpt.tokens[p]
    words = safe(text, 2 * LABEL_CHARS).split()
    if start == stop or (alone == "numbers" and not any(c.isalpha() for c in text)):
        piece = core[:1].isalpha() and p > 0 and excerpt.tokens[p - 1][-1:].isalpha()
        return f"word piece “-{safe(core, 30)}”" if piece and core == core.strip() else alone
    if len(words) > _PHRASE_WORDS:
        # Keep the words around the peak: the phrase is cut on the longer side.
        before = len(safe("".join(excerpt.tokens[p + start : p]), 2 * LABEL_CHARS).split())
        first = min(max(0, before - 2), len(words) - _PHRASE_WORDS)
        words = words[first : first + _PHRASE_WORDS]
    shown = safe(" ".join(words), LABEL_CHARS - 2)
    return f"“{shown}”" if shown else alone


def _in_boilerplate(excerpt: Excerpt, peak: int, boilerplate: frozenset[str]) -> bool:
    """Whether the tokens around the peak are part of a boilerplate line."""
    around = clean("".join(excerpt.tokens[max(0, peak - 2) : peak + 3]))
    pieces = [piece for piece in around.split("\n") if len(piece) >= 4]
    return bool(pieces) and all(any(piece in line for line in boilerplate) for piece in pieces)


def _words(
    excerpts: Sequence[Excerpt], texts: Sequence[str], background: Background, limit: int = 5
) -> tuple[str, ...]:
    """Words that stand in at least a third of the documents (two or more) and far more often than elsewhere."""
    hits: Counter[str] = Counter()
    near: Counter[str] = Counter()
    for excerpt, text in zip(excerpts, texts, strict=True):
        hits.update(words_of(text))
        p = peak_of(excerpt)
        if p is not None:
            near.update(words_of("".join(excerpt.tokens[max(0, p - _NEAR) : p + _NEAR + 1])))
    total = len(excerpts)
    need = max(2, math.ceil(total / 3))
    scored = []
    for word, count in hits.items():
        if count >= need and word not in _PLAIN:
            z = background.odds(count, total, word)
            if z >= 2.0:
                scored.append((-(z + 0.5 * near[word] / total), word))
    return tuple(safe(word, 20) for _, word in sorted(scored)[:limit])
