"""The program ``modeldiff-eval``: runs a command and turns errors into a line and an exit code.

The commands are in :mod:`~modeldiff_eval.commands`. Nothing heavy is imported until one needs it: ``--help`` must be instant.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from modeldiff_eval import stopping
from modeldiff_eval.cli_options import HELP_NAMES
from modeldiff_eval.disk import output_error
from modeldiff_eval.errors import ModelDiffError

if TYPE_CHECKING:
    from rich.console import Console


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line; errors of ours are one line on standard error and an exit code."""
    # Typer carries its own click, so its base class is found by name.
    click_exception: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # To look for some, it opens every package installed.
    stopping.install()
    try:
        code = _application(argv)(args=argv, standalone_mode=False, prog_name="modeldiff-eval")
        if code == 130:  # Typer turns Ctrl-C into this exit code without a word.
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except ModelDiffError as error:
        _fail(str(error), error.exit_code)
    except typer.Abort:
        _stopped()
    except click_exception as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        _stopped()
    except OSError as error:
        if found := output_error(error, Path(str(error.filename or "the output"))):
            _fail(str(found), found.exit_code)
        raise


def _application(argv: list[str] | None) -> typer.Typer:
    """The application; for ``check``, which every build of a CI waits for, one without all the other commands.

    To import and build those takes as long as a check takes.
    """
    if (sys.argv[1:] if argv is None else argv)[:1] != ["check"]:
        from modeldiff_eval.commands import app

        return app
    from modeldiff_eval.check_cli import check

    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP_NAMES)
    alone.callback()(lambda: None)
    alone.command()(check)
    return alone


def _stopped() -> NoReturn:
    code = stopping.exit_code()
    what = "terminated" if code == stopping.TERMINATED else "interrupted"
    _fail(f"{what}; run the same command again to resume.", code)


def _fail(message: str, code: int) -> NoReturn:
    from modeldiff_eval.logs import failed

    if failed(message, code):
        sys.exit(code)
    console: Console | None = None
    try:
        from rich.console import Console

        console = Console(stderr=True)
        console.print("error:", style="bold red", end=" ")
        console.print(message, highlight=False, markup=False, soft_wrap=True)
    except ImportError:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
