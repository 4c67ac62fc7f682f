"""Taking latents out of a running model: what is subtracted, and the two ways to run on from there.

A latent's contribution to model m is ``f_j d_m,j / s_m``: decoder rows live in normalised space, so they are divided by
the model's scale before they meet a raw residual (ALGORITHMS §6). :class:`Remainder` runs the blocks after L on residuals
that are at hand; :class:`LivePatch` patches a model while someone else (a generation, a benchmark) runs it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import ModelError
from modeldiff_eval.models import Loaded, blocks
from modeldiff_eval.turns import Markers, assistant_tokens

Variant = Literal["out", "into"]
_CACHES = ("cache", "past_key_values")
"""What transformers calls a key-value cache, the newer name first."""
VARIANTS: tuple[Variant, ...] = ("out", "into")


@dataclass(frozen=True)
class Patch:
    """Latents of a crosscoder (first = the other model, second = the patched one) and what becomes of them.

    "out" subtracts their contribution to the patched model; "into" puts the other model's in its place.
    """

    crosscoder: Crosscoder
    latents: Int[Tensor, " set"]
    variant: Variant = "out"


def contribution(
    crosscoder: Crosscoder, latents: Int[Tensor, " set"], codes: Float[Tensor, "rows set"], variant: Variant
) -> Float[Tensor, "rows d_model"]:
    """What a patch adds to raw residuals of the second model; ``codes`` are the unscaled activations f of ``latents``."""
    decoder = crosscoder.W_dec[latents].view(len(latents), 2, crosscoder.d_model)
    change = -(codes @ decoder[:, 1]) / crosscoder.scale[1]
    if variant == "into":
        change = change + (codes @ decoder[:, 0]) / crosscoder.scale[0]
    return change


class _StopForward(Exception):
    """Raised by a hook once block L has answered."""


def hooked_block(loaded: Loaded, layer: int) -> torch.nn.Module:
    """Block ``layer`` of a model.

    Raises:
        ModelError: its layers cannot be hooked: no blocks were found, or none of this number.
    """
    found = blocks(loaded.model)
    if not 0 <= layer < len(found):
        raise ModelError(
            f"{loaded.source.name} has blocks 0 to {len(found) - 1}, so nothing can be patched at {layer}."
        )
    return found[layer]


def _hidden(output: Any, name: str) -> Tensor:
    """The residual that a block hands on."""
    hidden = output[0] if isinstance(output, tuple | list) and len(output) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        raise ModelError(
            f"The blocks of {name} answer with {type(output).__name__} and not with a residual [batch, tokens, width]; "
            "its layers cannot be hooked. Leave the causal panel out for this model."
        )
    return hidden


def _with(output: Any, hidden: Tensor) -> Any:
    """``output`` of a block with another residual in it."""
    if isinstance(output, Tensor):
        return hidden
    return type(output)([hidden, *output[1:]])


class Remainder:
    """The blocks after ``layer``, run on residuals that were harvested before.

    The blocks up to ``layer`` are stood in for while it runs. Before the first use the shortcut is checked against an
    undisturbed pass; a model that does not bear it is run whole, with the residual replaced.
    """

    def __init__(self, loaded: Loaded, layer: int) -> None:
        self._loaded, self._block = loaded, hooked_block(loaded, layer)
        self._lower = list(blocks(loaded.model))[:layer]
        self._residual: Tensor | None = None
        self._seen: Tensor | None = None
        self._can_keep = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
        self.shortcut: bool | None = None

    def __call__(
        self, ids: Int[Tensor, "batch tokens"], residual: Float[Tensor, "batch tokens d_model"], *, first: int = 0
    ) -> Float[Tensor, "batch kept vocabulary"]:
        """Logits in float32 of the tokens from ``first`` on, when block ``layer`` hands on ``residual``."""
        if self.shortcut is None:
            self._check(ids[:1])
        self._residual = residual
        try:
            return self._run(ids, skip=bool(self.shortcut), keep=ids.shape[1] - first).float()
        finally:
            self._residual = None

    def _check(self, ids: Int[Tensor, "batch tokens"]) -> None:
        whole = self._run(ids, skip=False)
        self._residual = self._seen
        short = None
        with contextlib.suppress(Exception):  # whatever a block below misses, the long way is there
            short = self._run(ids, skip=True)
        self._residual = None
        self.shortcut = short is not None and torch.allclose(whole, short, rtol=1e-3, atol=1e-3)

    def _run(self, ids: Int[Tensor, "batch tokens"], *, skip: bool, keep: int | None = None) -> Tensor:
        keep = keep or ids.shape[1]
        options = {"logits_to_keep": keep} if self._can_keep else {}
        handle = self._block.register_forward_hook(self._replace)
        try:
            with torch.inference_mode(), _standing_in(self._lower if skip else []):
                logits = self._loaded.model(input_ids=ids.to(self._loaded.device), use_cache=False, **options).logits
        finally:
            handle.remove()
        return torch.as_tensor(logits)[:, -keep:]

    def _replace(self, _module: object, _inputs: object, output: Any) -> Any:
        hidden = _hidden(output, self._loaded.source.name)
        if self._residual is None:
            self._seen = hidden
            return None
        return _with(output, self._residual.to(hidden.device, hidden.dtype))


@contextlib.contextmanager
def _standing_in(modules: list[torch.nn.Module]) -> Iterator[None]:
    """While it lasts these blocks hand on what they get."""

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]

    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = hand_on
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


class LivePatch:
    """While entered, ``tuned`` is patched at block ``layer`` over the assistant's tokens, whoever runs it.

    The other model reads every batch beside it, with a key-value cache of its own, up to block ``layer``. The two may be
    one and the same. Tokens whose norm is beyond ``limits`` in either model (attention sinks) stay as they are.

    Args:
        limits: (other, tuned) largest norm of a residual that is patched.

    Raises:
        ModelError: on entering or while running: the layers cannot be hooked.
    """

    def __init__(
        self, tuned: Loaded, other: Loaded, *, layer: int, patch: Patch, markers: Markers | None, limits: tuple[float, float]
    ) -> None:  # fmt: skip
        self._tuned, self._other, self._layer, self._patch = tuned, other, layer, patch
        self._markers, self._limits = markers, limits
        self._handles: list[Any] = []
        self._busy = False
        self._ids = torch.zeros(0, 0, dtype=torch.long)
        self._cache: Any = None
        self._beside: Tensor | None = None
        self._places: Tensor | None = None
        self.patched = 0

    def __enter__(self) -> LivePatch:
        block = hooked_block(self._tuned, self._layer)
        hooked_block(self._other, self._layer)
        self._handles = [
            self._tuned.model.register_forward_pre_hook(self._before, with_kwargs=True),
            block.register_forward_hook(self._at_block),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._cache = self._beside = self._places = None

    def _before(self, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise ModelError(
                f"{self._tuned.source.name} was run on something else than token ids, so it cannot be patched."
            )
        past = next((kwargs[name] for name in _CACHES if kwargs.get(name) is not None), None)
        length = int(past.get_seq_length()) if past is not None else 0
        caching = past is not None or bool(kwargs.get("use_cache"))
        if length == 0:
            self._ids, self._cache = ids.cpu(), None
        elif self._cache is None or self._ids.shape[1] < length:
            raise ModelError("A patched model was given a key-value cache that was filled before it was patched.")
        else:
            self._ids = torch.cat([self._ids[:, :length], ids.cpu()], dim=1)
        self._places = self._assistant(kwargs.get("attention_mask"))[:, length:]
        self._beside = self._read(ids, kwargs, caching)

    def _assistant(self, mask: object) -> Bool[Tensor, "batch tokens"]:
        """Which of the tokens so far the assistant wrote; padding on the left is none of them."""
        places = torch.zeros(self._ids.shape, dtype=torch.bool)
        bos = self._tuned.tokenizer.bos_token_id
        for row, ids in enumerate(self._ids.numpy()):
            padded = isinstance(mask, Tensor) and mask.shape == self._ids.shape
            start = int(mask[row].long().argmax()) if padded and isinstance(mask, Tensor) else 0
            places[row, start:] = torch.from_numpy(assistant_tokens(ids[start:], self._markers, bos=bos))
        return places

    def _read(self, ids: Tensor, kwargs: dict[str, Any], caching: bool) -> Tensor:
        """The other model's residual of the same tokens after block ``layer``."""
        from transformers import DynamicCache

        model = self._other.model
        inner = model.get_decoder() if hasattr(model, "get_decoder") else model
        passed: dict[str, Any] = {
            name: kwargs[name].to(self._other.device)
            for name in ("attention_mask", "position_ids")
            if isinstance(kwargs.get(name), Tensor)
        }
        if caching:
            if self._cache is None:
                self._cache = DynamicCache(config=model.config)
            known = inspect.signature(inner.forward).parameters
            passed[next((name for name in _CACHES if name in known), _CACHES[-1])] = self._cache
        caught: list[Tensor] = []

        def catch(_module: object, _inputs: object, output: Any) -> None:
            caught.append(_hidden(output, self._other.source.name))
            raise _StopForward

        self._busy = True
        handle = hooked_block(self._other, self._layer).register_forward_hook(catch)
        try:
            with torch.inference_mode(), contextlib.suppress(_StopForward):
                inner(input_ids=ids.to(self._other.device), use_cache=caching, **passed)
        finally:
            handle.remove()
            self._busy = False
        return caught[0]

    def _at_block(self, _module: object, _inputs: object, output: Any) -> Any:
        if self._busy or self._places is None or self._beside is None:
            return None
        hidden = _hidden(output, self._tuned.source.name)
        places = self._places
        if not bool(places.any()):
            return None
        rows = torch.stack([self._beside.cpu()[places].float(), hidden.cpu()[places].float()], dim=1)
        keep: Bool[Tensor, " rows"] = within(rows, self._limits)
        coder, latents = self._patch.crosscoder, self._patch.latents
        codes = coder.encode(coder.normalise(rows))[:, latents] * keep[:, None]
        self.patched += int((codes > 0).any(1).sum())
        patched = hidden.clone()
        change = contribution(coder, latents, codes, self._patch.variant)
        patched[places.to(hidden.device)] = (rows[:, 1] + change).to(hidden.device, hidden.dtype)
        return _with(output, patched)


def within(rows: Float[Tensor, "rows 2 d_model"], limits: tuple[float, float]) -> Bool[Tensor, " rows"]:
    """Rows whose norm is within both models' limits: no attention sinks."""
    small: Tensor = (rows.norm(dim=2) <= torch.tensor(limits)).all(1)
    return small
