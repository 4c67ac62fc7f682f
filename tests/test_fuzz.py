"""Every reader of an outside file either reads it or says what is wrong, whatever stands in it."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import nasty, spoil, targets, try_one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeldiff_eval.plain_json import read_json

TARGETS = targets()
NAMES = [f"{target.reader}, {target.name}" for target in TARGETS]
NASTY = list(nasty())


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_a_whole_file_is_read(target: object, tmp_path: Path) -> None:
    """Otherwise the others would prove nothing."""
    assert [try_one(target, whole, tmp_path) for whole in target.whole] == ["read"] * len(target.whole)  # type: ignore[attr-defined,arg-type]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@pytest.mark.parametrize("name", [name for name, _ in NASTY])
def test_a_nasty_file_ends_in_an_error_that_says_something(target: object, name: str, tmp_path: Path) -> None:
    try_one(target, dict(NASTY)[name], tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32), which=st.integers(0, 3))
def test_a_spoiled_file_is_read_or_refused(target: object, seed: int, which: int) -> None:
    whole = target.whole  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        try_one(target, spoil(whole[which % len(whole)], random.Random(seed)), Path(folder))  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(seed=st.integers(0, 2**63))
def test_many_spoiled_files(seed: int) -> None:
    rng = random.Random(seed)
    target = rng.choice(TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        try_one(target, spoil(rng.choice(target.whole), rng), Path(folder))


def test_spoiling_spoils() -> None:
    rng = random.Random(0)
    data = b"latent,category\n1,A.1\n2,B.7\n" * 5
    made = Counter(spoil(data, rng) for _ in range(200))
    assert len(made) > 190
    assert made[data] == 0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, b"\xff", "", "{"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        read_json(text)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_what_json_reads_is_read_so(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '"\ud800"', "[" * 400 + "]" * 400, "\ufeff[1]".encode(), '"\\u00e9+dE\\u00e9"']
)
def test_what_parsers_differ_on_is_read_as_json_reads_it(text: str | bytes) -> None:
    assert read_json(text) == json.loads(text)
