"""Laws of the crosscoder and its files, with one case worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_crosscoders import make

from modeldiff_eval.crosscoder import delta_norm, load, require_width, save_jumprelu, save_native
from modeldiff_eval.crosscoder_formats import to_dictionary_learning
from modeldiff_eval.crosscoder_saelens import from_crosscoder
from modeldiff_eval.errors import CrosscoderError, OutputError


def test_delta_norm_by_hand() -> None:
    norms = torch.tensor([[0.0, 2.0], [3.0, 3.0], [1.5, 0.0], [2.0, 1.0]])
    assert delta_norm(norms).tolist() == [1.0, 0.5, 0.0, 0.25]


def test_swapping_the_models_mirrors_delta_norm() -> None:
    norms = make().decoder_norms()
    torch.testing.assert_close(delta_norm(norms.flip(1)), 1 - delta_norm(norms))


def test_normalised_spread_is_the_same_for_both_models() -> None:
    crosscoder = make()
    x = torch.randn(1000, 2, 5) / crosscoder.scale[:, None] + crosscoder.mean
    assert crosscoder.normalise(x).view(-1, 2, 5).square().sum(2).mean(0) == pytest.approx(5.0, rel=0.1)


def test_only_scores_above_the_threshold_pass() -> None:
    crosscoder = make()
    x = torch.randn(50, 10)
    v = crosscoder.scaled(x)
    assert ((v == 0) | (v > crosscoder.threshold)).all()
    torch.testing.assert_close(crosscoder.encode(x) * crosscoder.code_norm(), v)


@pytest.mark.parametrize("save", [save_native, save_jumprelu])
def test_an_export_read_back_is_the_same_function(tmp_path: Path, save: object) -> None:
    crosscoder = make()
    save(crosscoder, tmp_path, {"layer": 3})  # type: ignore[operator]
    back, metadata = load(tmp_path)
    raw = torch.randn(40, 2, 5)
    x, y = crosscoder.normalise(raw), back.normalise(raw)
    torch.testing.assert_close(x, y)
    torch.testing.assert_close(crosscoder.scaled(x), back.scaled(y), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        crosscoder.decode(crosscoder.encode(x)), back.decode(back.encode(y)), atol=1e-3, rtol=1e-4
    )
    torch.testing.assert_close(delta_norm(crosscoder.decoder_norms()), delta_norm(back.decoder_norms()))
    assert metadata["layer"] == 3


def test_a_latent_without_a_decoder_is_exported_as_zeros(tmp_path: Path) -> None:
    crosscoder = make()
    crosscoder.W_dec[4] = 0
    save_jumprelu(crosscoder, tmp_path, {})
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert weights["W_enc"][:, 4].abs().sum() == 0
    assert weights["W_dec"][4].abs().sum() == 0
    assert all(torch.isfinite(w).all() for w in weights.values())


@pytest.mark.slow
def test_stock_saelens_reads_the_jumprelu_export_without_us(tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    crosscoder = make()
    save_jumprelu(crosscoder, tmp_path, {})
    sae = sae_lens.SAE.load_from_disk(tmp_path)
    raw = torch.randn(64, 2, 5)
    ours = crosscoder.scaled(crosscoder.normalise(raw))
    torch.testing.assert_close(sae.encode(raw.flatten(1)), ours, atol=1e-4, rtol=1e-4)
    reconstructed = crosscoder.decode(crosscoder.encode(crosscoder.normalise(raw))).view(-1, 2, 5)
    expected = (reconstructed / crosscoder.scale[:, None] + crosscoder.mean).flatten(1)
    torch.testing.assert_close(sae.decode(sae.encode(raw.flatten(1))), expected, atol=1e-3, rtol=1e-4)


class TestBadFiles:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CrosscoderError, match=r"no cfg\.json"):
            load(tmp_path)

    def test_a_foreign_architecture(self, tmp_path: Path) -> None:
        save_native(make(), tmp_path, {})
        config = json.loads((tmp_path / "cfg.json").read_text()) | {"architecture": "topk"}
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(CrosscoderError, match="'topk'"):
            load(tmp_path)

    def test_a_jumprelu_of_someone_else(self, tmp_path: Path) -> None:
        save_jumprelu(make(), tmp_path, {})
        config = json.loads((tmp_path / "cfg.json").read_text())
        del config["metadata"]["modeldiff_scale"]
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(CrosscoderError, match="not exported by modeldiff-eval"):
            load(tmp_path)

    def test_half_written_weights(self, tmp_path: Path) -> None:
        save_native(make(), tmp_path, {})
        whole = (tmp_path / "sae_weights.safetensors").read_bytes()
        (tmp_path / "sae_weights.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CrosscoderError, match="half written"):
            load(tmp_path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_numbers(self, tmp_path: Path, value: float) -> None:
        crosscoder = make()
        crosscoder.b_dec[0] = value
        save_native(crosscoder, tmp_path, {})
        with pytest.raises(CrosscoderError, match="NaN or infinity"):
            load(tmp_path)

    def test_a_missing_tensor(self, tmp_path: Path) -> None:
        save_native(make(), tmp_path, {})
        weights = load_file(tmp_path / "sae_weights.safetensors")
        del weights["b_enc"]
        save_file(weights, tmp_path / "sae_weights.safetensors")
        with pytest.raises(CrosscoderError, match="b_enc"):
            load(tmp_path)

    def test_another_width(self, tmp_path: Path) -> None:
        with pytest.raises(CrosscoderError, match="width 5; these have 7"):
            require_width(make(), 7, tmp_path)

    @pytest.mark.parametrize("save", [save_native, save_jumprelu])
    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("b_enc", torch.zeros(3)),
            ("W_dec", torch.zeros(12, 8)),
            ("W_enc", torch.zeros(12)),
            ("b_dec", torch.zeros(9)),
        ],
    )
    def test_other_shapes(self, tmp_path: Path, save: object, name: str, wrong: torch.Tensor) -> None:
        save(make(), tmp_path, {})  # type: ignore[operator]
        weights = load_file(tmp_path / "sae_weights.safetensors") | {name: wrong}
        save_file(weights, tmp_path / "sae_weights.safetensors")
        with pytest.raises(CrosscoderError):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"threshold": -0.5}, "threshold"),
            ({"threshold": None}, "not a crosscoder that can be read"),
            ({"k": -1}, "k -1"),
            ({"d_in": 12}, "d_in 12, the weights have 10"),
            ({"d_sae": 13}, "d_sae 13, the weights have 12"),
        ],
    )
    def test_a_config_that_does_not_fit(self, tmp_path: Path, change: dict[str, object], message: str) -> None:
        save_native(make(), tmp_path, {})
        config = json.loads((tmp_path / "cfg.json").read_text()) | change
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(CrosscoderError, match=message):
            load(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[1]"])
    def test_a_torn_config(self, tmp_path: Path, text: str) -> None:
        save_native(make(), tmp_path, {})
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(CrosscoderError, match=r"cfg\.json"):
            load(tmp_path)

    def test_a_scale_of_zero(self, tmp_path: Path) -> None:
        crosscoder = make()
        crosscoder.scale[1] = 0
        save_native(crosscoder, tmp_path, {})
        with pytest.raises(CrosscoderError, match="scale must be positive"):
            load(tmp_path)

    def test_a_threshold_that_is_negative(self, tmp_path: Path) -> None:
        save_jumprelu(make(), tmp_path, {})
        weights = load_file(tmp_path / "sae_weights.safetensors")
        weights["threshold"][3] = -2.0
        save_file(weights, tmp_path / "sae_weights.safetensors")
        with pytest.raises(CrosscoderError, match="threshold must hold a number"):
            load(tmp_path)


@pytest.mark.parametrize("save", [save_native, save_jumprelu])
def test_latents_with_thresholds_of_their_own(tmp_path: Path, save: Callable[..., None]) -> None:
    """``selection`` survives both forms: the same latents fire on the same rows; 0 keeps a latent silent."""
    crosscoder = replace(make(), threshold=1.0)
    rows = torch.randn(64, 2, crosscoder.d_model, generator=torch.Generator().manual_seed(5)) * 3
    selection = torch.linspace(0, 2, crosscoder.n_latents)
    weighted = replace(crosscoder, selection=selection)
    save(weighted, tmp_path, {})
    back, _ = load(tmp_path)
    v, again = (one.scaled(one.normalise(rows)) for one in (weighted, back))
    assert not v[:, 0].any()
    assert ((v > 0) != (crosscoder.scaled(crosscoder.normalise(rows)) > 0)).any()
    torch.testing.assert_close(again, v, rtol=1e-4, atol=1e-4)


def test_formats_with_one_threshold_refuse_others() -> None:
    weighted = replace(make(), selection=torch.ones(make().n_latents))
    with pytest.raises(CrosscoderError, match="Export it as jumprelu"):
        to_dictionary_learning(weighted)
    with pytest.raises(CrosscoderError, match="Export it as jumprelu"):
        from_crosscoder(weighted)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    save_native(make(), tmp_path, {})
    before = (tmp_path / "sae_weights.safetensors").read_bytes()

    def full(_: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_native(make(seed=1), tmp_path, {})
    assert (tmp_path / "sae_weights.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
