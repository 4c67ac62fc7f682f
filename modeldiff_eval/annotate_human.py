"""Review by a person: a CSV of what an annotator said goes out, the same file with corrections comes back.

:func:`write_review` makes the file. A reader looks at ``examples`` (active tokens in ``[[ ]]``) and at the three
``machine_`` columns, and writes into the empty ones:

- ``label``, ``description``, ``category``: what is right instead, each where it differs; ``category`` is a code or a name of
  the taxonomy, or "none".
- ``verdict``: ``ok`` where the machine's answer is right as it stands.
- ``note``: free text, kept as the reason.

A row in which neither a verdict nor a correction stands was not reviewed, and does not count as a person's judgement.
:class:`HumanAnnotator` lets another annotator name those latents, and those that the file does not have: a review covers a few
dozen of thousands, and if the rest were unnamed, class shares would speak of nothing but the reviewed ones. Each annotation
says whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modeldiff_eval.annotate_words import distinct
from modeldiff_eval.annotation import Annotation, Annotator, Evidence
from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.quoting import CLOSE, OPEN, quote_excerpt
from modeldiff_eval.records import Record
from modeldiff_eval.reply_fields import NONE, plain
from modeldiff_eval.spreadsheet import read_table, write_table
from modeldiff_eval.store import fingerprint
from modeldiff_eval.taxonomy import Taxonomy

COLUMNS = (
    *(
        "latent",
        "evidence",
        "examples",
        "machine_label",
        "machine_description",
        "machine_category",
        "machine_confidence",
    ),
    *("label", "description", "category", "verdict", "note"),
)
OK = "ok"
_LATENT = re.compile(r"([0-9]{1,12})(?:\.0+)?")
_SHOWN, _TOKENS = 8, 80
_LABEL_CHARS, _TEXT_CHARS = 120, 2000


class Review(Record):
    """What a person said of one latent. ``category``: a code, or None for "none"."""

    latent: int
    label: str | None
    description: str | None
    category: str | None
    reason: str
    evidence: str | None


def evidence_mark(evidence: Evidence) -> str:
    """Eight hex digits of the examples' texts: tells whether a row was written about this latent of this run.

    It begins with a letter, so that no spreadsheet takes it for a number.
    """
    return "x" + fingerprint([example.text for example in evidence.examples])[:8]


def write_review(
    path: Path, evidence: Sequence[Evidence], annotations: Sequence[Annotation], taxonomy: Taxonomy
) -> Path:
    """Write the file for review, one row for each latent of ``evidence``.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    named = {annotation.latent: annotation for annotation in annotations}
    return write_table(path, COLUMNS, (_row(item, named.get(item.latent), taxonomy) for item in evidence))


def _row(item: Evidence, said: Annotation | None, taxonomy: Taxonomy) -> dict[str, str]:
    shown = [quote_excerpt(excerpt, _TOKENS).shown for excerpt in distinct(item.examples)[:_SHOWN]]
    texts = [text.replace("\n", " ⏎ ").replace(OPEN, "[[").replace(CLOSE, "]]") for text in shown]
    row = {
        "latent": str(item.latent),
        "evidence": evidence_mark(item),
        "examples": "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1)),
    }
    if said is None or said.failure is not None:
        return row
    category = f"{said.category} {taxonomy.category(said.category).name}" if said.category else NONE
    return row | {
        "machine_label": said.label or "",
        "machine_description": said.description or "",
        "machine_category": category,
        "machine_confidence": "" if said.confidence is None else f"{said.confidence:g}",
    }


Key = tuple[int, str | None]
"""A latent's number and the mark of its examples: the dictionaries of an anchored run share numbers."""


def read_review(path: Path, taxonomy: Taxonomy) -> dict[Key, Review]:
    """The reviewed rows of a file by latent and :func:`evidence_mark` (None where the file has none).

    Raises:
        UsageError: the file cannot be used: not CSV in UTF-8, an unknown column, a latent that is not a number or stands
            there twice with the same examples, an unknown category or verdict, ``ok`` to a latent that the machine did not name.
    """
    lookup = {text.casefold(): c.code for c in taxonomy.categories for text in (c.code, c.name, f"{c.code} {c.name}")}
    found: dict[Key, Review] = {}
    lines: dict[Key, int] = {}
    for line, row in read_table(path, known=COLUMNS, needed=("latent",)):
        where = f"{path}, line {line}"
        latent = _latent(row["latent"], where)
        key = latent, row.get("evidence") or None
        if key in lines:
            raise UsageError(f"{where}: latent {latent} stands on line {lines[key]} already; keep one of the rows.")
        lines[key] = line
        if review := _review(latent, row, lookup, where):
            found[key] = review
    return found


