"""``modeldiff-eval crosscoder …``: train one, look at it, bring one in, hand one on."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeldiff_eval.cli_options import LogJson, go_offline, speak
from modeldiff_eval.errors import CrosscoderError, SettingsError, UsageError, did_you_mean

if TYPE_CHECKING:
    from modeldiff_eval.crosscoder import Crosscoder
    from modeldiff_eval.settings import Settings

HELP = """Train crosscoders, look at them, bring in those of others, hand ours on.

\b
Examples:
  modeldiff-eval crosscoder train --first org/base-it --second org/tuned-it --out crosscoders/mine
  modeldiff-eval crosscoder info runs/demo/crosscoders/base--tuned
  modeldiff-eval crosscoder import org/published-crosscoder --out crosscoders/published
  modeldiff-eval crosscoder export runs/demo/crosscoders/base--tuned --format jumprelu --out for-saelens
  modeldiff-eval crosscoder push crosscoders/published org/our-copy --private
"""
FORMATS = ("native", "jumprelu", "dictionary_learning")

crosscoder_app = typer.Typer(help=HELP, rich_markup_mode=None, no_args_is_help=True)
Where = Annotated[str, typer.Argument(metavar="PATH|REPO", help="Folder, or hub id: org/name[@revision][:folder].")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")]


@crosscoder_app.command()
def train(
    first: Annotated[str | None, typer.Option("--first", "--base", help="The model before tuning.")] = None,
    second: Annotated[str | None, typer.Option("--second", "--tuned", help="The model after tuning.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; whole or absent.")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="As for a comparison: file, folder or hub id, NAME=SPEC:WEIGHT; repeatable.", show_default="packaged"
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the corpus to use.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="Zero-based block to read.", show_default="20/42 of the depth")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="fast, quick, standard or paper.", show_default="quick")] = None,
    latents: Annotated[int | None, typer.Option(help="Size of the dictionary.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Active latents a token.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Take rows straight from both models; only a sample of held-out text is kept on the disk.",
            show_default="only in preset paper",
        ),
    ] = None,
    rollouts: Annotated[int | None, typer.Option(help="Packaged prompts that both models answer; 0 for none.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.", min=0, show_default="0")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.", show_default="the first there is")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32.", show_default="bf16 where it is fast")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a model repository ships.")
    ] = False,
    log_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard or wandb, written to OUT.track; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML.")] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(min=0, help="What a kill may cost at most.", show_default="2")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask a hub.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Use a cache of its own, OUT.cache.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what it needs and whether this machine has it (exit code 2 if not), then stop."
        ),
    ] = False,
    plan_ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes to plan for.", show_default="as torchrun says, or 1")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start although memory or disk will not do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts, or the plan, as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and the path.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the libraries' own messages.")] = False,
    log_json: LogJson = None,
) -> None:
    """Train the crosscoder of a pair, without the rest of a comparison; give it to one with --crosscoder.

    \b
    Examples:
      modeldiff-eval crosscoder train --first org/base-it --second org/tuned-it --out crosscoders/mine
      modeldiff-eval crosscoder train --first X --second Y --corpus chats.jsonl --stream --out crosscoders/mine
      modeldiff-eval crosscoder train --preset paper --dry-run --plan-ranks 8
      torchrun --nproc-per-node 2 --no-python modeldiff-eval crosscoder train --first X --second Y --out crosscoders/mine
      accelerate launch --multi_gpu --num_processes 2 --no_python modeldiff-eval crosscoder train --first X --second Y --out crosscoders/mine

    An interrupted training goes on when the same command is given again, with as many processes. Settings without an option
    here (batch, lr, measure_tokens, …) come from --config or MODELDIFF_* variables.
    """
    from modeldiff_eval.settings import PAPER_MODEL

    flags: dict[str, Any] = {
        "base": first, "tuned": second, "corpus": tuple(corpus or ()) or None, "tokens": tokens, "layer": layer, "preset": preset,
        "latents": latents, "k": k, "steps": steps, "stream": stream, "rollouts": rollouts, "seed": seed, "device": device, "dtype": dtype,
        "trust_remote_code": trust_remote_code or None, "log_to": tuple(log_to or ()) or None,
    }  # fmt: skip
    if offline:
        go_offline()
    if dry_run:
        if not verbose:
            from modeldiff_eval.terminal import hush

            hush()
        from modeldiff_eval.crosscoder_train import print_plan

        if not print_plan(_settings(flags, config, stand_in=PAPER_MODEL), plan_ranks, as_json=as_json):
            raise typer.Exit(2)
        return
    settings = _settings(flags, config)
    if out is None:
        raise UsageError("--out is missing: name the folder that the crosscoder goes to.")
    leader = os.environ.get("RANK", "0") == "0"
    reporter = speak(
        f"crosscoder of {settings.base} and {settings.tuned}", quiet=quiet or not leader, verbose=verbose, log_json=log_json if leader else None,
    )  # fmt: skip
    from modeldiff_eval.crosscoder_train import train_command  # After speak: the libraries look at its variables once.

    train_command(
        settings, out, reporter=reporter, no_cache=no_cache, checkpoint_minutes=checkpoint_minutes, force=force, as_json=as_json, quiet=quiet,
    )  # fmt: skip


def _settings(flags: dict[str, Any], config: Path | None, stand_in: str | None = None) -> Settings:
    """The settings; a model that is missing is called as the option of ``train``."""
    from modeldiff_eval.settings import make_settings

    try:
        return make_settings(flags, config=config, stand_in=stand_in)[0]
    except SettingsError as error:
        said = str(error).replace("--base is missing", "--first is missing")
        raise SettingsError(said.replace("--tuned is missing", "--second is missing")) from error


@crosscoder_app.command()
def info(
    path: Where,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shapes, threshold, where latents live, quality and provenance of a crosscoder, or how far its training is."""
    from modeldiff_eval.crosscoder_info import describe, lines

    facts = describe(path)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(facts)))


