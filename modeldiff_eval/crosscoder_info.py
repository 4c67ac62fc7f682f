"""What is known about a crosscoder, for a reader and for its model card; nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modeldiff_eval import checkpoint
from modeldiff_eval.crosscoder import Crosscoder, delta_norm
from modeldiff_eval.crosscoder_import import find, json_safe, read
from modeldiff_eval.errors import CrosscoderError
from modeldiff_eval.training_log import log_beside, read_log

_ELSEWHERE = ("quality", "caveat", "modeldiff_mean", "modeldiff_scale", "modeldiff_k")


def describe(spec: str) -> dict[str, Any]:
    """Shapes, threshold, where latents live, quality where it was measured, and provenance, as JSON can hold them.

    A folder with an unfinished training gives its progress instead (``state`` is ``"unfinished"``).

    Raises:
        CrosscoderError: no crosscoder, or a damaged one.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir() and not (folder / "native").is_dir() and (parts := _checkpoints(folder)):
        return _unfinished(folder, parts)
    found = find(spec)
    crosscoder, metadata = read(found)
    return {
        "state": "finished",
        "format": found.layout,
        "n_latents": crosscoder.n_latents,
        "d_model": crosscoder.d_model,
        "n_models": 2,
        "parameters": sum(t.numel() for t in (crosscoder.W_enc, crosscoder.b_enc, crosscoder.W_dec, crosscoder.b_dec)),
        "k": crosscoder.k or None,
        "threshold": crosscoder.threshold,
        "scale": [round(value, 6) for value in crosscoder.scale.tolist()],
        "delta_norm": _places(crosscoder),
        "quality": metadata.get("quality"),
        "last": _last(log_beside(found.folder)),
        "caveat": metadata.get("caveat"),
        "metadata": {name: json_safe(value) for name, value in metadata.items() if name not in _ELSEWHERE},
    }


def _last(log: list[dict[str, Any]]) -> dict[str, Any] | None:
    return log[-1] if log else None


def _places(crosscoder: Crosscoder) -> dict[str, int]:
    """How many latents live where by their decoder norms (cuts of ALGORITHMS §3)."""
    place = delta_norm(crosscoder.decoder_norms())
    counts = {
        "first_only": int((place < 0.1).sum()),
        "shared": int(((place >= 0.4) & (place <= 0.6)).sum()),
        "second_only": int((place > 0.9).sum()),
        "undefined": int(place.isnan().sum()),
    }
    return counts | {"other": crosscoder.n_latents - sum(counts.values())}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*-of-*.safetensors"))


def _unfinished(folder: Path, parts: list[Path]) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    world = int(parts[-1].stem.rsplit("-", 1)[1])
    step = checkpoint.newest(folder, world)
    newest = [part for part in parts if part.name.startswith(f"checkpoint-{step}-")] or parts
    try:
        with safe_open(newest[0], "pt") as file:
            settings = json.loads(file.metadata()["settings"])
            shape = file.get_slice("W_enc").get_shape()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CrosscoderError(
            f"The checkpoint {newest[0]} cannot be read ({error!r}); remove it to train again."
        ) from error
    return {
        "state": "unfinished",
        "n_latents": settings["n_latents"],
        "d_model": shape[1] // 2,
        "k": settings["k"],
        "step": step,
        "steps": settings["steps"],
        "processes": world,
        "last": _last(read_log(folder)),
        "settings": settings,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """:func:`describe` as text."""
    shape = f"{facts['n_latents']:,} latents over 2 × {facts['d_model']:,}"
    if facts["state"] == "unfinished":
        where = "no complete checkpoint" if facts["step"] is None else f"step {facts['step']:,} of {facts['steps']:,}"
        text = [f"{shape}, k {facts['k']}: unfinished, {where}, {facts['processes']} processes"]
        return [*text, *_pairs(facts["last"] or {}), *_pairs(facts["settings"])]
    text = [f"{shape}, k {facts['k'] or 'not stated'}, θ {facts['threshold']:.4g}"]
    text.append(
        "Δ_norm        " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in facts["delta_norm"].items())
    )
    text.append(f"quality       {_quality(facts['quality'])}")
    if facts["last"]:
        text.append(f"training      {_end(facts['last'])}")
    if facts["caveat"]:
        text.append(f"caveat        {facts['caveat']}")
    return [*text, f"format        {facts['format']}", *_pairs(facts["metadata"])]


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{name:13} {value}" for name, value in values.items()]


def _quality(quality: dict[str, Any] | None) -> str:
    if not quality:
        return "not measured: it needs the models; --crosscoder on a run measures it"
    try:
        return (
            f"fve {quality['fve_first']:.3f} / {quality['fve_second']:.3f}, L0 {quality['l0']:.1f} "
            f"(n = {quality['heldout_tokens']:,} held-out tokens), "
            f"dead {quality['dead_share']:.1%} (silent over {quality['dead_tokens']:,} tokens)"
        )
    except (KeyError, TypeError, ValueError):
        return f"cannot be read: {quality}"


def _end(last: dict[str, Any]) -> str:
    """The last line of a training's log."""
    try:
        return (
            f"{last['rows']:,} rows presented in {last['step']:,} steps; on the last batch loss {last['loss']:.4g}, "
            f"fve {last['fve_first']:.3f} / {last['fve_second']:.3f}"
        )
    except (KeyError, TypeError, ValueError):
        return f"cannot be read: {last}"


def model_card(crosscoder: Crosscoder, metadata: dict[str, Any], repo: str) -> str:
    """README.md of a hub repository that holds the ``native`` and ``jumprelu`` folders.

    Args:
        metadata: as :func:`modeldiff_eval.crosscoder_import.resolve` returns it.
        repo: ``ORG/NAME``, for the lines that load it.
    """
    first, second = metadata.get("first", "first"), metadata.get("second", "second")
    layer = metadata.get("layer")
    places = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in _places(crosscoder).items())
    rows = {
        "models": f"{first}, {second}",
        "layer": "not stated" if layer is None else f"output of block {layer}",
        "latents": f"{crosscoder.n_latents:,}",
        "d_model": f"{crosscoder.d_model:,} each",
        "k": str(crosscoder.k or "not stated"),
        "threshold on v = n·f": f"{crosscoder.threshold:.6g}",
        "Δ_norm": places,
        "quality": _quality(metadata.get("quality")),
    }
    training = metadata.get("training") or {}
    rows |= {str(name): str(value) for name, value in training.items() if name not in ("k", "n_latents")}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    caveat = f"\n**Mind:** {metadata['caveat']}\n" if metadata.get("caveat") else ""
    return f"""---
library_name: saelens
tags:
- crosscoder
- model-diffing
- interpretability
- modeldiff-eval
---

# {repo}

A crosscoder: one sparse dictionary for the same residual activations of two models. The input is both models' activations of a
token side by side, `[..., 2·d_model]`, {first} before {second}, as the models give them: normalisation is inside.
{caveat}
| | |
| --- | --- |
{table}

## Use

With SAELens alone:

```python
from sae_lens import SAE

sae = SAE.from_pretrained("{repo}", "jumprelu")
latents = sae.encode(rows)  # v = n·f, n the sum of a latent's two decoder norms
```

With modeldiff-eval, which keeps each model's normaliser and decoder norms:

```python
from modeldiff_eval.crosscoder_import import resolve

crosscoder, metadata = resolve("{repo}:native")
```

or on the command line `modeldiff-eval --base … --tuned … --crosscoder {repo}:native`.
"""
