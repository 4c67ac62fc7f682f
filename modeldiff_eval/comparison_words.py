"""What a comparison says about how its figures were made."""

from __future__ import annotations

RULES = (
    "A difference of differences is (first − base) − (second − base). Its verdict is its sign if and only if its adjusted p is below 0.05; otherwise "
    "it is n.s.",
    "Classes: families of latents are resampled once for both runs. Where base's specific latents are the same ones in both, base cancels and the "
    "shift between the two tuned models is tested by permutation of families (step-down max-T with an omnibus test); else four sides are resampled "
    "together and p is step-down max-T over the resamples. p is multiplied by the number of pairs of runs.",
    "Activation: documents that both runs read, and latents, are resampled together; p by swaps of the two tuned models within blocks of documents. "
    "A verdict also needs an interval without 0 and more than numerical noise could make of both changes.",
    "Benchmarks: over the same documents where the runs keep their scores, else from both intervals as if independent. Elo: from both intervals as if "
    "independent, which is too wide, as base's error is in both. p by Holm over rows and pairs.",
    "Latents are matched one to one by decoder cosine of at least 0.7.",
)


def caveats(*, counts_only: bool, base_shared: bool, matched: bool) -> list[str]:
    """How far the runs let latents be drawn together."""
    out = []
    if counts_only:
        also = (
            ", and base's are taken for the same ones in all runs, as the anchored design has it" if base_shared else ""
        )
        out.append(f"A run has published counts alone: latents are resampled as if independent{also}.")
    elif not matched:
        out.append(
            "A run's folder does not hold its dictionaries, so families are tied between runs through base's latents alone; where tuned models "
            "share latents the intervals are too wide."
        )
    if not base_shared:
        out.append(
            "Base's specific latents differ between the runs (each was found in a dictionary of the pair, or on other text), so base does not cancel "
            "from class shares."
        )
    return out


def renamed(latents: int, first: str, second: str) -> str:
    """Latents of a common dictionary that have another class in each run."""
    return f"{latents:,} latents that {first} and {second} share have a class of their own in each run and are left out of the activation view."
