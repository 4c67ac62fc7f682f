"""What long work says on a terminal and in a log file."""

from __future__ import annotations

import io

from rich.console import Console

from modeldiff_eval.terminal import TerminalReporter


def _run(console: Console) -> None:
    with TerminalReporter(console).task("Activations of base", unit="tokens") as advance:
        for done in (100, 400, 1000):
            advance(done, 1000)


def test_a_log_file_gets_one_line_a_stage() -> None:
    out = io.StringIO()
    _run(Console(file=out, width=40))
    assert out.getvalue() == "Activations of base: 0 s\n"


def test_a_long_stage_says_how_far_it_is_where_nothing_is_drawn() -> None:
    seconds = iter(range(0, 100_000, 100))
    out = io.StringIO()
    console = Console(file=out, width=40)
    console.get_time = lambda: float(next(seconds))  # type: ignore[method-assign]
    _run(console)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("Activations of base: 100/1,000 tokens")
    assert lines[1].startswith("Activations of base: 400/1,000 tokens (")
    assert lines[1].endswith(" min left")
    assert lines[-1].startswith("Activations of base: ")
    assert lines[-1].endswith(" s")


def test_a_note_is_one_line_whatever_the_width() -> None:
    out = io.StringIO()
    TerminalReporter(Console(file=out, width=20)).note(
        "base \u2192 /a/very/long/path/that/somebody/wants/to/copy [bold]"
    )
    assert out.getvalue() == "base \u2192 /a/very/long/path/that/somebody/wants/to/copy [bold]\n"


def test_a_terminal_gets_no_extra_lines() -> None:
    out = io.StringIO()
    _run(Console(file=out, force_terminal=True, width=100))
    assert "left\n" not in out.getvalue()
    assert "1,000/1,000 tokens" in out.getvalue()
