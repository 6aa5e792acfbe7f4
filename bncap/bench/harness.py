"""What every benchmark shares: contenders timed in turn, peak memory in a process of its own, tables and JSON."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bncap.bench import memory
from bncap.commands import resources
from bncap.errors import BncapError
from bncap.pipeline import artifacts, provenance

MALLOC = "MALLOC_MMAP_THRESHOLD_"
"""glibc's variable for the size from which a block is mapped, and unmapped, on its own; set, it stays as it is."""


@dataclass(frozen=True)
class Row:
    """One contender.

    ``seconds`` of each repeat; ``rate`` in ``unit`` by the median; ``peak`` bytes; ``note`` such as what it counts.
    """

    name: str
    seconds: tuple[float, ...] = ()
    rate: float | None = None
    unit: str = ""
    peak: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """Something measured beside what was to be reached: ``wanted`` is a least value, or with ``most`` the largest."""

    what: str
    value: float
    wanted: float | None = None
    most: bool = False
    bound: str = ""  # where it is not reached, what it is bounded by

    @property
    def reached(self) -> bool:
        return self.wanted is None or (self.value <= self.wanted if self.most else self.value >= self.wanted)


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome; ``setting`` says in one line what was computed, ``details`` are further figures."""

    bench: str
    size: str
    device: str
    setting: str
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def alternate(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu", warmup: bool = True
) -> dict[str, tuple[float, ...]]:
    """Seconds of ``repeats`` calls of each contender, in turn so that all see the same machine; after one call each."""
    for run in contenders.values() if warmup else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: tuple(values) for name, values in seconds.items()}


def synchronise(device: str) -> None:
    """Wait until the GPU has done what it was told."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """``function(*arguments)`` in a process of its own, and the bytes it had at most.

    On a CPU those are resident bytes above what the process had before the call (torch being imported); on CUDA what
    torch had allocated.
    """
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_watched, function, arguments).result()
    except BrokenProcessPool as error:
        raise BncapError(
            f"{function.__name__}: the process ended abruptly, most likely for lack of memory; use a larger machine"
        ) from error


def peak_memory(function: Callable[..., Any], *arguments: Any) -> int:
    """The second value of :func:`alone` with an allocator that gives back at once what is freed: what is needed, that
    is, without the holes of a heap, as on CUDA."""
    before = os.environ.get(MALLOC)
    os.environ[MALLOC] = str(1 << 17)
    try:
        return alone(function, *arguments)[1]
    finally:
        os.environ.pop(MALLOC)
        if before is not None:
            os.environ[MALLOC] = before


def _watched(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, int]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return function(*arguments), torch.cuda.max_memory_allocated()
    before = memory.resident("VmRSS")
    return function(*arguments), memory.resident("VmHWM") - before


def machine(device: str) -> dict[str, Any]:
    """Processor, memory and, for ``"cuda"``, the GPU."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(resources.memory_here(), 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    if device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
    return found


def _processor() -> str:
    """The maker's name for it, and the instruction sets for small floating-point types that matter here."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    values: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in values.get("flags", "").split()]
    return " ".join([values.get("model name", platform.processor() or platform.machine()), *sets])


def save(result: Result, folder: Path) -> Path:
    """Write ``<bench>-<size>-<device>.json`` with machine, versions and commit; returns its path."""
    path = folder / f"{result.bench}-{result.size}-{result.device}.json"
    rows = [asdict(row) | ({"median": row.median} if row.seconds else {}) for row in result.rows]
    ratios = [asdict(ratio) | {"reached": ratio.reached} for ratio in result.ratios]
    record = asdict(result) | {"rows": rows, "ratios": ratios, "machine": machine(result.device)}
    record |= {"commit": provenance.git_commit(), "packages": provenance.package_versions()}
    artifacts.write_json(path, record)
    return path


def table(result: Result) -> str:
    """The result as lines for a terminal."""
    lines = [f"{result.bench} --size {result.size} --device {result.device}: {result.setting}"]
    lines.append(f"{'':<44} {'median s':>10} {'min':>9} {'max':>9} {'rate':>22} {'peak MB':>9}")
    for row in result.rows:
        times = [f"{t:.4g}" for t in (row.median, min(row.seconds), max(row.seconds))] if row.seconds else [""] * 3
        rate = "" if row.rate is None else f"{row.rate:.4g} {row.unit}"
        peak = "" if row.peak is None else f"{row.peak / 1e6:.0f}"
        lines.append(
            f"{row.name:<44} {times[0]:>10} {times[1]:>9} {times[2]:>9} {rate:>22} {peak:>9}  {row.note}".rstrip()
        )
    for ratio in result.ratios:
        sign = "<=" if ratio.most else ">="
        wanted = (
            "" if ratio.wanted is None else f" (wanted {sign} {ratio.wanted:g}{'' if ratio.reached else ': MISSED'})"
        )
        lines.append(f"{ratio.what}: {ratio.value:.3g}{wanted}{'; ' + ratio.bound if ratio.bound else ''}")
    return "\n".join(lines)


def progress(text: str) -> None:
    print(f"bench: {text} ...", file=sys.stderr, flush=True)
