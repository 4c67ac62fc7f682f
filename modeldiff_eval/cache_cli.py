"""``modeldiff-eval cache …``: what runs share, whether it is whole, and room for more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from modeldiff_eval.locks import KINDS

if TYPE_CHECKING:
    from modeldiff_eval.cache_entries import Entry

_KINDS = ", ".join(KINDS)
cache_app = typer.Typer(
    help="The cache of activations, crosscoders and answers that runs share.", rich_markup_mode=None
)
AsJson = Annotated[bool, typer.Option("--json", help="Every entry, as JSON on standard output.")]


@cache_app.command("ls")
def cache_ls(
    kind: Annotated[str | None, typer.Argument(help=f"Its entries, one a line: {_KINDS}.")] = None,
    as_json: AsJson = False,
) -> None:
    """What the cache holds: entries, sizes and last use, by kind or one by one."""
    from modeldiff_eval.cache_entries import entries
    from modeldiff_eval.store import cache_dir

    folder = cache_dir()
    found = entries(folder, [kind] if kind else None)
    if as_json:
        print(json.dumps({"cache": str(folder), "entries": [entry.row() for entry in found]}, indent=2))
        return
    print(folder)
    if kind:
        for entry in sorted(found, key=lambda entry: entry.used, reverse=True):
            state = "" if entry.state == "finished" else f"  ({entry.state})"
            print(f"  {entry.name:28} {entry.size / 1e6:10,.1f} MB  used {entry.used:%Y-%m-%d}{state}")
        return
    for name in dict.fromkeys(entry.kind for entry in found):
        own = [entry for entry in found if entry.kind == name]
        size, used = sum(entry.size for entry in own), max(entry.used for entry in own)
        print(f"  {name:12} {len(own):4} entries {size / 1e6:10,.1f} MB{_odd(own)}  used {used:%Y-%m-%d}")


def _odd(found: list[Entry]) -> str:
    counts = [(state, sum(entry.state == state for entry in found)) for state in ("unfinished", "set aside")]
    text = ", ".join(f"{n} {state}" for state, n in counts if n)
    return f"  ({text})" if text else ""


@cache_app.command("rm")
def cache_rm(
    kind: Annotated[str, typer.Argument(help=f"{_KINDS}; or all.")],
    older_than: Annotated[
        str | None, typer.Option(help="Only what no run has used for so long: 30d, 12h, 90m.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove one kind of entries, or all; refused while a run uses the cache."""
    from modeldiff_eval import cache_entries as held
    from modeldiff_eval.store import cache_dir

    cache = cache_dir()
    chosen = held.entries(cache, None if kind == "all" else [kind])
    if older_than:
        chosen = held.older_than(chosen, older_than)
    size = sum(entry.size for entry in chosen)
    what = f"{len(chosen)} entries of {kind} ({size / 1e6:,.1f} MB)"
    if not yes and not typer.confirm(f"Remove {what} from {cache}?"):
        print("Nothing was removed.")
        return
    if cache.is_dir():
        held.remove(cache, chosen)
    print(f"Removed {what}.")


@cache_app.command("verify")
def cache_verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged or unfinished; runs make it again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte of the cache and compare it with its checksums; exit code 3 when something is damaged."""
    from modeldiff_eval import cache_entries as held
    from modeldiff_eval.store import cache_dir

    cache = cache_dir()
    found = held.entries(cache)
    faults = {entry.path: reason for entry in found if (reason := held.fault(entry)) is not None}
    bad = [entry for entry in found if entry.path in faults]
    if repair and bad:
        held.remove(cache, bad)
    plain = sum(not entry.sealed for entry in found if entry.path not in faults)
    if as_json:
        rows = [entry.row() | {"fault": faults.get(entry.path)} for entry in found]
        print(json.dumps({"cache": str(cache), "removed": repair, "entries": rows}, indent=2))
    else:
        for entry in bad:
            print(f"{entry.kind}/{entry.name}: {faults[entry.path]}{' (removed)' if repair else ''}")
        print(
            f"{len(found) - len(bad) - plain} entries are whole, {plain} carry no checksums, {len(bad)} are damaged or unfinished."
        )
        if bad and not repair:
            print("next: modeldiff-eval cache verify --repair")
    if not repair and any(entry.state != "unfinished" for entry in bad):
        raise typer.Exit(3)
