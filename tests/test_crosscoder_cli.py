"""``crosscoder info|import|export|push`` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sample_crosscoders import by_hand, make, rows
from typer.testing import CliRunner

from modeldiff_eval import checkpoint
from modeldiff_eval.crosscoder import load, save_native
from modeldiff_eval.crosscoder_cli import FORMATS, crosscoder_app
from modeldiff_eval.crosscoder_import import resolve
from modeldiff_eval.crosscoder_info import model_card
from modeldiff_eval.errors import CrosscoderError, ModelDiffError, OutputError, UsageError
from modeldiff_eval.train_step import Trainer, TrainSettings

QUALITY = {
    "fve_first": 0.81, "fve_second": 0.79, "l0": 3.2, "dead_share": 0.25, "dead_tokens": 9000, "heldout_tokens": 2000,
}  # fmt: skip


def run(*arguments: object) -> str:
    done = CliRunner().invoke(crosscoder_app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "base--tuned"
    save_native(make(), made / "native", {"first": "base", "second": "tuned", "layer": 4, "training": {"lr": 0.001}})
    (made / "quality.json").write_text(json.dumps(QUALITY))
    return made


def test_info_shows_shapes_quality_and_provenance(folder: Path) -> None:
    text = run("info", folder)
    assert "12 latents over 2 × 5, k 3, θ 0.7" in text
    assert "fve 0.810 / 0.790, L0 3.2 (n = 2,000 held-out tokens), dead 25.0% (silent over 9,000 tokens)" in text
    assert "layer         4" in text
    facts = json.loads(run("info", folder, "--json"))
    assert facts["quality"] == QUALITY
    assert facts["parameters"] == 12 * 10 * 2 + 12 + 10
    assert facts["state"] == "finished"


def test_info_shows_how_the_training_ended(folder: Path) -> None:
    assert json.loads(run("info", folder, "--json"))["last"] is None
    assert "presented" not in run("info", folder)
    last = {"step": 40, "rows": 81_920, "loss": 0.12345, "fve_first": 0.875, "fve_second": 0.75, "dead": 3.0}
    (folder / "training.jsonl").write_text('{"step": 1}\n' + json.dumps(last) + '\n{"step": 41, "lo')
    for path in (folder, folder / "native"):
        assert json.loads(run("info", path, "--json"))["last"] == last
        text = run("info", path)
        assert "81,920 rows presented in 40 steps; on the last batch loss 0.1235, fve 0.875 / 0.750" in text


def test_places_are_counted_by_hand(tmp_path: Path) -> None:
    crosscoder = make()
    crosscoder.W_dec[:] = 1.0
    crosscoder.W_dec[0, :5] = 0  # only in the second model
    crosscoder.W_dec[1, 5:] = 0  # only in the first
    crosscoder.W_dec[2] = 0
    crosscoder.W_dec[3, :5] = 0.5  # Δ_norm 0.75
    save_native(crosscoder, tmp_path, {})
    facts = json.loads(run("info", tmp_path, "--json"))
    assert facts["delta_norm"] == {"first_only": 1, "second_only": 1, "undefined": 1, "other": 1, "shared": 8}
    assert facts["quality"] is None


def trained(folder: Path, steps: int = 2) -> Trainer:
    settings = TrainSettings(n_latents=16, k=2, steps=40, batch=32)
    trainer = Trainer(settings, torch.zeros(2, 5), torch.ones(2))
    for _ in range(steps):
        trainer.step(rows(n=32))
    checkpoint.save(trainer, folder)
    return trainer


def test_info_of_a_half_finished_training(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "training.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 3, "lo')
    facts = json.loads(run("info", tmp_path, "--json"))
    assert (facts["state"], facts["step"], facts["steps"], facts["processes"]) == ("unfinished", 2, 40, 1)
    assert (facts["n_latents"], facts["d_model"], facts["k"]) == (16, 5, 2)
    assert facts["last"] == {"step": 2, "loss": 0.25}
    assert "unfinished, step 2 of 40" in run("info", tmp_path)


def test_info_of_a_torn_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path)
    (path,) = tmp_path.glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CrosscoderError, match="checkpoint-2-0-of-1"):
        run("info", tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_every_export_is_imported_back_as_the_same_function(folder: Path, tmp_path: Path, form: str) -> None:
    run("export", folder, "--format", form, "--out", tmp_path / "out")
    run("import", tmp_path / "out", "--out", tmp_path / "back")
    raw = rows()
    v, reconstruction = by_hand(make(), raw)
    for source in (tmp_path / "out", tmp_path / "back", tmp_path / "back" / "jumprelu"):
        crosscoder, metadata = resolve(str(source))
        x = crosscoder.normalise(raw)
        torch.testing.assert_close(crosscoder.scaled(x), v, atol=1e-4, rtol=1e-4)
        out = crosscoder.denormalise(crosscoder.decode(crosscoder.encode(x))).flatten(1)
        torch.testing.assert_close(out, reconstruction, atol=1e-4, rtol=1e-4)
    assert metadata["imported_from"] == str(tmp_path / "out")


def test_nothing_is_left_beside_an_export(folder: Path, tmp_path: Path) -> None:
    run("export", folder, "--out", tmp_path / "made" / "out")
    run("import", folder, "--out", tmp_path / "made" / "in")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["in", "out"]


def test_a_write_that_fails_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, partial: Path, __: object) -> None:
        partial.mkdir()
        (partial / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modeldiff_eval.crosscoder.save_jumprelu", full)
    with pytest.raises(OutputError, match="No space left"):
        run("export", folder, "--out", tmp_path / "made" / "out")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_place_that_cannot_be_written_is_said_first(folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "x", Path("/proc/x")):
        with pytest.raises(OutputError, match="Cannot write to"):
            run(command, "no/where", "--out", out)


def test_quality_travels_with_an_export(folder: Path, tmp_path: Path) -> None:
    run("export", folder, "--format", "native", "--out", tmp_path / "out")
    assert load(tmp_path / "out")[1]["quality"] == QUALITY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{folder}", "--format", "jumprelo", "--out", "{new}"], "Did you mean 'jumprelu'"),
        (["export", "{folder}", "--out", "{folder}"], "exists already"),
        (["import", "{folder}", "--out", "{folder}"], "exists already"),
        (["import", "{folder}", "--scale", "1,2", "--out", "{new}"], "carries its own normaliser"),
        (["import", "{folder}", "--scale", "1", "--out", "{new}"], "FIRST,SECOND"),
        (["push", "{folder}", "no-owner"], "ORG/NAME"),
        (["push", "{folder}", "a/b/c"], "ORG/NAME"),
    ],
)
def test_wrong_usage(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    filled = [a.format(folder=folder, new=tmp_path / "new") for a in arguments]
    with pytest.raises(UsageError, match=message):
        run(*filled)
    assert not (tmp_path / "new").exists()


def test_a_broken_source_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    weights = folder / "native" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CrosscoderError, match="half written"):
        run("import", folder, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_push_without_a_connection_says_so(folder: Path) -> None:
    with pytest.raises(ModelDiffError, match=r"Cannot upload to someone/copy: .*hf auth login"):
        run("push", folder, "someone/copy")


def test_the_model_card_says_what_a_reader_needs(folder: Path) -> None:
    crosscoder, metadata = resolve(str(folder))
    card = model_card(crosscoder, metadata | {"caveat": "taken as they are"}, "someone/copy")
    header = card.split("---")[1]
    assert "library_name: saelens" in header
    for part in (
        "| models | base, tuned |", "| layer | output of block 4 |", "| latents | 12 |", "fve 0.810 / 0.790", "| lr | 0.001 |",
        "taken as they are", 'SAE.from_pretrained("someone/copy", "jumprelu")', 'resolve("someone/copy:native")',
    ):  # fmt: skip
        assert part in card


def test_an_upload_does_not_give_away_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeldiff_eval import crosscoder_cli

    run("import", folder, "--out", folder.parent / "in")
    uploaded: list[str] = []
    monkeypatch.setattr(
        crosscoder_cli,
        "_upload",
        lambda made, repo, card, private: uploaded.extend([(made / "native" / "cfg.json").read_text(), card]),
    )
    run("push", folder.parent / "in", "someone/copy")
    assert '"imported_from": "base--tuned"' in uploaded[0]
    assert not any(str(folder.parent) in text for text in uploaded)


def test_importing_the_commands_does_not_import_torch() -> None:
    code = "import sys, modeldiff_eval.crosscoder_cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
