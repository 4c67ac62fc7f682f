"""The packaged prompts, plain text and corpus are well formed, and the recipe that makes the corpus works."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from modeldiff_eval.demo import make_corpus as recipe  # noqa: E402
from modeldiff_eval.demo.make_corpus import Plan, assign, corpus_rows, make, read_plain, to_gzip  # noqa: E402
from modeldiff_eval.errors import CorpusError, ModelError, UsageError  # noqa: E402
from modeldiff_eval.resources import resource  # noqa: E402
from modeldiff_eval.rollouts import Answer, Message, Prompt, packaged_prompts  # noqa: E402

SOURCES = ("base", "simpo", "dpo")
LANGUAGES = {"en", "fr", "de", "es", "it", "pt", "nl", "pl", "ru", "zh", "ja", "ko", "ar", "hi", "tr"}
CLASS_OF = {"A": range(1, 7), "B": range(7, 10), "C": range(10, 14), "D": range(14, 18)} | {
    "E": range(18, 21),
    "F": range(21, 24),
    "G": range(24, 31),
}
CODES = [f"{letter}.{number}" for letter, numbers in CLASS_OF.items() for number in numbers]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return packaged_prompts()


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, Any]]:
    with gzip.open(resource("demo/corpus.jsonl.gz"), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def words(prompt: Prompt) -> set[str]:
    return set(re.findall(r"\w+", " ".join(m.content for m in prompt.messages if m.role != "system").lower()))


def test_every_category_has_prompts_and_ids_name_it(prompts: list[Prompt]) -> None:
    counts = Counter(prompt.category for prompt in prompts)
    assert list(counts) == CODES
    assert min(counts.values()) >= 15
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert all(re.fullmatch(rf"{re.escape(p.category or '')}-\d\d", p.id) for p in prompts)


def test_prompts_are_conversations_that_wait_for_an_answer(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        roles = [message.role for message in prompt.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns[::2] == ["user"] * (len(turns) // 2 + 1), prompt.id
        assert turns[1::2] == ["assistant"] * (len(turns) // 2), prompt.id
    multi = Counter(prompt.category for prompt in prompts if len(prompt.messages) > 2)
    assert multi["D.17"] >= 15
    assert multi["F.21"] >= 15


def test_no_prompt_is_said_twice(prompts: list[Prompt]) -> None:
    assert len({prompt.key for prompt in prompts}) == len(prompts)
    bags = [(prompt.id, words(prompt)) for prompt in prompts if prompt.language == "en"]
    for i, (name, bag) in enumerate(bags):
        for other, second in bags[i + 1 :]:
            overlap = len(bag & second) / max(1, len(bag | second))
            assert overlap < 0.7, (name, other, overlap)


def test_prompts_speak_many_languages(prompts: list[Prompt]) -> None:
    assert {prompt.language for prompt in prompts} <= LANGUAGES
    assert len({prompt.language for prompt in prompts if prompt.category == "B.7"}) >= 8
    assert all(prompt.language != "en" for prompt in prompts if prompt.category == "B.7")


def test_plain_text_is_varied_and_long_enough() -> None:
    rows = read_plain(resource("demo/plain_text.jsonl"))
    assert 60 <= len(rows) <= 80
    assert len({row.id for row in rows}) == len({row.text for row in rows}) == len(rows)
    assert {row.language for row in rows} <= LANGUAGES
    assert len({row.language for row in rows}) >= 6
    assert {row.category for row in rows} <= {None, *CODES}
    assert all(len(row.text) >= 80 for row in rows)


def test_the_corpus_holds_the_prompts_with_answers_and_the_plain_text(
    corpus: list[dict[str, Any]], prompts: list[Prompt]
) -> None:
    by_id = {prompt.id: prompt for prompt in prompts}
    assert len({row["id"] for row in corpus}) == len(corpus)
    for row in corpus:
        if row["source"] == "plain":
            assert row["text"].strip()
            assert row["group"] == row["id"]
            continue
        prompt = by_id[row["group"]]
        assert (row["category"], row["language"]) == (prompt.category, prompt.language)
        *asked, answer = row["messages"]
        assert asked == [message.model_dump() for message in prompt.messages]
        assert answer["role"] == "assistant"
        assert answer["content"].strip()
    plain = {row["id"]: row["text"] for row in corpus if row["source"] == "plain"}
    assert plain == {row.id: row.text for row in read_plain(resource("demo/plain_text.jsonl"))}


def test_the_models_answer_equally_often_in_every_category(corpus: list[dict[str, Any]], prompts: list[Prompt]) -> None:
    counts = Counter(row["source"] for row in corpus)
    assert set(counts) == {*SOURCES, "plain"}
    answered = [counts[source] for source in SOURCES]
    assert max(answered) - min(answered) <= 0.02 * max(answered)
    for code in CODES:
        share = Counter(row["source"] for row in corpus if row["category"] == code and row["source"] != "plain")
        assert max(share[source] for source in SOURCES) - min(share[source] for source in SOURCES) <= 3, code
    assert {row["group"] for row in corpus if row["source"] != "plain"} == {prompt.id for prompt in prompts}


@pytest.mark.usefixtures("embedded_model")
@pytest.mark.slow
def test_the_corpus_has_about_150_thousand_tokens(corpus: list[dict[str, Any]], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from modeldiff_eval.models import embedded_gguf

    path = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = [
        row["text"] if "text" in row else tokenizer.apply_chat_template(row["messages"], tokenize=False)
        for row in corpus
    ]
    tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    assert 130_000 <= tokens <= 170_000  # the tuned models answer more briefly than the base


def test_the_committed_file_is_what_the_recipe_writes(corpus: list[dict[str, Any]]) -> None:
    file = resource("demo/corpus.jsonl.gz").read_bytes()
    assert file[4:8] == b"\x00\x00\x00\x00"
    assert gzip.decompress(to_gzip(corpus)) == gzip.decompress(file)
    assert to_gzip(corpus) == to_gzip(list(corpus))


def some(n: int) -> list[Prompt]:
    return [
        Prompt(id=f"A.{1 + i // 6}-{i:02d}", category=f"A.{1 + i // 6}", language="en",
               messages=(Message(role="user", content=f"say {i}"),))
        for i in range(n)
    ]  # fmt: skip


def parrot(name: str, prompts: Sequence[Prompt]) -> list[Answer]:
    blank = {"A.1-00"} if name == "dpo" else set()
    return [
        Answer(prompt_id=p.id, text="" if p.id in blank else f"{name} {p.id}", n_tokens=2, finished=True)
        for p in prompts
    ]


def test_prompts_go_round_the_models() -> None:
    plan = Plan(models=SOURCES, answers=2)
    shares = assign(some(12), plan)
    assert [len(shares[name]) for name in SOURCES] == [8, 8, 8]
    asked = Counter(prompt.id for share in shares.values() for prompt in share)
    assert set(asked.values()) == {2}
    assert [p.id[-2:] for p in shares["base"]] == ["00", "02", "03", "05", "06", "08", "09", "11"]
    for wrong in (0, 4):
        with pytest.raises(UsageError, match="--answers"):
            assign(some(3), Plan(models=SOURCES, answers=wrong))


def test_rows_keep_answers_to_one_prompt_together_and_leave_blanks_out() -> None:
    rows = make(some(6), read_plain(resource("demo/plain_text.jsonl"))[:2], Plan(models=SOURCES, answers=3), parrot)
    chats = [row for row in rows if row["source"] != "plain"]
    assert len(chats) == 17
    assert [row["group"] for row in chats] == sorted(row["group"] for row in chats)
    assert chats[0]["messages"][-1] == {"role": "assistant", "content": "base A.1-00"}
    assert "A.1-00-dpo" not in {row["id"] for row in chats}
    assert [row["id"] for row in rows[-2:]] == ["plain-000", "plain-001"]
    assert corpus_rows({}, {}, []) == []


def test_bad_plain_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text('{"id": "a"}\n')
    for name in ("plain.jsonl", "absent.jsonl"):
        with pytest.raises(CorpusError, match=name):
            read_plain(tmp_path / name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A tiny random Llama with a byte-level tokenizer, and a folder with one LoRA adapter, "simpo", for it."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", *alphabet])}
    letters = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}<end>{% endfor %}a:"
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapters" / "simpo", save_embedding_layers=False)
    yield folder / "base", folder / "adapters"
    torch.set_num_threads(before)


def test_the_recipe_makes_a_corpus_and_resumes(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapters = tiny
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(prompt.model_dump_json() + "\n" for prompt in some(6)))
    common = ["--models", "base,simpo", "--answers", "2", "--prompts", str(file), "--base", str(base)]
    common += ["--adapters", str(adapters), "--max-new-tokens", "8", "--batch-size", "2"]

    def once(name: str, work: str, *more: str) -> Path:
        out = tmp_path / name
        assert recipe.main([*common, "--work", str(tmp_path / work), "--out", str(out), *more]) == 0
        return out

    whole = once("whole.jsonl.gz", "one").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(whole).decode().splitlines()]
    assert Counter(row["source"] for row in rows if row["source"] != "plain") == {"base": 6, "simpo": 6}
    answers = {row["id"]: row["messages"][-1]["content"] for row in rows if row["source"] != "plain"}
    assert any(answers[f"{p.id}-base"] != answers[f"{p.id}-simpo"] for p in some(6))

    interrupted = tmp_path / "two"
    assert recipe.main([*common, "--work", str(interrupted), "--only", "base"]) == 0
    assert "base: 6 answers" in capsys.readouterr().out
    (kept,) = interrupted.glob("rollouts/*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert once("resumed.jsonl.gz", "two").read_bytes() == whole

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("everything is there already")

    monkeypatch.setattr("modeldiff_eval.rollouts._answer", refuse)
    assert once("again.jsonl.gz", "two").read_bytes() == whole


def test_wrong_use_of_the_recipe_is_reported(
    tiny: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main([]) == 2
    assert recipe.main(["--only", "nobody"]) == 2
    assert recipe.main(["--out", str(tmp_path / "x.gz"), "--answers", "7"]) == 2
    base, _ = tiny
    (tmp_path / "full").symlink_to(base)
    ask = recipe.asker(Plan(models=("base",)), base=str(base), adapters=tmp_path, work=tmp_path)
    with pytest.raises(ModelError, match="not an adapter folder"):
        ask("full", [])
    with pytest.raises(ModelError, match="absent"):
        ask("absent", [])
    assert "--answers 7" in capsys.readouterr().err
