"""Text: read documents from anywhere, format chats, tokenise to disk, split by group.

Whatever the corpus size, memory holds one batch of documents and a few numbers for each document;
token ids go to a file that is mapped, never loaded.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval.errors import CorpusError
from modeldiff_eval.records import Coverage, Record
from modeldiff_eval.resources import resource
from modeldiff_eval.store import file_hash, fingerprint, once, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

PACKAGED = "packaged"
TEXT_SUFFIXES = (".txt", ".md", ".rst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz")
FORMAT_VERSION = 1
_BATCH = 256


class Document(Record):
    """One text or one chat. Documents of one ``group`` are never split between training and held out."""

    id: str
    group: str
    source: str
    language: str | None = None
    category: str | None = None
    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None


@dataclass
class ReadReport:
    """What happened while reading: rows read, broken (with the first reason), duplicates dropped."""

    read: int = 0
    broken: int = 0
    duplicates: int = 0
    first_problem: str | None = None

    def problem(self, where: str, what: str) -> None:
        self.broken += 1
        self.first_problem = self.first_problem or f"{where}: {what}"

    def check(self, limit: float) -> None:
        """Raise when more than ``limit`` of the rows (and more than 10) were broken, or nothing was read."""
        total = self.read + self.broken
        if self.broken > max(10, limit * total):
            raise CorpusError(
                f"{self.broken} of {total} corpus rows are broken (first: {self.first_problem}). "
                "Each JSONL row needs a 'text' string or a 'messages' list of {role, content}."
            )
        if not self.read:
            hint = f" First problem: {self.first_problem}." if self.first_problem else ""
            raise CorpusError(
                f"The corpus is empty.{hint} Name a JSONL(.gz) or text file, a folder of them, or a hub data set."
            )


def corpus_files(spec: str) -> list[Path]:
    """Local files of a corpus argument; empty when it is a hub id.

    Raises:
        CorpusError: the folder holds no readable file, or the file's type is unknown.
    """
    if spec == PACKAGED:
        return [resource("demo/corpus.jsonl.gz")]
    path = Path(spec).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(JSON_SUFFIXES + TEXT_SUFFIXES))
        if not files:
            raise CorpusError(f"{path} holds no {', '.join(JSON_SUFFIXES + TEXT_SUFFIXES)} file.")
        return files
    if path.is_file():
        if not path.name.endswith(JSON_SUFFIXES + TEXT_SUFFIXES):
            raise CorpusError(f"{path} is not one of {', '.join(JSON_SUFFIXES + TEXT_SUFFIXES)}.")
        return [path]
    if path.is_absolute() or spec.startswith(".") or path.name.endswith(JSON_SUFFIXES + TEXT_SUFFIXES):
        raise CorpusError(f"There is no corpus at {spec}. Check the path.")
    return []


def corpus_key(specs: Sequence[str]) -> str:
    """Content hash of local corpora; hub data sets are named by id."""
    parts: list[str] = []
    for spec in specs:
        files = corpus_files(spec)
        parts += [file_hash(file) for file in files] or [spec]
    return fingerprint(parts)


def read_corpus(specs: Sequence[str], report: ReadReport, *, seed: int = 0) -> Iterator[Document]:
    """Stream the documents of every corpus argument; exact duplicates are dropped and counted."""
    seen: set[bytes] = set()
    rows = itertools.chain.from_iterable(_read_spec(spec, report, seed) for spec in specs)
    for document in rows:
        digest = hashlib.blake2b(
            repr((document.text, document.messages)).encode(errors="replace"), digest_size=16
        ).digest()
        if digest in seen:
            report.duplicates += 1
            continue
        seen.add(digest)
        report.read += 1
        yield document


def _read_spec(spec: str, report: ReadReport, seed: int) -> Iterator[Document]:
    files = corpus_files(spec)
    for file in files:
        if file.name.endswith(TEXT_SUFFIXES):
            yield from _read_text(file, report)
        else:
            yield from _read_jsonl(file, report)
    if not files:
        yield from _read_hub(spec, report, seed)


def _read_text(file: Path, report: ReadReport) -> Iterator[Document]:
    """A text file is cut at blank lines into pieces of about 2,000 characters."""
    piece: list[str] = []
    size = number = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in itertools.chain(lines, [None]):
            if line is None or (size > 2000 and not line.strip()) or size > 8000:
                if text := "".join(piece).strip():
                    yield Document(id=f"{file.stem}-{number}", group=_text_group(text), source=file.name, text=text)
                    number += 1
                piece, size = [], 0
            if line is not None:
                piece.append(line)
                size += len(line)


def _read_jsonl(file: Path, report: ReadReport) -> Iterator[Document]:
    opener: Callable[..., Any] = gzip.open if file.name.endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    report.problem(f"{file.name} line {number}", f"not JSON ({error})")
                    continue
                document, problem = to_document(row, f"{file.stem}-{number}", file.name)
                if document is None:
                    report.problem(f"{file.name} line {number}", problem)
                else:
                    yield document
    except (OSError, EOFError, zlib.error) as error:  # a torn gzip stream
        report.problem(file.name, f"cannot be read to its end ({error})")


def _read_hub(spec: str, report: ReadReport, seed: int) -> Iterator[Document]:
    """A ``datasets`` hub id, optionally ``org/name:config:split``, streamed and shuffled by the seed."""
    import datasets

    name, _, rest = spec.partition(":")
    config, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True).shuffle(
            seed=seed, buffer_size=10_000
        )
        for number, row in enumerate(rows):
            document, problem = to_document(row, f"{name}-{number}", name)
            if document is None:
                report.problem(f"{name} row {number}", problem)
            else:
                yield document
    except CorpusError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CorpusError(
            f"Cannot read the data set {spec!r}: {reason[0] if reason else type(error).__name__}. Name a local file instead."
        ) from error


def to_document(row: Any, default_id: str, source: str) -> tuple[Document | None, str]:
    """One row as a document, or None with what is wrong with it."""
    if not isinstance(row, dict):
        return None, "the row is not an object"
    common = {
        "id": str(row.get("id") or default_id),
        "source": str(row.get("source") or source),
        "language": _optional(row, "language"),
        "category": _optional(row, "category"),
    }
    messages = next((row[key] for key in ("messages", "conversation", "conversations") if row.get(key)), None)
    if messages is not None:
        try:
            turns = tuple((_role(m), _content(m)) for m in messages)
        except (TypeError, KeyError, AttributeError):
            return None, "a message has no role and content"
        if not any(content.strip() for _, content in turns):
            return None, "every message is empty"
        group = row.get("group") or _text_group(next((c for r, c in turns if r == "user"), turns[0][1]))
        return Document(**common, group=str(group), messages=turns), ""
    text = row.get("text", row.get("content"))
    if not isinstance(text, str) or not text.strip():
        return None, "neither 'text' nor 'messages' holds any text"
    return Document(**common, group=str(row.get("group") or _text_group(text)), text=text), ""


def _optional(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    return str(value) if value else None


def _role(message: Any) -> str:
    role = str(message.get("role") or {"human": "user", "gpt": "assistant"}.get(message["from"], message["from"]))
    return role if role in ("system", "user", "assistant") else "user"


def _content(message: Any) -> str:
    content = message.get("content", message.get("value"))
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content


def _text_group(text: str) -> str:
    return hashlib.blake2b(text.strip().encode(errors="replace"), digest_size=8).hexdigest()


def format_chat(messages: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """A chat by ``template``; a system turn is folded into the first user turn where the template takes none.

    Raises:
        ValueError: the template refuses these turns.
    """
    turns = [{"role": role, "content": content} for role, content in messages]
    if template is None and not tokenizer.chat_template:
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template))
    except Exception:
        if turns[0]["role"] != "system" or len(turns) < 2:
            raise ValueError("the chat template refuses these turns") from None
    folded = [{"role": "user", "content": turns[0]["content"] + "\n\n" + turns[1]["content"]}, *turns[2:]]
    try:
        return str(tokenizer.apply_chat_template(folded, tokenize=False, chat_template=template))
    except Exception:
        raise ValueError("the chat template refuses these turns") from None


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
        specs: corpus arguments (files, folders, hub ids, ``"packaged"``).
        extra: further documents, such as the models' own answers.
        template: chat template of the tuned model, used for all models.
        tokens: stop at about this many tokens; None takes everything.
        max_length: documents are cut into sequences of at most this many tokens.

    Raises:
        CorpusError: nothing usable, or too many broken rows.
    """
    extra = list(extra)
    parts = [FORMAT_VERSION, corpus_key(specs), [d.model_dump() for d in extra], template, tokens, max_length, seed]
    key = fingerprint([*parts, heldout_share, tokenizer.get_vocab(), type(tokenizer).__name__, tokenizer.bos_token])
    folder = cache / "tokens" / key
    report = ReadReport()

    def make(partial: Path) -> None:
        documents: list[Document] = []
        lengths: list[int] = []
        source = itertools.chain(read_corpus(specs, report, seed=seed), extra)
        with (partial / "unordered.bin").open("wb") as file:
            while batch := list(itertools.islice(source, _BATCH)):
                for document, ids in zip(*_encode(batch, tokenizer, template, report), strict=True):
                    documents.append(document)
                    lengths.append(len(ids))
                    np.asarray(ids, dtype=np.int32).tofile(file)
        if not documents:
            report.read = 0
        report.check(broken_limit)
        _write_shuffled(partial, documents, lengths, tokens, max_length, heldout_share, seed)
        (partial / "unordered.bin").unlink()
        write_json(partial / "report.json", report.__dict__)

    once(folder, make)
    return TokenCorpus(
        key=key,
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        sequences=np.load(folder / "sequences.npy"),
        documents=json.loads((folder / "documents.json").read_text()),
        report=ReadReport(**json.loads((folder / "report.json").read_text())),
    )


