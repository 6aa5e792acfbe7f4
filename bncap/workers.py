"""Independent jobs side by side, each in a process of its own with one pinned thread.

On two CPU cores two such workers are about twice as fast as one process with two threads; and as every job has one
thread whatever the number of workers, its floating-point results do not depend on that number.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from bncap.errors import BncapError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def default_jobs() -> int:
    """``BNCAP_JOBS``, or else as many as there are processors for this process."""
    wanted = os.environ.get("BNCAP_JOBS", "0")
    if not wanted.isdecimal():
        raise BncapError(f"BNCAP_JOBS={wanted}: write a whole number of worker processes, such as 2")
    return int(wanted) or len(os.sched_getaffinity(0))


def run_parallel(
    function: Callable[..., Any], arguments: Sequence[tuple], jobs: int | None = None, label: str = ""
) -> list[Any]:
    """``[function(*a) for a in arguments]``, by at most ``jobs`` worker processes; results in order.

    ``function`` and its arguments must pickle.  The first exception of a job is raised here, after the jobs that were
    under way have ended, so that what they made is kept; a worker that is killed is a :class:`BncapError`.
    """
    if not arguments:
        return []
    jobs = min(jobs or default_jobs(), len(arguments))
    context = multiprocessing.get_context("spawn")
    results: dict[int, Any] = {}
    with (
        _environment(TQDM_DISABLE="1"),  # inherited by the workers, whose bars would cross each other
        ProcessPoolExecutor(jobs, context, initializer=_pin, initargs=(context.Value("i", 0),)) as pool,
        tqdm(total=len(arguments), desc=label or function.__name__, unit="job") as bar,
    ):
        futures = {pool.submit(function, *a): i for i, a in enumerate(arguments)}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise BncapError(
                f"{label or function.__name__}: a worker process ended abruptly, most likely for lack of memory; "
                f"start again with fewer than {jobs} workers (--jobs) or more memory; finished jobs are kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [results[i] for i in range(len(arguments))]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in here: the order of a sum, and with it the last bit, depends on how many threads share it."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _pin(counter: Any) -> None:
    """One thread on one processor; runs in the worker before torch is imported."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with counter.get_lock():
        turn = counter.value
        counter.value += 1
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[turn % len(processors)]})
    import torch

    torch.set_num_threads(1)
