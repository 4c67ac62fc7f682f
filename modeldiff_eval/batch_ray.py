"""Stages of a batch on Ray, here or on a cluster. The core never imports this module; Ray is the extra ``ray``.

Every machine must see the same cache (``MODELDIFF_CACHE``) and, unless ``--out`` is a URL, the same OUT. A stage whose
worker dies is started again elsewhere and goes on from what lies in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from modeldiff_eval.errors import MissingDependencyError, WorkerError

RETRIES = 3
"""How often a stage is started again after its worker died. A stage that fails by itself is not."""


class OnRay:
    """Each stage as a Ray task; results that others need travel by Ray."""

    def __init__(self, ray: Any, *, cpus: float, gpus: float) -> None:
        self._ray, self._options = ray, {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}

    def submit(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        """See :class:`~modeldiff_eval.executor.Executor`."""
        return self._ray.remote(stage).options(name=name, **self._options).remote(*arguments)

    def finished(self, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """See :class:`~modeldiff_eval.executor.Executor`."""
        keys = {reference: key for key, reference in tasks.items()}
        waiting = list(keys)
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting, num_returns=1)
                yield keys[ready[0]], self._result(ready[0])
        finally:
            for reference in waiting:
                self._ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return error.cause if isinstance(error.cause, Exception) else error
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0]
            return WorkerError(
                f"Its worker died {RETRIES + 1} times, the last time so: {first} Look into memory and Ray's logs."
            )


@contextmanager
def on_ray(
    address: str | None = None, *, cpus: float = 1, gpus: float = 0, workers: int | None = None
) -> Iterator[OnRay]:
    """Ray at ``address`` (``auto``, ``ray://host:port``), or one of our own on this machine that ends with the block.

    Args:
        cpus, gpus: what each stage asks for.
        workers: CPUs of the local Ray; this machine's where left out.

    Raises:
        MissingDependencyError: Ray is not installed.
        WorkerError: there is no Ray at ``address``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--executor ray needs Ray: pip install 'modeldiff-eval[ray]'.") from error
    if ray.is_initialized():  # Somebody else's, who ends it.
        yield OnRay(ray, cpus=cpus, gpus=gpus)
        return
    own = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    options: dict[str, Any] = {"address": address} if address else own
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = address or "this machine"
        raise WorkerError(f"Cannot start with Ray at {where}: {error} Is it running (`ray status`)?") from error
    try:
        yield OnRay(ray, cpus=cpus, gpus=gpus)
    finally:
        ray.shutdown()
