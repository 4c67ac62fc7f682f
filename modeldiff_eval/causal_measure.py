"""Next-token distributions of tuned with latents patched, summed per document, for many sets of latents in one pass.

Both models' residuals at block L are harvested once; then only the blocks above L run, and only for documents in which a
latent of the set is active: in the others patching changes nothing. A batch of documents is the unit that an interrupted
measurement keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval import activations as acts
from modeldiff_eval.causal_patch import VARIANTS, Remainder, contribution, within
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import CorpusError
from modeldiff_eval.models import Loaded
from modeldiff_eval.store import read_kept, write_kept
from modeldiff_eval.turns import Markers, assistant_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
MIN_GROUPS = 4
_ENCODED_AT_ONCE = 1024


@dataclass(frozen=True)
class PanelText:
    """Held-out sequences with an assistant turn.

    ``sequences`` [n, 3] first token, end, document; ``own`` one mask a sequence; ``group`` [n] the resampled unit of each.
    """

    corpus: TokenCorpus
    sequences: NDArray[np.int64]
    own: list[NDArray[np.bool_]]
    group: NDArray[np.int64]

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    @property
    def tokens(self) -> int:
        return int((self.sequences[:, 1] - self.sequences[:, 0]).sum())


def panel_text(corpus: TokenCorpus, markers: Markers | None, *, tokens: int, bos: int | None) -> PanelText:
    """The first held-out documents with an assistant turn, about ``tokens`` tokens of them.

    Raises:
        CorpusError: fewer than four prompts have one; no interval could be given.
    """
    heldout = corpus.heldout_documents()
    chosen, masks, total = [], [], 0
    for sequence in corpus.sequences[heldout[corpus.sequences[:, 2]]]:
        start, end, _ = (int(x) for x in sequence)
        own = assistant_tokens(np.asarray(corpus.ids[start:end]), markers, bos=bos)
        if not own[:-1].any():
            continue
        chosen.append(sequence)
        masks.append(own)
        total += end - start
        if total >= tokens:
            break
    names = [str(corpus.documents["group"][int(sequence[2])]) for sequence in chosen]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(known) < MIN_GROUPS:
        raise CorpusError(
            f"Only {len(known)} held-out prompts have an answer by an assistant; at least {MIN_GROUPS} are needed to patch and give an "
            "interval. Give chats, or more of them."
        )
    return PanelText(corpus, np.stack(chosen), masks, np.asarray([known[name] for name in names]))


@dataclass(frozen=True)
class Residuals:
    """Both models after block L on a panel's text.

    ``rows`` (other, tuned) by sequence [tokens, d_model] each; ``limits`` the largest norm that is patched, by model;
    ``patched`` [n] one mask a sequence: the assistant's tokens without attention sinks.
    """

    rows: tuple[list[Tensor], list[Tensor]]
    limits: tuple[float, float]
    patched: list[NDArray[np.bool_]]

    @property
    def tokens(self) -> int:
        return int(sum(mask.sum() for mask in self.patched))

    def pairs(self, index: int) -> Float[Tensor, "rows 2 d_model"]:
        """The patched tokens of one sequence in both models."""
        at = torch.from_numpy(self.patched[index])
        return torch.stack([self.rows[model][index][at].float() for model in (0, 1)], dim=1)


def residuals(
    other: Loaded, tuned: Loaded, text: PanelText, *, layer: int, limits: tuple[float, float] | None, advance: Progress
) -> Residuals:
    """Run both models up to block ``layer``; ``limits`` default to ten times the median norm of this text."""
    both: list[list[Tensor]] = []
    done = 0
    for loaded in (other, tuned):
        place = {int(sequence[0]): index for index, sequence in enumerate(text.sequences)}
        found: list[Tensor] = [torch.empty(0)] * len(text.sequences)
        size = acts.default_batch_tokens(loaded.device)
        for batch, rows in acts.forward_rows(loaded, text.corpus, text.sequences, layer=layer, batch_tokens=size):
            for sequence, row in zip(batch, rows, strict=True):
                found[place[int(sequence[0])]] = row.clone()
                done += len(row)
            advance(done, 2 * text.tokens)
        both.append(found)
    if limits is None:
        medians = [float(torch.cat([row.float().norm(dim=1) for row in rows]).median()) for rows in both]
        limits = (acts.OUTLIER_FACTOR * medians[0], acts.OUTLIER_FACTOR * medians[1])
    patched = []
    for own, first, second in zip(text.own, *both, strict=True):
        small = within(torch.stack([first.float(), second.float()], dim=1), limits)
        patched.append(own & small.numpy())
    return Residuals((both[0], both[1]), limits, patched)


def firing_counts(crosscoder: Crosscoder, found: Residuals) -> NDArray[np.int64]:
    """[latents] patched tokens on which each latent is active."""
    counts = np.zeros(crosscoder.n_latents, dtype=np.int64)
    for index in range(len(found.patched)):
        for part in torch.split(found.pairs(index), _ENCODED_AT_ONCE):
            counts += (crosscoder.encode(crosscoder.normalise(part)) > 0).sum(0).numpy()
    return counts


@dataclass(frozen=True)
class Sums:
    """Per resampled unit, float64: patched minus as it is.

    ``kl``, ``nll`` [sets, variants, groups]; ``kl_before``, ``nll_before``, ``tokens`` [groups]; ``fires`` [sets] patched
    tokens on which a latent of the set is active.
    """

    kl: NDArray[np.float64]
    nll: NDArray[np.float64]
    kl_before: NDArray[np.float64]
    nll_before: NDArray[np.float64]
    tokens: NDArray[np.float64]
    fires: NDArray[np.float64]


def patch_sets(
    other: Loaded,
    tuned: Loaded,
    crosscoder: Crosscoder,
    sets: Sequence[NDArray[np.int64]],
    text: PanelText,
    found: Residuals,
    *,
    layer: int,
    folder: Path | None,
    advance: Progress,
) -> Sums:
    """Patch every set in both ways and compare next-token distributions with the other model's and with the text.

    Args:
        folder: where finished batches are kept and found again; it must belong to exactly these inputs.

    Raises:
        ModelError: the layers cannot be hooked.
    """
    remainders = (Remainder(other, layer), Remainder(tuned, layer))
    shape = (len(sets), len(VARIANTS), text.groups)
    each = [np.zeros(text.groups) for _ in range(3)]
    sums = Sums(np.zeros(shape), np.zeros(shape), each[0], each[1], each[2], np.zeros(len(sets)))
    batches = _batches(text, acts.default_batch_tokens(tuned.device))
    for number, batch in enumerate(batches):
        path = folder / f"batch-{number}.json" if folder else None
        made = read_kept(path) if path else None
        if made is None:
            made = _measure(remainders, tuned, crosscoder, sets, text, found, batch)
            if path:
                write_kept(path, made)
        groups = text.group[batch]
        for name in ("kl", "nll"):
            total: NDArray[np.float64] = getattr(sums, name)
            for row, group in enumerate(groups):
                total[:, :, group] += np.asarray(made[name])[:, :, row]
        for name in ("kl_before", "nll_before", "tokens"):
            np.add.at(getattr(sums, name), groups, np.asarray(made[name]))
        sums.fires[:] += made["fires"]
        advance(number + 1, len(batches))
    return sums


def _batches(text: PanelText, tokens: int) -> list[NDArray[np.int64]]:
    """Sequences of about equal length together, so that little is padded."""
    lengths = text.sequences[:, 1] - text.sequences[:, 0]
    order = np.argsort(-lengths, kind="stable")
    out, at = [], 0
    while at < len(order):
        batch = order[at : at + max(1, tokens // int(lengths[order[at]]))]
        out.append(batch)
        at += len(batch)
    return out


@dataclass(frozen=True)
class _Batch:
    """Padded sequences of one batch; ``scored`` (row, token) whose next token is compared, ``target`` that token."""

    ids: Int[Tensor, "batch tokens"]
    scored: tuple[Tensor, Tensor]
    target: Int[Tensor, " scored"]

    def log_p(
        self, remainder: Remainder, residual: Float[Tensor, "batch tokens d"], rows: Int[Tensor, " some"]
    ) -> tuple[Float[Tensor, "places vocabulary"], Tensor]:
        """Log-probabilities at the scored places of ``rows`` and the numbers of these places."""
        of_row, token = self.scored
        at = torch.isin(of_row, rows).nonzero()[:, 0]
        first, length = int(token[at].min()), int(token[at].max()) + 1
        logits = remainder(self.ids[rows, :length], residual[rows, :length], first=first)
        local = torch.searchsorted(rows, of_row[at])
        return torch.log_softmax(logits[local, token[at] - first], dim=1).cpu(), at


def _measure(
    remainders: tuple[Remainder, Remainder],
    tuned: Loaded,
    crosscoder: Crosscoder,
    sets: Sequence[NDArray[np.int64]],
    text: PanelText,
    found: Residuals,
    numbers: NDArray[np.int64],
) -> dict[str, Any]:
    """One batch: everything of :class:`Sums`, by sequence instead of by group."""
    batch, residual, patched = _padded(tuned, text, found, numbers)
    everything = torch.arange(len(numbers))
    other, _ = batch.log_p(remainders[0], residual[0], everything)
    before, _ = batch.log_p(remainders[1], residual[1], everything)
    row_of_place = batch.scored[0].numpy()
    kl_before = (before.exp() * (before - other)).sum(1).double()
    nll_before = -before.gather(1, batch.target[:, None])[:, 0].double()

    of_row, token = patched.nonzero(as_tuple=True)
    pairs = torch.stack([residual[model][of_row, token].float() for model in (0, 1)], dim=1)
    union = np.unique(np.concatenate(sets))
    parts = [crosscoder.encode(crosscoder.normalise(part))[:, union] for part in torch.split(pairs, _ENCODED_AT_ONCE)]
    codes = torch.cat(parts) if parts else torch.zeros(0, len(union))

    n = len(numbers)
    kl, nll = (np.zeros((len(sets), len(VARIANTS), n)) for _ in range(2))
    fires = np.zeros(len(sets))
    for index, members in enumerate(sets):
        own = codes[:, torch.from_numpy(np.searchsorted(union, members))]
        active = (own > 0).any(1)
        fires[index] = int(active.sum())
        if not bool(active.any()):
            continue
        rows = torch.unique(of_row[active])
        for way, variant in enumerate(VARIANTS):
            change = contribution(crosscoder, torch.from_numpy(members), own[active], variant)
            altered = residual[1].clone()
            place = (of_row[active], token[active])
            altered[place] = (pairs[active, 1] + change).to(altered.dtype)
            after, at = batch.log_p(remainders[1], altered, rows)
            moved = (after.exp() * (after - other[at])).sum(1).double() - kl_before[at]
            worse = -after.gather(1, batch.target[at, None])[:, 0].double() - nll_before[at]
            kl[index, way] = np.bincount(row_of_place[at.numpy()], moved.numpy(), minlength=n)
            nll[index, way] = np.bincount(row_of_place[at.numpy()], worse.numpy(), minlength=n)
    return {
        "kl": kl.tolist(), "nll": nll.tolist(), "fires": fires.tolist(),
        "kl_before": np.bincount(row_of_place, kl_before.numpy(), minlength=n).tolist(),
        "nll_before": np.bincount(row_of_place, nll_before.numpy(), minlength=n).tolist(),
        "tokens": np.bincount(row_of_place, minlength=n).tolist(),
    }  # fmt: skip


def _padded(
    tuned: Loaded, text: PanelText, found: Residuals, numbers: NDArray[np.int64]
) -> tuple[_Batch, tuple[Tensor, Tensor], Tensor]:
    """A batch's ids, (other, tuned) residuals and mask of patched tokens, padded on the right, which no token sees."""
    parts = text.sequences[numbers]
    length = int((parts[:, 1] - parts[:, 0]).max())
    n, d = len(numbers), found.rows[0][0].shape[1]
    ids = torch.full((n, length), tuned.tokenizer.pad_token_id or 0, dtype=torch.long)
    residual = tuple(torch.zeros(n, length, d, dtype=rows[0].dtype) for rows in found.rows)
    patched = torch.zeros(n, length, dtype=torch.bool)
    scored = torch.zeros(n, length, dtype=torch.bool)
    for row, (number, (start, end, _)) in enumerate(zip(numbers, parts, strict=True)):
        size = int(end - start)
        ids[row, :size] = torch.from_numpy(np.asarray(text.corpus.ids[start:end], dtype=np.int64))
        patched[row, :size] = torch.from_numpy(found.patched[number])
        scored[row, : size - 1] = torch.from_numpy(text.own[number][:-1])
        for model in (0, 1):
            residual[model][row, :size] = found.rows[model][number]
    of_row, token = scored.nonzero(as_tuple=True)
    return _Batch(ids, (of_row, token), ids[of_row, token + 1]), (residual[0], residual[1]), patched
