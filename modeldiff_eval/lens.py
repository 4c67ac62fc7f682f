"""Activation-difference lens: what the tuned model adds to the residual inside answers, read as tokens; nothing is trained.

The mean of tuned minus base after block L goes through the first-order change of the final norm (at the tuned model's own
mean residual) and the unembedding. It is read against sign flips: were the models alike, which of them is called tuned would
not matter for any prompt. After the Activation Difference Lens of Minder et al. (2025, arXiv 2510.13900), without its
patchscopes and steering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.activations import PairedRows
from modeldiff_eval.errors import CorpusError, ModelError
from modeldiff_eval.records import LensScope, LensToken
from modeldiff_eval.stats import estimate, permutation_p

FIRST = 5
SHOWN = 12
DRAWS = 1000
MIN_PROMPTS = 16
MAX_BLOCKS = 1024
_ROWS = 8192
_VOCABULARY = 8192


@dataclass(frozen=True)
class Readout:
    """The tuned model's way from a residual to logits: its final ``norm`` and ``unembedding`` [vocabulary, d_model]."""

    norm: Callable[[Tensor], Tensor]
    unembedding: Float[Tensor, "vocabulary d_model"]

    def changes(
        self, at: Float[Tensor, " d_model"], directions: Float[Tensor, "directions d_model"]
    ) -> Float[Tensor, "directions d_model"]:
        """First-order change of the final norm's output when a residual at ``at`` moves along each direction."""
        with torch.no_grad():
            moved = torch.func.jvp(self.norm, (at.expand_as(directions).contiguous(),), (directions,))[1]
        out: Tensor = moved
        return out

    def words(self, part: slice | int) -> Tensor:
        """Some rows of the unembedding in float32 on the CPU."""
        return self.unembedding[part].to("cpu", torch.float32)

    def centre(self) -> Float[Tensor, " d_model"]:
        """Mean row of the unembedding: a score counts from the average token, for adding to all logits says nothing."""
        return self.unembedding.mean(0, dtype=torch.float32).to("cpu")


def readout(model: Any) -> Readout:
    """Final norm (in float32 on the CPU) and unembedding (as it is) of a transformers model.

    Raises:
        ModelError: the model has no output embedding, or no norm beside its blocks.
    """
    import copy

    head = model.get_output_embeddings()
    inner = model.get_decoder() if hasattr(model, "get_decoder") else model
    norms = [
        child
        for name, child in inner.named_children()
        if "emb" not in name and getattr(getattr(child, "weight", None), "ndim", 0) == 1
    ]
    if head is None or not norms:
        raise ModelError(
            f"{type(model).__name__} shows no final norm and unembedding where they usually are, so differences cannot be read as tokens."
        )
    norm = copy.deepcopy(norms[-1]).to("cpu", torch.float32).requires_grad_(False)
    return Readout(norm, head.weight.detach())


@dataclass(frozen=True)
class Sums:
    """Differences summed over each block of prompts. ``total`` [blocks, d_model], ``count`` [blocks] tokens."""

    total: Float[Tensor, "blocks d_model"]
    count: Float[Tensor, " blocks"]
    tuned: Float[Tensor, " d_model"]
    """Mean residual of the tuned model."""
    residual: float
    """Mean length of base's residual."""


def block_sums(rows: PairedRows, tokens: Int[Tensor, " tokens"], block: Int[Tensor, " tokens"]) -> Sums:
    """Sum tuned − base over ``tokens``; ``block`` [tokens] says which block of prompts each belongs to."""
    n, total, tuned, length = int(block.max()) + 1, None, None, 0.0
    for start in range(0, len(tokens), _ROWS):
        part = slice(start, start + _ROWS)
        both = rows(tokens[part])
        if total is None or tuned is None:
            total, tuned = torch.zeros(n, both.shape[2], dtype=torch.float64), torch.zeros(both.shape[2]).double()
        total.index_add_(0, block[part], (both[:, 1] - both[:, 0]).double())
        tuned += both[:, 1].double().sum(0)
        length += float(both[:, 0].norm(dim=1).double().sum())
    if total is None or tuned is None:
        raise CorpusError("The activation-difference lens was given no tokens.")
    return Sums(total, torch.bincount(block, minlength=n).double(), tuned / len(tokens), length / len(tokens))