def _latent(text: str, where: str) -> int:
    match = _LATENT.fullmatch(text)
    if not match:
        hint = " A spreadsheet has rounded it." if re.fullmatch(r"[0-9.,]+[eE][+-]?[0-9]+", text) else ""
        raise UsageError(f"{where}: latent {text!r} is not a whole number.{hint} Write the latent's number in the run.")
    return int(match[1])


def _review(latent: int, row: Mapping[str, str], lookup: Mapping[str, str], where: str) -> Review | None:
    """One row, or None where it was not reviewed."""
    verdict = row.get("verdict", "").casefold()
    if verdict not in ("", OK):
        raise UsageError(f"{where}: verdict {row['verdict']!r} is not known. Write {OK!r}, or nothing.")
    label, description = row.get("label", ""), row.get("description", "")
    category = _category(row.get("category", ""), lookup, where)
    if not (verdict or label or description or category):
        return None
    machine = _category(row.get("machine_category", ""), lookup, where)
    if verdict and not (machine or category):
        raise UsageError(
            f"{where}: the verdict is {OK!r} but there is no machine_category to agree with. Fill in category."
        )
    chosen = category or machine
    if chosen is None:
        raise UsageError(f"{where}: latent {latent} has no category, by machine or by hand. Write a code or 'none'.")
    changed = [name for name in ("label", "description", "category") if row.get(name)]
    reason = f"{', '.join(changed)} corrected by a reader" if changed else "confirmed by a reader"
    return Review(
        latent=latent,
        label=plain(label or row.get("machine_label", ""))[:_LABEL_CHARS] or None,
        description=plain(description or row.get("machine_description", ""))[:_TEXT_CHARS] or None,
        category=None if chosen == NONE else chosen,
        reason="; ".join(part for part in (reason, plain(row.get("note", ""))[:_TEXT_CHARS]) if part),
        evidence=row.get("evidence") or None,
    )


def _category(text: str, lookup: Mapping[str, str], where: str) -> str | None:
    """A code, "none", or None for an empty cell."""
    folded = " ".join(text.casefold().split())
    if not folded:
        return None
    if folded == NONE:
        return NONE
    if folded not in lookup:
        raise UsageError(
            f"{where}: the taxonomy has no category {text!r}.{did_you_mean(folded, lookup)} "
            "Write a code, a name, or 'none' for a latent that fits nowhere."
        )
    return lookup[folded]


class HumanAnnotator:
    """A reviewed file as an annotator, with another one for what was not reviewed.

    Args:
        path: the file, checked at once.
        fallback: names the latents without a review; None leaves them failed.

    Raises:
        UsageError: as :func:`read_review`.
    """

    name = "human"

    def __init__(self, taxonomy: Taxonomy, path: Path, *, fallback: Annotator | None = None) -> None:
        self.path = path
        self.reviews = read_review(path, taxonomy)
        self.fallback = fallback
        self.paid = fallback.paid if fallback else False
        self.met: set[Key] = set()
        rows = [self.reviews[key].model_dump(mode="json") for key in sorted(self.reviews, key=str)]
        self.version = fingerprint(
            [rows, taxonomy.fingerprint, [fallback.name, fallback.version] if fallback else None]
        )

    def meet(self, evidence: Sequence[Evidence]) -> None:
        """Note which reviews fit these latents; the dictionaries of a run come one after the other."""
        self.met |= {(r.latent, r.evidence) for item in evidence if (r := self._review(item)) is not None}

    def require_met(self) -> None:
        """Check, once all latents of a run were met, that every review is about one of them.

        Raises:
            UsageError: a review fits no latent, or one that has other examples now.
        """
        unmet = self.reviews.keys() - self.met
        if strangers := sorted({latent for latent, _ in unmet}):
            raise UsageError(
                f"{self.path}: this run has no latent {', '.join(map(str, strangers[:5]))}"
                f"{' and others' if len(strangers) > 5 else ''} with the examples that were reviewed ({len(unmet)} of {len(self.reviews)} "
                "reviewed). Was the file written for another run? Write one for this run, or take these rows out."
            )

    def _review(self, item: Evidence) -> Review | None:
        """The review of this latent: of these examples, or one that does not say of which."""
        return self.reviews.get((item.latent, evidence_mark(item))) or self.reviews.get((item.latent, None))

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        """Yield one annotation for each latent, in order."""
        others = [item for item in evidence if self._review(item) is None]
        rest = self.fallback.annotate(others) if self.fallback else iter(())
        for item in evidence:
            review = self._review(item)
            if review is not None:
                yield Annotation(
                    latent=item.latent, label=review.label, description=review.description, category=review.category,
                    confidence=1.0, reason=review.reason, failure=None, annotator=self.name, key="",
                )  # fmt: skip
            elif self.fallback is not None:
                yield next(rest)
            else:
                yield Annotation(
                    latent=item.latent, label=None, description=None, category=None, confidence=None, reason=None,
                    failure="not reviewed", annotator=self.name, key="",
                )  # fmt: skip
