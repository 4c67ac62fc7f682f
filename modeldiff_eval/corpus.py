"""A corpus: documents from anywhere as tokens on disk, split by group.

Whatever the corpus size, memory holds one batch of texts, and a few numbers and names for each document;
token ids go to a file that is mapped, never loaded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval.corpus_document import Document
from modeldiff_eval.corpus_gather import Gathered, gather
from modeldiff_eval.corpus_mixture import corpus_key, parse_sources, read_corpus
from modeldiff_eval.corpus_sources import PACKAGED, ReadReport
from modeldiff_eval.disk import reserve
from modeldiff_eval.errors import CorpusError
from modeldiff_eval.records import Coverage
from modeldiff_eval.store import fingerprint, once, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PACKAGED",
    "Document",
    "ReadReport",
    "TokenCorpus",
    "heldout_sample",
    "heldout_subset",
    "is_heldout",
    "text_sample",
    "tokenise",
]

FORMAT_VERSION = 1


def is_heldout(group: str, *, share: float, seed: int) -> bool:
    """Whether a group belongs to the held-out part: decided by its hash, so it never changes with the corpus."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


@dataclass(frozen=True)
class TokenCorpus:
    """Tokenised documents on disk.

    ``ids`` [tokens] int32, mapped. ``sequences`` [sequences, 3] int64: first token, end, document.
    ``documents``: columns id, group, source, language, category, heldout.
    """

    key: str
    ids: NDArray[np.int32]
    sequences: NDArray[np.int64]
    documents: dict[str, list[Any]]
    report: ReadReport

    @property
    def tokens(self) -> int:
        return int(self.sequences[-1, 1])

    def document_of_token(self) -> NDArray[np.int32]:
        """[tokens] the document that each token belongs to."""
        lengths = self.sequences[:, 1] - self.sequences[:, 0]
        return np.repeat(self.sequences[:, 2].astype(np.int32), lengths)

    def heldout_documents(self) -> NDArray[np.bool_]:
        """[documents] True where the document was kept out of training."""
        return np.asarray(self.documents["heldout"], dtype=bool)

    def coverage(self) -> Coverage:
        """Tokens by language and by category."""
        per_document = np.bincount(self.document_of_token(), minlength=len(self.documents["id"]))
        totals: dict[str, Counter[str]] = {"language": Counter(), "category": Counter()}
        for column, counter in totals.items():
            for name, tokens in zip(self.documents[column], per_document, strict=True):
                counter[name or "not stated"] += int(tokens)
        return Coverage(
            languages=[{"language": name, "tokens": n} for name, n in totals["language"].most_common()],
            categories=[{"category": name, "tokens": n} for name, n in sorted(totals["category"].items())],
        )


def tokenise(
    specs: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    extra: Iterable[Document] = (),
    template: str | None,
    cache: Path,
    tokens: int | None = None,
    max_length: int = 512,
    heldout_share: float = 0.25,
    broken_limit: float = 0.05,
    seed: int = 0,
) -> TokenCorpus:
    """Tokenise a corpus once into the cache, in an order shuffled by document.

    Args:
        specs: corpus arguments: files, folders, hub ids, ``"packaged"``, or a mixture of them with weights
            (:func:`~modeldiff_eval.corpus_mixture.parse_sources`).
        extra: further documents, such as the models' own answers.
        template: chat template of the tuned model, used for all models.
        tokens: stop at about this many tokens; None takes everything. Of tables and hub data sets no more is read.
        max_length: documents are cut into sequences of at most this many tokens.

    Raises:
        CorpusError: nothing usable, or too many broken rows.
        SettingsError: impossible weights, or a mixture without ``tokens``.
    """
    extra = list(extra)
    parts = [FORMAT_VERSION, corpus_key(specs), [d.model_dump() for d in extra], template, tokens, max_length, seed]
    key = fingerprint([*parts, heldout_share, tokenizer.get_vocab(), type(tokenizer).__name__, tokenizer.bos_token])
    folder = cache / "tokens" / key
    report = ReadReport()

    def make(partial: Path) -> None:
        unordered = partial / "unordered.bin"
        with unordered.open("wb") as file:
            gathered = Gathered(file)
            order = gather(
                parse_sources(specs),
                extra,
                gathered,
                report,
                tokenizer=tokenizer,
                template=template,
                tokens=tokens,
                seed=seed,
            )
        if not len(order):
            report.read = 0
        report.check(broken_limit)
        _write_columns(partial, gathered, order, share=heldout_share, seed=seed)
        _write_tokens(partial, unordered, gathered, order, max_length)
        unordered.unlink()
        write_json(partial / "report.json", report.__dict__)

    once(folder, make)
    return TokenCorpus(
        key=key,
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        sequences=np.load(folder / "sequences.npy"),
        documents=json.loads((folder / "documents.json").read_text()),
        report=ReadReport(**json.loads((folder / "report.json").read_text())),
    )


