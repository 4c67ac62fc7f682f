"""The constants of the truth bench: everything in ``data/planted.yaml``, as frozen records that refuse strangers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from pydantic import Field

from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource

Kind = Literal["shared", "base_only", "tuned_only", "rotated", "rescaled"]
KINDS: Sequence[Kind] = get_args(Kind)
ScaleName = Literal["quick", "full"]


class Firing(Record):
    """How often, how strongly and with which others a planted latent fires."""

    exponent: float = Field(gt=0)
    frequency_max: float = Field(gt=0, lt=1)
    strength_spread: float = Field(ge=0)
    amplitude_spread: float = Field(ge=0)
    group_share: float = Field(ge=0, le=1)
    group_size: int = Field(ge=2)
    group_firings: float = Field(ge=0, lt=1)
    topics: int = Field(ge=2)
    topic_share: float = Field(ge=0, le=1)
    topic_firings: float = Field(gt=0, lt=1)
    topic_ceiling: float = Field(gt=0, lt=1)


class Documents(Record):
    """Lengths of documents, and the share that training does not see."""

    tokens_median: float = Field(gt=0)
    tokens_spread: float = Field(ge=0)
    tokens_min: int = Field(ge=1)
    tokens_max: int = Field(ge=1)
    heldout_share: float = Field(gt=0, lt=1)


class Kinds(Record):
    """What differs between the models in rotated and in rescaled latents."""

    rotation_cosine: float = Field(ge=-1, le=1)
    rescaled_ratios: tuple[float, ...] = Field(min_length=1)


class Noise(Record):
    """Energies as shares of the planted energy of one model; offsets in root mean squared planted norms."""

    shared: float = Field(ge=0)
    shared_exponent: float = Field(ge=0)
    own: float = Field(ge=0)
    mean_offset: float = Field(ge=0)
    mean_shift: float = Field(ge=0)


class Scoring(Record):
    """When a dictionary latent counts as a planted one, and when a claim is made."""

    match_cosine: float = Field(gt=0, lt=1)
    delta_norm_cut: float = Field(gt=0, lt=0.5)
    nu_error: float = Field(gt=0)
    nu_reconstruction: float = Field(gt=0)
    min_firings: int = Field(ge=1)
    false_discovery_rate: float = Field(gt=0, lt=1)
    target: float = Field(gt=0, lt=1)


class Training(Record):
    """Size and length of a training; what any dictionary method gets."""

    n_latents: int = Field(ge=1)
    k: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)


class Scale(Record):
    """One size of the bench."""

    kinds: dict[Kind, int]
    d_model: int = Field(ge=2)
    documents: int = Field(ge=16)
    frequency_min: float = Field(gt=0, lt=1)
    training: Training
    seeds: int = Field(ge=1)

    @property
    def latents(self) -> int:
        return sum(self.kinds.values())

    def null(self) -> Scale:
        """The same size with every latent shared: whatever a method then finds is false."""
        return self.model_copy(update={"kinds": {"shared": self.latents}})


class Constants(Record):
    """``data/planted.yaml``."""

    version: Literal[1]
    firing: Firing
    documents: Documents
    kinds: Kinds
    noise: Noise
    scoring: Scoring
    scales: dict[ScaleName, Scale]


@lru_cache(maxsize=1)
def constants() -> Constants:
    """The packaged file."""
    import yaml

    return Constants.model_validate(yaml.safe_load(resource("data/planted.yaml").read_text(encoding="utf-8")))
