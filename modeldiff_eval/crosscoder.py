"""The crosscoder: a sparse dictionary shared by two models, and its files.

Weights are kept latents-major, because every sparse step reads whole latents::

    W_enc [latents, 2·d_model]   b_enc [latents]   W_dec [latents, 2·d_model]   b_dec [2·d_model]

where the first d_model columns belong to the first model. Inputs are normalised per model,
``x̃_m = (x_m − mean_m)·scale_m``, and the statistics travel with the weights (ALGORITHMS §1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modeldiff_eval.crosscoder_files import read_config, read_tensors, require_tensors, write_tensors
from modeldiff_eval.errors import CrosscoderError
from modeldiff_eval.store import write_json

NATIVE_ARCHITECTURE = "modeldiff_crosscoder"
SAELENS_VERSION = "6.0.0"
WEIGHTS_FILE = "sae_weights.safetensors"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "mean", "scale")
_JUMPRELU_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
# Both forms take raw rows of both models side by side; SAELens must neither centre nor scale them.
_SAELENS_INPUT = {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}


@dataclass(frozen=True)
class Crosscoder:
    """Weights, normaliser and inference threshold of one trained crosscoder.

    ``threshold`` is compared with the scaled activation ``v = f·n`` where ``n`` is the code norm; where ``selection`` is given,
    with ``v`` times it (methods that select by another norm than n). ``k`` is the budget it was
    trained with; 0 when it had none (a plain ReLU crosscoder from elsewhere).
    """

    W_enc: Float[Tensor, "latents inputs"]
    b_enc: Float[Tensor, " latents"]
    W_dec: Float[Tensor, "latents inputs"]
    b_dec: Float[Tensor, " inputs"]
    mean: Float[Tensor, "2 d_model"]
    scale: Float[Tensor, " 2"]
    threshold: float
    k: int
    selection: Float[Tensor, " latents"] | None = None

    @property
    def n_latents(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[1] // 2

    def normalise(self, rows: Float[Tensor, "rows 2 d_model"]) -> Float[Tensor, "rows inputs"]:
        """Raw activations of both models → the space the crosscoder works in."""
        return ((rows - self.mean) * self.scale[:, None]).flatten(1)

    def denormalise(self, inputs: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows 2 d_model"]:
        """Undo :meth:`normalise`: reconstructions of both models as they are."""
        return inputs.view(-1, 2, self.d_model) / self.scale[:, None] + self.mean

    def decoder_norms(self) -> Float[Tensor, "latents 2"]:
        """‖d_m,j‖ of every latent in each model, in normalised space."""
        norms: Tensor = self.W_dec.view(self.n_latents, 2, self.d_model).norm(dim=2)
        return norms

    def code_norm(self) -> Float[Tensor, " latents"]:
        """n_j = Σ_m ‖d_m,j‖, the scale that selection and threshold work with."""
        return self.decoder_norms().sum(1)

    def scaled(self, inputs: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows latents"]:
        """v = ReLU(x̃·W_enc + b_enc)·n where it is above the threshold, else 0."""
        scaled = torch.addmm(self.b_enc, inputs, self.W_enc.T).relu_().mul_(self.code_norm())
        return scaled.mul_(scaled > self.cut())

    def cut(self) -> Float[Tensor, " latents"]:
        """What v of each latent must exceed for it to fire."""
        if self.selection is None:
            return torch.full((self.n_latents,), self.threshold)
        return torch.where(self.selection > 0, self.threshold / self.selection, math.inf)

    def encode(self, inputs: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows latents"]:
        """Unscaled latent activations f of normalised inputs."""
        norm = self.code_norm()
        return self.scaled(inputs).mul_(torch.where(norm > 0, 1 / norm, 0))

    def decode(self, latents: Float[Tensor, "rows latents"]) -> Float[Tensor, "rows inputs"]:
        """Reconstruction in normalised space."""
        return torch.addmm(self.b_dec, latents, self.W_dec)


def delta_norm(norms: Float[Tensor, "latents 2"]) -> Float[Tensor, " latents"]:
    """0 = only in the first model, 0.5 = shared, 1 = only in the second (paper §2.1). NaN where both norms are 0."""
    return 0.5 * ((norms[:, 1] - norms[:, 0]) / norms.max(dim=1).values + 1)


# Files ----------------------------------------------------------------------------------------------


def build(weights: Mapping[str, Tensor], *, threshold: float, k: int, where: object) -> Crosscoder:
    """A float32 crosscoder from tensors of unknown origin.

    Args:
        weights: W_enc, b_enc, W_dec, b_dec, mean and scale in the shapes of :class:`Crosscoder`, perhaps selection.
        where: what an error says they were read from.

    Raises:
        CrosscoderError: a tensor is missing, has another shape, or holds NaN or infinity; the scale, threshold or k is impossible.
    """
    require_tensors(weights, _TENSORS, where)
    if weights["W_enc"].ndim != 2 or weights["W_enc"].shape[1] % 2 or not weights["W_enc"].numel():
        raise CrosscoderError(
            f"{where}: W_enc has shape {tuple(weights['W_enc'].shape)}, expected (latents, 2·d_model)."
        )
    latents, inputs = weights["W_enc"].shape
    shapes = {
        "W_enc": (latents, inputs), "b_enc": (latents,), "W_dec": (latents, inputs), "b_dec": (inputs,),
        "mean": (2, inputs // 2), "scale": (2,),
    }  # fmt: skip
    if "selection" in weights:
        shapes["selection"] = (latents,)
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise CrosscoderError(f"{where}: {name} has shape {tuple(weights[name].shape)}, expected {shape}.")
        if not bool(torch.isfinite(weights[name]).all()):
            raise CrosscoderError(f"{where}: {name} holds NaN or infinity; the file is damaged or the training failed.")
    if not bool((weights["scale"] > 0).all()):
        raise CrosscoderError(f"{where}: scale must be positive for both models, not {weights['scale'].tolist()}.")
    if not (math.isfinite(threshold) and threshold >= 0) or k < 0:
        raise CrosscoderError(
            f"{where}: threshold {threshold} and k {k} cannot be; a threshold is a number ≥ 0 and k at least 0."
        )
    if "selection" in weights and not bool((weights["selection"] >= 0).all()):
        raise CrosscoderError(f"{where}: selection holds negative numbers; it multiplies scores.")
    return Crosscoder(**{name: weights[name].float() for name in shapes}, threshold=threshold, k=k)


def require_one_threshold(crosscoder: Crosscoder, what: str) -> None:
    """Raise CrosscoderError where latents fire at different thresholds, which ``what`` cannot express."""
    if crosscoder.selection is not None:
        raise CrosscoderError(
            f"This crosscoder selects its latents by a norm of its own, so each has another threshold; {what} has one for all. "
            "Export it as jumprelu."
        )


def save_native(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` in our own shapes."""
    weights = {name: getattr(crosscoder, name) for name in _TENSORS}
    if crosscoder.selection is not None:
        weights["selection"] = crosscoder.selection
    config = {
        "architecture": NATIVE_ARCHITECTURE,
        "n_models": 2,
        "d_in": 2 * crosscoder.d_model,
        "d_model": crosscoder.d_model,
        "d_sae": crosscoder.n_latents,
        "k": crosscoder.k,
        "threshold": crosscoder.threshold,
        "dtype": "float32",
        "device": "cpu",
        **_SAELENS_INPUT,
        "metadata": {"sae_lens_version": SAELENS_VERSION, **metadata},
    }
    write_tensors(folder / WEIGHTS_FILE, weights)
    write_json(folder / "cfg.json", config)


