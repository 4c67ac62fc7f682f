"""What a dictionary of differences is judged by: the two models exchanged, and one of them in another precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from modeldiff_eval import latents as measure
from modeldiff_eval.difference import EXCHANGE_BLOCKS, changed, exchanged, needed_blocks, numerical, shifted
from modeldiff_eval.token_kinds import TokenKind

if TYPE_CHECKING:
    from modeldiff_eval.corpus import TokenCorpus
    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace


@dataclass(frozen=True)
class Control:
    """The exchange control of a dictionary of differences.

    ``shifted`` [latents] by claim: of those that the other model has less of, at the same rate.

    ``changed`` [latents]: more than noise, and more than the numerical control shows. ``null_rate``: mean share of the measured
    latents that the sign test finds when the models are exchanged in half of the documents at random, 200 times. ``energy``
    [latents]: share of the squared difference that each explains, over tokens that are neither template nor system prompt.
    ``prompts``: held-out blocks of whole prompts. ``prompts_needed``: in how many a latent must respond, always as the models are,
    before it could be told from noise; ``unjudged``: measured latents that respond in fewer.
    """

    changed: Bool[NDArray[np.bool_], " latents"]
    shifted: dict[int, Bool[NDArray[np.bool_], " latents"]]
    null_rate: float | None
    energy: Float[NDArray[np.float64], " latents"]
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
    counted = work.token_kinds(corpus) > TokenKind.SYSTEM
    with work.reporter.task(f"Null control {title}: models exchanged", unit="tokens") as advance:
        control = exchanged(pair.crosscoder, pair.rows, blocks, counted=counted, on_progress=advance)
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
    return Control(beyond, shifted(p, nu, beyond, rate=rate), null_rate, energy, blocks.n, needed, unjudged)
