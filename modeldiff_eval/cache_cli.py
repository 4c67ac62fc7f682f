"""``modeldiff-eval cache …``: what runs share, and room for more."""

from __future__ import annotations

from typing import Annotated

import typer

from modeldiff_eval.errors import SettingsError, did_you_mean

cache_app = typer.Typer(
    help="The cache of activations, crosscoders and answers that runs share.", rich_markup_mode=None
)


@cache_app.command("ls")
def cache_ls() -> None:
    """What the cache holds, by kind and size."""
    from modeldiff_eval.store import cache_dir

    folder = cache_dir()
    print(folder)
    for kind in sorted(p for p in folder.glob("*") if p.is_dir()):
        entries = [p for p in kind.iterdir() if not p.name.endswith(".lock")]
        size = sum(f.stat().st_size for f in kind.rglob("*") if f.is_file())
        partial = sum(p.name.endswith(".partial") for p in entries)
        print(
            f"  {kind.name:12} {len(entries):4} entries {size / 1e6:10,.1f} MB{f'  ({partial} unfinished)' if partial else ''}"
        )


@cache_app.command("rm")
def cache_rm(
    kind: Annotated[
        str, typer.Argument(help="activations, crosscoders, tokens, models, rollouts, benchmarks, causal or all.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove one kind of entries, or all."""
    import shutil

    from modeldiff_eval.store import cache_dir

    known = sorted(p.name for p in cache_dir().glob("*") if p.is_dir())
    chosen = known if kind == "all" else [kind]
    for name in chosen:
        if name not in known:
            raise SettingsError(
                f"The cache holds no {name!r}.{did_you_mean(name, known)} It holds: {', '.join(known) or 'nothing'}."
            )
    if not yes:
        typer.confirm(f"Remove {', '.join(chosen) or 'nothing'} from {cache_dir()}?", abort=True)
    for name in chosen:
        shutil.rmtree(cache_dir() / name)
