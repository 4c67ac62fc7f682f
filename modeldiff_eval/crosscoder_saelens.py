"""The crosscoder as SAELens architectures: ours opened by ``SAE.load_from_disk``, and one that ``SAETrainer`` trains.

::

    import modeldiff_eval.crosscoder_saelens as bridge
    bridge.register()
    sae = SAE.load_from_disk("runs/demo/crosscoders/base--tuned/native")

Rows are both models' raw activations side by side, ``[..., 2·d_model]``; the per-model normaliser is inside. As everywhere in
SAELens, latents are v = n·f, scaled by the decoder norm: here n, the sum of the two models' norms, so that both of our saved
forms emit the same numbers. Weights have SAELens' orientation in memory (``W_enc [2·d_model, latents]``) and ours on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.registry import (
    SAE_CLASS_REGISTRY,
    SAE_TRAINING_CLASS_REGISTRY,
    register_sae_class,
    register_sae_training_class,
)
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAE, SAEConfig, SAEMetadata
from torch import Tensor, nn

from modeldiff_eval.crosscoder import NATIVE_ARCHITECTURE, SAELENS_VERSION, Crosscoder, build, require_one_threshold
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.train_step import AUX_WEIGHT

_TINY = 1e-8


def register() -> None:
    """Make both classes known to SAELens under the architecture of our native folder; once is enough, twice is harmless."""
    if NATIVE_ARCHITECTURE not in SAE_CLASS_REGISTRY:
        register_sae_class(NATIVE_ARCHITECTURE, CrosscoderSAE, CrosscoderSAEConfig)
    if NATIVE_ARCHITECTURE not in SAE_TRAINING_CLASS_REGISTRY:
        register_sae_training_class(NATIVE_ARCHITECTURE, CrosscoderTrainingSAE, CrosscoderTrainingSAEConfig)


def _check_config(config: Any) -> None:
    if config.n_models != 2 or config.d_in % 2:
        raise SettingsError(
            f"A crosscoder here has 2 models and an even d_in, not {config.n_models} and {config.d_in}."
        )
    if config.apply_b_dec_to_input or config.normalize_activations != "none":
        raise SettingsError(
            "A crosscoder normalises each model itself: leave apply_b_dec_to_input False and normalize_activations 'none'."
        )


class _TwoModels:
    """What inference and training share: the normaliser, the code norm and the files."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    mean: Tensor
    scale: Tensor
    cfg: Any
    dtype: torch.dtype
    device: torch.device
    register_buffer: Any
    hook_sae_recons: Any

    def _add_parts(self) -> None:
        size = self.cfg.d_in // 2
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.b_enc = nn.Parameter(torch.zeros(self.cfg.d_sae, **options))
        self.register_buffer("mean", torch.zeros(2, size, **options))
        self.register_buffer("scale", torch.ones(2, **options))

    def set_normaliser(self, mean: Tensor, scale: Tensor) -> None:
        """Use each model's mean [2, d_model] and scale [2], as ``modeldiff_eval.train.normaliser`` measures them."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def _wide(self) -> Tensor:
        return self.scale.repeat_interleave(self.cfg.d_in // 2)

    def _normalised(self, rows: Tensor) -> Tensor:
        return (rows - self.mean.flatten()) * self._wide()

    def _raw(self, normalised: Tensor) -> Tensor:
        return normalised / self._wide() + self.mean.flatten()

    @torch.no_grad()
    def get_W_dec_norm(self) -> Tensor:
        """n [latents]: the sum of a latent's decoder norms in the two models."""
        norms: Tensor = self.W_dec.view(len(self.W_dec), 2, -1).norm(dim=2).sum(1)
        return norms.clamp(min=_TINY)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Raw reconstructions of both models from v."""
        normalised = (feature_acts / self.get_W_dec_norm()) @ self.W_dec + self.b_dec
        rows: Tensor = self.hook_sae_recons(self._raw(normalised))
        return rows

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        """Our orientation on disk: a latent is a row."""
        state_dict["W_enc"] = state_dict["W_enc"].T.contiguous()

    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        state_dict["W_enc"] = state_dict["W_enc"].T


@dataclass
class CrosscoderSAEConfig(SAEConfig):  # type: ignore[misc]
    """``cfg.json`` of our native folder."""

    apply_b_dec_to_input: bool = False
    n_models: int = 2
    k: float = 0
    threshold: float = 0.0

    @classmethod
    def architecture(cls) -> str:
        return NATIVE_ARCHITECTURE

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_config(self)


class CrosscoderSAE(_TwoModels, SAE):  # type: ignore[misc]
    """A trained crosscoder: raw rows of both models → v → raw rows."""

    def initialize_weights(self) -> None:
        super().initialize_weights()
        self._add_parts()

    def encode(self, x: Tensor) -> Tensor:
        """v [..., latents], 0 where it does not exceed the threshold."""
        pre = self._normalised(self.process_sae_in(x)) @ self.W_enc + self.b_enc
        scaled = self.hook_sae_acts_pre(pre * self.get_W_dec_norm())
        kept: Tensor = self.hook_sae_acts_post(torch.relu(scaled) * (scaled > self.cfg.threshold))
        return kept


@dataclass
class CrosscoderTrainingSAEConfig(BatchTopKTrainingSAEConfig):  # type: ignore[misc]
    """Settings of a training by ``SAETrainer``. ``threshold`` is filled in when the model is saved."""

    aux_loss_coefficient: float = AUX_WEIGHT
    n_models: int = 2
    threshold: float = 0.0
    apply_b_dec_to_input: bool = False

    @classmethod
    def architecture(cls) -> str:
        return NATIVE_ARCHITECTURE

    def get_inference_config_class(self) -> type[CrosscoderSAEConfig]:
        return CrosscoderSAEConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_config(self)
        if self.use_sparse_activations or not self.rescale_acts_by_decoder_norm or self.decoder_init_norm is None:
            raise SettingsError(
                "A crosscoder is trained with rescale_acts_by_decoder_norm, dense activations and a decoder_init_norm."
            )


class CrosscoderTrainingSAE(_TwoModels, BatchTopKTrainingSAE):  # type: ignore[misc]
    """BatchTopK over both models; the loss is the one of :func:`modeldiff_eval.train_step.dense_loss`.

    Call :meth:`set_normaliser` before the first step, and save with ``save_inference_model`` for the native folder.
    """

    def __init__(self, cfg: CrosscoderTrainingSAEConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        self.mse_loss_fn = self._normalised_error

    def initialize_weights(self) -> None:
        """Both models start from the same directions; the encoder is the decoder at unit norm."""
        super().initialize_weights()
        self._add_parts()
        with torch.no_grad():
            half = self.cfg.d_in // 2
            rows = torch.randn(self.cfg.d_sae, half, dtype=self.dtype, device=self.device)
            rows /= rows.norm(dim=1, keepdim=True) * math.sqrt(2)
            unit = torch.cat([rows, rows], dim=1)
            self.W_dec.data = unit * self.cfg.decoder_init_norm
            self.W_enc.data = unit.T.contiguous()

    def _normalised_error(self, preds: Tensor, target: Tensor) -> Tensor:
        """Squared error in normalised space, so that both models weigh the same; its sum over inputs is their mean."""
        error: Tensor = ((preds - target) * self._wide()).square() / self.cfg.d_in
        return error

    def encode_with_hidden_pre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v after the selection and before it."""
        pre = self._normalised(self.process_sae_in(x)) @ self.W_enc + self.b_enc
        scaled = self.hook_sae_acts_pre(pre * self.get_W_dec_norm())
        return self.hook_sae_acts_post(self.activation_fn(scaled)), scaled

    def calculate_topk_aux_loss(
        self, sae_in: Tensor, sae_out: Tensor, hidden_pre: Tensor, dead_neuron_mask: Tensor | None
    ) -> Tensor:
        """Dead latents reconstruct the residual, relative to its variance."""
        if dead_neuron_mask is None or not bool(dead_neuron_mask.any()):
            return sae_out.new_zeros(())
        dead = dead_neuron_mask.nonzero().squeeze(1)
        residual = ((sae_in - sae_out) * self._wide()).detach()
        codes = torch.relu(hidden_pre[..., dead])
        top = torch.topk(codes, min(max(1, self.cfg.d_in // 4), len(dead)), dim=-1).indices
        codes = codes * torch.zeros_like(codes).scatter_(-1, top, 1.0)
        error = residual - (codes / self.get_W_dec_norm()[dead]) @ self.W_dec[dead]
        weighted: Tensor = self.cfg.aux_loss_coefficient * error.square().mean()
        return weighted / residual.var(correction=0).clamp_min(1e-12)

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        self.cfg.threshold = float(self.topk_threshold)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """The native folder: nothing is folded, the running threshold goes into the config."""
        self.process_state_dict_for_saving(state_dict)
        del state_dict["topk_threshold"]


def to_crosscoder(sae: CrosscoderSAE | CrosscoderTrainingSAE) -> Crosscoder:
    """Our crosscoder from either class, in float32.

    Raises:
        CrosscoderError: its weights are not finite.
    """
    running = getattr(sae, "topk_threshold", None)
    names = ("b_enc", "W_dec", "b_dec", "mean", "scale")
    weights = {name: getattr(sae, name).detach().clone() for name in names}
    weights["W_enc"] = sae.W_enc.detach().T.contiguous()
    threshold = float(sae.cfg.threshold if running is None else running)
    return build(weights, threshold=threshold, k=round(sae.cfg.k), where="the SAELens crosscoder")


def from_crosscoder(crosscoder: Crosscoder) -> CrosscoderSAE:
    """The same function as a SAELens model, without going over the disk. It shares the weights' memory.

    Raises:
        CrosscoderError: latents fire at different thresholds.
    """
    require_one_threshold(crosscoder, "our SAELens class")
    config = CrosscoderSAEConfig(
        d_in=2 * crosscoder.d_model, d_sae=crosscoder.n_latents, k=crosscoder.k, threshold=crosscoder.threshold, device="meta",
        metadata=SAEMetadata(sae_lens_version=SAELENS_VERSION),
    )  # fmt: skip
    sae = CrosscoderSAE(config)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "mean", "scale")
    weights = {name: getattr(crosscoder, name) for name in names}
    sae.process_state_dict_for_loading(weights)
    sae.load_state_dict(weights, assign=True)
    sae.to(device=crosscoder.W_enc.device)
    return sae
