"""Two cheap panels beside the crosscoder: what probing would have said, and the activation-difference lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeldiff_eval import lens
from modeldiff_eval.activations import PairedRows
from modeldiff_eval.errors import CorpusError, MissingDependencyError, ModelError
from modeldiff_eval.probing import Labelled, pooled, probing
from modeldiff_eval.records import LensPanel, ProbingPanel
from modeldiff_eval.token_kinds import answer_places

if TYPE_CHECKING:
    from modeldiff_eval.activations import Activations, Kept
    from modeldiff_eval.corpus import TokenCorpus
    from modeldiff_eval.taxonomy import Taxonomy
    from modeldiff_eval.workspace import Workspace


def measure_panels(
    work: Workspace, corpus: TokenCorpus, kept: Kept, rows: dict[str, Activations], taxonomy: Taxonomy
) -> dict[str, Any]:
    """The card's slots ``probing`` and ``lens``; what cannot be measured is None and leaves a caveat."""
    return {"probing": _probing(work, corpus, kept, rows, taxonomy), "lens": _lens(work, corpus, kept, rows)}


def _probing(
    work: Workspace, corpus: TokenCorpus, kept: Kept, rows: dict[str, Activations], taxonomy: Taxonomy
) -> ProbingPanel | None:
    document = corpus.document_of_token()[kept.rows.numpy()]
    known = {c.code for c in taxonomy.categories}
    category = corpus.documents["category"]
    present = np.isin(np.arange(len(category)), document)
    chosen = np.flatnonzero(present & np.array([c in known for c in category]))
    try:
        if not len(chosen):
            raise CorpusError("the text states no category of the taxonomy for any document")
        with work.reporter.task("Probing"):
            both = [pooled(rows[role], kept.rows, document, len(category))[chosen] for role in ("base", "tuned")]
            data = Labelled(
                (both[0], both[1]),
                [category[i] for i in chosen],
                [str(corpus.documents["group"][i]) for i in chosen],
                corpus.heldout_documents()[chosen],
            )
            return probing(
                data,
                [(c.code, c.name) for c in taxonomy.classes],
                [(c.code, c.name) for c in taxonomy.categories],
                layer=work.layer,
                rng=np.random.default_rng([work.settings.seed, 71]),
            )
    except (CorpusError, MissingDependencyError) as error:
        work.caveats.append(f"Probing was not done: {error}")
        return None


def _lens(work: Workspace, corpus: TokenCorpus, kept: Kept, rows: dict[str, Activations]) -> LensPanel | None:
    try:
        with work.reporter.task("Activation-difference lens"):
            kinds = work.token_kinds(corpus)
            place = torch.from_numpy(answer_places(corpus, kinds))[kept.rows]
            owner = corpus.document_of_token()
            group = [str(g) for g in corpus.documents["group"]]
            answered = np.unique(owner[kept.rows[place > 0].numpy()])
            if (n := len({group[i] for i in answered})) < lens.MIN_PROMPTS:
                raise CorpusError(
                    f"it reads answers of an assistant, and the text holds answers to {n} prompts where {lens.MIN_PROMPTS} are needed (or the "
                    "chat template does not show whose turn it is). Give chats, or --rollouts."
                )
            out = lens.readout(work.pool.get(work.sources["tuned"]).model)
            paired = PairedRows([rows["base"], rows["tuned"]])
            block = lens.prompt_blocks(group, seed=work.settings.seed)
            scopes = []
            for number, positions in enumerate((lens.FIRST, None)):
                tokens = kept.rows[(place > 0) & (place <= positions if positions else True)]
                documents = np.unique(owner[tokens.numpy()])
                _, dense = np.unique(block[owner[tokens.numpy()]], return_inverse=True)
                scopes.append(
                    lens.scope(
                        lens.block_sums(paired, tokens, torch.from_numpy(dense)),
                        out,
                        lens.token_text(work.tokenizer),
                        positions=positions,
                        documents=len(documents),
                        prompts=len({group[i] for i in documents}),
                        rng=np.random.default_rng([work.settings.seed, 72, number]),
                    )
                )
            return LensPanel(layer=work.layer, draws=lens.DRAWS, scopes=scopes)
    except (CorpusError, ModelError) as error:
        work.caveats.append(f"The activation-difference lens was not read: {error}")
        return None