def _encode(
    batch: list[Document], tokenizer: PreTrainedTokenizerBase, template: str | None, report: ReadReport
) -> tuple[list[Document], list[list[int]]]:
    kept: list[Document] = []
    texts: dict[bool, list[str]] = {True: [], False: []}
    for document in batch:
        if document.messages is None:
            texts[True].append(document.text or "")
        else:
            try:
                texts[False].append(format_chat(document.messages, tokenizer, template))
            except ValueError as error:
                report.read -= 1
                report.problem(document.id, str(error))
                continue
        kept.append(document)
    # A chat template writes its own BOS; plain text gets the tokenizer's.
    ids = {
        plain: iter(tokenizer(part, add_special_tokens=plain).input_ids if part else [])
        for plain, part in texts.items()
    }
    encoded = [next(ids[document.messages is None]) for document in kept]
    pairs = [(document, row) for document, row in zip(kept, encoded, strict=True) if row]
    return [document for document, _ in pairs], [row for _, row in pairs]


def _write_shuffled(
    folder: Path,
    documents: list[Document],
    lengths: list[int],
    tokens: int | None,
    max_length: int,
    share: float,
    seed: int,
) -> None:
    unordered = np.memmap(folder / "unordered.bin", dtype=np.int32, mode="r")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = np.random.default_rng(seed).permutation(len(documents))
    if tokens is not None:
        order = order[: int(np.searchsorted(np.cumsum(np.asarray(lengths)[order]), tokens)) + 1]
    total = int(np.asarray(lengths)[order].sum())
    ids = np.lib.format.open_memmap(folder / "ids.npy", mode="w+", dtype=np.int32, shape=(total,))
    sequences: list[tuple[int, int, int]] = []
    at = 0
    for number, index in enumerate(order):
        length = lengths[index]
        ids[at : at + length] = unordered[starts[index] : starts[index + 1]]
        for first in range(at, at + length, max_length):
            sequences.append((first, min(first + max_length, at + length), number))
        at += length
    ids.flush()
    np.save(folder / "sequences.npy", np.asarray(sequences, dtype=np.int64))
    kept = [documents[index] for index in order]
    columns: dict[str, list[Any]] = {
        name: [getattr(d, name) for d in kept] for name in ("id", "group", "source", "language", "category")
    }
    columns["heldout"] = [is_heldout(d.group, share=share, seed=seed) for d in kept]
    if not any(columns["heldout"]) or all(columns["heldout"]):
        raise CorpusError(
            f"The corpus has {len(set(columns['group']))} distinct documents, too few to keep some out of training. Give more text."
        )
    write_json(folder / "documents.json", columns)


