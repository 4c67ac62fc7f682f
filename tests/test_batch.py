"""Which pairs a batch has: names, files, what is refused, and what pairs have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modeldiff_eval.batch import grouped, matrix_pairs, named_pairs
from modeldiff_eval.errors import UsageError


def test_named_models_make_pairs_of_one_base() -> None:
    pairs = named_pairs(["simpo=org/y1", "dpo=org/y2@main"], {"base": "org/x", "anchor": "org/p", "steps": 7})
    assert [(p.name, p.settings.base, p.settings.tuned, p.settings.anchor, p.settings.steps) for p in pairs] == [
        ("simpo", "org/x", "org/y1", "org/p", 7),
        ("dpo", "org/x", "org/y2@main", "org/p", 7),
    ]
    assert len(grouped(pairs, "shared_key")) == len(grouped(pairs, "text_key")) == 1


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ([], r"Name the tuned models: --tuned NAME=MODEL"),
        (["org/my-y"], r"give each tuned model a name, such as --tuned my-y=org/my-y"),
        (["a=org/y", "a=org/z"], r"Two pairs are called 'a'\."),
        (["Run=org/y", "run=org/z"], r"Two pairs are called 'run' and 'Run'"),
        (["a=org/x"], r"Pair 'a': tuned is the base itself \(org/x\)"),
        (["a=org/y", "b=org/y"], r"'a' and 'b' are the same comparison"),
        (["../up=org/y"], r"'\.\./up' cannot be a pair's name"),
        (["a/b=org/y"], r"cannot be a pair's name"),
        ([".hidden=org/y"], r"cannot be a pair's name"),
        (["dot.=org/y"], r"cannot be a pair's name"),
        ([f"{'n' * 65}=org/y"], r"at most 64"),
        (["=org/y"], r"'' cannot be a pair's name"),
        (["comparison=org/y"], r"a batch itself writes files of that name"),
        (["Compare.json=org/y"], r"a batch itself writes files of that name"),
    ],
)
def test_what_is_no_batch_is_refused(tuned: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named_pairs(tuned, {"base": "org/x"})


def matrix(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_matrix_gives_each_pair_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDIFF_TUNED", "org/from-environment")
    file = matrix(
        tmp_path / "m.yaml",
        """
settings: {base: org/x, steps: 50, max-length: 64, corpus: chats.jsonl}
pairs:
  simpo: {tuned: org/y1}
  dpo: {tuned: org/y2, steps: 90}
  other: {base: org/x2, tuned: org/y3}
""",
    )
    simpo, dpo, other = matrix_pairs(file, {"latents": 64, "k": 4})
    assert (simpo.settings.tuned, simpo.settings.steps, simpo.settings.latents) == ("org/y1", 50, 64)
    assert (simpo.settings.corpus, simpo.settings.max_length) == (("chats.jsonl",), 64)
    assert (dpo.settings.steps, other.settings.base) == (90, "org/x2")
    assert [[p.name for p in group] for group in grouped([simpo, dpo, other], "text_key")] == [
        ["simpo", "dpo"],
        ["other"],
    ]
    assert len(grouped([simpo, dpo, other], "shared_key")) == 3
    assert {p.settings.steps for p in matrix_pairs(file, {"steps": 10})} == {10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pairs: [a, b]", r"m\.yaml: pairs: .*Write pairs as 'NAME: \{tuned: MODEL\}'"),
        ("pairs: {}", r"m\.yaml: pairs"),
        ("- a", r"'settings' for all pairs and 'pairs' by name"),
        ("pair: {a: {tuned: org/y}}", r"unknown key 'pair'\. Did you mean 'pairs'\?"),
        (
            "base: org/x\npairs: {a: {tuned: org/y}}",
            r"unknown key 'base'\. Settings of all pairs belong under 'settings'",
        ),
        (
            "pairs: {a: {tuned: org/y, base: org/x, stepps: 4}}",
            r"pair 'a': Unknown setting 'stepps'.*Did you mean 'steps'",
        ),
        ("settings: {base: org/x, layr: 3}\npairs: {a: {tuned: org/y}}", r"pair 'a': Unknown setting 'layr'.*'layer'"),
        ("pairs: {a: {base: org/x}}", r"pair 'a': --tuned is missing"),
        ("pairs: {a: {tuned: org/y, base: org/x, k: 0}}", r"pair 'a': k = 0"),
        ("pairs: {a: {tuned: org/y, base: org/x}, a: {tuned: org/z, base: org/x}}", r"the key 'a' is given twice"),
        ("pairs: {a b: {tuned: org/y, base: org/x}}", r"'a b' cannot be a pair's name"),
        ("pairs: {1: {tuned: org/y, base: org/x}}", r"pairs\.1"),
        ("pairs: {a: org/y}", r"pairs\.a"),
        ("pairs: [", r"line [12]: not valid YAML"),
    ],
)
def test_a_wrong_matrix_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.compile(message, re.DOTALL)):
        matrix_pairs(matrix(tmp_path / "m.yaml", text), {})


def test_what_is_laid_beside_a_pair_does_not_keep_it_from_sharing(tmp_path: Path) -> None:
    own = "arena: t.csv, arena_snapshot: 2024-0{}, agreement: m{}.yaml, annotator: claude, max_cost: {}"
    rows = "".join(f"  {name}: {{tuned: org/{name}, {own.format(n, n, n)}}}\n" for n, name in ((1, "a"), (2, "b")))
    pairs = matrix_pairs(matrix(tmp_path / "m.yaml", "settings: {base: org/x}\npairs:\n" + rows), {})
    assert len(grouped(pairs, "shared_key")) == 1


def test_a_missing_matrix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read the matrix file .*absent\.yaml"):
        matrix_pairs(tmp_path / "absent.yaml", {})
