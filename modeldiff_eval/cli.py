"""The program ``modeldiff-eval``: runs a command and turns errors into a line and an exit code.

The commands are in :mod:`~modeldiff_eval.commands`. Nothing heavy is imported until one needs it: ``--help`` must be instant.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from modeldiff_eval import stopping

if TYPE_CHECKING:
    import typer

READER_GONE = 141
"""As a shell says it of a program that SIGPIPE ended: whoever read our output stopped before we did."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line; errors of ours are one line on standard error and an exit code."""
    stopping.install()
    _ready_streams()
    try:
        code = _run(argv)
    except KeyboardInterrupt:
        code = _stopped()
    sys.exit(_flushed(code))


def _flushed(code: int) -> int:
    """The exit code once everything is printed: what a command found out stands, whether or not somebody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go(sys.stdout)
    except OSError as error:
        from modeldiff_eval.disk import explained

        _let_go(sys.stdout)
        code = _failed(explained(error) or f"Cannot print: {error}.", 3)
    try:
        sys.stderr.flush()
    except OSError:
        _let_go(sys.stderr)
    return code


def _run(argv: list[str] | None) -> int:
    import typer

    from modeldiff_eval.disk import explained
    from modeldiff_eval.errors import ModelDiffError

    # Typer carries its own click, so its base class is found by name.
    click_exception: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # To look for some, it opens every package installed.
    try:
        code = _application(argv)(args=argv, standalone_mode=False, prog_name="modeldiff-eval")
        if code == stopping.INTERRUPTED:  # Typer turns Ctrl-C into this exit code without a word.
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        # Typer and rich leave with 1, which would mean a violated policy, when nobody reads what they print.
        cause = stop.__context__
        if not (isinstance(cause, OSError) and cause.errno == errno.EPIPE):
            raise
        if _unread(sys.stdout) or _unread(sys.stderr):
            _let_go(sys.stdout)
            return READER_GONE
        return _failed("The other side closed a connection. Run the same command again to go on.", 3)
    except ModelDiffError as error:
        return _failed(str(error), error.exit_code)
    except typer.Abort:
        return _stopped()
    except click_exception as error:
        try:
            error.show()
        except (OSError, SystemExit):  # Nobody reads it, or it does not fit; the exit code still says it.
            _let_go(sys.stderr)
        return 2
    except OSError as error:
        if message := explained(error):
            return _failed(message, ModelDiffError.exit_code)
        raise


def _ready_streams() -> None:
    """Let every character be printed, and output that was closed be written to nowhere.

    What goes into a file or a pipe is UTF-8, as every file of ours; a terminal keeps its encoding.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _unread(stream: Any) -> bool:
    """Whether nobody reads ``stream``, which is let go of then; rich has done so already."""
    try:
        stream.flush()
        number = stream.fileno()
        if os.path.samestat(os.fstat(number), os.stat(os.devnull)):
            return True
        asked = select.poll()
        asked.register(number, 0)
        return bool(asked.poll(0))  # An error or a hang-up: they are told unasked.
    except (OSError, ValueError, AttributeError):  # Windows has no poll; there a reader that left is the likelier.
        _let_go(stream)
        return True


def _let_go(stream: Any) -> None:
    """Send what is still to be written to nowhere: Python writes it at its end, and would complain."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


def _application(argv: list[str] | None) -> typer.Typer:
    """The application; for ``check``, which every build of a CI waits for, one without all the other commands.

    To import and build those takes as long as a check takes.
    """
    if (sys.argv[1:] if argv is None else argv)[:1] != ["check"]:
        from modeldiff_eval.commands import app

        return app
    import typer

    from modeldiff_eval.check_cli import check
    from modeldiff_eval.cli_options import HELP_NAMES

    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP_NAMES)
    alone.callback()(lambda: None)
    alone.command()(check)
    return alone


def _stopped() -> int:
    code = stopping.exit_code()
    what = "terminated" if code == stopping.TERMINATED else "interrupted"
    return _failed(f"{what}; run the same command again to resume.", code)


def _failed(message: str, code: int) -> int:
    from modeldiff_eval.logs import failed

    try:
        if not failed(message, code):
            from rich.console import Console

            console = Console(stderr=True)
            console.print("error:", style="bold red", end=" ")
            console.print(message, highlight=False, markup=False, soft_wrap=True)
    except ImportError:
        print(f"error: {message}", file=sys.stderr)
    except (OSError, SystemExit):  # Nobody reads it, or it does not fit; the exit code still says it.
        _let_go(sys.stderr)
    return code


if __name__ == "__main__":
    main()
