"""Activation masses in a form that runs share: by blocks of documents that other runs over the same text have too.

A run's own blocks are dealt at random over all its documents, answers of its models among them. Here a document's block follows from
its tokens alone, for each source of text apart, so two tuned models of one base can be compared on the documents that both runs read.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.shift_estimators import Grouping, Masses
from modeldiff_eval.store import fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

BLOCKS = 64
"""Blocks of a source at most."""
SOURCES = 4
"""Sources with blocks of their own, those of the most documents first; all others are one more."""


@dataclass(frozen=True)
class SharedBlocks:
    """``keys``: a hash of each block's documents, equal in runs that read the same ones; ``documents``: how many there are."""

    keys: list[str]
    documents: NDArray[np.int64]
    grouping: Grouping


@dataclass(frozen=True)
class SharedMass:
    """``mass`` [2, blocks, latents] of base and tuned in one dictionary, named by ``dictionary``."""

    blocks: SharedBlocks
    mass: Masses
    dictionary: str

    def table(self) -> pd.DataFrame:
        """One row for each block and latent with any mass: dictionary, block, documents, latent, base, tuned."""
        import pandas as pd

        block, latent = np.nonzero(self.mass.sum(0))
        return pd.DataFrame(
            {
                "dictionary": pd.Categorical([self.dictionary] * len(block)),
                "block": pd.Categorical([self.blocks.keys[b] for b in block]),
                "documents": self.blocks.documents[block].astype(np.int32),
                "latent": latent.astype(np.int32),
                "base": self.mass[0, block, latent].astype(np.float32),
                "tuned": self.mass[1, block, latent].astype(np.float32),
            }
        )


def shared_blocks(corpus: TokenCorpus, heldout: torch.Tensor, document: NDArray[np.int32]) -> SharedBlocks:
    """Blocks of the held-out documents by what they say and where they are from.

    Args:
        heldout: token numbers, [rows].
        document: [tokens] document of every token of the corpus.
    """
    own = np.unique(document[heldout.numpy()])
    wanted = set(own.tolist())
    digests: dict[int, hashlib._Hash] = defaultdict(hashlib.sha256)
    for begin, end, number in corpus.sequences:
        if number in wanted:
            digests[int(number)].update(corpus.ids[begin:end].tobytes())
    source = corpus.documents["source"]
    count = Counter(source[number] for number in wanted)
    named = [name for name, _ in sorted(count.items(), key=lambda item: (-item[1], str(item[0])))[:SOURCES]]
    members: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number in own.tolist():
        name = str(source[number]) if source[number] in named else ""
        limit = min(BLOCKS, count[source[number]]) if name else BLOCKS
        members[name, int(digests[number].hexdigest(), 16) % limit].append(number)
    place = np.full(len(corpus.documents["id"]), -1)
    keys, documents = [], []
    for number, (name, inside) in enumerate(sorted(members.items())):
        place[inside] = number
        keys.append(fingerprint([name, sorted(digests[one].hexdigest() for one in inside)]))
        documents.append(len(inside))
    of_row = place[document[heldout.numpy()]]
    return SharedBlocks(keys, np.asarray(documents), Grouping(of_row.astype(np.int64), len(keys)))


def dictionary_key(crosscoder: Crosscoder) -> str:
    """A hash of the weights, equal for equal dictionaries."""
    digest = hashlib.sha256()
    for tensor in (crosscoder.W_enc, crosscoder.b_enc, crosscoder.W_dec):
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
