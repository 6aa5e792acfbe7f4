"""Independent jobs side by side, each in a process of its own with one pinned thread.

On two CPU cores two such workers are about twice as fast as one process with two threads; and as every job has one
thread whatever the number of workers, its floating-point results do not depend on that number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partialmethod
from multiprocessing.connection import wait
from typing import Any

from tqdm.auto import tqdm

from bncap.errors import BncapError
from bncap.pipeline import warm

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WORKER_ENVIRONMENT = dict.fromkeys(THREAD_VARIABLES, "1") | {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}


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

    ``function`` and its arguments must pickle.  Jobs begin in order.  The first exception of a job is raised here,
    after the jobs that were under way have ended, so that what they made is kept; a worker that is killed is a
    :class:`BncapError`.
    """
    if not arguments:
        return []
    label = label or function.__name__
    jobs = min(jobs or default_jobs(), len(arguments))
    waiting, results = list(range(len(arguments)))[::-1], {}
    failure: Exception | None = None
    with (
        warm.server(),
        ExitStack() as ending,
        tqdm(total=len(arguments), desc=label, unit="job") as bar,
    ):
        busy: dict[Any, tuple[warm.Process, int | None]] = {}  # connection -> the worker and its job
        for turn in range(jobs):
            worker = ending.enter_context(closing(warm.Process({**os.environ, **WORKER_ENVIRONMENT})))
            worker.start(_confine, turn if jobs > 1 else None)
            busy[worker.connection] = worker, None
        while busy:
            for connection in wait(list(busy)):
                worker, job = busy.pop(connection)
                try:
                    result = worker.result()
                except EOFError:
                    failure = failure or BncapError(
                        f"{label}: a worker process ended abruptly, most likely for lack of memory; "
                        f"start again with fewer than {jobs} workers (--jobs) or more memory; finished jobs are kept"
                    )
                except Exception as error:
                    failure = failure or error
                else:
                    if job is not None:
                        results[job] = result
                        bar.update()
                if waiting and failure is None:
                    worker.start(function, *arguments[waiting[-1]])
                    busy[connection] = worker, waiting.pop()
    if failure is not None:
        raise failure
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


def _confine(turn: int | None) -> None:
    """One thread, and on the ``turn``-th processor alone; a worker without others leaves it to the system."""
    import torch
    from threadpoolctl import threadpool_limits

    if turn is not None:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[turn % len(processors)]})
    torch.set_num_threads(1)
    threadpool_limits(1)  # libraries that were loaded before the environment said so
    # The workers' bars would cross each other; neither the notebook's kind nor transformers', which was imported
    # before, looks at the environment.
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()
