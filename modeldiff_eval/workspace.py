"""One run's models, text, activations and crosscoders, each made once and found again in the cache."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import corpus as corpora
from modeldiff_eval import crosscoder as coders
from modeldiff_eval import crosscoder_import as importing
from modeldiff_eval import models as weights
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.progress import Reporter
from modeldiff_eval.quality import Quality, evaluate, write_quality
from modeldiff_eval.records import CrosscoderInfo, ModelInfo
from modeldiff_eval.settings import Settings
from modeldiff_eval.store import copy_folder, fingerprint, once, write_json
from modeldiff_eval.trackers import trackers
from modeldiff_eval.train import MappedSource, train
from modeldiff_eval.train_step import TrainSettings
from modeldiff_eval.training_log import curve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEEP_LOADED_BYTES = 2 << 30


class Pool:
    """Loaded models, kept while they fit in :data:`KEEP_LOADED_BYTES`, so that big models are held one at a time."""

    def __init__(self, device: torch.device, dtype: torch.dtype, cache: Path) -> None:
        self.device, self.dtype, self._cache = device, dtype, cache
        self._loaded: dict[tuple[str, torch.dtype], weights.Loaded] = {}
        self.caveats: list[str] = []

    def get(self, source: weights.Source, dtype: torch.dtype | None = None) -> weights.Loaded:
        """The model of ``source``, loaded now or still there."""
        name = (source.key, dtype or self.dtype)
        if name not in self._loaded:
            while self._loaded and sum(map(_bytes, self._loaded.values())) * 2 > KEEP_LOADED_BYTES:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[name] = weights.load(source, device=self.device, dtype=name[1], cache=self._cache)
            self.caveats += self._loaded[name].caveats
        return self._loaded[name]

    def put(self, loaded: weights.Loaded) -> None:
        """Use a model that someone else has loaded."""
        self._loaded[loaded.source.key, loaded.dtype] = loaded


def _bytes(loaded: weights.Loaded) -> int:
    return sum(p.numel() * p.element_size() for p in loaded.model.parameters())


@dataclass
class Workspace:
    """The state of one run between its stages."""

    settings: Settings
    cache: Path
    reporter: Reporter
    sources: dict[str, weights.Source]
    pool: Pool
    tokenizer: PreTrainedTokenizerBase
    configs: dict[str, Any]
    template: str | None
    layer: int
    caveats: list[str] = field(default_factory=list)
    durations: dict[str, float] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)

    def info(self, role: str) -> ModelInfo:
        """The record of one model, without loading its weights."""
        source, config = self.sources[role], self.configs[role].get_text_config()
        return ModelInfo(
            id=weights.public_name(source.location),
            revision=source.revision or source.foundation.key,
            adapter=weights.public_name(str(source.adapter)) if source.adapter else None,
            dtype=str(self.pool.dtype).removeprefix("torch."),
            n_layers=int(config.num_hidden_layers),
            d_model=int(config.hidden_size),
        )


def open_workspace(
    settings: Settings, *, cache: Path, reporter: Reporter, loaded: dict[str, weights.Loaded] | None = None
) -> Workspace:
    """Resolve the models, refuse pairs that cannot be compared, choose device, dtype and layer.

    Args:
        loaded: models by role that are in memory already (the lm-eval task has one).
    """
    loaded = loaded or {}
    device = weights.pick_device(settings.device)
    pool = Pool(device, weights.pick_dtype(settings.dtype, device), cache)
    sources = weights.resolve_all(
        settings.base,
        settings.tuned,
        settings.anchor,
        trust_remote_code=settings.trust_remote_code,
        given={r: m.source for r, m in loaded.items()},
    )
    for model in loaded.values():
        pool.put(model)
    tokenizers = {
        role: loaded[role].tokenizer if role in loaded else weights.load_tokenizer(source, cache=cache)
        for role, source in sources.items()
    }
    configs = {
        role: loaded[role].model.config if role in loaded else weights.load_config(source, cache=cache)
        for role, source in sources.items()
    }
    sample = corpora.text_sample(settings.corpus, n=64)
    caveats = weights.check_comparable(
        {role: (sources[role], configs[role], tokenizers[role]) for role in sources}, sample
    )
    n_layers = int(configs["base"].get_text_config().num_hidden_layers)
    layer = acts.check_layer(acts.default_layer(n_layers) if settings.layer is None else settings.layer, n_layers)
    template = tokenizers["tuned"].chat_template
    if template is None:
        caveats.append("The tuned model has no chat template: chats were written as 'role: text'.")
    return Workspace(settings, cache, reporter, sources, pool, tokenizers["tuned"], configs, template, layer, caveats)


def gather_text(work: Workspace) -> corpora.TokenCorpus:
    """The corpus, with both models' own answers to the packaged prompts where that is asked for."""
    settings = work.settings
    extra: list[corpora.Document] = []
    if settings.rollouts:
        for role in ("base", "tuned"):
            extra += _answers(work, role)
    with work.reporter.task("Tokenising the corpus"):
        corpus = corpora.tokenise(
            settings.corpus,
            work.tokenizer,
            extra=extra,
            template=work.template,
            cache=work.cache,
            tokens=settings.tokens,
            max_length=settings.max_length,
            heldout_share=settings.heldout_share,
            seed=settings.seed,
        )
    work.caveats += corpus.report.caveats()
    return corpus


