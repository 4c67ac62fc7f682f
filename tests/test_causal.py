"""Patching latents out of a running model: nothing where nothing fires, base again where one latent was all there is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval import causal, causal_live, causal_measure
from modeldiff_eval.causal_patch import LivePatch, Patch, Remainder, contribution
from modeldiff_eval.corpus import ReadReport, TokenCorpus
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import CorpusError, ModelError
from modeldiff_eval.models import Loaded, Source
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Record
from modeldiff_eval.turns import Markers, assistant_tokens, chat_markers

WIDTH, SCALES = 16, (0.5, 4.0)
PLANT = torch.linspace(-3, 3, WIDTH)
Panel = Any


def model(*, bias: torch.Tensor | None = None, name: str = "m") -> Loaded:
    """A tiny Llama of two blocks; ``bias`` is added to what block 0 writes, at every token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, mlp_bias=True, initializer_range=0.5,
    )  # fmt: skip
    net = LlamaForCausalLM(config).eval().requires_grad_(False)
    for block in net.model.layers:
        for part in (block.mlp.up_proj, block.mlp.gate_proj, block.mlp.down_proj):
            part.bias.zero_()
    if bias is not None:
        net.model.layers[0].mlp.down_proj.bias += bias
    return Loaded(Source(name, "folder", name, None, None, name), net, tiny_tokenizer(), net.device, torch.float32)


@functools.cache
def pair() -> tuple[Loaded, Loaded]:
    return model(name="base"), model(bias=PLANT, name="tuned")


def dictionary(n: int = 12) -> Crosscoder:
    """Latent 0 always fires at 2 and is the plant, in tuned only; latent 1 never fires; the others are random and shared."""
    generator = torch.Generator().manual_seed(1)
    encoder = 0.05 * torch.randn(n, 2 * WIDTH, generator=generator)
    decoder = (
        0.3 * torch.randn(n, WIDTH, generator=generator).repeat(1, 2) * torch.tensor(SCALES).repeat_interleave(WIDTH)
    )
    threshold_side = torch.zeros(n)
    encoder[:2] = 0
    decoder[0, :WIDTH] = 0
    decoder[0, WIDTH:] = PLANT * SCALES[1] / 2
    threshold_side[0], threshold_side[1] = 2.0, -1.0
    return Crosscoder(
        encoder, threshold_side, decoder, torch.zeros(2 * WIDTH), torch.zeros(2, WIDTH), torch.tensor(SCALES), 0.0, 2
    )


def corpus(texts: list[str], *, groups: int | None = None) -> TokenCorpus:
    tokenizer = tiny_tokenizer()
    rows = [np.asarray(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int32) for text in texts]
    ends = np.cumsum([len(row) for row in rows])
    starts = ends - [len(row) for row in rows]
    names = [str(i % (groups or len(texts))) for i in range(len(texts))]
    documents = {
        "id": names, "group": names, "source": names, "language": names, "category": names, "heldout": [True] * len(texts)
    }  # fmt: skip
    sequences = np.stack([starts, ends, np.arange(len(texts))], axis=1)
    return TokenCorpus("c", np.concatenate(rows), sequences, documents, ReadReport())


PLAIN = [f"the quick brown fox {i} jumps over {i * 7} lazy dogs" for i in range(10)]
CHATS = [f"<s>user: what is {i}?</s><s>assistant: it is {i * 3} or so</s><s>user: thanks</s>" for i in range(10)]


def panel(sets: list[causal.LatentSet], text: list[str] = PLAIN, **options: Any) -> Panel:
    defaults: dict[str, Any] = {"layer": 0, "markers": None, "tokens": 10_000, "draws": 8, "resamples": 200, "top": 2}
    coder = options.pop("coder", None) or dictionary()
    return causal.causal_panel(options.pop("models", None) or pair(), coder, sets, corpus(text), **defaults | options)


def one(*latents: int) -> list[causal.LatentSet]:
    return [causal.LatentSet("set", "set", latents)]


# Whose tokens -------------------------------------------------------------------------------------------


def marked(text: str, markers: Markers | None) -> str:
    tokenizer = tiny_tokenizer()
    ids = np.asarray(tokenizer(text, add_special_tokens=False).input_ids)
    return str(tokenizer.decode(ids[assistant_tokens(ids, markers, bos=256)]))


