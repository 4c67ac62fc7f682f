"""What SECURITY.md promises: each attack is made here, against the real readers, and must do nothing."""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from mock_messages import MockServer
from test_diff_claude import MODEL, answer
from tiny_run import STEPS, ByHash

from modeldiff_eval import analysis, annotate, arena_files, corpus_sources, diff, models
from modeldiff_eval.arena import read_arena
from modeldiff_eval.card_file import read_card
from modeldiff_eval.corpus_sources import ReadReport, read_source
from modeldiff_eval.crosscoder_import import find, resolve
from modeldiff_eval.errors import (
    CorpusError,
    CrosscoderError,
    EvidenceError,
    ModelDiffError,
    ModelError,
    UnsafeWeightsError,
    UsageError,
)
from modeldiff_eval.render import pdf_available, render_pdf
from modeldiff_eval.rollouts import packaged_prompts, render

CPU = torch.device("cpu")
DEEP = "[" * 100_000
ROOT = Path(__file__).resolve().parents[1]


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestModelRepositories:
    @pytest.fixture
    def hostile(self, base_model: Path, tmp_path: Path) -> Path:
        """A repository that ships code for its configuration, its model and its tokenizer; importing it leaves a mark."""
        folder = copied(base_model, tmp_path / "hostile")
        mark = tmp_path / "ran"
        body = f"open({str(mark)!r}, 'w').write('ran')\n"
        (folder / "evil.py").write_text(
            body + "from transformers import LlamaConfig as EvilConfig, LlamaForCausalLM as EvilModel\n"
            "from transformers import PreTrainedTokenizerFast as EvilTokenizer\n"
        )
        edited(
            folder / "config.json",
            model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"},
        )  # fmt: skip
        edited(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer",
               auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]})  # fmt: skip
        return folder

    def test_no_code_of_a_repository_runs_unless_it_is_asked_for(self, hostile: Path, tmp_path: Path) -> None:
        source = models.resolve(str(hostile))
        assert not source.trust_remote_code
        for read in (
            lambda: models.load_config(source, cache=tmp_path),
            lambda: models.load_tokenizer(source, cache=tmp_path),
            lambda: models.load(source, device=CPU, dtype=torch.float32, cache=tmp_path),
        ):
            with contextlib.suppress(ModelError):  # Refused, or read by the classes that transformers has itself.
                read()
        assert not (tmp_path / "ran").exists()

    def test_the_mark_would_show_it(self, hostile: Path, tmp_path: Path) -> None:
        """The same repository with the flag: the test above can fail. In a process of its own, as transformers remembers it."""
        script = (
            "import sys\nfrom pathlib import Path\nfrom modeldiff_eval import models\n"
            "source = models.resolve(sys.argv[1], trust_remote_code=True)\nmodels.load_config(source, cache=Path(sys.argv[2]))\n"
        )
        subprocess.run(
            [sys.executable, "-c", script, str(hostile), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules")}, capture_output=True,
        )  # fmt: skip
        assert (tmp_path / "ran").exists()

    @pytest.mark.parametrize("shards", [{"w": "../outside.safetensors"}, {"w": "/etc/passwd"}, {"w": 3}, []])
    def test_an_index_cannot_point_out_of_its_folder(self, base_model: Path, tmp_path: Path, shards: Any) -> None:
        folder = copied(base_model, tmp_path / "m")
        (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        with pytest.raises(ModelError, match="half downloaded"):
            models.resolve(str(folder))

    def test_a_pickle_beside_safetensors_is_never_opened(self, base_model: Path, tmp_path: Path) -> None:
        folder = copied(base_model, tmp_path / "m")
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        loaded = models.load(models.resolve(str(folder)), device=CPU, dtype=torch.float32, cache=tmp_path)
        assert loaded.d_model == 32

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}}, "PROMPT_TUNING adapter"),
            ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "imports a module that the file names"),
        ],
    )
    def test_an_adapter_cannot_choose_code(
        self, base_model: Path, adapter: Path, tmp_path: Path, changes: dict[str, Any], said: str
    ) -> None:
        folder = copied(adapter, tmp_path / "a")
        edited(folder / "adapter_config.json", **changes)
        with pytest.raises(ModelError, match=said):
            models.resolve_all(str(base_model), str(folder), None)

    @pytest.mark.parametrize("content", ["[]", DEEP, "null", '"x"'])
    def test_an_adapters_configuration_may_be_anything(
        self, base_model: Path, adapter: Path, tmp_path: Path, content: str
    ) -> None:
        folder = copied(adapter, tmp_path / "a")
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(ModelError, match="not valid"):
            models.resolve_all(str(base_model), str(folder), None)

    @pytest.mark.parametrize(
        "template",
        [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
            "{% for m in messages %}{% set x = m.update({'role': 'x'}) %}{% endfor %}",
        ],
    )
    def test_a_chat_template_runs_in_a_sandbox(
        self, base_model: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        tokenizer = models.load_tokenizer(models.resolve(str(base_model)), cache=tmp_path)
        with pytest.raises(ModelError, match="chat template"):
            render(tokenizer, packaged_prompts(1, seed=0)[0].messages, chat_template=template)
        assert not (tmp_path / "ran").exists()


class TestCrosscoders:
    def test_a_pickle_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_text('{"d_in": 4, "dict_size": 8}')
        (tmp_path / "cc_weights.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        with pytest.raises(UnsafeWeightsError):
            resolve(str(tmp_path))

    @pytest.mark.parametrize("spec", ["a/b:../../c", "a/b:..", "a/b:x/../../y"])
    def test_a_folder_of_a_repository_cannot_lead_out_of_it(self, spec: str) -> None:
        with pytest.raises(CrosscoderError, match="leads out of the repository"):
            find(spec)

    def test_names_in_a_configuration_are_never_paths(self, tmp_path: Path) -> None:
        from sample_crosscoders import make

        from modeldiff_eval.crosscoder import save_native
        from modeldiff_eval.fit import copy_crosscoder

        folder = tmp_path / "in"
        for form in ("native", "jumprelu"):
            save_native(make(), folder / form, {"first": "../../escaped", "models": ["/etc/passwd", "../x"]})
        copy_crosscoder(folder, tmp_path / "out")
        found, metadata = resolve(str(tmp_path / "out" / "native"))
        assert metadata["first"] == "../../escaped"
        assert found.n_latents
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]

    @pytest.mark.parametrize("content", [DEEP, "[]", '{"d_in": 1e999}', "\x00"])
    def test_a_configuration_may_be_anything(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "cfg.json").write_text(content)
        (tmp_path / "sae_weights.safetensors").write_bytes(b"\x10" + b"\x00" * 30)
        with pytest.raises(CrosscoderError):
            resolve(str(tmp_path))


class TestTables:
    def test_a_corpus_row_without_end_is_cut_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """50 KB that hold 50 MB in one line; the limit is lowered for the test."""
        monkeypatch.setattr(corpus_sources, "LONGEST_LINE", 1 << 20)
        path = tmp_path / "bomb.jsonl.gz"
        with gzip.open(path, "wt") as file:
            file.write('{"text": "fine"}\n{"text": "')
            for _ in range(50):
                file.write("x" * (1 << 20))
        report = ReadReport()
        assert [d.text for d in read_source(str(path), report, seed=0)] == ["fine"]
        assert report.broken == 1
        assert "longer than 1,048,576 characters" in str(report.first_problem)

    def test_deep_nesting_is_a_broken_row_and_no_crash(self, tmp_path: Path) -> None:
        path = tmp_path / "deep.jsonl"
        path.write_text(f'{{"text": "fine"}}\n{DEEP}\n')
        report = ReadReport()
        assert len(list(read_source(str(path), report, seed=0))) == 1
        assert report.broken == 1

    def test_a_packed_arena_table_cannot_fill_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arena_files, "LIMIT", 1 << 20)
        path = tmp_path / "bomb.json.gz"
        path.write_bytes(gzip.compress(b" " * (3 << 20)))
        with pytest.raises(EvidenceError, match="holds more than 1 MiB"):
            read_arena(path, base="a", tuned="b")

    @pytest.mark.parametrize("content", [DEEP.encode(), b"\x1f\x8b\x08broken", b"\xff\xfe"])
    def test_an_arena_table_may_be_anything(self, tmp_path: Path, content: bytes) -> None:
        for name in ("table.json", "table.json.gz", "table.csv"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ModelDiffError):
                read_arena(tmp_path / name, base="a", tuned="b")

    def test_a_card_may_be_anything(self, tmp_path: Path) -> None:
        for content in (DEEP, '{"schema_version": 1, "latents": ' + DEEP, "9" * 5000, "\x00"):
            (tmp_path / "card.json").write_text(content)
            with pytest.raises(UsageError, match="is not a card"):
                read_card(tmp_path)

    def test_a_hub_data_set_brings_no_code(self) -> None:
        """datasets loads no scripts any more, and nothing here asks it to."""
        import datasets

        assert int(datasets.__version__.split(".")[0]) >= 4 or "trust_remote_code" not in (
            (ROOT / "modeldiff_eval" / "corpus_sources.py").read_text()
        )
        with pytest.raises(CorpusError):
            list(read_source(str(ROOT / "nowhere.parquet"), ReadReport(), seed=0))


