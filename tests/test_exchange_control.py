"""What orders the candidates: tokens of a model's own answers against those of the other's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modeldiff_eval.exchange_control import MIN_ANSWERS, rank_weights
from modeldiff_eval.token_kinds import TokenKind
from modeldiff_eval.workspace import Workspace

EACH = 6
"""Tokens of a document: a template token, two of the user, three of the assistant."""
KINDS = np.array([0, 2, 2, 3, 3, 3], dtype=np.int8)


def corpus_of(ids: list[str], sources: list[str] | None = None) -> Any:
    document = np.repeat(np.arange(len(ids), dtype=np.int32), EACH)
    columns = {"id": ids, "source": sources or ["text"] * len(ids)}
    return SimpleNamespace(documents=columns, document_of_token=lambda: document)


def work_of(**names: str) -> Any:
    sources = {role: SimpleNamespace(adapter=None, location=name, name=name, key=name) for role, name in names.items()}
    work = SimpleNamespace(sources=sources)
    work.written_by = lambda corpus, role: Workspace.written_by(work, corpus, role)
    return work


def weights_of(ids: list[str], sources: list[str] | None = None, **names: str) -> np.ndarray:
    rows = np.arange(EACH, len(ids) * EACH)  # The first document is not measured.
    work = work_of(**(names or {"base": "X", "tuned": "Y"}))
    return rank_weights(work, corpus_of(ids, sources), ("base", "tuned"), rows, np.tile(KINDS, len(ids)))


def test_own_answers_count_for_and_the_others_against() -> None:
    ids = [f"{role}:{number}" for number in range(MIN_ANSWERS + 1) for role in ("base", "tuned")]
    found = weights_of(ids)
    assert found[0].sum() == pytest.approx(0, abs=1e-12)
    own = found[1].reshape(-1, EACH)
    assert (own[:, :3] == 0).all()  # Neither the template nor the user.
    assert (own[0] == 0).all()
    assert own[1::2, 3:] == pytest.approx(1 / (3 * (MIN_ANSWERS + 1)))
    assert own[2::2, 3:] == pytest.approx(-1 / (3 * MIN_ANSWERS))
    opposite = found[0].reshape(-1, EACH)
    np.testing.assert_allclose(opposite[1:], -own[1:])


def test_all_answers_count_where_too_few_are_known() -> None:
    ids = [f"tuned:{number}" for number in range(MIN_ANSWERS)] + ["other"] * 4
    for found in weights_of(ids):  # One of the eight is not measured, so seven are known.
        each = found.reshape(-1, EACH)
        assert each[1:, 3:] == pytest.approx(1 / (3 * (len(ids) - 1)))
        assert found.sum() == pytest.approx(1)


def test_known_answers_of_one_model_alone_count_for_it() -> None:
    base, tuned = weights_of(["none"] + [f"tuned:{number}" for number in range(MIN_ANSWERS)] + ["other"] * 4)
    assert (tuned >= 0).all()
    assert (tuned > 0).sum() == 3 * MIN_ANSWERS
    assert (base > 0).sum() == 3 * (MIN_ANSWERS + 4)


def test_without_any_answer_told_apart_all_but_the_template_counts() -> None:
    rows, kinds = np.arange(12), np.array([TokenKind.TEMPLATE, TokenKind.TEXT] * 6, dtype=np.int8)
    found = rank_weights(work_of(base="X", tuned="Y"), corpus_of(["a", "b"]), ("base", "tuned"), rows, kinds)
    assert found.tolist() == [[0, 1 / 6] * 6] * 2


def test_a_model_is_known_by_its_name_before_its_role() -> None:
    """In an anchored run of packaged text the source "base" is the anchor's."""
    work, sources = work_of(anchor="X", base="dpo", tuned="simpo"), ["base", "dpo", "simpo", "plain"]
    corpus = corpus_of(["1", "2", "3", "tuned:4"], sources)
    assert work.written_by(corpus, "base").tolist() == [False, True, False, False]
    assert work.written_by(corpus, "tuned").tolist() == [False, False, True, True]
    assert work.written_by(corpus_of(["1"], ["base"]), "base").tolist() == [True]