def prompt_blocks(groups: list[str], *, seed: int, limit: int = MAX_BLOCKS) -> Int[np.ndarray, " documents"]:
    """[documents] block of each document: one for each prompt, or prompts dealt at random into ``limit`` blocks."""
    names, number = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    dealt = np.random.default_rng([seed, 61]).permutation(len(names)) % limit
    out: np.ndarray[Any, Any] = dealt[number].astype(np.int64)
    return out


def scope(
    sums: Sums,
    out: Readout,
    token_text: Callable[[int], str],
    *,
    positions: int | None,
    documents: int,
    prompts: int,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> LensScope:
    """Tokens that the mean difference promotes and demotes, with adjusted p, and its length.

    Adjusted p: max-T over the whole vocabulary, both directions, each token's score in units of its own spread under random
    signs of the blocks. Intervals: Bayesian bootstrap over blocks.
    """
    weight = sums.count.sum()
    total = sums.total
    mean = total.sum(0) / weight
    flips = torch.from_numpy(rng.choice([-1.0, 1.0], size=(draws, len(total))))
    null = flips @ total / weight
    noise = float(((total - sums.count[:, None] * mean) ** 2).sum() / weight**2)
    shares = torch.from_numpy(rng.standard_exponential((draws, len(total))))
    again = shares @ total / (shares @ sums.count)[:, None]

    def length(vectors: Tensor, copies: int) -> Any:
        return (vectors.square().sum(-1) - copies * noise).clamp(min=0).sqrt().numpy()

    value = float(length(mean, 1))
    low, high = np.quantile(length(again, 2), [0.025, 0.975])
    size = [value, min(float(low), value), max(float(high), value)]
    flipped = null.norm(dim=1).numpy()
    up, down = _tokens(sums, out, token_text, mean, null, again)
    return LensScope(
        positions=positions, tokens=int(weight), documents=documents, prompts=prompts,
        norm=estimate(*size), share=estimate(*(100 * x / sums.residual for x in size)),
        null_norm=round(float(np.quantile(flipped, 0.95)), 6), p=permutation_p(float(mean.norm()), flipped), up=up, down=down,
    )  # fmt: skip


def _tokens(
    sums: Sums, out: Readout, token_text: Callable[[int], str], mean: Tensor, null: Tensor, again: Tensor
) -> tuple[list[LensToken], list[LensToken]]:
    at, centre = sums.tuned.float(), out.centre()
    read = {
        name: out.changes(at, rows.float())
        for name, rows in {"mean": mean[None], "null": null, "again": again, "total": sums.total}.items()
    }
    scores, largest = [], torch.zeros(len(null))
    ratios = []
    for start in range(0, len(out.unembedding), _VOCABULARY):
        words = (out.words(slice(start, start + _VOCABULARY)) - centre).T
        spread = (read["total"] @ words).square().sum(0).sqrt() / float(sums.count.sum())
        # A token that only rounding moves is no token: its spread is no unit to measure in.
        usable = torch.where(spread > 1e-9, spread, torch.inf)
        score = (read["mean"] @ words)[0]
        scores.append(score)
        ratios.append(score.abs() / usable)
        largest = torch.maximum(largest, ((read["null"] @ words).abs() / usable).amax(1))
    score, ratio, maxima = torch.cat(scores), torch.cat(ratios), largest.double().numpy()

    def record(token: int) -> LensToken:
        drawn = (read["again"] @ (out.words(token) - centre)).double().numpy()
        low, high = np.quantile(drawn, [0.025, 0.975])
        value = float(score[token])
        return LensToken(
            token=token_text(token),
            score=estimate(value, min(low, value), max(high, value)),
            p_adjusted=permutation_p(float(ratio[token]), maxima),
        )

    order = torch.argsort(score, stable=True)
    up = [record(int(t)) for t in order.flip(0)[:SHOWN] if score[t] > 0 and ratio[t] > 0]
    down = [record(int(t)) for t in order[:SHOWN] if score[t] < 0 and ratio[t] > 0]
    return up, down


def token_text(tokenizer: Any) -> Callable[[int], str]:
    """Token id → text; a piece of a character that is no text alone is shown as the tokenizer's own spelling."""

    def show(token: int) -> str:
        text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        raw = tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text or not text else None
        return text if raw is None else str(raw)

    return show