def test_the_assistants_tokens_are_told_by_the_template() -> None:
    markers = chat_markers(tiny_tokenizer(), None)
    assert markers is not None
    assert marked(CHATS[2], markers) == " it is 6 or so"
    assert marked("<s>user: a</s><s>assistant: b</s><s>user: c</s><s>assistant: d", markers) == " b d"
    assert marked("<s>user: assistant: no</s>", markers) == ""
    assert marked("no chat", markers) == ""
    assert marked("<s>anything", None) == "anything"


def test_an_opening_without_white_space_gives_its_last_token_to_the_answer() -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}[U]{{ m.content }}[/U]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    markers = chat_markers(tiny_tokenizer(), template)
    assert markers is not None
    assert marked("[U]hi[/U]yes</s>[U]so[/U]no</s>", markers) == "]yes]no"


def test_without_a_template_there_are_no_markers() -> None:
    assert chat_markers(tiny_tokenizer(template=None), None) is None
    assert chat_markers(tiny_tokenizer(), "{{ raise_exception('no') }}") is None


# The patch ----------------------------------------------------------------------------------------------


def test_a_contribution_by_hand_with_scales_that_are_not_one() -> None:
    """f = 3 and d = (2, 8) with scales (0.5, 4): tuned holds 3·8/4 = 6, base 3·2/0.5 = 12."""
    zeros = torch.zeros(1, 2)
    coder = Crosscoder(
        zeros, torch.zeros(1), torch.tensor([[2.0, 8.0]]), torch.zeros(2), torch.zeros(2, 1), torch.tensor([0.5, 4.0]), 0.0, 1
    )  # fmt: skip
    latents, codes = torch.tensor([0]), torch.tensor([[3.0], [0.0]])
    assert contribution(coder, latents, codes, "out").tolist() == [[-6.0], [0.0]]
    assert contribution(coder, latents, codes, "into").tolist() == [[6.0], [0.0]]


def test_the_blocks_above_give_what_a_whole_pass_gives_and_the_model_is_left_alone() -> None:
    base, _ = pair()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = base.model(ids, output_hidden_states=True)
    for layer in (0, 1, 2):
        rest = Remainder(base, layer)
        after = base.model.model.layers[layer]
        hooks = len(after._forward_hooks)
        caught: list[torch.Tensor] = []
        handle = after.register_forward_hook(lambda _m, _i, out, caught=caught: caught.append(out))
        with torch.no_grad():
            base.model(ids)
        handle.remove()
        torch.testing.assert_close(rest(ids, caught[0]), whole.logits)
        torch.testing.assert_close(rest(ids, caught[0], first=2), whole.logits[:, 2:])
        assert rest.shortcut is True
        assert len(after._forward_hooks) == hooks
        assert all("forward" not in block.__dict__ for block in base.model.model.layers)


def test_a_model_that_does_not_bear_the_shortcut_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = pair()
    ids, residual = torch.tensor([[5, 6, 7]]), torch.randn(1, 3, WIDTH)
    quick = Remainder(base, 1)(ids, residual)

    def refuse(_modules: Any) -> Any:
        if _modules:
            raise RuntimeError("a block below is missed")
        import contextlib

        return contextlib.nullcontext()

    monkeypatch.setattr("modeldiff_eval.causal_patch._standing_in", refuse)
    slow = Remainder(base, 1)
    torch.testing.assert_close(slow(ids, residual), quick)
    assert slow.shortcut is False


# The panel ----------------------------------------------------------------------------------------------


def test_taking_out_the_one_planted_latent_makes_tuned_equal_to_base() -> None:
    made = panel(one(0))
    (row, single) = made.rows
    assert made.kl.value > 0.1
    assert row.fires == 1.0
    for effect in (row.out, row.into, single.out):
        assert effect is not None
        assert effect.kl.effect.value == pytest.approx(-made.kl.value, rel=1e-4)
        assert effect.kl.effect.low == pytest.approx(-made.kl.high, rel=1e-3)
        assert effect.kl.verdict == "down"
    base_nll = panel(one(0), models=(pair()[1], pair()[0]), coder=dictionary()).nll.value
    assert made.nll.value + row.out.nll.effect.value == pytest.approx(base_nll, rel=1e-4)