def _answers(work: Workspace, role: str) -> list[corpora.Document]:
    """One model's seeded answers to the packaged prompts as chat documents; asked once for each model."""
    from modeldiff_eval.rollouts import packaged_prompts, rollouts

    settings = work.settings
    prompts = packaged_prompts(settings.rollouts, seed=settings.seed)
    source = work.sources[role]
    key = fingerprint(
        [
            source.key,
            str(work.pool.dtype),
            [p.key for p in prompts],
            settings.rollout_tokens,
            settings.seed,
            work.template,
        ]
    )
    folder = work.cache / "rollouts" / key

    def make(partial: Path) -> None:
        model = work.pool.get(source)
        with work.reporter.task(f"Answers of {role}", unit="answers") as advance:
            answers = rollouts(
                model.model,
                work.tokenizer,
                prompts,
                model_key=f"{source.key}-{work.pool.dtype}",
                max_new_tokens=settings.rollout_tokens,
                seed=settings.seed,
                cache_dir=partial,
                chat_template=work.template,
                on_progress=advance,
            )
        write_json(partial / "answers.json", [[answer.prompt_id, answer.text] for answer in answers])

    once(folder, make)
    by_id = {prompt.id: prompt for prompt in prompts}
    documents = []
    for prompt_id, text in json.loads((folder / "answers.json").read_text()):
        prompt = by_id[prompt_id]
        turns = tuple((message.role, message.content) for message in prompt.messages)
        # Both models' answers to one prompt share its group, so they fall on the same side of the split.
        documents.append(
            corpora.Document(
                id=f"{role}:{prompt_id}", group=prompt_id, source=f"answers of {role}", language=prompt.language, category=prompt.category,
                messages=(*turns, ("assistant", text)) if text.strip() else turns,
            )
        )  # fmt: skip
    return documents


def harvest_role(
    work: Workspace, corpus: corpora.TokenCorpus, role: str, *, dtype: torch.dtype | None = None, title: str = ""
) -> acts.Activations:
    """One model's activations, from the cache or harvested now."""
    source, dtype = work.sources[role], dtype or work.pool.dtype
    found = acts.find(corpus, source.key, work.layer, dtype, work.cache)
    if found is not None:
        return found
    model = work.pool.get(source, dtype)
    done = 0
    with work.reporter.task(title or f"Activations of {role}", unit="tokens") as advance:

        def count(tokens: int, total: int) -> None:
            nonlocal done
            done += tokens
            advance(done, total)

        return acts.harvest(model, corpus, layer=work.layer, cache=work.cache, on_progress=count)


@dataclass(frozen=True)
class Pair:
    """One crosscoder with the rows it was trained on."""

    first: str
    second: str
    crosscoder: Crosscoder
    info: CrosscoderInfo
    rows: acts.PairedRows
    quality: Quality


