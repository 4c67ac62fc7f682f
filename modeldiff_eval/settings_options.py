"""The options of every setting, as the main command declares them, for other commands that run comparisons too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

_LISTED = ("crosscoder", "corpus", "log_to")
_COMMAS = ("tasks", "causal_tasks", "arena_names")
_RENAMED = {"batch": "batches"}
_NOT_SETTINGS = frozenset(
    {"context", "out", "config", "show_config", "dry_run", "force", "offline", "no_cache", "as_json", "quiet", "verbose", "version", "log_json"}
)  # fmt: skip


def settings_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, by the names of settings; None where it was not given."""
    flags: dict[str, Any] = {}
    for name, value in given.items():
        if name in _NOT_SETTINGS:
            continue
        if name in _LISTED:
            value = tuple(value or ()) or None
        elif name in _COMMAS:
            value = tuple(value.split(",")) if value else None
        flags[_RENAMED.get(name, name)] = None if value is False and name == "trust_remote_code" else value
    return flags


def with_settings(
    command: Callable[..., None], *, of: Callable[..., None], but: Collection[str]
) -> Callable[..., None]:
    """``command`` with the settings' options of another command behind its own; it gets them as ``flags``.

    Args:
        but: options of ``of`` that ``command`` goes without, or declares itself.
    """
    hints, own = get_type_hints(of, include_extras=True), get_type_hints(command, include_extras=True)
    theirs = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(of).parameters.items()
        if name not in _NOT_SETTINGS and name not in but
    ]
    mine = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]

    def called(**values: Any) -> None:
        flags = settings_flags({parameter.name: values.pop(parameter.name) for parameter in theirs})
        command(**values, flags=flags)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*mine, *theirs)}
    called.__signature__ = inspect.Signature([*mine, *theirs])  # type: ignore[attr-defined]
    return called
