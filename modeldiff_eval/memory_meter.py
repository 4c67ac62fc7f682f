"""The most memory that each stage of a run held: of the process, and of the GPU where there is one.

The kernel keeps one high-water mark for the whole process. A stage that raises it is known exactly; the peak of a later,
smaller stage is what a thread sees that looks ten times a second.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
import weakref

import psutil
import torch

_EVERY = 0.1
_UNIT = 1 if sys.platform == "darwin" else 1024


def high_water() -> int:
    """The most bytes that this process has held since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


class MemoryMeter:
    """Peaks since the last :meth:`lap`. Its thread ends when nobody holds the meter any more."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._mark, self._seen = high_water(), self._process.memory_info().rss
        self._gpu = torch.cuda.is_available()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        threading.Thread(target=_watch, args=(weakref.ref(self),), name="memory", daemon=True).start()

    def look(self) -> None:
        """Take the memory of this moment into account."""
        self._seen = max(self._seen, self._process.memory_info().rss)

    def lap(self) -> dict[str, int]:
        """``process`` and, on CUDA, ``gpu``: peak bytes since the last lap, which begins anew."""
        self.look()
        mark = high_water()
        peaks = {"process": mark if mark > self._mark else self._seen}
        self._mark, self._seen = mark, self._process.memory_info().rss
        if self._gpu:
            peaks["gpu"] = int(torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        return peaks


def _watch(meter: weakref.ref[MemoryMeter]) -> None:
    while (own := meter()) is not None:
        own.look()
        del own
        time.sleep(_EVERY)
