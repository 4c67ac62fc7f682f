"""The words of a card, explained for someone who never met a crosscoder, and what no card can tell."""

from __future__ import annotations

from modeldiff_eval.records import Card
from modeldiff_eval.render_text import number

TERMS: dict[str, tuple[str, str]] = {
    "latent": (
        "Latent",
        "A direction inside the models that a dictionary learned: it fires on some tokens and is silent on others, and often "
        "stands for one thing, such as an apology.",
    ),
    "crosscoder": (
        "Crosscoder",
        "A dictionary of latents trained to rebuild the inside of two models at one layer at the same time, so that their "
        "latents can be compared one by one.",
    ),
    "specific": (
        "Specific latent",
        "A latent of one model that the other has little or nothing of, judged by both \u03bd below a "
        "threshold.",
    ),
    "shifted": (
        "Shifted latent",
        "A latent that the other model surely has less of, more than a control where nothing changed could "
        "show.",
    ),
    "class": ("Class, category", "Every named latent is filed under one of 30 categories, which make 7 classes."),
    "share": (
        "Share, \u0394 points",
        "Percent of a side's named specific latents that belong to a class; \u0394 is tuned minus base in percentage "
        "points.",
    ),
    "interval": (
        "95 % interval",
        "A range made so that it holds the true value 19 times out of 20. Where it holds 0 the direction is "
        "open.",
    ),
    "ns": (
        "n.s., unclear",
        "Not significant: the data leave the direction open. It does not mean that nothing changed. "
        "Where there is no number at all, such as the share of a side without latents, a card says undefined.",
    ),
    "padj": (
        "p adjusted",
        "How often chance alone would show a difference as large somewhere among all rows of the table. Below 0.05 counts as a "
        "finding.",
    ),
    "mde": (
        "Smallest visible effect",
        "The smallest true difference that this many latents or items would have shown with good chance (80 "
        "%).",
    ),
    "activation": (
        "Activation change",
        "How much more or less the latents of a class fire in tuned than in base on the very same tokens, in "
        "percent.",
    ),
    "null": (
        "Null size",
        "How large a change appears where nothing changed, as when one model is run in another numerical precision. Smaller "
        "changes get no verdict.",
    ),
    "graded": (
        "Graded weight",
        "Counts a latent by degree instead of all or nothing: 1 when the other model surely has none of it, 0 when it may have "
        "all.",
    ),
    "deltanorm": ("\u0394 norm", "Where a latent is written: 0 in the first model only, 0.5 in both alike, 1 in the second only."),
    "nuerror": (
        "\u03bd\u1d4b",
        "How much of a latent the other model has, measured on what the dictionary left unexplained: near 0 none, near 1 as "
        "much.",
    ),
    "nurec": ("\u03bd\u02b3", "The same, measured on what the dictionary rebuilt."),
    "fve": (
        "fve",
        "Fraction of variance explained: how much of the models' inner activity the dictionary rebuilds. 1 is all of it; what is "
        "missing cannot be seen in this card.",
    ),
    "lzero": ("L0", "How many latents fire on one token, on average."),
    "dead": ("Dead", "Latents that never fire."),
    "seeds": ("Seed agreement", "How much two trainings from different random starts find the same latents. 1 is all."),
    "neff": ("Effective n", "How many independent latents there are, once those that say the same are counted as one."),
    "detection": ("Detection", "Whether a latent's description is enough to tell where it fires: 1 is always, 0.5 is a guess."),
    "elo": ("Elo", "A rating from people's choices between two models' answers: 100 points more means winning about 64 % of the time."),
    "style": ("Style-controlled", "Elo after taking out what length, headings, lists and bold text did to the choices."),
    "kl": ("KL, nats", "How far apart two models' guesses of the next token are; 0 is equal."),
    "auc": ("AUC", "How well a simple detector separates two groups: 1 is perfectly, 0.5 is a guess."),
}  # fmt: skip


def in_plain_words(card: Card) -> list[str]:
    """What a reader must know before leaning on this card; only what applies to it."""
    lines = [
        "A difference inside is associated with tuning; it does not say that behaviour changed, nor that it got better or worse.",
        "\u201cn.s.\u201d means that this much data cannot tell, not that the models are equal; the smallest visible effect says "
        "how much could hide.",
    ]
    for c in card.crosscoders[:1]:
        missing = 100 * (1 - min(c.fve_first, c.fve_second))
        lines.append(
            f"Only one layer (block {c.layer}) was read, through a dictionary that misses {number(missing, 0)} % of what varies "
            f"there. What lies elsewhere or in the rest is not in this card."
        )
    if card.top_latents or card.latents.base.annotated or card.latents.tuned.annotated:
        lines.append("A latent's name is a guess from the texts where it fires; read its examples before you quote it.")
    if card.classes:
        lines.append(
            "Only behaviour that the corpus calls up can show. Another text, seed or training could move a class."
        )
    small = min(card.latents.base.annotated, card.latents.tuned.annotated)
    if card.classes and small < 30:
        lines.append(
            f"Shares rest on few latents here ({card.latents.base.annotated} and {card.latents.tuned.annotated}): one latent more or "
            f"less moves a share by {number(100 / small, 0) if small else 'any'} points or more."
        )
    if card.arena is not None:
        lines.append(
            "Each arena interval stands for itself: with many categories some exclude 0 by chance. Ratings are those of one "
            "snapshot, and drift."
        )
    if card.benchmarks:
        lines.append("Benchmark intervals speak about other items of the same kind, not about another training run.")
    return lines
