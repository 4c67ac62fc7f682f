"""What a dictionary of differences is judged by: the two models exchanged, and one of them in another precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from modeldiff_eval import latents as measure
from modeldiff_eval.difference import EXCHANGE_BLOCKS, changed, exchanged, needed_blocks, numerical, shifted
from modeldiff_eval.token_kinds import TokenKind

if TYPE_CHECKING:
    from modeldiff_eval.corpus import TokenCorpus
    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace

MIN_ANSWERS = 8
"""Held-out answers of a model from which on they decide the order of its candidates."""


@dataclass(frozen=True)
class Control:
    """The exchange control of a dictionary of differences.

    ``shifted`` [latents] by claim: of those that the other model has less of, at the same rate.

    ``changed`` [latents]: more than noise, and more than the numerical control shows. ``null_rate``: mean share of the measured
    latents that the sign test finds when the models are exchanged in half of the documents at random, 200 times. ``energy``
    [latents]: share of the squared difference that each explains, over tokens that are neither template nor system prompt.
    ``rank`` [latents] by claim: what orders candidates, largest first (:func:`rank_weights`). ``prompts``: held-out blocks of whole
    prompts. ``prompts_needed``: in how many a latent must respond, always as the models are, before it could be told from noise;
    ``unjudged``: measured latents that respond in fewer.
    """

    changed: Bool[NDArray[np.bool_], " latents"]
    shifted: dict[int, Bool[NDArray[np.bool_], " latents"]]
    null_rate: float | None
    energy: Float[NDArray[np.float64], " latents"]
    rank: dict[int, Float[NDArray[np.float64], " latents"]]
    prompts: int = 0
    prompts_needed: int = 1
    unjudged: int = 0

    def figures(self, nu: Mapping[int, measure.Nu], *, rate: float) -> dict[str, int | float | None]:
        """What a card says of it, by the names of :class:`DifferenceInfo`.

        Rewritten: more than noise, and ν^ε near −1 for either model, the same behaviour written in another direction.
        """
        defined = np.logical_or.reduce([~np.isnan(side.rank_error) for side in nu.values()])
        with np.errstate(invalid="ignore"):
            opposite = np.logical_or.reduce(
                [(side.rank_error >= -2) & (side.rank_error <= -0.5) for side in nu.values()]
            )
        return {
            "measured": int(defined.sum()), "changed": int(self.changed.sum()), "rewritten": int((self.changed & opposite).sum()),
            "false_discovery_rate": rate, "null_rate": self.null_rate, "prompts": self.prompts,
            "prompts_needed": self.prompts_needed, "unjudged": self.unjudged,
        }  # fmt: skip


def exchange_control(
    work: Workspace, corpus: TokenCorpus, pair: Pair, heldout: torch.Tensor, nu: dict[int, measure.Nu], title: str,
    null: tuple[measure.Rows, torch.Tensor] | None,
) -> Control:  # fmt: skip
    """Run both controls on held-out text.

    Args:
        nu: ν by claim; a latent without it is not judged.
        null: rows of one model in two precisions, and the held-out row numbers that there are such rows for; None leaves the
            precision control out.
    """
    rate, document = work.settings.false_discovery_rate, corpus.document_of_token()
    # Answers to one prompt share its tokens: a block holds whole prompts, and what every document begins with has no vote.
    prompt = np.unique(corpus.documents["group"], return_inverse=True)[1].astype(np.int32)
    blocks = measure.document_blocks(heldout, prompt[document], seed=work.settings.seed, limit=EXCHANGE_BLOCKS)
    kinds = work.token_kinds(corpus)
    counted = kinds > TokenKind.SYSTEM
    weights = rank_weights(work, corpus, (pair.first, pair.second), heldout.numpy(), kinds)
    with work.reporter.task(f"Null control {title}: models exchanged", unit="tokens") as advance:
        control = exchanged(pair.crosscoder, pair.rows, blocks, counted=counted, weights=weights, on_progress=advance)
    defined = np.logical_or.reduce([~np.isnan(side.rank_error) for side in nu.values()])
    rng = np.random.default_rng([work.settings.seed, 12])
    null_rate = control.null_share(defined, rate=rate, rng=rng)
    energy = control.energy / max(float(control.energy.sum()), 1e-30)
    p, rounding = control.p_values(), np.zeros(len(energy), dtype=np.bool_)
    if null is not None:
        rounding = numerical(pair.crosscoder, pair.rows, *null)
    beyond = changed(p, defined, rate=rate) & ~rounding
    needed = needed_blocks(int(defined.sum()), int(beyond.sum()), rate=rate)
    unjudged = int((defined & (control.voters() < needed)).sum())
    rank = dict(enumerate(control.weighted))
    return Control(beyond, shifted(p, nu, beyond, rate=rate), null_rate, energy, rank, blocks.n, needed, unjudged)


def rank_weights(
    work: Workspace, corpus: TokenCorpus, roles: tuple[str, str], rows: Int[NDArray[np.int64], " rows"], kinds: Int[NDArray[np.int8], " tokens"]
) -> Float[NDArray[np.float64], "2 tokens"]:  # fmt: skip
    """How much a token counts for the order of each model's candidates: it is what a model writes that a tuning changes.

    A candidate's rank is what it explains of the difference per token of answers that its own model wrote, less that of answers by
    the other. Where fewer than eight of the documents are known to be one's own, all answers count, and where no answer is
    told apart everything that is neither template nor system prompt.

    Args:
        rows: token numbers that are measured.
    """
    document = corpus.document_of_token()
    seen = np.zeros(len(document), dtype=np.bool_)
    seen[rows] = True
    answers = seen & (kinds == TokenKind.ASSISTANT)
    written = [answers & work.written_by(corpus, role)[document] for role in roles]
    known = [len(np.unique(document[own])) >= MIN_ANSWERS for own in written]
    anything = answers if answers.any() else seen & (kinds > TokenKind.SYSTEM)
    weights = np.zeros((2, len(document)))
    for claim, other in ((0, 1), (1, 0)):
        own = written[claim] if known[claim] else anything
        weights[claim, own] = 1 / max(1, own.sum())
        if known[claim] and known[other]:
            weights[claim, written[other]] -= 1 / written[other].sum()
    return weights
