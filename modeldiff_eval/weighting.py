"""Which training tokens a dictionary sees more often: those where the two models predict different next tokens, or answers.

``--weighting kl`` costs one further pass of both whole models over the training text. Half of the draws stay even, so that
nothing is lost sight of; the other half falls on tokens in proportion to how far the models' next-token distributions differ
there. Nothing that is measured is weighted: thresholds, origins, ν, controls and shifts see held-out text as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.activations import padded_batches
from modeldiff_eval.backoff import Room
from modeldiff_eval.disk import reserve
from modeldiff_eval.errors import ActivationsError
from modeldiff_eval.store import fingerprint, once, read_progress, write_progress
from modeldiff_eval.token_kinds import TokenKind

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from modeldiff_eval.corpus import TokenCorpus
    from modeldiff_eval.models import Loaded
    from modeldiff_eval.workspace import Workspace

LARGEST = 20.0
"""How many times the mean a token's divergence counts at most: a few surprises must not be all that is learned from."""
_PADDED = 512
_LOGITS = 64 << 20
"""Bytes of one model's float32 log-probabilities at a time."""
_BLOCK = 16_384


def divergence(
    first: Float[Tensor, "rows vocabulary"], second: Float[Tensor, "rows vocabulary"]
) -> Float[Tensor, " rows"]:
    """Mean of KL(first ‖ second) and KL(second ‖ first) of next-token distributions given as logits, in nats.

    Both directions, for what only the first model would say is as much of a difference as what only the second would.
    """
    log_p, log_q = torch.log_softmax(first.float(), 1), torch.log_softmax(second.float(), 1)
    gap = log_p - log_q
    return 0.5 * ((log_p.exp() - log_q.exp()) * gap).sum(1)


def divergences(
    first: Loaded,
    second: Loaded,
    corpus: TokenCorpus,
    *,
    cache: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[NDArray[np.float32], " tokens"]:
    """:func:`divergence` at every token of the training documents, NaN elsewhere; from the cache, resumed, or made now.

    Raises:
        ActivationsError: the models give NaN or infinite logits.
    """
    key = fingerprint(["divergence-1", corpus.key, first.source.key, second.source.key, str(first.dtype)])
    folder = cache / "divergence" / key

    def make(partial: Path) -> None:
        log = partial / "progress.txt"
        path = partial / "nats.npy"
        done = read_progress(log) if path.exists() else 0
        out = np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float32, shape=(corpus.tokens,))
        reserve(path)
        if not done:
            out[:] = np.nan
        sequences = corpus.sequences[~corpus.heldout_documents()[corpus.sequences[:, 2]]]
        ends = np.cumsum(sequences[:, 1] - sequences[:, 0])
        for number, part in enumerate(np.split(sequences, np.searchsorted(ends, range(_BLOCK, ends[-1], _BLOCK)))):
            if number >= done and len(part):
                _fill(out, first, second, corpus, part)
                out.flush()
                write_progress(log, number + 1)
            if on_progress:
                on_progress(min((number + 1) * _BLOCK, int(ends[-1])), int(ends[-1]))
        log.unlink()

    once(folder, make)
    found: NDArray[np.float32] = np.load(folder / "nats.npy")
    return found


def _fill(
    out: NDArray[np.float32], first: Loaded, second: Loaded, corpus: TokenCorpus, sequences: NDArray[np.int64]
) -> None:
    """Write the divergences of some sequences, in batches of about equal length."""
    pad = first.tokenizer.pad_token_id or 0
    room = Room(
        f"Comparing the predictions of {first.source.name} and {second.source.name}", "Leave --weighting kl out."
    )
    for batch, ids in padded_batches(corpus, sequences, batch_tokens=_PADDED, pad=pad):

        def nats(part: slice, batch: NDArray[np.int64] = batch, ids: torch.Tensor = ids) -> list[torch.Tensor]:
            return _divergences(first, second, corpus, batch[part], ids[part])

        for part, found in room.parts(len(batch), ids.shape[1], nats):
            for (start, stop, _), values in zip(batch[part], found, strict=True):
                out[start:stop] = values.clamp_min(0).numpy()


def _divergences(
    first: Loaded, second: Loaded, corpus: TokenCorpus, batch: NDArray[np.int64], ids: torch.Tensor
) -> list[torch.Tensor]:
    """The divergences at the tokens of each sequence of one padded batch."""
    found = []
    with torch.inference_mode():
        both = [m.model(input_ids=ids.to(m.device), use_cache=False).logits for m in (first, second)]
        words = min(logits.shape[-1] for logits in both)  # A padded vocabulary says nothing.
        for row, (start, stop, document) in enumerate(batch):
            size = max(1, _LOGITS // (4 * words))
            parts = [
                divergence(*(logits[row, i : min(i + size, stop - start), :words] for logits in both))
                for i in range(0, stop - start, size)
            ]
            nats = torch.cat(parts).cpu()
            if not bool(torch.isfinite(nats).all()):
                name = corpus.documents["id"][int(document)]
                raise ActivationsError(
                    f"{first.source.name} or {second.source.name} gives NaN or infinite logits (document {name!r}). Try --dtype float32, or "
                    "leave --weighting kl out."
                )
            found.append(nats)
    return found


def drawn(
    rows: Int[Tensor, " rows"], extra: Float[NDArray[np.floating], " rows"], *, seed: int
) -> Int[Tensor, " rows"]:
    """As many rows drawn again, half of them evenly and half in proportion to ``extra``; sorted, some of them repeated.

    By systematic sampling: every row is there as often as expected, rounded down or up. ``rows`` as they are where ``extra``
    is 0 everywhere.
    """
    total = float(extra.sum())
    if total <= 0:
        return rows
    expected = 0.5 + 0.5 * len(rows) * extra.astype(np.float64) / total
    start = np.random.default_rng([seed, 71]).random()
    edges = np.floor(np.cumsum(expected) + start).astype(np.int64)
    counts = np.diff(edges, prepend=0)
    return rows.repeat_interleave(torch.from_numpy(counts))


def weighted_rows(work: Workspace, corpus: TokenCorpus, roles: tuple[str, str], rows: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:  # fmt: skip
    """The training rows of this pair of models, drawn by the run's ``weighting``."""
    settings = work.settings
    if settings.weighting == "none":
        return rows
    tokens = rows.numpy()
    if settings.weighting == "assistant":
        extra = (work.token_kinds(corpus)[tokens] == TokenKind.ASSISTANT).astype(np.float64)
        return drawn(rows, extra, seed=settings.seed)
    models = work.pool.together(*(work.sources[role] for role in roles))
    with work.reporter.task(f"Next-token divergence ({', '.join(roles)})", unit="tokens") as advance:
        nats = divergences(models[0], models[1], corpus, cache=work.cache, on_progress=advance)[tokens]
    del models
    work.pool.trim()
    mean = float(nats.mean())
    return drawn(rows, np.minimum(nats, LARGEST * mean), seed=settings.seed)


def caveat(weighting: str) -> str | None:
    """What a card says about weighted training text."""
    what = {
        "kl": "by how far the two models' next-token distributions differ",
        "assistant": "on tokens of the assistant (evenly as well, where none is told apart)",
    }.get(weighting)
    return (
        what
        and f"Training tokens of the dictionary that claims are made from were drawn half evenly, half {what}; what is measured is not weighted."
    )