def _write_columns(folder: Path, gathered: Gathered, order: NDArray[np.int64], *, share: float, seed: int) -> None:
    columns: dict[str, list[Any]] = {name: [column[i] for i in order] for name, column in gathered.columns.items()}
    columns["heldout"] = [is_heldout(group, share=share, seed=seed) for group in columns["group"]]
    if not any(columns["heldout"]) or all(columns["heldout"]):
        raise CorpusError(
            f"The corpus has {len(set(columns['group']))} distinct documents, too few to keep some out of training. Give more text."
        )
    write_json(folder / "documents.json", columns)


def _write_tokens(folder: Path, unordered: Path, gathered: Gathered, order: NDArray[np.int64], max_length: int) -> None:
    """``ids.npy``, the documents' tokens in their order, and ``sequences.npy``, cut at ``max_length``."""
    source = np.memmap(unordered, dtype=np.int32, mode="r")
    lengths = np.asarray(gathered.lengths, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.cumsum(lengths[order])
    ids = np.lib.format.open_memmap(folder / "ids.npy", mode="w+", dtype=np.int32, shape=(int(ends[-1]),))
    reserve(folder / "ids.npy")
    for index, end in zip(order, ends, strict=True):
        ids[end - lengths[index] : end] = source[starts[index] : starts[index + 1]]
    ids.flush()
    pieces = -(-lengths[order] // max_length)
    document = np.repeat(np.arange(len(order)), pieces)
    within = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = (ends - lengths[order])[document] + within * max_length
    np.save(
        folder / "sequences.npy",
        np.stack([first, np.minimum(first + max_length, ends[document]), document], axis=1).astype(np.int64),
    )


def text_sample(specs: Sequence[str], *, n: int) -> list[str]:
    """The text of ``n`` documents, the first of every source, to compare tokenizers on."""
    shares = [n] if parse_sources(specs)[0].share is None else [-(-n // len(specs))] * len(specs)
    lists = [specs] if len(shares) == 1 else [[spec] for spec in specs]
    documents = itertools.chain.from_iterable(
        itertools.islice(read_corpus(part, ReadReport(), shuffle_rows=n), count)
        for part, count in zip(lists, shares, strict=True)
    )
    return [d.text or "\n".join(content for _, content in d.messages or ()) for d in documents]


def _heldout_parts(corpus: TokenCorpus, tokens: int) -> NDArray[np.int64]:
    """The sequences of the first held-out documents, whole ones, that hold about ``tokens`` tokens."""
    heldout = corpus.heldout_documents()[corpus.sequences[:, 2]]
    lengths = np.where(heldout, corpus.sequences[:, 1] - corpus.sequences[:, 0], 0)
    chosen = heldout & (np.cumsum(lengths) - lengths < tokens)
    documents = np.unique(corpus.sequences[chosen, 2])
    parts: NDArray[np.int64] = corpus.sequences[heldout & np.isin(corpus.sequences[:, 2], documents)]
    return parts


def heldout_sample(corpus: TokenCorpus, *, tokens: int) -> TokenCorpus:
    """A small corpus of held-out documents, about ``tokens`` tokens, in the same order; document numbers stay."""
    parts = _heldout_parts(corpus, tokens)
    ends = np.cumsum(parts[:, 1] - parts[:, 0])
    starts = ends - (parts[:, 1] - parts[:, 0])
    ids = np.concatenate([corpus.ids[start:end] for start, end, _ in parts])
    key = fingerprint([corpus.key, "heldout subset", tokens])
    sequences = np.stack([starts, ends, parts[:, 2]], axis=1)
    return TokenCorpus(key, ids, sequences, corpus.documents, corpus.report)


def heldout_subset(corpus: TokenCorpus, *, tokens: int) -> tuple[TokenCorpus, NDArray[np.int64]]:
    """:func:`heldout_sample`, and for every token of ``corpus`` its place in the small one, or −1."""
    small = heldout_sample(corpus, tokens=tokens)
    place = np.full(corpus.tokens, -1, dtype=np.int64)
    for (start, end, _), (at, stop, _) in zip(_heldout_parts(corpus, tokens), small.sequences, strict=True):
        place[start:end] = np.arange(at, stop)
    return small, place
