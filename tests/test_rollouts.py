"""Rollouts on a tiny random Llama: seeds, padding, cache, interruption, templates, and the draw of packaged prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from modeldiff_eval import rollouts as module  # noqa: E402
from modeldiff_eval.errors import CorpusError, ModelError, OutputError, SettingsError  # noqa: E402
from modeldiff_eval.rollouts import (  # noqa: E402
    Message,
    Prompt,
    Sampling,
    SeededSampler,
    packaged_prompts,
    read_answers,
    read_prompts,
    render,
    rollouts,
)

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<end>", "[user]", "[assistant]", "[system]"]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def prompt(name: str, *words: int) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=" ".join(WORDS[i] for i in words)),))


PROMPTS = [prompt(f"p{i}", *range(i, i + 1 + i % 5)) for i in range(12)]


def ask(model: Any, tokenizer: Any, prompts: list[Prompt] = PROMPTS, **options: Any) -> list[module.Answer]:
    settings: dict[str, Any] = {"model_key": "tiny", "max_new_tokens": 9, "batch_size": 4}
    return rollouts(model, tokenizer, prompts, **settings | options)


class Calls:
    """Counts the prompts that reach ``generate``; ``stop_after`` batches it interrupts."""

    def __init__(self, model: Any, *, stop_after: int | None = None) -> None:
        self.generate = model.generate
        self.rows = 0
        self.batches = 0
        self.stop_after = stop_after

    def __call__(self, **arguments: Any) -> Any:
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.rows += len(arguments["input_ids"])
        return self.generate(**arguments)


def test_answers_follow_the_order_of_the_prompts_and_are_bounded(model: Any, tokenizer: Any) -> None:
    answers = ask(model, tokenizer)
    assert [answer.prompt_id for answer in answers] == [p.id for p in PROMPTS]
    assert all(1 <= answer.n_tokens <= 9 and answer.text for answer in answers)
    assert all(answer.finished or answer.n_tokens == 9 for answer in answers)


def test_the_same_seed_gives_the_same_text_whatever_the_order_and_batches(model: Any, tokenizer: Any) -> None:
    first = {a.prompt_id: a for a in ask(model, tokenizer)}
    second = {a.prompt_id: a for a in ask(model, tokenizer, PROMPTS[::-1], batch_size=5)}
    alone = ask(model, tokenizer, PROMPTS[3:4])[0]
    assert first == second
    assert alone == first["p3"]


def test_another_seed_gives_other_text(model: Any, tokenizer: Any) -> None:
    texts = [[answer.text for answer in ask(model, tokenizer, seed=seed)] for seed in (0, 1)]
    assert sum(a != b for a, b in zip(*texts, strict=True)) > len(PROMPTS) / 2


def test_temperature_zero_is_the_greedy_continuation(model: Any, tokenizer: Any) -> None:
    answer = ask(model, tokenizer, PROMPTS[:5], temperature=0)[2]
    ids = tokenizer(render(tokenizer, PROMPTS[2].messages), add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for step in range(9):
            logits = model(ids).logits[0, -1]
            if step == 0:
                logits[2] = -torch.inf
            ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
            if ids[0, -1] == 2:
                break
    continuation = ids[0, -9:] if ids[0, -1] != 2 else ids[0, -step - 1 : -1]
    assert answer.text == tokenizer.decode(continuation, skip_special_tokens=True)


def test_a_second_call_generates_nothing(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    first = ask(model, tokenizer, cache_dir=tmp_path, on_progress=lambda *done: seen.append(done))
    assert seen == [(0, 12), (4, 12), (8, 12), (12, 12)]
    calls = Calls(model)
    monkeypatch.setattr(model, "generate", calls)
    assert ask(model, tokenizer, cache_dir=tmp_path) == first
    assert calls.rows == 0
    more = [*PROMPTS, prompt("new", 30, 31)]
    assert ask(model, tokenizer, more, cache_dir=tmp_path)[:-1] == first
    assert calls.rows == 1


def test_other_settings_and_other_models_do_not_share_answers(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(model, tokenizer, cache_dir=tmp_path)
    for change in ({"model_key": "other"}, {"seed": 5}, {"top_p": 0.5}, {"chat_template": NO_SYSTEM}):
        calls = Calls(model)
        with monkeypatch.context() as patch:
            patch.setattr(model, "generate", calls)
            ask(model, tokenizer, cache_dir=tmp_path, **change)
        assert calls.rows == len(PROMPTS), change


def test_an_interrupted_run_continues_with_the_same_text(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(model, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", Calls(model, stop_after=1))
        with pytest.raises(KeyboardInterrupt):
            ask(model, tokenizer, cache_dir=tmp_path)
    calls = Calls(model)
    monkeypatch.setattr(model, "generate", calls)
    assert ask(model, tokenizer, cache_dir=tmp_path) == whole
    assert calls.rows == 8


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_last_line_is_made_again(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    whole = ask(model, tokenizer, cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:-1], lines[-1][:keep]]))
    calls = Calls(model)
    monkeypatch.setattr(model, "generate", calls)
    assert ask(model, tokenizer, cache_dir=tmp_path) == whole
    assert calls.rows == 4
    assert ask(model, tokenizer, cache_dir=tmp_path) == whole
    assert calls.rows == 4
    assert len(read_answers(file)) == len(PROMPTS)


def test_foreign_lines_in_the_cache_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    good = {"text": "w1", "n_tokens": 1, "finished": True}
    lines = ['{"answers": {"a": 3}}', "[]", "\x00", json.dumps({"answers": {"b": good}}), '{"answers": {"b": {}}}']
    file.write_text("\n".join(lines))
    assert read_answers(file) == {"b": good}


def test_equal_prompts_are_answered_once(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(model)
    monkeypatch.setattr(model, "generate", calls)
    answers = ask(model, tokenizer, [prompt("a", 1, 2), prompt("b", 1, 2), prompt("c", 3)])
    assert calls.rows == 2
    assert answers[0].text == answers[1].text
    assert [answer.prompt_id for answer in answers] == ["a", "b", "c"]


def test_no_chat_template_is_an_error_that_says_what_to_do(model: Any, tokenizer: Any) -> None:
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match="--rollouts 0"):
        ask(model, bare)
    assert ask(model, bare, chat_template=TEMPLATE) == ask(model, tokenizer)


def test_a_template_without_system_turns_gets_its_words_in_the_first_user_turn(tokenizer: Any) -> None:
    turns = (Message(role="system", content="w1"), Message(role="user", content="w2"))
    assert render(tokenizer, turns, chat_template=NO_SYSTEM) == "[user] w1\n\nw2 <end> [assistant] "
    assert render(tokenizer, turns) == "[system] w1 <end> [user] w2 <end> [assistant] "
    with pytest.raises(ModelError, match="chat template fails"):
        render(tokenizer, turns, chat_template="{{ raise_exception('never') }}")


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"batch_size": 0}])
def test_impossible_settings_are_named(model: Any, tokenizer: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ask(model, tokenizer, **wrong)


def test_an_unwritable_cache_is_an_error(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot keep answers"):
        ask(model, tokenizer, cache_dir=tmp_path / "file")


def drawn(sampling: Sampling, scores: Any, rows: int, *, at_start: bool = False) -> Counter[int]:
    sampler = SeededSampler([f"k{i}" for i in range(rows)], sampling, prompt_length=1 if at_start else 0, stops=[0])
    out = sampler(torch.zeros(rows, 1, dtype=torch.long), scores.repeat(rows, 1))
    assert (out.isfinite().sum(dim=1) == 1).all()
    return Counter(out.argmax(dim=1).tolist())


def test_draws_follow_the_nucleus() -> None:
    shares = np.array([0.1, 0.5, 0.25, 0.15])
    counts = drawn(Sampling(temperature=1, top_p=0.7), torch.tensor(np.log(shares)), 4000)
    assert set(counts) == {1, 2}
    assert counts[1] / 4000 == pytest.approx(2 / 3, abs=0.03)
    counts = drawn(Sampling(temperature=0.5, top_p=1), torch.tensor(np.log(shares)), 4000)
    expected = shares**2 / (shares**2).sum()
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx(expected, abs=0.03)


def test_an_answer_never_begins_with_a_stop_token() -> None:
    scores = torch.tensor([20.0, 1.0, 1.0])
    assert drawn(Sampling(), scores, 20)[0] == 20
    assert drawn(Sampling(), scores, 20, at_start=True)[0] == 0


def test_packaged_prompts_are_drawn_evenly_and_smaller_draws_begin_larger_ones() -> None:
    everything = packaged_prompts()
    codes = {p.category for p in everything}
    assert len(codes) == 30
    some = packaged_prompts(100, seed=3)
    counts = Counter(p.category for p in some)
    assert set(counts) == codes
    assert max(counts.values()) - min(counts.values()) <= 1
    assert packaged_prompts(40, seed=3) == some[:40]
    assert packaged_prompts(40, seed=4) != some[:40]
    assert sorted(p.id for p in packaged_prompts(len(everything), seed=1)) == sorted(p.id for p in everything)
    assert packaged_prompts(0) == []
    with pytest.raises(SettingsError, match=str(len(everything))):
        packaged_prompts(len(everything) + 1)


def test_a_broken_prompt_file_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(PROMPTS[0].model_dump_json() + '\n{"id": "x", "messages": []}\n')
    with pytest.raises(CorpusError, match=r"prompts.jsonl:2: messages"):
        read_prompts(file)
    with pytest.raises(CorpusError, match="Cannot read"):
        read_prompts(tmp_path / "absent.jsonl")