class _Trap(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.mark.skipif(pdf_available() is not None, reason="WeasyPrint's system libraries are missing")
def test_a_rendered_document_fetches_nothing(tmp_path: Path) -> None:
    """Every way a page can load something, pointed at a file and at a server that remembers who asked."""
    from pypdf import PdfReader

    secret = tmp_path / "secret.txt"
    secret.write_text("the secret of this machine")
    trap = ThreadingHTTPServer(("127.0.0.1", 0), _Trap)
    trap.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    there = f"http://127.0.0.1:{trap.server_address[1]}"
    body = (
        "".join(
            f"<link rel=attachment href='{url}/a'><link rel=stylesheet href='{url}/s.css'><img src='{url}/i.png'>"
            f"<style>@import '{url}/c.css'; @font-face {{ font-family: x; src: url({url}/f.ttf) }} p {{ font-family: x; "
            f"background: url({url}/b.png) }}</style><p>text</p><object data='{url}/o'></object><iframe src='{url}/p'></iframe>"
            for url in (there, secret.parent.as_uri())
        )
        + f"<link rel=attachment href='{secret.as_uri()}'><a rel=attachment href='{secret.as_uri()}'>x</a>"
    )
    target = tmp_path / "card.pdf"
    try:
        render_pdf(f"<html><body>{body}</body></html>", target, "2026-01-01T00:00:00Z")
    finally:
        trap.shutdown()
    assert trap.asked == []  # type: ignore[attr-defined]
    assert not PdfReader(target).attachments
    assert b"the secret" not in target.read_bytes()


PLANTED = {
    "ANTHROPIC_API_KEY": "sk-ant-planted0123456789",
    "HF_TOKEN": "hf_planted0123456789abcdef",
    "WANDB_API_KEY": "planted0wandb0123456789abcdef0123456789ab",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    module = importlib.import_module("modeldiff_eval.diff")
    monkeypatch.setattr(module, "render", functools.partial(module.render, formats=("html", "md")))
    named = annotate.get_annotator
    monkeypatch.setattr(
        analysis, "get_annotator", lambda name, *a, **o: ByHash() if name == "offline" else named(name, *a, **o)
    )
    with MockServer(answer=answer) as mock:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", mock.url)
        for name, value in PLANTED.items():
            monkeypatch.setenv(name, value)
        yield mock


def test_no_key_is_in_anything_that_a_run_writes_or_says(
    base_model: Path, tuned_model: Path, text: Path, server: MockServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from modeldiff_eval import logs

    words = ["modeldiff-eval", "--title", "x", "--note", f"token {PLANTED['HF_TOKEN']}", "https://me:password@host/x"]
    monkeypatch.setattr("sys.argv", words)
    logs.begin(print, str(tmp_path / "run.log"))
    try:
        run = diff(
            str(base_model), str(tuned_model), out=tmp_path / "run", cache=tmp_path / "cache", corpus=(str(text),), rollouts=0,
            tasks=(), latents=48, k=4, steps=STEPS, batch=256, null_tokens=0, draws=200, max_length=128, dtype="float32", layer=1,
            thresholds={"nu_error": 0.6}, annotator="claude", annotator_model=MODEL,
        )  # fmt: skip
    finally:
        logs.begin(None, None)
    assert sum(server.asked.values())  # The key was used.
    argv = json.loads((run.out / "run.json").read_text())["argv"]
    assert argv[:2] == ["--title", "x"]
    assert "[key hidden]" in argv[3]
    written = [path for folder in (run.out, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    said = "".join(capfd.readouterr()) + (tmp_path / "run.log").read_text()
    for secret in (*PLANTED.values(), "password"):
        assert [str(path) for path in written if secret.encode() in path.read_bytes()] == []
        assert secret not in said


def test_every_promise_of_the_threat_model_names_a_test_that_exists() -> None:
    """``SECURITY.md`` says which test proves what; a test that is renamed must be renamed there."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/test_\w+\.py)::(\w+)(?:::(\w+))?`", page))
    assert len(named) >= 20
    for file, *names in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in filter(None, names):
            assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file}::{name}"
