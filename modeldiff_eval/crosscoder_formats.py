"""Crosscoders of other libraries: their tensors read as ours, and ours written as theirs (ALGORITHMS §5).

**dictionary_learning.** ``f = ReLU(Σ_m x̃_m·encoder.weight[m] + encoder.bias)``, kept where f·c > threshold with a code
normalisation c; ``x̂_m = f·decoder.weight[m] + decoder.bias[m]``; ``x̃ = (x − activation_mean)·activation_global_scale`` where
statistics are stored. Ours selects by f·n with n = Σ_m ‖d_m‖. Rescaling a latent changes neither product, so another c can be
taken over exactly in two cases only: nothing is cut off (threshold ≤ 0), or c is proportional to n.

**ckkissane.** A plain ReLU crosscoder on activations that were multiplied by one factor a model before training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder, build, require_one_threshold
from modeldiff_eval.crosscoder_files import require_tensors, write_tensors
from modeldiff_eval.errors import CrosscoderError, UsageError
from modeldiff_eval.store import write_json

CODE_NORMALISATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
_CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
_PROPORTIONAL = 1e-5

NO_NORMALISER = (
    "The crosscoder does not say how activations were normalised, so they are taken as they are: Δ_norm and ν depend on the "
    "two models' scales. If it was trained on scaled activations, give the factors with --scale FIRST,SECOND."
)
NO_THRESHOLD = "Its threshold was never set, so every positive latent fires: expect an L0 far above k."


def from_dictionary_learning(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    where: object,
    scale: tuple[float, float] | None = None,
) -> tuple[Crosscoder, list[str]]:
    """A ``CrossCoder`` or ``BatchTopKCrossCoder`` of dictionary_learning.

    Args:
        config: the folder's ``config.json``, or an empty mapping.
        scale: factor of each model's activations, where the weights carry no normaliser.

    Returns:
        The crosscoder and caveats.

    Raises:
        CrosscoderError: not two models, malformed, or a selection that ours cannot express.
        UsageError: ``scale`` was given and the weights carry a normaliser.
    """
    weights = {name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    config = config.get("trainer", config)
    _require_two_models(weights, config, where)
    n_models, d_model, latents = weights["encoder.weight"].shape
    shapes = {
        "encoder.weight": (2, d_model, latents), "encoder.bias": (latents,),
        "decoder.weight": (2, latents, d_model), "decoder.bias": (2, d_model),
    }  # fmt: skip
    _require_shapes(weights, shapes, where)
    _require_config(config, {"activation_dim": d_model, "dict_size": latents, "num_layers": n_models}, where)
    mean, factors, caveats = _normaliser(weights, config, scale, (2, d_model), where)
    decoder = weights["decoder.weight"].float()
    threshold, more = _threshold(weights, config, decoder.norm(dim=2), where)
    crosscoder = build(
        {
            "W_enc": weights["encoder.weight"].permute(2, 0, 1).reshape(latents, 2 * d_model),
            "b_enc": weights["encoder.bias"],
            "W_dec": decoder.permute(1, 0, 2).reshape(latents, 2 * d_model),
            "b_dec": weights["decoder.bias"].flatten(),
            "mean": mean,
            "scale": factors,
        },
        threshold=threshold,
        k=int(weights["k"] if "k" in weights else config.get("k") or 0),
        where=where,
    )
    return crosscoder, caveats + more


def _require_two_models(weights: Mapping[str, Tensor], config: Mapping[str, Any], where: object) -> None:
    name = config.get("dict_class")
    if name is not None and name not in _CLASSES:
        raise CrosscoderError(f"{where} is a dictionary_learning {name}; {' and '.join(_CLASSES)} can be read.")
    require_tensors(weights, ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"), where)
    shape = tuple(weights["encoder.weight"].shape)
    if len(shape) != 3:
        raise CrosscoderError(
            f"{where}: encoder.weight has shape {shape}: a dictionary of one model. A crosscoder has (2, d_model, latents)."
        )
    if shape[0] != 2:
        raise CrosscoderError(
            f"{where} reads {shape[0]} inputs (encoder.weight {shape}); a comparison needs a crosscoder of two models."
        )
    if config.get("encoder_layers") not in (None, [0, 1]):
        raise CrosscoderError(f"{where} encodes inputs {config['encoder_layers']}; both models, [0, 1], are needed.")


def _require_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise CrosscoderError(f"{where}: {name} has shape {tuple(weights[name].shape)}, expected {shape}.")


def _require_config(config: Mapping[str, Any], held: Mapping[str, int], where: object) -> None:
    for name, value in held.items():
        if config.get(name, value) != value:
            raise CrosscoderError(f"{where}: the config says {name} {config[name]}, the weights have {value}.")


def _normaliser(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    scale: tuple[float, float] | None,
    shape: tuple[int, int],
    where: object,
) -> tuple[Tensor, Tensor, list[str]]:
    mean, std = weights.get("activation_mean"), weights.get("activation_std")
    if (mean is None) != (std is None):
        raise CrosscoderError(f"{where} has only one of activation_mean and activation_std; both or none are expected.")
    if mean is None or std is None or bool(mean.isnan().any()) or bool(std.isnan().any()):
        return _plain_normaliser(scale, shape, where)
    if scale is not None:
        raise UsageError(f"{where} carries its own normaliser; leave --scale out.")
    _require_shapes(
        {"activation_mean": mean, "activation_std": std},
        dict.fromkeys(("activation_mean", "activation_std"), shape),
        where,
    )
    if "activation_global_scale" in weights:
        return mean, weights["activation_global_scale"].float(), []
    target = float(weights["target_rms"] if "target_rms" in weights else config.get("target_rms") or 1.0)
    return mean, target / torch.sqrt(std.double().square().sum(1) + 1e-8).float(), []


def _plain_normaliser(
    scale: tuple[float, float] | None, shape: tuple[int, int], where: object
) -> tuple[Tensor, Tensor, list[str]]:
    if scale is not None and not all(math.isfinite(value) and value > 0 for value in scale):
        raise UsageError(f"--scale {scale}: give two positive factors, FIRST,SECOND, for {where}.")
    factors = torch.tensor(scale or (1.0, 1.0), dtype=torch.float32)
    return torch.zeros(shape), factors, [] if scale else [NO_NORMALISER]


def _threshold(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], norms: Float[Tensor, "2 latents"], where: object
) -> tuple[float, list[str]]:
    """The threshold on f·n that selects what f·c > threshold selects there."""
    if "threshold" not in weights:
        return 0.0, [NO_THRESHOLD] if config.get("dict_class") == "BatchTopKCrossCoder" else []
    theta = weights["threshold"].float().flatten()
    if theta.numel() not in (1, 2) or not bool(torch.isfinite(theta).all()):
        raise CrosscoderError(f"{where}: threshold is {theta.tolist()}, expected one number.")
    if bool((theta <= 0).all()):
        return 0.0, [NO_THRESHOLD] if bool((theta < 0).any()) else []
    name, caveats = _code_normalisation(weights, config, where)
    code = _code_norm(name, config, norms)
    if code is None or theta.numel() != 1:
        raise CrosscoderError(
            f"{where} has code normalisation decoupled: a latent can be on for one model and off for the other at the same token. "
            "Ours has one activation a latent; retrain with CROSSCODER."
        )
    ours = norms.sum(0)
    ratio = (ours / code)[ours > 0]
    if not bool(torch.isfinite(ratio).all()) or float(ratio.max() - ratio.min()) > _PROPORTIONAL * float(ratio.mean()):
        raise CrosscoderError(
            f"{where} has code normalisation {_shown(name)}: it selects latents by another norm than Σ_m ‖d_m‖, and no single threshold of "
            "ours selects the same ones. Retrain with CROSSCODER, or import one whose threshold is 0."
        )
    return float(theta[0]) * (1.0 if name == "CROSSCODER" else float(ratio.mean())), caveats


def _code_normalisation(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], where: object
) -> tuple[str, list[str]]:
    stated = config.get("code_normalization")
    if isinstance(stated, int):
        stated = CODE_NORMALISATIONS.get(stated, str(stated))
    stored = weights.get("code_normalization_id")
    if stored is not None:
        found = CODE_NORMALISATIONS.get(int(stored), str(int(stored)))
        if stated is not None and stated.upper() != found:
            raise CrosscoderError(f"{where}: config.json says code normalisation {stated}, the weights say {found}.")
        stated = found
    if stated is None:
        return "CROSSCODER", ["It does not name its code normalisation; CROSSCODER, the library's default, is assumed."]
    if stated.upper() not in CODE_NORMALISATIONS.values():
        known = ", ".join(CODE_NORMALISATIONS.values())
        raise CrosscoderError(f"{where} has the unknown code normalisation {stated}; known are {known}.")
    return stated.upper(), []


def _shown(name: str) -> str:
    return name if name == "SAE" else name.lower()


def _code_norm(name: str, config: Mapping[str, Any], norms: Float[Tensor, "2 latents"]) -> Tensor | None:
    together: Tensor = norms.norm(dim=0)
    summed = norms.sum(0)
    if name == "MIXED":
        alpha_sae = float(config.get("code_normalization_alpha_sae", 1.0))
        alpha_crosscoder = float(config.get("code_normalization_alpha_cc", 0.1))
        return alpha_sae * together + alpha_crosscoder * summed
    codes: dict[str, Tensor] = {"CROSSCODER": summed, "SAE": together, "NONE": torch.ones_like(summed)}
    return codes.get(name)


def to_dictionary_learning(crosscoder: Crosscoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of the same function as a ``BatchTopKCrossCoder`` (``CrossCoder`` where there is no k and no threshold).

    ``activation_std`` is not known here: it is spread evenly so that the library computes the same scale.

    Raises:
        CrosscoderError: latents fire at different thresholds.
    """
    require_one_threshold(crosscoder, "dictionary_learning")
    latents, d_model = crosscoder.n_latents, crosscoder.d_model
    plain = crosscoder.k == 0 and crosscoder.threshold == 0
    target = math.sqrt(d_model)
    tensors = {
        "encoder.weight": crosscoder.W_enc.view(latents, 2, d_model).permute(1, 2, 0),
        "encoder.bias": crosscoder.b_enc,
        "decoder.weight": crosscoder.W_dec.view(latents, 2, d_model).permute(1, 0, 2),
        "decoder.bias": crosscoder.b_dec.view(2, d_model),
        "activation_mean": crosscoder.mean,
        "activation_std": (1 / crosscoder.scale)[:, None].repeat(1, d_model),
        "activation_global_scale": crosscoder.scale,
        "target_rms": torch.tensor(target),
        "code_normalization_id": torch.tensor(1),
    }
    config: dict[str, Any] = {
        "activation_dim": d_model,
        "dict_size": latents,
        "num_layers": 2,
        "code_normalization": "CROSSCODER",
        "target_rms": target,
        "dict_class": "CrossCoder",
    }
    if not plain:
        tensors |= {"k": torch.tensor(crosscoder.k), "threshold": torch.tensor(crosscoder.threshold)}
        config |= {"k": crosscoder.k, "dict_class": "BatchTopKCrossCoder"}
    return tensors, config