def test_a_scale_that_is_left_out_would_be_seen() -> None:
    """The same decoder with tuned's scale at 1 subtracts four times the plant: tuned ends up elsewhere than base."""
    coder = dictionary()
    wrong = Crosscoder(**{**coder.__dict__, "scale": torch.tensor([SCALES[0], 1.0])})
    (row, _) = panel(one(0), coder=wrong).rows
    assert row.out.kl.effect.value > -0.9 * panel(one(0)).kl.value


def test_a_latent_that_never_fires_changes_nothing_at_all() -> None:
    text = causal_measure.panel_text(corpus(PLAIN), None, tokens=10_000, bos=256)
    coder, nobody = dictionary(), lambda done, total: None
    found = causal_measure.residuals(*pair(), text, layer=0, limits=None, advance=nobody)
    sums = causal_measure.patch_sets(*pair(), coder, [np.array([1])], text, found, layer=0, folder=None, advance=nobody)
    assert not sums.kl.any()
    assert not sums.nll.any()
    made = panel(one(1))
    (row,) = made.rows
    assert (row.fires, row.out, row.into) == (0.0, None, None)


def test_identical_decoders_are_replaced_by_themselves() -> None:
    """Where both models have the same latent and the same scale, "into" is no change but for rounding."""
    coder = dictionary()
    same = Crosscoder(**{**coder.__dict__, "scale": torch.ones(2), "W_dec": coder.W_dec[:, :WIDTH].repeat(1, 2)})
    (row, *_) = panel(one(2, 3), coder=same).rows
    assert row.fires > 0
    assert row.into.kl.effect.value == pytest.approx(0, abs=1e-5)
    assert abs(row.out.kl.effect.value) > 1e-3


def test_only_the_assistants_tokens_are_patched_and_scored() -> None:
    made = panel(one(0), CHATS, markers=chat_markers(tiny_tokenizer(), None))
    answers = [f" it is {i * 3} or so" for i in range(10)]
    assert made.tokens == made.patched_tokens == sum(len(a) for a in answers)
    assert made.assistant_only
    # The user's tokens keep the plant, so tuned comes nearer and does not arrive.
    assert -made.kl.value < made.rows[0].out.kl.effect.value < 0
    with pytest.raises(CorpusError, match="Only 0 held-out prompts have an answer"):
        panel(one(0), PLAIN, markers=chat_markers(tiny_tokenizer(), None))


def test_attention_sinks_stay_as_they_are() -> None:
    free = panel(one(0))
    norms = [float("inf"), 1e-9]
    with_limit = panel(one(0), limits=(norms[0], norms[1]))
    assert free.patched_tokens > 0
    assert with_limit.patched_tokens == 0
    assert with_limit.rows[0].out is None


def test_answers_to_one_prompt_are_one_document() -> None:
    text = causal_measure.panel_text(corpus(PLAIN, groups=5), None, tokens=10_000, bos=256)
    assert text.groups == 5
    with pytest.raises(CorpusError, match="Only 3 held-out prompts"):
        causal_measure.panel_text(corpus(PLAIN, groups=3), None, tokens=10_000, bos=256)


def test_nothing_to_patch_is_said() -> None:
    with pytest.raises(CorpusError, match="no latent to patch"):
        panel([])


