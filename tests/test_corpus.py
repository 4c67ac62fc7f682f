"""Text from anywhere becomes tokens on disk: what is read, counted, refused, split and cut."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lm import TEMPLATE, tiny_tokenizer

from modeldiff_eval import corpus as c
from modeldiff_eval.errors import CorpusError

Tokenise = Callable[..., c.TokenCorpus]
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def texts(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"This is text number {i}.", **more} for i in range(n)]


def read(*specs: Path | str) -> tuple[list[c.Document], c.ReadReport]:
    report = c.ReadReport()
    return list(c.read_corpus([str(spec) for spec in specs], report)), report


@pytest.fixture
def tokenise(tmp_path: Path) -> Tokenise:
    def run(*specs: Path, **options: Any) -> c.TokenCorpus:
        options = {"template": TEMPLATE, "cache": tmp_path / "cache", "tokenizer": tiny_tokenizer()} | options
        return c.tokenise([str(spec) for spec in specs], options.pop("tokenizer"), **options)

    return run


def decoded(corpus: c.TokenCorpus) -> list[str]:
    """Text of every document, put together from its sequences."""
    tokenizer, ids = tiny_tokenizer(), corpus.document_of_token()
    return [tokenizer.decode(corpus.ids[ids == n].tolist()) for n in range(len(corpus.documents["id"]))]


# Reading ---------------------------------------------------------------------------------------------


def test_jsonl_rows_of_every_kind(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "plain", "language": "en", "category": "A.1", "source": "s", "group": "g"},
        {"content": "also plain"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"conversations": [{"from": "human", "value": "hi 2"}, {"from": "gpt", "value": "yes"}]},
        {"messages": [{"role": "tool", "content": "42"}]},
    ]
    documents, report = read(write(tmp_path / "x.jsonl", rows))
    assert (report.read, report.broken, report.duplicates) == (5, 0, 0)
    first = documents[0]
    assert (first.id, first.group, first.source, first.language, first.category) == ("a", "g", "s", "en", "A.1")
    assert (documents[1].id, documents[1].text, documents[1].source) == ("x-2", "also plain", "x.jsonl")
    assert documents[3].messages == (("user", "hi 2"), ("assistant", "yes"))
    assert documents[4].messages == (("user", "42"),)


def test_gz_txt_and_folders_read_the_same(tmp_path: Path) -> None:
    rows = texts(3)
    plain = write(tmp_path / "x.jsonl", rows)
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    with gzip.open(folder / "x.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "ignored.bin").write_bytes(b"\x00")
    assert [d.text for d in read(plain)[0]] == [d.text for d in read(folder.parent)[0]]
    (folder / "y.txt").write_text("One more.\n")
    assert len(read(folder.parent)[0]) == 4


def test_a_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 100
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"{i} {paragraph}" for i in range(20)))
    documents, _ = read(path)
    assert len(documents) > 2
    assert all(2000 < len(d.text or "") < 3100 for d in documents[:-1])
    assert " ".join(d.text or "" for d in documents).split() == path.read_text().split()
    path.write_text("long line without a blank one\n" * 2000)
    assert all(len(d.text or "") < 8100 for d in read(path)[0])


def test_a_torn_gz_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(map(str, rng.integers(0, 10**9, 40)))} for _ in range(500)]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(path.read_bytes()[:-2000])
    documents, report = read(path)
    assert 0 < len(documents) < 500
    assert report.broken >= 1
    assert "cannot be read to its end" in (report.first_problem or "")


@pytest.mark.parametrize("data", [b"not gzip at all", b"\x1f\x8b\x08\x00" + b"\xff" * 40, b""])
def test_garbage_called_gz_is_counted_not_a_crash(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(data)
    documents, report = read(tmp_path / "x.jsonl.gz")
    assert documents == []
    assert report.broken == bool(data)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "not an object"),
        ('"text"', "not an object"),
        ({"text": ""}, "neither 'text' nor 'messages'"),
        ({"text": 5}, "neither 'text' nor 'messages'"),
        ({"text": None}, "neither 'text' nor 'messages'"),
        ({"messages": [{"role": "user"}]}, "no role and content"),
        ({"messages": "hello"}, "no role and content"),
        ({"messages": 7}, "no role and content"),
        ({"messages": [{"content": "x"}]}, "no role and content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "no role and content"),
        ({"messages": [{"role": "user", "content": " "}]}, "every message is empty"),
    ],
)
def test_broken_rows_are_counted_with_their_line(tmp_path: Path, row: Any, problem: str) -> None:
    documents, report = read(write(tmp_path / "x.jsonl", [{"text": "good"}, row, {"text": "fine"}]))
    assert [d.text for d in documents] == ["good", "fine"]
    assert report.broken == 1
    assert (report.first_problem or "").startswith("x.jsonl line 2: ")
    assert problem in (report.first_problem or "")


def test_broken_rows_up_to_a_limit(tmp_path: Path, tokenise: Tokenise) -> None:
    corpus = tokenise(write(tmp_path / "x.jsonl", [*texts(20), *["{"] * 10]))
    assert (corpus.report.read, corpus.report.broken) == (20, 10)
    with pytest.raises(CorpusError, match=r"11 of 31 corpus rows are broken \(first: y.jsonl line 21"):
        tokenise(write(tmp_path / "y.jsonl", [*texts(20), *["{"] * 11]))
    tokenise(write(tmp_path / "z.jsonl", [*texts(400), *["{"] * 20]))
    with pytest.raises(CorpusError, match="21 of 400"):
        tokenise(write(tmp_path / "w.jsonl", [*texts(379), *["{"] * 21]))


def test_an_empty_corpus(tmp_path: Path, tokenise: Tokenise) -> None:
    with pytest.raises(CorpusError, match="The corpus is empty") as caught:
        tokenise(write(tmp_path / "x.jsonl", []))
    assert caught.value.exit_code == 3
    with pytest.raises(CorpusError, match=r"empty\. First problem: y\.jsonl line 1: not JSON"):
        tokenise(write(tmp_path / "y.jsonl", ["{", "{"]))
    with pytest.raises(CorpusError, match="too few to keep some out"):
        tokenise(write(tmp_path / "z.jsonl", texts(1)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match=r"holds no \.jsonl"):
        tokenise(tmp_path / "folder")


@pytest.mark.parametrize("spec", ["./absent", "/absent/corpus", "absent.jsonl", "absent.txt", "absent.jsonl.gz"])
def test_a_missing_corpus(spec: str) -> None:
    with pytest.raises(CorpusError, match="There is no corpus at"):
        read(spec)


def test_an_unknown_file_type(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").touch()
    with pytest.raises(CorpusError, match=r"is not one of \.jsonl"):
        read(tmp_path / "x.parquet")


def test_a_hub_data_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> None:
        asked.append((args, options["split"]))
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(CorpusError, match=r"'org/data:en:test': no such data set"):
        read("org/data:en:test")
    assert asked == [(("org/data", "en"), "test")]


def test_rows_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    made = datasets.Dataset.from_list([{"text": f"row {i}"} for i in range(4)]).to_iterable_dataset()
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: made)
    documents, report = read("org/data")
    assert sorted(d.text or "" for d in documents) == [f"row {i}" for i in range(4)]
    assert report.read == 4


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "same", "id": str(i)} for i in range(3)]
    chats = [{"messages": [{"role": r, "content": "same"}]} for r in ("user", "assistant", "user")]
    documents, report = read(write(tmp_path / "x.jsonl", rows + chats), write(tmp_path / "y.jsonl", rows))
    assert (len(documents), report.read, report.duplicates) == (3, 3, 6)


# Chats -----------------------------------------------------------------------------------------------


def test_a_chat_goes_through_the_template() -> None:
    turns = (("system", "be kind"), ("user", "hi"), ("assistant", "yes"))
    assert c.format_chat(turns, tiny_tokenizer(), None) == "<s>system: be kind</s><s>user: hi</s><s>assistant: yes"


def test_a_system_turn_is_folded_where_the_template_takes_none() -> None:
    turns = (("system", "be kind"), ("user", "hi"), ("assistant", "yes"))
    assert c.format_chat(turns, tiny_tokenizer(), REFUSES_SYSTEM) == "[user]be kind\n\nhi[assistant]yes"
    with pytest.raises(ValueError, match="refuses"):
        c.format_chat(turns[:1], tiny_tokenizer(), REFUSES_SYSTEM)
    with pytest.raises(ValueError, match="refuses"):
        c.format_chat((("user", "a"), ("system", "b")), tiny_tokenizer(), REFUSES_SYSTEM)


def test_a_chat_without_any_template() -> None:
    turns = (("user", "hi"), ("assistant", "yes"))
    assert c.format_chat(turns, tiny_tokenizer(template=None), None) == "user: hi\n\nassistant: yes"


def test_chats_that_the_template_refuses_are_broken_rows(tmp_path: Path, tokenise: Tokenise) -> None:
    bad = {"id": "odd", "messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}
    corpus = tokenise(write(tmp_path / "x.jsonl", [*texts(20), bad]), template=REFUSES_SYSTEM)
    assert (corpus.report.read, corpus.report.broken) == (20, 1)
    assert "odd" in (corpus.report.first_problem or "")


def bos_tokenizer() -> Any:
    """The byte tokenizer, which now begins every plain text with <s>."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return tokenizer