def save_jumprelu(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the same function as a stock SAELens ``jumprelu`` SAE over concatenated raw rows (ALGORITHMS §5).

    It emits v = n·f. A latent whose code norm is 0 becomes zeros.
    """
    n = crosscoder.code_norm()
    inverse = torch.where(n > 0, 1 / n, 0)
    scale = crosscoder.scale.repeat_interleave(crosscoder.d_model)
    mean = crosscoder.mean.flatten()
    weights = {
        "W_enc": (n[:, None] * crosscoder.W_enc * scale).T,
        "b_enc": n * (crosscoder.b_enc - crosscoder.W_enc @ (mean * scale)),
        "W_dec": crosscoder.W_dec * inverse[:, None] / scale,
        "b_dec": crosscoder.b_dec / scale + mean,
        "threshold": crosscoder.cut(),
    }
    config = {
        "architecture": "jumprelu",
        "d_in": 2 * crosscoder.d_model,
        "d_sae": crosscoder.n_latents,
        "dtype": "float32",
        "device": "cpu",
        **_SAELENS_INPUT,
        "metadata": {
            "sae_lens_version": SAELENS_VERSION,
            "modeldiff_k": crosscoder.k,
            "modeldiff_mean": crosscoder.mean.tolist(),
            "modeldiff_scale": crosscoder.scale.tolist(),
            **metadata,
        },
    }
    write_tensors(folder / WEIGHTS_FILE, weights)
    write_json(folder / "cfg.json", config)


def load(folder: Path) -> tuple[Crosscoder, dict[str, Any]]:
    """Read either export back; a run's ``<first>--<second>`` folder stands for its ``native`` one.

    Returns:
        The crosscoder and the metadata saved with it.

    Raises:
        CrosscoderError: files are missing or malformed, or the architecture is not ours.
    """
    folder = folder / "native" if (folder / "native").is_dir() else folder
    for name in ("cfg.json", WEIGHTS_FILE):
        if not (folder / name).exists():
            raise CrosscoderError(
                f"{folder} has no {name}. --crosscoder takes a folder with cfg.json and {WEIGHTS_FILE}."
            )
    config = read_config(folder / "cfg.json")
    require_architecture(config, folder)
    weights = read_tensors(folder / WEIGHTS_FILE)
    try:
        if config["architecture"] == NATIVE_ARCHITECTURE:
            # A checkpoint of SAELens' trainer carries the running threshold as a tensor.
            running = weights.pop("topk_threshold", None)
            threshold = float(config["threshold"] if running is None else running)
            crosscoder = build(weights, threshold=threshold, k=int(config["k"]), where=folder)
        else:
            crosscoder = _from_jumprelu(config, weights, folder)
        widths = {"d_in": 2 * crosscoder.d_model, "d_sae": crosscoder.n_latents}
        for name, width in widths.items():
            if int(config.get(name, width)) != width:
                raise CrosscoderError(f"{folder}: cfg.json says {name} {config[name]}, the weights have {width}.")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CrosscoderError(f"{folder} is not a crosscoder that can be read: {error!r}.") from error
    return crosscoder, dict(config.get("metadata") or {})


def require_architecture(config: Mapping[str, Any], where: object) -> None:
    """Raise CrosscoderError unless a SAELens ``cfg.json`` names an architecture that can be read."""
    if (architecture := config.get("architecture")) not in (NATIVE_ARCHITECTURE, "jumprelu"):
        raise CrosscoderError(
            f"{where} has architecture {architecture!r}; {NATIVE_ARCHITECTURE!r} and 'jumprelu' can be read."
        )


def _from_jumprelu(config: Mapping[str, Any], weights: Mapping[str, Tensor], where: object) -> Crosscoder:
    """Undo :func:`save_jumprelu` up to the code norm, which becomes 1 for every latent (v, x̂ and Δ_norm are unchanged)."""
    metadata = config.get("metadata") or {}
    if "modeldiff_scale" not in metadata:
        raise CrosscoderError(
            f"{where}: this jumprelu SAE was not exported by modeldiff-eval: it does not say how each model was normalised, and "
            "Δ_norm and ν have no meaning without that."
        )
    require_tensors(weights, _JUMPRELU_TENSORS, where)
    if weights["W_enc"].ndim != 2:
        raise CrosscoderError(
            f"{where}: W_enc has shape {tuple(weights['W_enc'].shape)}, expected (2·d_model, latents)."
        )
    threshold = weights["threshold"].float()
    if threshold.ndim != 1 or not len(threshold) or not bool((threshold >= 0).all()) or bool(threshold.isinf().all()):
        raise CrosscoderError(f"{where}: threshold must hold a number ≥ 0 for every latent.")
    one = float(threshold[threshold.isfinite()].max())
    mean, scale = torch.tensor(metadata["modeldiff_mean"]), torch.tensor(metadata["modeldiff_scale"])
    wide = scale.repeat_interleave(mean.shape[1])
    W_enc = weights["W_enc"].float().T / wide
    tensors = {
        "W_enc": W_enc.contiguous(),
        "b_enc": weights["b_enc"] + W_enc @ (mean.flatten() * wide),
        "W_dec": weights["W_dec"] * wide,
        "b_dec": (weights["b_dec"] - mean.flatten()) * wide,
        "mean": mean,
        "scale": scale,
    }
    if not bool((threshold == one).all()):
        if not bool((threshold > 0).all()):
            raise CrosscoderError(
                f"{where}: some thresholds are 0 and others are not; an export of ours has no such mixture."
            )
        tensors["selection"] = one / threshold
    return build(tensors, threshold=one, k=int(metadata["modeldiff_k"]), where=where)


def require_width(crosscoder: Crosscoder, d_model: int, where: object) -> None:
    """Raise CrosscoderError unless the crosscoder was trained on models of this width."""
    if crosscoder.d_model != d_model:
        raise CrosscoderError(f"{where} was trained on models of width {crosscoder.d_model}; these have {d_model}.")