def text_sample(specs: Sequence[str], *, n: int) -> list[str]:
    """The text of the first ``n`` documents, to compare tokenizers on."""
    documents = itertools.islice(read_corpus(specs, ReadReport()), n)
    return [d.text or "\n".join(content for _, content in d.messages or ()) for d in documents]


def heldout_subset(corpus: TokenCorpus, *, tokens: int) -> tuple[TokenCorpus, NDArray[np.int64]]:
    """A small corpus of held-out documents, about ``tokens`` tokens, in the same order.

    Returns:
        The corpus, and for every token of ``corpus`` its place in the small one, or −1.
    """
    heldout = corpus.heldout_documents()[corpus.sequences[:, 2]]
    lengths = np.where(heldout, corpus.sequences[:, 1] - corpus.sequences[:, 0], 0)
    chosen = heldout & (np.cumsum(lengths) - lengths < tokens)
    documents = np.unique(corpus.sequences[chosen, 2])
    chosen = heldout & np.isin(corpus.sequences[:, 2], documents)
    parts = corpus.sequences[chosen]
    place = np.full(corpus.tokens, -1, dtype=np.int64)
    sequences = np.empty_like(parts)
    at = 0
    for row, (start, end, document) in enumerate(parts):
        place[start:end] = np.arange(at, at + end - start)
        sequences[row] = at, at + end - start, document
        at += end - start
    ids = corpus.ids[np.flatnonzero(place >= 0)]
    key = fingerprint([corpus.key, "heldout subset", tokens])
    return TokenCorpus(key, ids, sequences, corpus.documents, corpus.report), place
