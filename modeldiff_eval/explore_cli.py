"""``modeldiff-eval explore``: a local page over one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = False,
) -> None:
    """Search a run's latents, see all their examples, correct names and make the card again, in a page on this machine.

    Corrections are kept in RUN/review.csv, which --annotator human:FILE reads too. Stop it with Ctrl-C.

    \b
    Example:
      modeldiff-eval explore runs/demo
    """
    from modeldiff_eval.explorer import serve
    from modeldiff_eval.stopping import TERMINATED, Terminated

    def announce(address: str) -> None:
        print(address, flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    try:
        serve(run, port=port, announce=announce)
    except Terminated:
        raise typer.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        return  # How it is stopped: nothing was interrupted that would be gone on with.