def test_an_interrupted_panel_goes_on_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeldiff_eval.activations.default_batch_tokens", lambda device: 100)
    whole = panel(one(0, 4))
    real, calls = causal_measure._measure, []

    def cut(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(causal_measure, "_measure", cut)
    with pytest.raises(KeyboardInterrupt):
        panel(one(0, 4), folder=tmp_path)
    assert panel(one(0, 4), folder=tmp_path) == whole
    rest = len(calls)
    assert rest > 3
    assert panel(one(0, 4), folder=tmp_path) == whole
    assert len(calls) == rest
    assert panel(one(0, 5), folder=tmp_path) != whole
    assert len(calls) > rest


# A model that runs ---------------------------------------------------------------------------------------


def live(patch: Patch, *, markers: Markers | None = None, models: tuple[Loaded, Loaded] | None = None) -> LivePatch:
    other, tuned = models or pair()
    return LivePatch(tuned, other, layer=0, patch=patch, markers=markers, limits=(1e9, 1e9))


def test_a_live_patch_turns_tuned_into_base_in_a_pass_and_in_a_generation() -> None:
    base, tuned = pair()
    ids = torch.tensor([[5, 6, 7, 8, 9], [50, 60, 70, 80, 90]])
    with torch.no_grad():
        wanted, before = base.model(ids).logits, tuned.model(ids).logits
        with live(Patch(dictionary(), torch.tensor([0]))) as hook:
            patched = tuned.model(input_ids=ids).logits
            positional = tuned.model(ids).logits
        after = tuned.model(ids).logits
    assert hook.patched == 2 * ids.numel()
    assert not torch.allclose(before, wanted, atol=1e-2)
    torch.testing.assert_close(patched, wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(positional, patched)
    assert torch.equal(after, before)
    assert not tuned.model._forward_pre_hooks
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        plain = tuned.model.generate(ids, **options)
        with live(Patch(dictionary(), torch.tensor([0]))):
            guided = tuned.model.generate(ids, **options)
            uncached = tuned.model.generate(ids, use_cache=False, **options)
        target = base.model.generate(ids, **options)
    assert guided.tolist() == target.tolist() == uncached.tolist()
    assert plain.tolist() != target.tolist()


def test_a_generation_with_caches_is_one_without() -> None:
    """Latents that read both models: the other model's cache must hold what it read, also beside padding."""
    _, tuned = pair()
    coder = dictionary()
    strong = Crosscoder(**{**coder.__dict__, "W_dec": 6 * coder.W_dec})
    ids = torch.tensor([[0, 0, 7, 8, 9], [50, 60, 70, 80, 90]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {
        "attention_mask": mask,
        "max_new_tokens": 16,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    with torch.no_grad():
        plain = tuned.model.generate(ids, **options)
        found = []
        for cached in (True, False):
            with live(Patch(strong, torch.arange(2, 12))) as hook:
                found.append(tuned.model.generate(ids, use_cache=cached, **options).tolist())
            assert hook.patched > 0
        past = tuned.model(ids, use_cache=True).past_key_values
        with pytest.raises(ModelError, match="filled before"), live(Patch(strong, torch.tensor([2]))):
            tuned.model(ids[:, :1], past_key_values=past)
    assert found[0] == found[1]
    assert found[0] != plain.tolist()


def test_a_live_patch_of_a_silent_latent_changes_nothing_at_all() -> None:
    _, tuned = pair()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before = tuned.model(ids).logits
        with live(Patch(dictionary(), torch.tensor([1]))) as hook:
            assert torch.equal(tuned.model(ids).logits, before)
    assert hook.patched == 0


def test_a_model_beside_itself() -> None:
    base, _ = pair()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), live(Patch(dictionary(), torch.tensor([0])), models=(base, base)) as hook:
        base.model(ids)
    assert hook.patched == 3


class Opaque(torch.nn.Module):
    """A block that answers with a dictionary."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> Any:
        return {"hidden": hidden_states}


def test_layers_that_cannot_be_hooked_are_refused() -> None:
    tuned = model(name="odd")
    with pytest.raises(ModelError, match="blocks 0 to 2"):
        Remainder(tuned, 3)
    tuned.model.model.layers[0] = Opaque()
    with (
        pytest.raises(ModelError, match="answer with dict"),
        live(Patch(dictionary(), torch.tensor([0])), models=(pair()[0], tuned)),
    ):
        tuned.model(torch.tensor([[5, 6]]))
    with pytest.raises(ModelError, match="cannot be hooked"):
        Remainder(tuned, 0)(torch.tensor([[5, 6]]), torch.zeros(1, 2, WIDTH))
    tuned.model.model.layers = torch.nn.Sequential(*tuned.model.model.layers)
    with pytest.raises(ModelError, match="cannot be hooked"):
        Remainder(tuned, 0)
    with pytest.raises(ModelError, match="something else than token ids"), live(Patch(dictionary(), torch.tensor([0]))):
        pair()[1].model(inputs_embeds=torch.zeros(1, 2, WIDTH))


def test_answers_side_by_side_are_made_once(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}: {% endfor %}"  # no BOS, which would keep the plant
    stage = causal_live.Stage(pair(), 0, None, (1e9, 1e9), template, 0)
    patch = Patch(dictionary(), torch.tensor([0]))
    rows = causal_live.texts(stage, patch, folder=tmp_path, reporter=Reporter())
    assert len(rows) == causal_live.PROMPTS
    assert [row.patched for row in rows] == [row.other for row in rows]
    assert any(row.differs for row in rows)
    silent = causal_live.texts(stage, Patch(dictionary(), torch.tensor([1])), folder=tmp_path, reporter=Reporter())
    assert not any(row.differs for row in silent)
    broken = causal_live.Stage((model(name="base"), model(name="tuned")), 0, None, (1e9, 1e9), template, 0)
    assert causal_live.texts(broken, patch, folder=tmp_path, reporter=Reporter()) == rows


@pytest.mark.slow
def test_benchmarks_of_a_patched_model(tmp_path: Path) -> None:

    stage = causal_live.Stage(pair(), 0, None, (1e9, 1e9), None, 0)
    plant, silent = Patch(dictionary(), torch.tensor([0])), Patch(dictionary(), torch.tensor([1]))
    options: dict[str, Any] = {"limit": 8, "draws": 200, "cache": tmp_path, "reporter": Reporter()}
    rows, _ = causal_live.tasks(stage, silent, [silent], ["mdx_refuse_harmful"], **options)
    assert {row.delta.value for row in rows} == {0.0}
    assert {row.verdict for row in rows} == {"unclear"}
    rows, _ = causal_live.tasks(stage, plant, [silent, silent], ["mdx_refuse_harmful"], **options)
    margin = next(row for row in rows if row.metric == "margin")
    assert margin.delta.value != 0
    assert (margin.random.low, margin.random.high, margin.draws) == (0, 0, 2)


# From a run's table --------------------------------------------------------------------------------------


def rows(**columns: Any) -> pd.DataFrame:
    n = len(columns["latent"])
    defaults = {
        "model": ["tuned"] * n, "specific": [False] * n, "rank_key": list(range(n)), "label": [None] * n,
        "category": [None] * n, "shift": [0.0] * n, "shift_low": [0.0] * n, "shift_null": [0.0] * n, "firings": [50] * n,
    }  # fmt: skip
    return pd.DataFrame(defaults | columns)


def test_sets_of_a_run_with_specific_latents() -> None:
    table = rows(
        latent=[7, 3, 9, 4], specific=[True, True, False, True], rank_key=[0.2, 0.1, 0.0, 0.3],
        category=["A.1", "B.8", "A.2", "A.5"], label=["x", "y", "z", None],
    )  # fmt: skip
    sets, chosen, names = causal.sets_from_table(table, {"A": "Safety", "B": "Language"}, nearest=2, shifted=True)
    assert chosen == "specific"
    assert [(s.kind, s.code, s.latents) for s in sets] == [
        ("set", None, (3, 7, 4)),
        ("class", "A", (7, 4)),
        ("class", "B", (3,)),
    ]
    assert names == {3: ("y", "B.8"), 7: ("x", "A.1"), 4: ("latent 4", "A.5")}


def test_sets_of_a_run_without_specific_latents() -> None:
    table = rows(
        latent=[7, 3, 9, 4], rank_key=[0.2, 0.1, np.nan, 0.3], shift=[0.5, 0.3, 0.9, -0.4],
        shift_low=[0.4, 0.01, 0.8, -0.5], shift_null=[0.1, 0.0, np.nan, 0.0],
    )  # fmt: skip
    sets, chosen, _ = causal.sets_from_table(table, {"A": "Safety"}, nearest=2, shifted=True)
    assert chosen == "nearest"
    assert [(s.kind, s.latents) for s in sets] == [("set", (3, 7)), ("shifted", (7,))]
    assert causal.sets_from_table(table, {}, nearest=2, shifted=False)[0] == sets[:1]
    assert causal.sets_from_table(table, {}, nearest=0, shifted=True)[0] == []


def test_the_panel_is_a_frozen_record() -> None:
    made = panel(one(0))
    assert isinstance(made, Record)
    assert type(made).model_validate_json(made.model_dump_json()) == made
    assert tiny_model() is not None
