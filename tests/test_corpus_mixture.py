"""Corpus arguments: plain lists and mixtures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from corpus_text import read, texts, write
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldiff_eval import corpus_mixture as c
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.models import public_name


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "same", "id": str(i)} for i in range(3)]
    chats = [{"messages": [{"role": r, "content": "same"}]} for r in ("user", "assistant", "user")]
    documents, report = read(write(tmp_path / "x.jsonl", rows + chats), write(tmp_path / "y.jsonl", rows))
    assert (len(documents), report.read, report.duplicates) == (3, 3, 6)


def shares(*specs: str) -> list[tuple[str, str, float | None]]:
    return [(s.name, s.location, s.share) for s in c.parse_sources(specs)]


def test_plain_lists_have_no_shares() -> None:
    assert shares("packaged", "org/data:config:split", "org/other@v1") == [
        ("packaged", "packaged", None),
        ("data", "org/data:config:split", None),
        ("other@v1", "org/other@v1", None),
    ]


def test_weights_become_shares() -> None:
    assert shares("web=org/web:0.5", "chats=org/lmsys:en:train:1.5") == [
        ("web", "org/web", 0.25),
        ("chats", "org/lmsys:en:train", 0.75),
    ]
    assert shares("a=org/x", "org/y:config") == [("a", "org/x", 0.5), ("y", "org/y:config", 0.5)]
    assert shares("org/x:2", "org/y:1e0")[0] == ("x", "org/x", 2 / 3)
    # A configuration named by a number is told from a weight by the split after it.
    assert shares("org/x:2024:train") == [("x", "org/x:2024:train", None)]
    assert shares("org/wiki:20231101.en") == [("wiki", "org/wiki:20231101.en", None)]


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.jsonl", "c:2", "d.jsonl"):
        write(tmp_path / name, texts(2))
    assert shares("a=b.jsonl") == [("a=b", "a=b.jsonl", None)]
    assert shares("n=c:2") == [("n", "c:2", 1.0)]
    assert shares("n=d.jsonl:3") == [("n", "d.jsonl", 1.0)]


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "0.0", "1e400"])
def test_impossible_weights(weight: str) -> None:
    with pytest.raises(SettingsError, match="must be a positive number") as caught:
        c.parse_sources([f"a=org/x:{weight}", "b=org/y:1"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["a=org/x:1", "a=org/y:1"], "2 corpora are called 'a'"),
        (["one/x:1", "two/x:1"], "2 corpora are called 'x'"),
        (["a=org/x:1", "b=org/y"], "'b' has no weight"),
        (["a= "], "names no source"),
        ([], "No corpus"),
    ],
)
def test_mixtures_that_cannot_be(specs: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        c.parse_sources(specs)


def test_the_key_sees_names_and_shares_but_not_their_scale(tmp_path: Path) -> None:
    x, y = (write(tmp_path / f"{name}.jsonl", texts(2, id=name)) for name in "xy")
    keys = [
        c.corpus_key(specs)
        for specs in (
            [str(x), str(y)], [f"a={x}:1", f"b={y}:1"], [f"a={x}:1", f"b={y}:2"], [f"c={x}:1", f"b={y}:1"],
            ["org/x"], ["org/x:en"], ["a=org/x"],
        )
    ]  # fmt: skip
    assert len(set(keys)) == 7
    assert c.corpus_key([f"a={x}:2", f"b={y}:4"]) == keys[2]
    assert c.corpus_key([f"a={x}", f"b={y}"]) == keys[1]


def test_allocation_by_hand() -> None:
    assert c.allocate(100, [0.5, 0.5], [math.inf, math.inf]) == [50, 50]
    assert c.allocate(100, [0.5, 0.25, 0.25], [10, math.inf, math.inf]) == [10, 45, 45]
    assert c.allocate(100, [0.8, 0.1, 0.1], [10, 20, math.inf]) == [10, 20, 70]
    assert c.allocate(100, [0.5, 0.5], [10, 20]) == [10, 20]


@settings(deadline=None)
@given(
    st.integers(1, 10**9),
    st.lists(
        st.tuples(st.floats(0.01, 10), st.one_of(st.integers(0, 10**9), st.just(math.inf))), min_size=1, max_size=6
    ),
)
def test_allocation_gives_the_budget_and_keeps_ratios(tokens: int, sources: list[tuple[float, float]]) -> None:
    weights, available = zip(*sources, strict=True)
    taken = c.allocate(tokens, weights, available)
    assert all(0 <= t <= a * (1 + 1e-9) for t, a in zip(taken, available, strict=True))
    assert sum(taken) == pytest.approx(min(tokens, sum(available)), rel=1e-6)
    # Whoever still has text gets at least as much for its weight as anyone else.
    rates = [t / w for t, w in zip(taken, weights, strict=True)]
    growing = [r for r, t, a in zip(rates, taken, available, strict=True) if t < a]
    assert all(r == pytest.approx(growing[0], rel=1e-6) for r in growing)
    assert not growing or max(rates) <= growing[0] * (1 + 1e-6)


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        ("probe=/home/me/a.jsonl:0.4", "probe=a.jsonl:0.4"),
        ("/home/me/a.jsonl", "a.jsonl"),
        ("web=org/name:0.5", "web=org/name:0.5"),
        ("org/name:config:train", "org/name:config:train"),
        ("packaged:0.6", "packaged:0.6"),
    ],
)
def test_a_published_argument_names_no_folder(spec: str, short: str) -> None:
    assert c.renamed(spec, public_name) == short
