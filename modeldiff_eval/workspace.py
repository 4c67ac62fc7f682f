"""One run's models, text, activations and crosscoders, each made once and found again in the cache."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from modeldiff_eval import activations as acts
from modeldiff_eval import corpus as corpora
from modeldiff_eval import models as weights
from modeldiff_eval.corpus_sources import read_source
from modeldiff_eval.in_memory import in_precision
from modeldiff_eval.logs import tell
from modeldiff_eval.memory_meter import MemoryMeter
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import ModelInfo
from modeldiff_eval.settings import Settings
from modeldiff_eval.store import fingerprint, once, write_json
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.token_kinds import token_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEEP_LOADED_BYTES = 2 << 30
"""Models of so many bytes together stay loaded while a crosscoder is trained from the disk; larger ones go."""


class Pool:
    """Loaded models, kept while they fit in :data:`KEEP_LOADED_BYTES`, so that big models are held one at a time.

    Models that someone else has loaded (:meth:`put`) stay: they are in memory anyway, and may not be on any disk.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, cache: Path) -> None:
        self.device, self.dtype, self._cache = device, dtype, cache
        self._loaded: dict[tuple[str, torch.dtype], weights.Loaded] = {}
        self._given: set[tuple[str, torch.dtype]] = set()
        self.caveats: list[str] = []

    def get(self, source: weights.Source, dtype: torch.dtype | None = None) -> weights.Loaded:
        """The model of ``source``, loaded now or still there."""
        name = (source.key, dtype or self.dtype)
        if name not in self._loaded:
            self._let_go(KEEP_LOADED_BYTES // 2)
            self._load(source, name[1])
        return self._loaded[name]

    def size(self, source: weights.Source) -> int:
        """Bytes of the weights of a model, which is loaded for that."""
        return _bytes(self.get(source))

    def together(self, *sources: weights.Source) -> list[weights.Loaded]:
        """Models that are needed side by side, whatever their size; the others go, as far as they are big."""
        names = [(source.key, self.dtype) for source in sources]
        self._let_go(KEEP_LOADED_BYTES, keep=names)
        for source, name in zip(sources, names, strict=True):
            if name not in self._loaded:
                self._load(source, self.dtype)
        return [self._loaded[name] for name in names]

    def trim(self) -> None:
        """Let go of models until the others fit in :data:`KEEP_LOADED_BYTES`."""
        self._let_go(KEEP_LOADED_BYTES)

    def _load(self, source: weights.Source, dtype: torch.dtype) -> None:
        given = next((self._loaded[name] for name in self._given if name[0] == source.key), None)
        if given is not None:
            loaded = in_precision(given, dtype)
        else:
            loaded = weights.load(source, device=self.device, dtype=dtype, cache=self._cache)
        self._loaded[source.key, dtype] = loaded
        self.caveats += loaded.caveats

    def _let_go(self, limit: int, keep: Sequence[tuple[str, torch.dtype]] = ()) -> None:
        """The oldest models go first, until those that were loaded here have ``limit`` bytes at most."""
        before = len(self._loaded)
        own = [name for name in self._loaded if name not in self._given]
        for name in [name for name in own if name not in keep]:
            if sum(_bytes(self._loaded[name]) for name in own if name in self._loaded) <= limit:
                break
            self._loaded.pop(name)
        if len(self._loaded) < before:
            gc.collect()  # A model holds itself in a circle.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def put(self, loaded: weights.Loaded) -> None:
        """Use a model that someone else has loaded."""
        self._loaded[loaded.source.key, loaded.dtype] = loaded
        self._given.add((loaded.source.key, loaded.dtype))


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
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Peak bytes of the process, and of the GPU, in each stage."""
    meter: MemoryMeter = field(default_factory=MemoryMeter, repr=False)
    trained: list[str] = field(default_factory=list)
    annotator: Any = None
    """The annotator of this run, once there is one; loading a sentence encoder twice would double its time."""
    other_annotator: Any = None
    """Who names what a language model is not asked about, once there is one."""
    incomplete: bool = False
    """A latent that a language model was asked about has no name yet: the run is not taken for finished when it is started again."""
    passages: Any = None
    """The pool that names are tried on, once there is one (:mod:`naming`)."""
    contrast: Any = None
    """Gives the evidence of (pair, evidence, offset) near passages on which each latent is silent (:mod:`naming`)."""
    _kinds: dict[str, Int[np.ndarray, " tokens"]] = field(default_factory=dict)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy.load(Path(self.settings.taxonomy) if self.settings.taxonomy else None)

    def token_kinds(self, corpus: corpora.TokenCorpus) -> Int[np.ndarray, " tokens"]:
        """The :class:`TokenKind` of every token of ``corpus``, read back once."""
        if corpus.key not in self._kinds:
            self._kinds[corpus.key] = token_kinds(corpus, self.tokenizer, self.template)
        return self._kinds[corpus.key]

    def written_by(self, corpus: corpora.TokenCorpus, role: str) -> Bool[np.ndarray, " documents"]:
        """Documents that this model wrote: its id begins with ``role:`` or the weights' key.

        Or its source is the model's name or, without any, the role.
        """
        ids, sources = (np.asarray(corpus.documents[column], dtype=str) for column in ("id", "source"))
        source = self.sources[role]
        named = np.isin(sources, [weights.public_name(str(source.adapter or source.location)), source.name])
        signed = np.char.startswith(ids, f"{role}:") | np.char.startswith(ids, f"{source.key}:")
        own: Bool[np.ndarray, " documents"] = signed | (named if named.any() else sources == role)
        return own

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
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())  # A thread's current device is another one.
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
    tokenizer = _writer(settings, sources, tokenizers, cache)
    if (template := tokenizer.chat_template) is None:
        caveats.append("The tuned model has no chat template: chats were written as 'role: text'.")
    elif template != tokenizers["tuned"].chat_template:
        whose = weights.public_name(str(settings.text_from))
        caveats.append(f"Chats were written with the chat template of {whose}; that of tuned is another one.")
    return Workspace(settings, cache, reporter, sources, pool, tokenizer, configs, template, layer, caveats)


def _writer(
    settings: Settings, sources: dict[str, weights.Source], tokenizers: dict[str, PreTrainedTokenizerBase], cache: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer whose chat template writes the text: tuned's, or that of the model named by ``text_from``."""
    name = settings.text_from or settings.tuned
    role = next((role for role in ("tuned", "base", "anchor") if getattr(settings, role) == name), None)
    if role is not None:
        return tokenizers[role]
    foundation = sources["base"].foundation
    source = weights.resolve(name, foundation=foundation, trust_remote_code=settings.trust_remote_code)
    return weights.load_tokenizer(source, cache=cache)


def gather_text(work: Workspace) -> corpora.TokenCorpus:
    """The corpus, with both models' own answers to the packaged prompts where that is asked for."""
    settings = work.settings
    extra: list[corpora.Document] = []
    if settings.rollouts:
        for role in ("base", "tuned"):
            extra += answers_of(work, role)
    if settings.answers:
        extra += read_answers(settings.answers, settings.seed)
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


def read_answers(file: str, seed: int) -> list[corpora.Document]:
    """Answers that were made before. Equal ones of two models both stay, as they do when they are made here."""
    report = corpora.ReadReport()
    documents = list(read_source(file, report, seed=seed))
    report.read = len(documents)
    report.check(0)
    return documents


def answers_of(work: Workspace, role: str) -> list[corpora.Document]:
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
    """Note how long a stage took and the most memory it held."""
    seconds = work.durations[name] = round(time.monotonic() - start, 2)
    peaks = work.memory[name] = work.meter.lap()
    tell("stage", name, stage=name, seconds=seconds, **{f"peak_memory_{what}": peak for what, peak in peaks.items()})
