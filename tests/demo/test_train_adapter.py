"""The recipe of the adapters, on a tiny random Llama."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from modeldiff_eval.demo import evaluate_adapter, train_adapter  # noqa: E402
from modeldiff_eval.demo.pairs import parse_pair  # noqa: E402
from modeldiff_eval.demo.train_adapter import ROOM_FOR_ANSWER, TrainSettings, load_pairs, render_prompt  # noqa: E402
from modeldiff_eval.errors import CorpusError, MissingDependencyError  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
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
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=special[3:],
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    path = tmp_path_factory.mktemp("model") / "tiny"
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty usable pairs whose chosen answers are of other words than the rejected, one too long, one malformed."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"w{i} w{i + 1}", "chosen": f"w30 w31 w{32 + i % 4}", "rejected": f"w20 w21 w{22 + i % 4} w21"}
        for i in range(20)
    ]
    rows.append({**rows[0], "prompt": "w1 " * 200})
    rows.append({"prompt": "w1"})
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_prompt_leaves_room_for_its_answer(tokenizer: Any, pairs: Path) -> None:
    settings = TrainSettings(method="simpo", beta=2.5, held_out=5, max_length=ROOM_FOR_ANSWER + 5)
    training, held_out, report = load_pairs(str(pairs), tokenizer, settings)
    assert (report.too_long, report.malformed, report.training, report.held_out) == (1, 1, 15, 5)
    for pair in training + held_out:
        length = len(tokenizer(render_prompt(pair, tokenizer), add_special_tokens=False)["input_ids"])
        assert length + ROOM_FOR_ANSWER <= settings.max_length
    shorter = settings.model_copy(update={"max_length": ROOM_FOR_ANSWER + 4})
    with pytest.raises(CorpusError, match="'too_long': 21"):
        load_pairs(str(pairs), tokenizer, shorter)


def test_the_prompt_ends_where_the_answer_begins(tokenizer: Any) -> None:
    pair = parse_pair({"prompt": "w1", "chosen": "w2", "rejected": "w3"})
    assert render_prompt(pair, tokenizer) == "[user] w1 <end> [assistant] "


def test_both_methods_get_the_same_settings_but_their_own() -> None:
    common = ["--pairs", "p.jsonl", "--out", "o", "--sources", "a, b", "--rank", "4"]
    simpo, dpo = (
        train_adapter.settings_from(train_adapter._parser().parse_args([*common, "--method", method]))
        for method in ("simpo", "dpo")
    )
    assert simpo.sources == ("a", "b")
    assert simpo.alpha == 8
    assert (simpo.beta, simpo.gamma) == (2.5, 1.0)
    assert (dpo.beta, dpo.gamma) == (0.1, 0.0)
    own = {"method", "beta", "gamma"}
    assert simpo.model_dump(exclude=own) == dpo.model_dump(exclude=own)


def test_nothing_is_overwritten(tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text("mine")
    code = train_adapter.main(["--pairs", str(pairs), "--method", "dpo", "--out", str(tmp_path)])
    assert code == 3
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]


@pytest.mark.parametrize("method", ["simpo", "dpo"])
def test_a_missing_trl_is_named_with_the_line_that_installs_it(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trl", "trl.experimental", "trl.experimental.cpo"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"modeldiff-eval\[train\]"):
        train_adapter.train(None, None, [], TrainSettings(method=method, beta=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simpo", "dpo"])
def test_training_prefers_the_chosen_and_the_evaluation_sees_it(
    method: str, folder: Path, pairs: Path, tmp_path: Path, tokenizer: Any
) -> None:
    out = tmp_path / method
    options = ["--pairs", str(pairs), "--base", str(folder), "--method", method, "--out", str(out), "--held-out", "5"]
    options += ["--steps", "12", "--batch", "5", "--micro-batch", "5", "--rank", "4", "--learning-rate", "0.02"]
    assert train_adapter.main([*options, "--max-length", "64", "--no-bf16"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.json",
    ]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert (out / "adapter_model.safetensors").stat().st_mode == (out / "recipe.json").stat().st_mode
    recipe = json.loads((out / "recipe.json").read_text())
    assert str(tmp_path) not in json.dumps(config) + json.dumps(recipe)
    assert recipe["data"]["too_long"] == recipe["data"]["malformed"] == 1
    losses = [entry["loss"] for entry in recipe["training"]["history"]]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]

    evaluation = ["--adapter", str(out), "--pairs", str(pairs), "--base", str(folder), "--max-new-tokens", "8"]
    assert evaluate_adapter.main(evaluation) == 0
    measured = json.loads((out / "recipe.json").read_text())["measured"]
    assert measured["told_apart"]["answers"] == 10
    margin = measured["preference"]["margin_change_per_token"]
    assert margin["low"] > 0, "the adapter learned the held-out preference"
    assert measured["preference"]["reward_accuracy"]["value"] > 0.5
    pairs.with_name("other.jsonl").write_text(pairs.read_text() + "\n")
    evaluation[3] = str(pairs.with_name("other.jsonl"))
    assert evaluate_adapter.main(evaluation) == 2, "another file may hold prompts that were trained on"


@pytest.mark.slow
def test_the_same_seed_trains_the_same_adapter(folder: Path, pairs: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        options = ["--pairs", str(pairs), "--base", str(folder), "--method", "simpo", "--out", str(tmp_path / name)]
        options += ["--held-out", "5", "--steps", "2", "--max-length", "64", "--no-bf16"]
        assert train_adapter.main(options) == 0
        weights.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
