"""What a training costs in memory and disk, part by part, from its sizes alone. One function for each whole.

Sizes are bytes of one rank: with R ranks each holds D / R latents with their optimiser state, and sees every row.
"""

from __future__ import annotations

from typing import Literal

from modeldiff_eval.plan_shape import Shape
from modeldiff_eval.records import Record
from modeldiff_eval.settings import Settings
from modeldiff_eval.stream import BLOCK_BATCHES, BLOCK_BYTES
from modeldiff_eval.train_select import screened_latents
from modeldiff_eval.workspace import KEEP_LOADED_BYTES

Place = Literal["device", "host"]
FLOAT = 4
BF16 = 2
DEAD_SHARE = 0.25
"""Latents assumed to be dead at the worst moment; their rows are copied for the auxiliary loss."""
ENTRY_BYTES = 120
"""A selected code: places, values, scores, and the order by rows."""
MAX_LENGTH: int = Settings.model_fields["max_length"].default


class Part(Record):
    """One thing that takes memory on the device (that is RAM where the device is a CPU) or in the host's RAM."""

    name: str
    size: int
    place: Place = "device"


class Job(Record):
    """The sizes that decide what a training costs."""

    shape: Shape
    layer: int
    n_models: int = 2
    """Models that are read: 2, or 3 with an anchor."""
    n_crosscoders: int = 1
    """Pairs of models that a crosscoder is trained for."""
    seeds: int = 1
    """Trainings of each."""
    difference_latents: int = 0
    """Latents of the dictionary of differences that is trained for every pair as well; 0 for none."""
    difference_steps: int = 0
    divergence_tokens: int = 0
    """Training tokens that both whole models read for ``--weighting kl``."""
    n_latents: int
    k: int
    steps: int
    batch: int
    tokens: int
    """Tokens of the corpus."""
    dtype_bytes: int = BF16
    """Bytes of a number in the models and in harvested rows."""
    ranks: int = 1
    streaming: bool = False
    measured: int = 0
    """Held-out tokens whose activations are kept when streaming."""

    @property
    def latents_of_rank(self) -> int:
        """Latents of the largest share."""
        return -(-self.n_latents // self.ranks)

    @property
    def inputs(self) -> int:
        """Both models' activations side by side."""
        return 2 * self.shape.d_model

    @property
    def matrix(self) -> int:
        """Bytes of one float32 matrix [latents of a rank, 2 · d_model]."""
        return FLOAT * self.latents_of_rank * self.inputs


def trainer_memory(job: Job, *, device: str = "cpu") -> list[Part]:
    """Memory of the trainer itself (train_step.py), all on its device."""
    latents, rows = job.latents_of_rank, job.batch
    columns = -(-(job.inputs + 2) // 32) * 32
    piece = screened_latents(rows, latents, device)
    entries = job.k * rows
    dead = int(DEAD_SHARE * job.matrix)
    return [
        Part(name="encoder and decoder, float32", size=2 * job.matrix),
        Part(name="Adam's two moments, float32", size=4 * job.matrix),
        Part(name="gradients, float32", size=2 * job.matrix),
        Part(
            name=f"screening of {piece:,} latents at a time, bf16 and mask",
            size=piece * (BF16 * columns + (BF16 + 1) * rows),
        ),
        Part(name="selected codes", size=ENTRY_BYTES * entries),
        Part(name="rows of a batch, inputs, errors", size=6 * FLOAT * rows * job.inputs + BF16 * columns * rows),
        Part(name=f"auxiliary loss with {DEAD_SHARE:.0%} of the latents dead", size=5 * dead + dead // 2),
    ]


def checkpoint_bytes(job: Job) -> int:
    """One rank's checkpoint: weights and both moments."""
    return 6 * job.matrix


def host_memory(job: Job, *, on_cpu: bool) -> list[Part]:
    """What is in RAM beside the trainer: copies of what is written from another device.

    A checkpoint and the finished crosscoder in its two forms are never there together, and the crosscoder is written when
    the optimiser is gone: on a CPU neither needs anything more. Of several ranks each reads the parts of all in the end.
    """
    whole = FLOAT * job.n_latents * job.inputs
    if on_cpu and job.ranks > 1:
        return [Part(name="the whole crosscoder, from all ranks' parts", size=3 * whole, place="host")]
    if on_cpu:
        return []
    writing, export = checkpoint_bytes(job), 6 * whole
    name = "checkpoint being written" if writing >= export else "finished crosscoder being written"
    return [Part(name=name, size=max(writing, export), place="host")]


def models_memory(job: Job, *, batch_tokens: int, device: str = "cpu") -> list[Part]:
    """The models that are in memory while the trainer works: both when streaming, else none but small ones.

    A model that is harvested to the disk has gone when the trainer comes: only what it takes beyond the trainer counts.
    """
    model = job.dtype_bytes * job.shape.params
    forward = 6 * job.dtype_bytes * batch_tokens * 4 * job.shape.d_model
    if job.streaming:
        return [
            Part(name=f"both models, {job.dtype_bytes} bytes a parameter", size=2 * model),
            Part(name=f"forward pass of {batch_tokens:,} tokens", size=forward),
            Part(name="two blocks of rows", size=2 * block_bytes(job), place="host"),
        ]
    # Beside the models of the run, the null control's copy in up to twice the precision.
    kept = min(KEEP_LOADED_BYTES, (job.n_models + 2) * model) if model <= KEEP_LOADED_BYTES else 0
    trainer = sum(part.size for part in trainer_memory(job, device=device))
    return [
        Part(name="small models that stay loaded, at most", size=kept),
        Part(name="harvest of a model before that, what it takes more", size=max(0, model + forward - trainer)),
    ]


def block_bytes(job: Job) -> int:
    """Rows of both models in one streamed block, this rank's part."""
    row = job.dtype_bytes * job.inputs
    return max(BLOCK_BYTES, BLOCK_BATCHES * job.batch * row) // job.ranks


def disk(job: Job) -> list[Part]:
    """What is written to the cache and the run's folder, of all ranks; a new checkpoint is written beside the old one."""
    whole = FLOAT * job.n_latents * job.inputs
    sequences = 2 * -(-job.tokens // MAX_LENGTH)
    kept = job.measured if job.streaming else job.tokens
    activations = job.n_models * kept * (job.shape.d_model * job.dtype_bytes + FLOAT)
    parts = [
        Part(name="tokens, while they are shuffled", size=2 * FLOAT * job.tokens + 24 * sequences, place="host"),
        Part(name=f"activations of {job.n_models} models, {kept:,} tokens", size=activations, place="host"),
        Part(name="two checkpoints", size=2 * 6 * whole, place="host"),
        Part(name="crosscoders, native and jumprelu", size=job.n_crosscoders * job.seeds * 2 * 2 * whole, place="host"),
        Part(
            name="dictionaries of differences",
            size=job.n_crosscoders * job.seeds * 2 * 2 * FLOAT * job.difference_latents * job.inputs,
            place="host",
        ),
    ]
    return [part for part in parts if part.size]


def forward_flops(job: Job) -> float:
    """Floating-point operations of one token through one model, up to the block that is read."""
    attention = 4 * job.shape.d_model * (MAX_LENGTH / 2)
    return (job.layer + 1) * (2 * job.shape.layer_params + attention)


def whole_pass(job: Job) -> float:
    """How many times longer a token takes through all blocks and the unembedding than up to the block that is read."""
    blocks = job.shape.n_layers + job.shape.other_params / max(1, job.shape.layer_params)
    return blocks / (job.layer + 1)


def passes(job: Job, *, heldout_share: float) -> float:
    """How often the training part of the corpus is presented."""
    return job.steps * job.batch / max(1.0, job.tokens * (1 - heldout_share))


def size(number: float) -> str:
    """Bytes for people: ``3.3 GB`` (powers of ten)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for people: ``1.5 h``."""
    for unit, scale in (("days", 2 * 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= scale:
            return f"{seconds / (86_400 if unit == 'days' else scale):,.1f} {unit}"
    return f"{seconds:,.1f} s"