def test_bos_once_for_plain_text_and_once_for_chats(tmp_path: Path, tokenise: Tokenise) -> None:
    rows = [*texts(8), *({"messages": [{"role": "user", "content": f"hi {i}"}]} for i in range(8))]
    corpus = tokenise(write(tmp_path / "x.jsonl", rows), tokenizer=bos_tokenizer())
    ids, document = np.asarray(corpus.ids), corpus.document_of_token()
    assert (ids[corpus.sequences[:, 0]] == 256).all()
    assert (np.bincount(document[ids == 256]) == 1).all()


# Tokens ----------------------------------------------------------------------------------------------


def test_tokens_are_the_documents(small_corpus: Path, tokenise: Tokenise) -> None:
    corpus = tokenise(small_corpus, max_length=40)
    wanted = {}
    for document in read(small_corpus)[0]:
        text = document.text or c.format_chat(document.messages or (), tiny_tokenizer(), TEMPLATE)
        wanted[document.id] = text
    assert dict(zip(corpus.documents["id"], decoded(corpus), strict=True)) == wanted
    lengths = corpus.sequences[:, 1] - corpus.sequences[:, 0]
    assert lengths.max() == 40
    assert lengths.min() >= 1
    assert (corpus.sequences[1:, 0] == corpus.sequences[:-1, 1]).all()
    assert corpus.tokens == len(corpus.ids) == lengths.sum()