def save_dictionary_learning(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors``; our metadata goes into the latter's header.

    Raises:
        OutputError: the folder cannot be written.
    """
    tensors, config = to_dictionary_learning(crosscoder)
    header = {"format": "pt", "modeldiff": json.dumps(metadata, ensure_ascii=False)}
    write_tensors(folder / "model.safetensors", tensors, header)
    write_json(folder / "config.json", config)


def from_ckkissane(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    where: object,
    scale: tuple[float, float] | None = None,
) -> tuple[Crosscoder, list[str]]:
    """ckkissane's crosscoder: W_enc (2, d, D), W_dec (D, 2, d), b_enc (D), b_dec (2, d), ReLU, no threshold.

    Args:
        scale: factor of each model's activations; the folder does not hold it.

    Returns:
        The crosscoder and caveats.

    Raises:
        CrosscoderError: malformed, or not of two models.
    """
    require_tensors(weights, ("W_enc", "W_dec", "b_enc", "b_dec"), where)
    shape = tuple(weights["W_enc"].shape)
    if len(shape) != 3 or shape[0] != 2:
        raise CrosscoderError(f"{where}: W_enc has shape {shape}, expected (2, d_model, latents).")
    _, d_model, latents = shape
    shapes = {"W_dec": (latents, 2, d_model), "b_enc": (latents,), "b_dec": (2, d_model)}
    _require_shapes(weights, shapes, where)
    _require_config(config, {"d_in": d_model, "dict_size": latents, "n_models": 2}, where)
    mean, factors, caveats = _plain_normaliser(scale, (2, d_model), where)
    tensors = {
        "W_enc": weights["W_enc"].permute(2, 0, 1).reshape(latents, 2 * d_model),
        "b_enc": weights["b_enc"],
        "W_dec": weights["W_dec"].reshape(latents, 2 * d_model),
        "b_dec": weights["b_dec"].flatten(),
        "mean": mean,
        "scale": factors,
    }
    return build(tensors, threshold=0.0, k=0, where=where), caveats