def crosscoder_for(
    work: Workspace,
    corpus: corpora.TokenCorpus,
    kept: acts.Kept,
    rows: dict[str, acts.Activations],
    first: str,
    second: str,
    given: str | None,
    out: Path,
) -> Pair:
    """Load the given crosscoder, or train one, or find it in the cache; copy it into the run's folder."""
    settings = work.settings
    pair = acts.PairedRows([rows[first], rows[second]])
    train_rows, heldout = acts.split_rows(corpus, kept)
    d_model = rows[first].d_model
    if given:
        found = importing.find(given)
        model, about = importing.read(found)
        coders.require_width(model, d_model, given)
        if "caveat" in about:
            work.caveats.append(about["caveat"])
        quality, source, folder = (
            evaluate(model, pair, heldout, train_rows),
            f"loaded from {weights.public_name(given)}",
            found.folder,
        )
    else:
        options = TrainSettings(
            n_latents=settings.latents,
            k=settings.k,
            steps=settings.steps,
            batch=min(settings.batch, max(1, len(train_rows))),
            lr=settings.lr,
            seed=settings.seed,
        )
        kept_key = fingerprint([len(kept.rows), int(kept.rows.sum())])
        key = fingerprint(["crosscoder-1", rows[first].key, rows[second].key, kept_key, options.model_dump()])
        folder = work.cache / "crosscoders" / key

        def make(partial: Path) -> None:
            with work.reporter.task(f"Training the crosscoder ({first}, {second})", unit="steps") as advance:
                model = train(
                    MappedSource(pair, train_rows, batch=options.batch, seed=options.seed),
                    options,
                    folder=partial,
                    heldout=(pair, heldout),
                    on_step=lambda step, steps, _: advance(step, steps),
                    track=trackers(settings.log_to, out, key=key, title=f"{first}--{second}"),
                )
            with work.reporter.task("Measuring its quality"):
                quality = evaluate(model, pair, heldout, train_rows)
            metadata = {"first": first, "second": second, "layer": work.layer, "training": options.model_dump()}
            coders.save_native(model, partial / "native", metadata)
            coders.save_jumprelu(model, partial / "jumprelu", metadata)
            write_quality(partial, quality)

        if once(folder, make):
            work.trained.append(f"({first}, {second})")
        model, _ = coders.load(folder)
        quality = Quality.model_validate_json((folder / "quality.json").read_text())
        source = "trained on this corpus"
        for name in ("native", "jumprelu"):
            copy_folder(folder / name, out / "crosscoders" / f"{first}--{second}" / name)
        copy_folder(folder, out / "crosscoders" / f"{first}--{second}")
    info = CrosscoderInfo(
        first=first, second=second, layer=work.layer, n_latents=model.n_latents, k=model.k or round(quality.l0), tokens=len(train_rows),
        fve_first=quality.fve_first, fve_second=quality.fve_second, l0=quality.l0, dead_share=quality.dead_share, source=source,
        training=curve(folder),
    )  # fmt: skip
    return Pair(first, second, model, info, pair, quality)


def given_crosscoders(settings: Settings, n: int) -> list[str | None]:
    """The crosscoders named on the command line, one for each that the design needs."""
    if not settings.crosscoder:
        return [None] * n
    if len(settings.crosscoder) != n:
        what = "one (base, tuned)" if n == 1 else "two: (anchor, base) and (anchor, tuned), in this order"
        raise SettingsError(f"--crosscoder was given {len(settings.crosscoder)} times; this design needs {what}.")
    return list(settings.crosscoder)


def null_rows(work: Workspace, corpus: corpora.TokenCorpus) -> tuple[acts.Activations, np.ndarray[Any, Any]] | None:
    """Base in another precision on some held-out documents: numerical noise that changes nothing (ALGORITHMS §3b).

    Returns:
        Activations of the small corpus, and for every token of the big one its row there or −1; None when switched off.
    """
    if not work.settings.null_tokens:
        return None
    other = torch.float32 if work.pool.dtype != torch.float32 else torch.bfloat16
    small, place = corpora.heldout_subset(corpus, tokens=work.settings.null_tokens)
    return harvest_role(work, small, "base", dtype=other, title="Null control: base in another precision"), place


def timed(work: Workspace, name: str, start: float) -> None:
    """Note how long a stage took."""
    work.durations[name] = round(time.monotonic() - start, 2)
