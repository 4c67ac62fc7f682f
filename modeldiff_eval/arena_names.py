"""Which name in an arena file is meant by a model of the comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modeldiff_eval.errors import EvidenceError, NotListedError, did_you_mean


def slug(model: str) -> str:
    """LMArena's name of a model: ``google/Gemma-2-9B-it@main`` → ``gemma-2-9b-it``."""
    return re.sub(r"\s+", "-", model.partition("@")[0].rstrip("/").rpartition("/")[2].strip().lower())


def find_model(model: str, listed: Iterable[str], *, source: str) -> str:
    """The listed name of ``model``: the same name, else the one with the same slug.

    Raises:
        NotListedError: no name fits; the closest one is suggested.
        EvidenceError: several names fit, so that it is not clear which model is meant.
    """
    names = sorted(set(listed))
    if model in names:
        return model
    fitting = [name for name in names if slug(name) == slug(model)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise EvidenceError(
            f"{source} has {len(fitting)} models that {model!r} could be: {', '.join(fitting)}. "
            "Choose with --arena-names base,tuned."
        )
    close = did_you_mean(slug(model), [slug(name) for name in names])
    raise NotListedError(
        f"{source} has no model {slug(model)!r} (asked for as {model!r}).{close} It has {len(names)} models; name both "
        "as the file does with --arena-names base,tuned."
    )
