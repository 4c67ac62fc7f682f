"""What a reader says of latents while exploring, kept as the CSV that ``--annotator human:FILE`` reads.

Every change is written at once, the whole file or nothing. Rows and columns of a file that was there before stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modeldiff_eval.annotate_human import COLUMNS, Key, evidence_mark, read_review, write_review
from modeldiff_eval.annotation import Annotation, Evidence
from modeldiff_eval.errors import UsageError
from modeldiff_eval.locks import locked
from modeldiff_eval.spreadsheet import read_table, write_table
from modeldiff_eval.taxonomy import Taxonomy

FIELDS = ("label", "description", "category", "verdict", "note")


class Corrections:
    """The review file of a run.

    Raises:
        UsageError: the file is there and cannot be used.
    """

    def __init__(self, path: Path, taxonomy: Taxonomy) -> None:
        self.path, self._taxonomy = path, taxonomy
        self._rows = self._read()

    def _read(self) -> dict[Key, dict[str, str]]:
        rows: dict[Key, dict[str, str]] = {}
        if self.path.exists():
            read_review(self.path, self._taxonomy)
            for _, row in read_table(self.path, known=COLUMNS, needed=("latent",)):
                rows[int(float(row["latent"])), row.get("evidence") or None] = row
        return rows

    def __len__(self) -> int:
        return sum(any(row.get(name) for name in FIELDS) for row in self._rows.values())

    def of(self, item: Evidence) -> Mapping[str, str]:
        """What a reader has said of a latent so far."""
        return self._rows.get((item.latent, evidence_mark(item)), {})

    def keep(self, item: Evidence, said: Annotation, given: Mapping[str, str]) -> None:
        """Write down what a reader says; all of it empty takes the review back.

        Args:
            said: what the run calls the latent.
            given: any of :data:`FIELDS`.

        Raises:
            UsageError: an unknown category or verdict; what was kept before stays.
            OutputError: the file cannot be written.
        """
        key = item.latent, evidence_mark(item)
        values = {name: " ".join(given.get(name, "").split()) for name in FIELDS}
        partial = self.path.with_name(f"{self.path.name}.check")
        with locked(self.path):
            try:
                write_review(partial, [item], [said], self._taxonomy)
                _, row = read_table(partial, known=COLUMNS, needed=("latent",))[0]
                rows = self._read() | {key: row | values}  # Another explorer, or an editor, may have written since.
                if not any(values.values()):
                    del rows[key]
                write_table(partial, COLUMNS, rows.values())
                read_review(partial, self._taxonomy)
                partial.replace(self.path)
            except UsageError as error:
                raise UsageError(str(error).partition(": ")[2] or str(error)) from error
            finally:
                partial.unlink(missing_ok=True)
        self._rows = rows
