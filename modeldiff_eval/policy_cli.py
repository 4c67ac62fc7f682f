"""``modeldiff-eval policy …``: a first policy from a card, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeldiff_eval.errors import UsageError

if TYPE_CHECKING:
    from modeldiff_eval.gate_policy import Policy

HELP = """Policies for `modeldiff-eval check`.

\b
Examples:
  modeldiff-eval policy init runs/mine --out policy.yaml
  modeldiff-eval policy check policy.yaml runs/mine
"""

policy_app = typer.Typer(help=HELP, rich_markup_mode=None, no_args_is_help=True)


@policy_app.command("init")
def init(
    source: Annotated[Path, typer.Argument(metavar="CARD", help="card.json, or a run's folder.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The policy to write.", show_default="standard output")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the policy that is there.")] = False,
) -> None:
    """A commented policy that this card passes, with what the card shows beside every rule."""
    from modeldiff_eval.card_file import read_card
    from modeldiff_eval.gate_init import policy_from_card
    from modeldiff_eval.store import write_text

    text = policy_from_card(read_card(source))
    if out is None:
        print(text, end="")
        return
    if out.exists() and not force:
        raise UsageError(f"{out} is there already. Name another file, or overwrite it with --force.")
    write_text(out, text)
    print(f"{out}\nnext: modeldiff-eval check {source} --policy {out}")


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy (YAML).")],
    source: Annotated[
        Path | None, typer.Argument(metavar="CARD", help="A card in which every rule is looked up.")
    ] = None,
) -> None:
    """Read a policy and say what is wrong with it (exit code 2); with a card, whether each rule finds its number there."""
    from datetime import UTC, datetime

    from modeldiff_eval.gate_policy import read_policy
    from modeldiff_eval.gate_words import ci_safe
    from modeldiff_eval.render_text import visible

    policy, today = read_policy(file), datetime.now(UTC).date()
    n, compared = len(policy.rules), sum(rule.compares for rule in policy.rules)
    print(f"{file}: {n} {'rule' if n == 1 else 'rules'}, {compared} of them against a baseline")
    for rule in policy.rules:
        waiver = rule.given.waiver
        said = f"line {rule.line}: {rule.given.severity}: {visible(str(rule.expression), limit=300)}"
        if waiver is not None:
            said += f" (waiver {'expired' if waiver.until < today else 'until'} {waiver.until.isoformat()})"
        print(ci_safe(said))
    if source is not None:
        _look_up(policy, source)


def _look_up(policy: Policy, source: Path) -> None:
    from modeldiff_eval.card_file import read_card
    from modeldiff_eval.gate import places_of
    from modeldiff_eval.gate_words import ci_safe
    from modeldiff_eval.render_text import visible

    card = read_card(source)
    missing = [(rule, seen) for rule in policy.rules for seen in places_of(card, rule, policy) if seen.missing]
    for rule, seen in missing:
        print(ci_safe(f"line {rule.line}: {visible(seen.path, limit=200)}: {visible(seen.missing or '', limit=300)}"))
    gaps = "1 number is not there" if len(missing) == 1 else f"{len(missing)} numbers are not there"
    print(f"{source}: {gaps if missing else 'every rule finds its numbers'}")
