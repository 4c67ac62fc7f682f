"""The crosscoder: a sparse dictionary shared by two models, and its files.

Weights are kept latents-major, because every sparse step reads whole latents::

    W_enc [latents, 2·d_model]   b_enc [latents]   W_dec [latents, 2·d_model]   b_dec [2·d_model]

where the first d_model columns belong to the first model. Inputs are normalised per model,
``x̃_m = (x_m − mean_m)·scale_m``, and the statistics travel with the weights (ALGORITHMS §1).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modeldiff_eval.errors import CrosscoderError
from modeldiff_eval.store import write_json

NATIVE_ARCHITECTURE = "modeldiff_crosscoder"
SAELENS_VERSION = "6.0.0"


@dataclass(frozen=True)
class Crosscoder:
    """Weights, normaliser and inference threshold of one trained crosscoder.

    ``threshold`` is compared with the scaled activation ``v = f·n`` where ``n`` is the code norm.
    """

    W_enc: Float[Tensor, "latents inputs"]
    b_enc: Float[Tensor, " latents"]
    W_dec: Float[Tensor, "latents inputs"]
    b_dec: Float[Tensor, " inputs"]
    mean: Float[Tensor, "2 d_model"]
    scale: Float[Tensor, " 2"]
    threshold: float
    k: int

    @property
    def n_latents(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[1] // 2

    def normalise(self, rows: Float[Tensor, "rows 2 d_model"]) -> Float[Tensor, "rows inputs"]:
        """Raw activations of both models → the space the crosscoder works in."""
        return ((rows - self.mean) * self.scale[:, None]).flatten(1)

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
        return scaled.mul_(scaled > self.threshold)

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


def save_native(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` in our own shapes."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "mean", "scale")
    save_file({name: getattr(crosscoder, name).contiguous() for name in names}, folder / "sae_weights.safetensors")
    write_json(
        folder / "cfg.json",
        {
            "architecture": NATIVE_ARCHITECTURE,
            "n_models": 2,
            "d_in": 2 * crosscoder.d_model,
            "d_model": crosscoder.d_model,
            "d_sae": crosscoder.n_latents,
            "k": crosscoder.k,
            "threshold": crosscoder.threshold,
            "dtype": "float32",
            "device": "cpu",
            "metadata": {"sae_lens_version": SAELENS_VERSION, **metadata},
        },
    )


def save_jumprelu(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the same function as a stock SAELens ``jumprelu`` SAE over concatenated raw rows (ALGORITHMS §5).

    It emits v = n·f. A latent whose code norm is 0 becomes zeros.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    n = crosscoder.code_norm()
    inverse = torch.where(n > 0, 1 / n, 0)
    scale = crosscoder.scale.repeat_interleave(crosscoder.d_model)
    mean = crosscoder.mean.flatten()
    weights = {
        "W_enc": (n[:, None] * crosscoder.W_enc * scale).T.contiguous(),
        "b_enc": n * (crosscoder.b_enc - crosscoder.W_enc @ (mean * scale)),
        "W_dec": crosscoder.W_dec * inverse[:, None] / scale,
        "b_dec": crosscoder.b_dec / scale + mean,
        "threshold": torch.full((crosscoder.n_latents,), crosscoder.threshold),
    }
    save_file(weights, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "d_in": 2 * crosscoder.d_model,
        "d_sae": crosscoder.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS_VERSION,
            "modeldiff_k": crosscoder.k,
            "modeldiff_mean": crosscoder.mean.tolist(),
            "modeldiff_scale": crosscoder.scale.tolist(),
            **metadata,
        },
    }
    write_json(folder / "cfg.json", config)


def load(folder: Path) -> tuple[Crosscoder, dict[str, Any]]:
    """Read either export back; a run's ``<first>--<second>`` folder stands for its ``native`` one.

    Returns:
        The crosscoder and the metadata saved with it.

    Raises:
        CrosscoderError: files are missing or malformed, or the architecture is not ours.
    """
    folder = folder / "native" if (folder / "native").is_dir() else folder
    config, weights = _read(folder)
    architecture = config.get("architecture")
    try:
        if architecture == NATIVE_ARCHITECTURE:
            crosscoder = Crosscoder(**weights, threshold=float(config["threshold"]), k=int(config["k"]))
        elif architecture == "jumprelu":
            crosscoder = _from_jumprelu(config, weights)
        else:
            raise CrosscoderError(
                f"{folder} has architecture {architecture!r}; {NATIVE_ARCHITECTURE!r} and 'jumprelu' can be read."
            )
    except (KeyError, TypeError, ValueError) as error:
        raise CrosscoderError(f"{folder} is not a crosscoder that can be read: {error!r}.") from error
    _check(crosscoder, folder)
    return crosscoder, dict(config.get("metadata") or {})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load_file

    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).exists():
            raise CrosscoderError(
                f"{folder} has no {name}. --crosscoder takes a folder with cfg.json and sae_weights.safetensors."
            )
    try:
        return json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    except Exception as error:
        raise CrosscoderError(
            f"{folder} cannot be read ({error}); it may be half written. Train or fetch it again."
        ) from error


def _from_jumprelu(config: dict[str, Any], weights: dict[str, Tensor]) -> Crosscoder:
    """Undo :func:`save_jumprelu` up to the code norm, which becomes 1 for every latent (v, x̂ and Δ_norm are unchanged)."""
    metadata = config.get("metadata") or {}
    if "modeldiff_scale" not in metadata:
        raise CrosscoderError(
            "This jumprelu SAE was not exported by modeldiff-eval: it does not say how each model was normalised, and Δ_norm "
            "and ν have no meaning without that."
        )
    mean, scale = torch.tensor(metadata["modeldiff_mean"]), torch.tensor(metadata["modeldiff_scale"])
    wide = scale.repeat_interleave(mean.shape[1])
    W_enc = weights["W_enc"].T / wide
    return Crosscoder(
        W_enc=W_enc.contiguous(),
        b_enc=weights["b_enc"] + W_enc @ (mean.flatten() * wide),
        W_dec=weights["W_dec"] * wide,
        b_dec=(weights["b_dec"] - mean.flatten()) * wide,
        mean=mean,
        scale=scale,
        threshold=float(weights["threshold"][0]),
        k=int(metadata["modeldiff_k"]),
    )


def _check(crosscoder: Crosscoder, folder: Path) -> None:
    latents, inputs = crosscoder.W_enc.shape
    shapes = {
        "b_enc": (latents,), "W_dec": (latents, inputs), "b_dec": (inputs,), "mean": (2, inputs // 2), "scale": (2,),
    }  # fmt: skip
    for name, shape in shapes.items():
        tensor = getattr(crosscoder, name)
        if tuple(tensor.shape) != shape:
            raise CrosscoderError(f"{folder}: {name} has shape {tuple(tensor.shape)}, expected {shape}.")
        if not bool(torch.isfinite(tensor).all()):
            raise CrosscoderError(f"{folder}: {name} holds NaN or infinity.")


def require_width(crosscoder: Crosscoder, d_model: int, folder: Path) -> None:
    """Raise CrosscoderError unless the crosscoder was trained on models of this width."""
    if crosscoder.d_model != d_model:
        raise CrosscoderError(f"{folder} was trained on models of width {crosscoder.d_model}; these have {d_model}.")
