"""Published formats, made here as they are described, against the formulas written out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from modeldiff_eval.commands import app
from modeldiff_eval.crosscoder import load
from modeldiff_eval.crosscoder_import import resolve
from modeldiff_eval.errors import CrosscoderError, UnsafeWeightsError

D, LATENTS = 5, 12


def parts(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "encoder.weight": torch.randn(2, D, LATENTS, generator=g),
        "encoder.bias": torch.randn(LATENTS, generator=g) * 0.1,
        "decoder.weight": torch.randn(2, LATENTS, D, generator=g),
        "decoder.bias": torch.randn(2, D, generator=g),
    }


NORMALISER = {
    "activation_mean": torch.arange(10.0).view(2, D),
    "activation_std": torch.linspace(0.5, 3.0, 10).view(2, D),
    "target_rms": torch.tensor(2.0),
    "threshold": torch.tensor(0.8),
    "code_normalization_id": torch.tensor(1),
    "k": torch.tensor(3),
}


def write(folder: Path, weights: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    shape = {"activation_dim": D, "dict_size": LATENTS, "num_layers": 2}
    (folder / "config.json").write_text(json.dumps(shape | {"dict_class": "BatchTopKCrossCoder"} | config))
    return folder


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_dictionary_learning_with_its_normaliser(tmp_path: Path, prefix: str) -> None:
    weights = parts()
    folder = write(tmp_path / "dl", {prefix + name: value for name, value in (weights | NORMALISER).items()})
    crosscoder, metadata = resolve(str(folder))
    x = torch.randn(40, 2, D, generator=torch.Generator().manual_seed(1)) * 3 + 2
    s = 2.0 / NORMALISER["activation_std"].square().sum(1).sqrt()
    normal = (x - NORMALISER["activation_mean"]) * s[:, None]
    f = torch.relu(torch.einsum("nmd,mdl->nl", normal, weights["encoder.weight"]) + weights["encoder.bias"])
    f = f * (f * weights["decoder.weight"].norm(dim=2).sum(0) > 0.8)
    assert 0 < (f > 0).float().mean() < 1
    decoded = torch.einsum("nl,mld->nmd", f, weights["decoder.weight"]) + weights["decoder.bias"]
    torch.testing.assert_close(crosscoder.encode(crosscoder.normalise(x)), f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(crosscoder.decode(f).view(40, 2, D), decoded, rtol=1e-4, atol=1e-5)
    assert crosscoder.k == 3
    assert "caveat" not in metadata


def test_dictionary_learning_without_a_normaliser_says_so(tmp_path: Path) -> None:
    crosscoder, metadata = resolve(str(write(tmp_path / "old", parts())))
    assert crosscoder.threshold == 0
    assert crosscoder.mean.abs().sum() == 0
    assert crosscoder.scale.tolist() == [1, 1]
    assert "Δ_norm and ν depend" in metadata["caveat"]


def test_nan_statistics_mean_none(tmp_path: Path) -> None:
    none = NORMALISER | {"activation_mean": torch.full((2, D), torch.nan)}
    assert "caveat" in resolve(str(write(tmp_path / "nan", parts() | none)))[1]


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_other_selection_rules_are_refused_by_name(tmp_path: Path, number: int) -> None:
    folder = write(tmp_path / "x", parts() | NORMALISER | {"code_normalization_id": torch.tensor(number)})
    with pytest.raises(CrosscoderError, match=("SAE", "mixed", "none", "decoupled")[number - 2]):
        resolve(str(folder))


def test_ckkissane(tmp_path: Path) -> None:
    weights = parts()
    b_dec = weights["decoder.bias"]
    save_file(
        {"W_enc": weights["encoder.weight"], "W_dec": weights["decoder.weight"].permute(1, 0, 2).contiguous(),
         "b_enc": weights["encoder.bias"], "b_dec": b_dec},
        tmp_path / "cc_weights.safetensors",
    )  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps({"seed": 49, "dict_size": LATENTS}))
    crosscoder, metadata = resolve(str(tmp_path))
    x = torch.randn(9, 2, D, generator=torch.Generator().manual_seed(1))
    f = torch.relu(torch.einsum("nmd,mdl->nl", x, weights["encoder.weight"]) + weights["encoder.bias"])
    decoded = torch.einsum("nl,mld->nmd", f, weights["decoder.weight"]) + b_dec
    torch.testing.assert_close(crosscoder.encode(x.flatten(1)), f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(crosscoder.decode(f).view(9, 2, D), decoded, rtol=1e-4, atol=1e-5)
    assert metadata["config"]["seed"] == 49


def test_pickles_are_refused_with_the_line_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("{}")
    torch.save({"W_enc": torch.zeros(2, 3, 4)}, tmp_path / "cc_weights.pt")
    with pytest.raises(UnsafeWeightsError, match=r"weights_only=True.*cc_weights\.safetensors"):
        resolve(str(tmp_path))


def test_a_folder_with_something_else_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("soon")
    with pytest.raises(CrosscoderError, match=r"It holds: README\.md"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.bias": torch.zeros(3)}, r"encoder\.bias"),
        ({"decoder.weight": torch.full((2, LATENTS, D), torch.nan)}, "NaN"),
        ({"encoder.weight": torch.zeros(3, D, LATENTS)}, "two models"),
    ],
)
def test_malformed_weights_are_named(tmp_path: Path, change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CrosscoderError, match=message):
        resolve(str(write(tmp_path / "bad", parts() | change)))


def test_missing_tensors_and_torn_files_are_named(tmp_path: Path) -> None:
    weights = parts()
    del weights["encoder.bias"]
    with pytest.raises(CrosscoderError, match=r"encoder\.bias"):
        resolve(str(write(tmp_path / "missing", weights)))
    torn = write(tmp_path / "torn", parts()) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(CrosscoderError, match="cannot be read"):
        resolve(str(torn.parent))


def test_a_hub_id_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrosscoderError, match="no hub repository of that name could be"):
        resolve("nobody/nothing-of-this-name")


def test_import_info_and_export_on_the_command_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "dl", parts() | NORMALISER)
    runner = CliRunner()
    done = runner.invoke(
        app, ["crosscoder", "import", str(folder), "--out", str(tmp_path / "in")], catch_exceptions=False
    )
    assert done.exit_code == 0
    original, _ = resolve(str(folder))
    imported, metadata = load(tmp_path / "in")
    torch.testing.assert_close(imported.W_enc, original.W_enc, rtol=0, atol=0)
    assert metadata["imported_from"] == str(folder)
    facts = json.loads(runner.invoke(app, ["crosscoder", "info", str(tmp_path / "in"), "--json"]).stdout)
    assert facts["n_latents"] == LATENTS
    assert sum(facts["delta_norm"].values()) == LATENTS
    assert facts["threshold"] == pytest.approx(0.8)
    shown = runner.invoke(app, ["crosscoder", "info", str(tmp_path / "in")]).stdout
    assert "12 latents over 2 × 5, k 3, θ 0.8" in shown
    runner.invoke(
        app, ["crosscoder", "export", str(tmp_path / "in"), "--out", str(tmp_path / "jr")], catch_exceptions=False
    )
    x = torch.randn(20, 2, D, generator=torch.Generator().manual_seed(1))
    stock, _ = load(tmp_path / "jr")
    torch.testing.assert_close(
        stock.scaled(stock.normalise(x)), original.scaled(original.normalise(x)), rtol=1e-4, atol=1e-4
    )
    again = runner.invoke(app, ["crosscoder", "import", str(folder), "--out", str(tmp_path / "in")])
    assert again.exit_code != 0
