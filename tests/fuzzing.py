"""What fuzzing needs: every reader of a file that somebody else made, whole files to spoil, and files that are nasty at once.

``python tests/fuzzing.py --seconds 60`` spoils at random for a bounded time and prints what was tried; the tests do the same with
hypothesis. A reader may return, or raise one of our errors that says what is wrong. Nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import ModelDiffError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Target:
    """A reader of one file. ``whole``: files that it reads; ``name``: how the file is called when it is read."""

    reader: str
    name: str
    read: Callable[[Path], Any]
    whole: tuple[bytes, ...]


def targets() -> list[Target]:
    """Every reader of outside files."""
    from sample_cards import full_card

    from modeldiff_eval import (
        agreement,
        annotate,
        annotate_human,
        annotation_scores,
        arena_battles,
        arena_tables,
        benchmark_csv,
        benchmark_read,
        card_file,
        corpus_sources,
        counts,
        crosscoder_files,
        gate_policy,
        organism_files,
        settings,
        taxonomy,
        taxonomy_texts,
        training_log,
    )

    packaged = taxonomy.Taxonomy.load(None)
    data = ROOT / "modeldiff_eval" / "data"
    note = {
        "latent": 3, "label": "a", "description": "b", "category": "A.1", "confidence": 0.5, "reason": None,
        "failure": None, "annotator": "x", "key": "k",
    }  # fmt: skip
    notes = "".join(json.dumps(note | {"latent": n, "key": f"k{n}"}) + "\n" for n in range(4)).encode()
    review = "latent,evidence,machine_category,label,category,verdict\n1,xab,A.1,hello,B.7,\n2,xcd,A.2,,,ok\n"
    results = {
        "results": {"t": {"acc,none": 0.5, "acc_stderr,none": 0.1}}, "versions": {"t": 1}, "n-shot": {"t": 0},
        "configs": {"t": {"metric_list": [{"metric": "acc", "aggregation": "mean"}]}}, "config": {"model_args": "pretrained=x"},
    }  # fmt: skip
    sample = {"doc_id": 0, "doc": {"q": "x"}, "target": "y", "filter": "none", "metrics": ["acc"], "acc": 1.0, "doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}  # fmt: skip
    table = {"overall": {"a": {"rating": 1000.0, "rating_q025": 990.0, "rating_q975": 1010.0}, "b": {"rating": 1020.0}}}
    log = [
        {"step": n, "rows": 10 * n, "loss": 1.0 / n, "fve_first": 0.5, "fve_second": 0.5, "dead": 0} for n in (1, 2, 3)
    ]

    inspect_log = {
        "version": 2, "status": "success", "eval": {"task": "t", "model": "m", "created": "2026-01-01T00:00:00"},
        "samples": [{"id": n, "epoch": 1, "input": "x", "target": "y", "scores": {"match": {"value": "C", "answer": "y"}}} for n in (1, 2)],
    }  # fmt: skip

    def corpus(path: Path) -> Any:
        report = corpus_sources.ReadReport()
        return list(corpus_sources.read_source(str(path), report, seed=0))

    def samples(path: Path) -> Any:
        folder = path.parent / "model"
        folder.mkdir(exist_ok=True)
        (folder / "results_2026-01-01T00-00-00.json").write_text(json.dumps(results))
        (folder / "samples_t_2026-01-01T00-00-00.jsonl").write_bytes(path.read_bytes())
        return benchmark_read.read_results(folder)

    def result_file(path: Path) -> Any:
        folder = path.parent / "model"
        folder.mkdir(exist_ok=True)
        (folder / "results_2026-01-01T00-00-00.json").write_bytes(path.read_bytes())
        (folder / "samples_t_2026-01-01T00-00-00.jsonl").write_text(json.dumps(sample) + "\n")
        return benchmark_read.read_results(folder)

    organism = (data / "organisms" / "pirate.yaml").read_bytes()
    return [
        Target("card", "card.json", card_file.read_card, (full_card().to_json().encode(),)),
        Target("taxonomy", "taxonomy.yaml", taxonomy.Taxonomy.load, (_small_taxonomy(),)),
        Target("counts", "counts.yaml", _counts(counts), ((ROOT / "reports" / "paper_dpo.yaml").read_bytes(),)),
        Target("annotated latents", "latents.csv", _counts(counts), (b"model,latent,category\nbase,1,A.1\ntuned,2,B.7\ntuned,3,none\n",)),
        Target("agreement map", "map.yaml", lambda p: agreement.read_map(p, packaged), (b"version: 1\npairs:\n  - {code: B, outside: german, language: de}\n",)),
        Target("settings", "settings.yaml", lambda p: settings.make_settings({}, config=p, environ={}), (b"base: a\ntuned: b\ntokens: 1000\nthresholds: {nu_error: 0.3}\ncorpus: [x.jsonl]\n",)),
        Target("organism", "organism.yaml", organism_files.read_organism, (organism,)),
        Target("review", "review.csv", lambda p: annotate_human.read_review(p, packaged), (review.encode(),)),
        Target("annotations", "annotations.jsonl", annotate.read_annotations, (notes,)),
        Target("codes", "codes.jsonl", annotation_scores.read_codes, (notes, b"latent,category\n1,A.1\n2,\n")),
        Target("described latents", "annotations.jsonl", taxonomy_texts.read_source, (notes,)),
        Target("arena table", "table.json", arena_tables.read_table, (json.dumps(table).encode(),)),
        Target("arena table", "table.csv", arena_tables.read_table, (b"category,model,rating,rating_q025,rating_q975\nall,a,1000,990,1010\nall,b,1010,1000,1020\n", b"model,arena_score,95_pct_ci\na,1000,+3/-5\n")),
        Target("arena table", "table.json.gz", arena_tables.read_table, (gzip.compress(json.dumps(table).encode(), mtime=0),)),
        Target("arena battles", "battles.csv", arena_battles.read_battles, (b"model_a,model_b,winner,question_id\na,b,model_a,1\nb,a,tie,2\na,b,model_b,3\n",)),
        Target("arena battles", "battles.jsonl", arena_battles.read_battles, (b'{"model_a": "a", "model_b": "b", "winner": "tie"}\n{"model_a": "a", "model_b": "b", "winner": "model_b", "conv_metadata": {"sum_assistant_a_tokens": 3}}\n',)),
        Target("scores", "scores.csv", benchmark_csv.read_csv, (b"task,document,base,tuned,cluster\nt,1,0,1,p\nt,2,1,1,p\n",)),
        Target("inspect log", "log.json", benchmark_read.read_results, (json.dumps(inspect_log).encode(),)),
        Target("inspect log", "log.eval", benchmark_read.read_results, (_zipped(inspect_log),)),
        Target("policy", "policy.yaml", gate_policy.read_policy, (b"rules:\n  - classes.A.diff.low > -5\n  - {rule: latents.null_rate < 0.01, severity: warn, waiver: {reason: known, until: 2027-01-31}}\n",)),
        Target("lm-eval results", "r.json", result_file, (json.dumps(results).encode(),)),
        Target("lm-eval samples", "s.jsonl", samples, ((json.dumps(sample) + "\n").encode() * 3,)),
        Target("corpus", "corpus.jsonl", corpus, (b'{"text": "Hello there, reader."}\n{"messages": [{"role": "user", "content": "Hi"}]}\n',)),
        Target("crosscoder settings", "cfg.json", crosscoder_files.read_config, (b'{"d_model": 4, "k": 2}',)),
        Target("crosscoder weights", "w.safetensors", crosscoder_files.read_tensors, (_tensors(),)),
        Target("training log", "training.jsonl", lambda p: training_log.read_log(p.parent), ("".join(json.dumps(line) + "\n" for line in log).encode(),)),
    ]  # fmt: skip


def _counts(module: Any) -> Callable[[Path], Any]:
    return lambda path: module.card_from_counts(path, draws=100)


def _small_taxonomy() -> bytes:
    return (
        b"version: 1\nclasses:\n  - code: A\n    name: Tone\n    categories:\n      - {code: A.1, name: Polite, "
        b"description: Kind words said to a stranger., cues: [please, thanks]}\n"
    )


def _zipped(log: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("header.json", json.dumps({name: value for name, value in log.items() if name != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    return buffer.getvalue()


def _tensors() -> bytes:
    import torch
    from safetensors.torch import save

    return save({"W_dec": torch.zeros(2, 3), "b": torch.ones(2)})


def nasty() -> Iterator[tuple[str, bytes]]:
    """Files that are bad for any reader, each with its name."""
    yield "empty", b""
    yield "one newline", b"\n"
    yield "zero bytes", b"\0" * 64
    yield "not UTF-8", b"\xff\xfe\xfd{\x80}"
    yield "UTF-16", '{"a": 1}'.encode("utf-16")
    yield "byte order mark", b"\xef\xbb\xbf{}"
    yield "null", b"null"
    yield "a list", b"[]"
    yield "a number", b"1e999"
    yield "not a number", b'{"a": NaN, "schema_version": 1}'
    yield "deep lists", b"[" * 20_000
    yield "deep objects", b'{"a":' * 20_000
    yield "deep and closed", b"[" * 20_000 + b"]" * 20_000
    yield "deep YAML", b"- " * 20_000
    yield (
        "alias bomb",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 9) for c in range(ord("b"), ord("k"))
        ),
    )
    yield "YAML object", b"!!python/object/apply:os.system ['true']"
    yield "YAML tag", b"version: !!binary aGk=\nclasses: !!set {a, b}"
    yield "YAML date and merge", b"version: 2001-12-14\n<<: {a: 1}\nclasses: {<<: [1]}"
    yield "keys that are no text", b"1: a\n? [b]\n: c\nnull: d"
    yield "a huge number", b'{"schema_version": ' + b"9" * 5000 + b"}"
    yield "a long line", b"a," * 500_000
    yield "quote without end", b'model,latent,category\n"base,1,A.1\n' + b"x" * 1000
    yield "carriage returns", b"latent,category\r1,A.1\r2,B.7\r"
    yield "surrogates", b'{"title": "\\ud800", "text": "\\udfff"}\n'
    yield "control characters", b"latent,category\n\x1b[31m1,A.1\x07\n"
    yield "gzip of nothing", gzip.compress(b"", mtime=0)
    yield "torn gzip", gzip.compress(b'{"a": 1}' * 100, mtime=0)[:30]


def spoil(data: bytes, rng: random.Random) -> bytes:
    """``data`` with a few random edits: bytes turned, cut, doubled, or words of the format put in."""
    words = (
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"-1",
        b"1e400",
        b"NaN",
        b"\xf0\x9f\x92\xa5",
        b"\0",
        b"\n",
        b'"',
        b",",
        b": ",
        b"[" * 50,
        b"9" * 400,
        b"\\u0000",
        b"true",
    )
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 2:
            out[at:at] = rng.choice(words)
        elif kind == 3:
            end = rng.randrange(len(out) + 1)
            out[at:at] = out[end : end + rng.randint(1, 60)]
        elif kind == 4:
            end = at + rng.randint(1, 20)
            out[at:end] = rng.choice(words)
        else:
            del out[at:]
    return bytes(out)


def try_one(target: Target, data: bytes, folder: Path) -> str:
    """Read ``data``; how it went. Anything but a result or one of our errors passes through."""
    path = folder / target.name
    path.write_bytes(data)
    try:
        target.read(path)
    except ModelDiffError as error:
        if not str(error).strip() or "\0" in str(error):
            raise AssertionError("an error must say what is wrong, in text that can be shown") from error
        return type(error).__name__
    return "read"


def main() -> int:
    """Spoil at random until the time is over; exit code 1 where a reader broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that break a reader")
    options = parser.parse_args()
    rng, seen, broken = random.Random(options.seed), Counter[tuple[str, str]](), list[str]()
    known, end = targets(), time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            target = rng.choice(known)
            data = spoil(rng.choice(target.whole), rng)
            try:
                seen[target.reader, try_one(target, data, Path(folder))] += 1
            except Exception:
                seen[target.reader, "BROKEN"] += 1
                last = traceback.extract_tb(sys.exc_info()[2])
                own = [frame for frame in last if "modeldiff_eval" in frame.filename]
                where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
                broken.append(
                    f"{target.reader}, {where}: {traceback.format_exc(limit=0).strip().splitlines()[-1].partition(':')[0]}"
                )
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{len(broken)}-{target.name}").write_bytes(data)
    for (reader, how), count in sorted(seen.items()):
        print(f"{reader:22} {how:24} {count:7,}")
    print(f"{seen.total():,} files in {options.seconds:g} s, {len(broken)} broke a reader")
    print("\n".join(dict.fromkeys(broken)))
    return int(bool(broken))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    sys.exit(main())