@crosscoder_app.command("import")
def import_(
    path: Where,
    out: Out,
    scale: Annotated[
        str | None,
        typer.Option(help="FIRST,SECOND: what activations were multiplied by, where the crosscoder does not say."),
    ] = None,
) -> None:
    """Read a crosscoder of another library and write it as native and as stock SAELens jumprelu."""
    from modeldiff_eval.crosscoder_import import resolve
    from modeldiff_eval.store import tidied

    with tidied(out.absolute().parent):
        _require_free(out)
        crosscoder, metadata = resolve(path, scale=_factors(scale))
        _write(out, crosscoder, {"imported_from": path, **metadata})
    if "caveat" in metadata:
        print(f"note: {metadata['caveat']}")
    print(out)


@crosscoder_app.command()
def export(
    path: Where,
    out: Out,
    form: Annotated[
        str, typer.Option("--format", help="native, jumprelu (stock SAELens) or dictionary_learning.")
    ] = "jumprelu",
) -> None:
    """Write a crosscoder in one format."""
    from modeldiff_eval.crosscoder_import import resolve
    from modeldiff_eval.store import tidied

    if form not in FORMATS:
        raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)} Use {', '.join(FORMATS)}.")
    with tidied(out.absolute().parent):
        _require_free(out)
        crosscoder, metadata = resolve(path)
        _write(out, crosscoder, metadata, form)
    print(out)


@crosscoder_app.command()
def push(
    path: Where,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/name on the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload a crosscoder (native and jumprelu) with a model card, by SAELens' own uploader."""
    import tempfile

    from modeldiff_eval.crosscoder_import import resolve
    from modeldiff_eval.crosscoder_info import model_card
    from modeldiff_eval.models import public_name

    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) is None:
        raise UsageError(f"{repo!r} cannot be a hub repository; one is named ORG/NAME.")
    crosscoder, metadata = resolve(path)
    if "imported_from" in metadata:
        metadata["imported_from"] = public_name(str(metadata["imported_from"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "crosscoder"
        _write(folder, crosscoder, metadata)
        _upload(folder, repo, model_card(crosscoder, metadata, repo), private=private)
    print(f"https://huggingface.co/{repo}")


def _upload(folder: Path, repo: str, card: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        from sae_lens.training.upload_saes_to_huggingface import upload_saes_to_huggingface

        saes = {form: folder / form for form in ("native", "jumprelu")}
        upload_saes_to_huggingface(saes, repo, add_default_readme=False)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo)
    except Exception as error:  # the hub client has many error types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CrosscoderError(
            f"Cannot upload to {repo}: {reason} Check your connection and your right to write there (`hf auth login`)."
        ) from error


def _require_free(out: Path) -> None:
    """Nothing is at ``out``, and something can be written there."""
    from modeldiff_eval.store import require_writable

    if out.exists():
        raise UsageError(f"{out} exists already. Name another folder with --out, or remove it.")
    require_writable(out.absolute().parent)


def _factors(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--scale {text!r}: give two numbers, FIRST,SECOND.") from None
    return first, second


def _write(out: Path, crosscoder: Crosscoder, metadata: dict[str, Any], form: str | None = None) -> None:
    """One format into ``out``, or native and jumprelu side by side; ``out`` is whole or absent, and nothing is left beside it."""
    from modeldiff_eval.crosscoder import save_jumprelu, save_native
    from modeldiff_eval.crosscoder_formats import save_dictionary_learning
    from modeldiff_eval.disk import writing
    from modeldiff_eval.store import PARTIAL

    savers = {"native": save_native, "jumprelu": save_jumprelu, "dictionary_learning": save_dictionary_learning}
    partial = out.with_name(f"{out.name}.{os.getpid()}{PARTIAL}")  # of this process: no lock is needed
    try:
        with writing(out):
            if form:
                savers[form](crosscoder, partial, metadata)
            else:
                save_native(crosscoder, partial / "native", metadata)
                save_jumprelu(crosscoder, partial / "jumprelu", metadata)
            _require_free(out)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
