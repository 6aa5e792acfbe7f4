"""Independent jobs in parallel, each in a worker process with one pinned thread.

As every job has one thread, its floating-point results do not depend on the number of workers.  On Linux the workers
are forked from a server that imports the heavy libraries once.  A fork must not inherit a state of the GPU: where there
is one, and on other systems, each worker imports for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bncap.errors import BncapError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WORKER_ENVIRONMENT = dict.fromkeys(THREAD_VARIABLES, "1") | {
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # bars of several workers would overwrite each other
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Set before a worker imports the libraries, which read it."""
PRELOADED = (
    "torch", "transformers.models.mbart.modeling_mbart", "transformers.models.mbart50.tokenization_mbart50",
    "bert_score.utils", "sacrebleu", "nltk.translate.meteor_score",
)  # fmt: skip
"""What training and scoring import."""
GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def processors() -> list[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_jobs() -> int:
    """``BNCAP_JOBS``, or else as many as there are processors for this process."""
    jobs = os.environ.get("BNCAP_JOBS", "0")
    if not jobs.isdecimal():
        raise BncapError(f"BNCAP_JOBS={jobs}: write a whole number of worker processes, such as 2")
    return int(jobs) or len(processors())


def run_parallel(
    function: Callable[..., Any], arguments: Sequence[tuple], jobs: int | None = None, label: str = ""
) -> list[Any]:
    """``[function(*a) for a in arguments]``, by at most ``jobs`` worker processes; results in order.

    ``function`` and its arguments must pickle.  The first exception of a job is raised after the jobs under way have
    ended, so that what they made is kept; a killed worker ends the others and is a :class:`BncapError`.  An interrupt,
    or the end of this process, ends all workers.
    """
    if not arguments:
        return []
    label = label or function.__name__
    jobs = min(jobs or default_jobs(), len(arguments))
    waiting, results = list(enumerate(arguments))[::-1], {}
    failure: BaseException | None = None
    children = set(multiprocessing.active_children())
    with _start_pool(jobs) as pool, tqdm(total=len(arguments), desc=label, unit="job") as bar:
        running: dict[Future, int] = {}
        try:
            while running or (waiting and failure is None):
                while waiting and failure is None and len(running) < jobs:
                    number, job = waiting.pop()
                    running[pool.submit(function, *job)] = number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    if error := future.exception():
                        failure = failure or error
                    else:
                        results[number] = future.result()
                        bar.update()
        except BaseException:  # an interrupt: do not wait for the jobs
            for child in set(multiprocessing.active_children()) - children:
                child.kill()
            raise
    if isinstance(failure, BrokenProcessPool):
        raise BncapError(
            f"{label}: a worker process ended abruptly, most likely for lack of memory; "
            f"start again with fewer than {jobs} workers (--jobs) or more memory; finished jobs are kept"
        ) from failure
    if failure is not None:
        raise failure
    return [results[number] for number in range(len(arguments))]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in here: the order of a sum, and with it the last bit, depends on how many threads share it."""
    import torch  # heavy, and not needed to start workers
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def preload() -> BaseContext:
    """Start the server that workers are forked from, where they can be; :func:`run_parallel` then starts sooner."""
    if sys.platform != "linux" or any(driver.exists() for driver in GPU_DRIVERS):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    before = dict(os.environ)
    os.environ.update(WORKER_ENVIRONMENT)  # for what the server imports
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _start_pool(jobs: int) -> ProcessPoolExecutor:
    context = preload()
    turns = context.SimpleQueue() if jobs > 1 else None  # a worker without others is not pinned
    if turns is not None:
        for turn in range(jobs):
            turns.put(turn)
    return ProcessPoolExecutor(jobs, context, _prepare_worker, ({**os.environ, **WORKER_ENVIRONMENT}, turns))


def _prepare_worker(environment: dict[str, str], turns: SimpleQueue | None) -> None:
    """Give a worker its environment and processor, and let it end with the process that started it."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if turns is not None and hasattr(os, "sched_setaffinity"):
        mine = processors()
        os.sched_setaffinity(0, {mine[turns.get() % len(mine)]})


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
