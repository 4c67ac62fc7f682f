"""The errors a user can meet, as one tree.

::

    ModelDiffError                 exit code 3
    ├── UsageError                 2   a flag, setting, policy or input file is wrong
    │   └── SettingsError          2   unknown or impossible setting
    ├── ModelError                 3   a model cannot be loaded
    │   ├── UnsafeWeightsError     3   pickled weights are refused
    │   └── MismatchedModelsError  2   the models cannot be compared
    ├── CorpusError                3   no usable text
    ├── ActivationsError           3   NaN or otherwise unusable activations
    ├── CrosscoderError            3   a crosscoder cannot be read or does not fit the models
    ├── RankError                  3   another process of a training stopped
    ├── WorkerError                3   an engine's worker died again and again, or there is no engine
    ├── AnnotationError            3   the annotator cannot run
    ├── EvidenceError              3   benchmark or arena input is unusable
    │   └── NotListedError         3   an arena file does not have one of the models
    ├── OutputError                3   the output folder cannot be written
    ├── SelftestError              3   a law of the truth bench is broken
    └── MissingDependencyError     3   an optional library is absent

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelDiffError(Exception):
    """Base of every error that is reported without a traceback.

    A message often quotes a file that somebody else wrote: what cannot be printed (escape sequences, changes of the writing
    direction, lone surrogates) stands there as its code.
    """

    exit_code = 3

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class UsageError(ModelDiffError):
    """The command, a setting or an input file is wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown or out of range."""


class ModelError(ModelDiffError):
    """A model, adapter or tokenizer cannot be loaded."""


class UnsafeWeightsError(ModelError):
    """Weights are pickled; only safetensors and GGUF are read."""


class MismatchedModelsError(ModelError):
    """The models of a pair cannot be compared."""

    exit_code = 2


class CorpusError(ModelDiffError):
    """The corpus holds no usable text, or too many broken lines."""


class ActivationsError(ModelDiffError):
    """Harvested activations are unusable."""


class CrosscoderError(ModelDiffError):
    """A crosscoder cannot be read, or does not fit these models."""


class RankError(ModelDiffError):
    """Another process of a training over several ranks stopped."""


class WorkerError(ModelDiffError):
    """A worker of an engine died again and again, or the engine cannot be reached."""


class AnnotationError(ModelDiffError):
    """The annotator cannot run."""


class EvidenceError(ModelDiffError):
    """A benchmark or arena file is unusable."""


class NotListedError(EvidenceError):
    """An arena file is sound, but one of the two models is not in it."""


class OutputError(ModelDiffError):
    """The output folder cannot be written."""


class SelftestError(ModelDiffError):
    """The truth bench found a broken law: something here computes wrongly, or learns nothing."""


class MissingDependencyError(ModelDiffError):
    """A library that this step needs is not installed."""


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``" Did you mean 'layer'?"`` for the closest known name that is alike by ``cutoff``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