def test_the_order_is_the_seeds(small_corpus: Path, tokenise: Tokenise, tmp_path: Path) -> None:
    first = tokenise(small_corpus, seed=1)
    again = tokenise(small_corpus, seed=1, cache=tmp_path / "other")
    other = tokenise(small_corpus, seed=2)
    assert first.documents == again.documents
    assert np.array_equal(first.ids, again.ids)
    assert first.documents["id"] != other.documents["id"]
    assert sorted(first.documents["id"]) == sorted(other.documents["id"])
    assert first.documents["id"] != sorted(first.documents["id"])


def test_the_token_budget_is_met_by_whole_documents(small_corpus: Path, tokenise: Tokenise) -> None:
    everything = tokenise(small_corpus)
    part = tokenise(small_corpus, tokens=4000)
    lengths = np.bincount(everything.document_of_token())
    n = len(part.documents["id"])
    assert part.documents["id"] == everything.documents["id"][:n]
    assert lengths[: n - 1].sum() < 4000 <= lengths[:n].sum() == part.tokens
    assert tokenise(small_corpus, tokens=10**9).tokens == everything.tokens


def test_the_cache_is_used_and_its_key_sees_what_matters(
    small_corpus: Path, tokenise: Tokenise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenise(small_corpus)
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(small_corpus.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(c, "read_corpus", None)
        assert tokenise(copy).key == first.key
    keys = {first.key} | {
        tokenise(small_corpus, **option).key
        for option in ({"seed": 3}, {"max_length": 64}, {"tokens": 4000}, {"heldout_share": 0.4}, {"template": None})
    }
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["river"])
    keys.add(tokenise(small_corpus, tokenizer=tokenizer).key)
    assert len(keys) == 7


def test_a_group_is_never_split(tmp_path: Path, tokenise: Tokenise) -> None:
    rows = [{"text": f"text {i}", "group": f"g{i % 40}"} for i in range(400)]
    rows += [
        {"messages": [{"role": "user", "content": f"question {i % 30}"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(300)
    ]
    corpus = tokenise(write(tmp_path / "x.jsonl", rows), heldout_share=0.3)
    sides: dict[str, set[bool]] = {}
    for group, heldout in zip(corpus.documents["group"], corpus.documents["heldout"], strict=True):
        sides.setdefault(group, set()).add(heldout)
    assert len(sides) == 70
    assert all(len(side) == 1 for side in sides.values())
    assert {True, False} == set(corpus.documents["heldout"])


def test_the_same_prompt_with_two_answers_is_one_group() -> None:
    def chat(answer: str) -> c.Document:
        turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        document, _ = c.to_document({"messages": turns}, "x", "y")
        assert document is not None
        return document

    assert chat("a").group == chat("b").group


def test_the_held_out_share_is_met_and_does_not_move_with_the_corpus() -> None:
    drawn = [c.is_heldout(f"g{i}", share=0.25, seed=0) for i in range(4000)]
    assert abs(np.mean(drawn) - 0.25) < 0.03
    assert drawn != [c.is_heldout(f"g{i}", share=0.25, seed=1) for i in range(4000)]


def test_coverage_counts_tokens(small_corpus: Path, tokenise: Tokenise) -> None:
    corpus = tokenise(small_corpus)
    coverage = corpus.coverage()
    assert {row["language"] for row in coverage.languages} == {"en", "de"}
    assert {row["category"] for row in coverage.categories} == {"A.1", "B.8", "not stated"}
    for rows in (coverage.languages, coverage.categories):
        assert sum(row["tokens"] for row in rows) == corpus.tokens


def test_heldout_subset_maps_every_token(small_corpus: Path, tokenise: Tokenise) -> None:
    corpus = tokenise(small_corpus, max_length=50)
    small, place = c.heldout_subset(corpus, tokens=600)
    held = corpus.heldout_documents()
    there = place >= 0
    assert np.array_equal(np.sort(place[there]), np.arange(len(small.ids)))
    assert np.array_equal(np.asarray(corpus.ids)[there], np.asarray(small.ids)[place[there]])
    document = corpus.document_of_token()
    assert held[document[there]].all()
    # Whole documents, enough of them and not one more, cut as before.
    chosen = np.unique(document[there])
    assert np.array_equal(there, np.isin(document, chosen))
    sizes = np.bincount(document)[np.flatnonzero(held)]
    assert np.array_equal(chosen, np.flatnonzero(held)[: len(chosen)])
    assert sizes[: len(chosen)].sum() >= 600 > sizes[: len(chosen) - 1].sum()
    assert np.array_equal(small.document_of_token(), document[there])
    assert small.tokens == len(small.ids)
    assert small.key != corpus.key
    everything, _ = c.heldout_subset(corpus, tokens=10**9)
    assert everything.tokens == int(held[document].sum())


def test_text_sample_is_the_first_documents(small_corpus: Path) -> None:
    sample = c.text_sample([str(small_corpus)], n=3)
    assert len(sample) == 3
    rows = [json.loads(line) for line in small_corpus.read_text().splitlines()]
    assert sample[0] == rows[0]["text"]
    assert rows[1]["messages"][0]["content"] in sample[1]
