"""The records of a card's further panels: probing, the lens and causal patching."""

from typing import Literal

from pydantic import Field

from modeldiff_eval.records_base import CardRecord, Estimate, Verdict


class ProbeRow(CardRecord):
    """One class or category told from all others by a linear probe: ROC AUC on ``n`` held-out documents, ``positives`` of them of it."""

    code: str
    name: str
    n: int
    positives: int
    base: Estimate
    tuned: Estimate
    diff: Estimate
    p: float | None
    p_adjusted: float | None
    verdict: Verdict


class ProbingPanel(CardRecord):
    """What linear probes on either model's activations of the same documents say; intervals are over held-out prompts."""

    said: str
    layer: int
    pooling: str
    documents_train: int
    documents_heldout: int
    prompts_heldout: int
    base: Estimate
    """Mean AUC over the categories."""
    tuned: Estimate
    diff: Estimate
    classes: list[ProbeRow]
    categories: list[ProbeRow]


class LensToken(CardRecord):
    """A token that the mean difference promotes or demotes; ``score`` is in logits above those of the average token."""

    token: str
    score: Estimate
    p_adjusted: float


class LensScope(CardRecord):
    """The mean of tuned minus base over the first ``positions`` tokens of every answer, or over all of them (None)."""

    positions: int | None
    tokens: int
    documents: int
    prompts: int
    norm: Estimate
    """Length of the mean difference, what chance alone adds to it taken off."""
    share: Estimate
    """The same in percent of the mean length of base's residual there."""
    null_norm: float
    """Length that 95 % of the differences with random signs stay below, nothing taken off."""
    p: float
    up: list[LensToken]
    down: list[LensToken]


class LensPanel(CardRecord):
    """The training-free activation-difference lens: the mean residual difference in words."""

    layer: int
    draws: int
    scopes: list[LensScope]


class CausalMeasure(CardRecord):
    """What patching did to one figure (nats a token, patched minus as it is), beside matched random latents.

    ``random``: mean over the draws, with the smallest and the largest draw for bounds. ``difference``: effect minus a
    random set, its interval over documents and over which random set it is. The verdict is "down" or "up" only where the
    intervals of effect and difference both exclude 0 on the same side.
    """

    effect: Estimate
    random: Estimate
    difference: Estimate
    verdict: Verdict


class CausalEffect(CardRecord):
    """``kl``: KL(tuned ‖ other) of the next token, down is towards the other model; ``nll`` of the text as it stands."""

    kl: CausalMeasure
    nll: CausalMeasure


class CausalRow(CardRecord):
    """One set of latents, and the ``random`` ones matched to it.

    ``fires`` and ``random_fires``: share of the patched tokens where one of them is active. ``out`` takes them out of tuned,
    ``into`` puts the other model's share in their place; None where none is ever active.
    """

    name: str
    kind: Literal["set", "class", "shifted", "latent"]
    code: str | None = None
    latents: list[int] = Field(min_length=1)
    random: list[list[int]] = []
    fires: float
    random_fires: float | None
    out: CausalEffect | None = None
    into: CausalEffect | None = None


class CausalTask(CardRecord):
    """One benchmark metric of tuned with the set taken out, minus tuned as it is, over the same documents.

    ``random``: mean change over the random sets, with the smallest and the largest for bounds. The verdict also asks that
    the change lies beyond all of them.
    """

    task: str
    metric: str
    n: int
    tuned: float
    patched: float
    delta: Estimate
    p_adjusted: float | None
    random: Estimate
    draws: int
    verdict: Verdict


class CausalText(CardRecord):
    """Greedy answers to one prompt: tuned, tuned with the set taken out, and the other model."""

    prompt: str
    tuned: str
    patched: str
    other: str

    @property
    def differs(self) -> bool:
        """Whether patching changed the answer."""
        return self.tuned != self.patched


class CausalPanel(CardRecord):
    """What happens when latents are patched out of the running tuned model at one layer, over assistant tokens.

    ``kl`` is KL(tuned ‖ other) before anything is patched, ``nll`` tuned's own on the text; nats a token, intervals over
    documents (those that answer one prompt count as one). ``chosen`` says how the main set was chosen; ``draws`` random
    sets stand beside each row.
    """

    other: Literal["base", "anchor"]
    chosen: Literal["specific", "nearest"]
    layer: int
    dtype: str
    assistant_only: bool
    documents: int
    tokens: int
    patched_tokens: int
    draws: int
    kl: Estimate
    nll: Estimate
    rows: list[CausalRow]
    tasks: list[CausalTask] = []
    texts: list[CausalText] = []
