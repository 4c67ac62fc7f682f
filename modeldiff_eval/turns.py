"""Which tokens of a chat the assistant wrote, told from the token ids alone.

A tokenised corpus keeps no turns. The chat template says how a turn of the assistant begins and ends, so its turns are
found again by the ids of what stands around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval.corpus_encode import format_chat

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "Zebra", "Quartz"


@dataclass(frozen=True)
class Markers:
    """Ids of what stands before an answer and after it.

    ``ahead`` tokens of ``opening`` belong to the answer already: the last one, where nothing follows it before the first
    word, is the token that predicts that word.
    """

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    ahead: int = 0


def chat_markers(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Markers | None:
    """The markers of a template (the tokenizer's own where it is None); None where there is none, or it cannot be read."""
    if template is None and not tokenizer.chat_template:
        return None
    user, assistant = ("user", _QUESTION), ("assistant", _ANSWER)
    try:
        asked = format_chat([user], tokenizer, template)
        prompt: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": _QUESTION}],
            tokenize=False,
            add_generation_prompt=True,
            chat_template=template,
        )
        chat = format_chat([user, assistant, user], tokenizer, template)
    except Exception:  # a template may raise anything
        return None
    before = str(prompt)[len(asked) :] if str(prompt).startswith(asked) else ""
    if not before.strip():
        before = chat.split(_ANSWER)[0].rpartition(_QUESTION)[2]
    after = chat.partition(_ANSWER)[2].partition(_QUESTION)[0]
    opening, closing = _ids(tokenizer, before.rstrip()), _ids(tokenizer, after.strip())
    if not opening or not closing:
        return None
    if closing[0] in set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder):
        closing = closing[:1]
    return Markers(opening, closing, ahead=int(before == before.rstrip()))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(int(i) for i in tokenizer(text, add_special_tokens=False).input_ids) if text else ()


def assistant_tokens(ids: NDArray[np.integer[Any]], markers: Markers | None, *, bos: int | None) -> NDArray[np.bool_]:
    """Tokens of the assistant's turns, from the one that predicts an answer's first word to the answer's last token.

    Args:
        ids: [tokens] of one sequence.
        markers: None takes every token for the assistant's but a leading BOS.

    Returns:
        [tokens] True where the assistant writes.
    """
    own = np.zeros(len(ids), dtype=bool)
    if markers is None:
        own[:] = True
        own[:1] = len(ids) > 0 and ids[0] != bos
        return own
    ends = _found(ids, markers.closing)
    for at in _found(ids, markers.opening):
        start = int(at) + len(markers.opening) - markers.ahead
        later = ends[ends >= at + len(markers.opening)]
        own[start : int(later[0]) if len(later) else len(ids)] = True
    return own


def _found(ids: NDArray[np.integer[Any]], pattern: tuple[int, ...]) -> NDArray[np.int64]:
    """Where ``pattern`` begins in ``ids``, ascending."""
    if len(ids) < len(pattern):
        return np.zeros(0, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(pattern))
    return np.flatnonzero((windows == np.asarray(pattern)).all(axis=1))
