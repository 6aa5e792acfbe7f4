import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import deadline, workers
from bncap.pipeline.workers import run_parallel


def describe(number):
    import torch
    from threadpoolctl import threadpool_info

    threads = {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}
    return number, threads, len(os.sched_getaffinity(0)), os.getpid()


def sum_of_many(seed):
    """The last bits of these depend on how many threads share the sums, and on the state of the generator."""
    import torch

    torch.manual_seed(seed)
    x = torch.randn(300, 400)
    return (x @ x.T).sum().item(), x.softmax(1).sum().item(), torch.rand(1).item()


def test_results_come_in_order_from_pinned_single_threads():
    results = run_parallel(describe, [(i,) for i in range(4)], jobs=2)
    assert [number for number, *_ in results] == [0, 1, 2, 3]
    assert [threads for _, threads, _, _ in results] == [{1}] * 4 and {cpus for _, _, cpus, _ in results} == {1}
    assert os.getpid() not in {process for *_, process in results}


def test_the_same_bytes_come_from_any_number_of_workers_with_preloaded_libraries_or_without(monkeypatch):
    jobs = [(seed,) for seed in range(5)]
    expected = run_parallel(sum_of_many, jobs, jobs=1)
    assert run_parallel(sum_of_many, jobs, jobs=2) == expected
    assert run_parallel(sum_of_many, jobs[::-1], jobs=2) == expected[::-1]
    monkeypatch.setattr(workers, "GPU_DRIVERS", [workers.Path("/")])
    assert run_parallel(sum_of_many, jobs, jobs=2) == expected


def leave_a_file(path, fails):
    if fails:
        raise ValueError("broken")
    time.sleep(0.5)
    path.touch()


def test_a_failure_waits_for_the_job_under_way_and_begins_no_other(tmp_path):
    jobs = [(tmp_path / "first", False), (tmp_path / "second", True), (tmp_path / "third", False)]
    with pytest.raises(ValueError, match="broken"):
        run_parallel(leave_a_file, jobs, jobs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def end_as_a_machine_short_of_memory_ends_it(number):
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_at(number):
    raise OSError(errno.ENOSPC, "No space left on device", "steps.csv") if number else BncapError("a.jpg is broken")


def test_a_killed_worker_is_an_error_with_its_remedy_and_the_next_call_has_new_ones():
    with pytest.raises(BncapError, match=r"06_ablations: .*--jobs"):
        run_parallel(end_as_a_machine_short_of_memory_ends_it, [(0,), (0,)], jobs=2, label="06_ablations")
    assert run_parallel(end_as_a_machine_short_of_memory_ends_it, [(1,), (2,)], jobs=2) == [1, 2]


def test_an_error_in_a_worker_arrives_whole_with_its_traceback():
    with pytest.raises(BncapError, match=r"^a\.jpg is broken$") as error:
        run_parallel(fail_at, [(0,)], jobs=1)
    assert "in fail_at" in str(error.value.__cause__)
    with pytest.raises(OSError, match=r"steps\.csv") as error:
        run_parallel(fail_at, [(1,)], jobs=1)
    assert error.value.errno == errno.ENOSPC


def check_the_time(path):
    deadline.check(str(path))


def test_the_time_limit_and_the_environment_of_the_moment_reach_the_workers(monkeypatch, tmp_path):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path))
    assert run_parallel(os.getenv, [("BNCAP_ARTIFACTS",), ("TQDM_DISABLE",)]) == [str(tmp_path), "1"]
    monkeypatch.setenv(deadline.VARIABLE, str(time.time() - 1))
    with pytest.raises(OutOfTime, match="epoch 3"):
        run_parallel(check_the_time, [("epoch 3",)])


@pytest.mark.parametrize("number", ["two", "-1", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, number):
    monkeypatch.setenv("BNCAP_JOBS", number)
    assert run_parallel(abs, []) == []
    with pytest.raises(BncapError, match="BNCAP_JOBS"):
        run_parallel(abs, [(0,)])


def note_and_sleep(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def started(folder):
    while not any(folder.iterdir()):
        time.sleep(0.05)
    return psutil.Process(int(next(folder.iterdir()).name))


def test_an_interrupt_ends_the_workers_at_once(tmp_path):
    threading.Thread(target=lambda: (started(tmp_path), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt):
        run_parallel(note_and_sleep, [(tmp_path,)])
    assert not multiprocessing.active_children()


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    code = (
        "from pathlib import Path; from tests.pipeline.test_workers import *; "
        f"run_parallel(note_and_sleep, [(Path({str(tmp_path)!r}),)])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=workers.Path(__file__).parents[2])
    worker = started(tmp_path)
    process.kill()
    process.wait()
    worker.wait(60)
