import errno
import os
import signal

import pytest

from bncap.errors import BncapError
from bncap.workers import run_parallel


def describe(number):
    import torch

    return number, torch.get_num_threads(), len(os.sched_getaffinity(0)), os.getpid()


def fail(number):
    if number == 1:
        raise ValueError("job 1 is broken")
    return number


def test_results_come_in_order_from_pinned_single_threads():
    found = run_parallel(describe, [(i,) for i in range(4)], jobs=2)
    assert [number for number, *_ in found] == [0, 1, 2, 3]
    assert {threads for _, threads, _, _ in found} == {1} and {cpus for _, _, cpus, _ in found} == {1}
    assert os.getpid() not in {process for *_, process in found}


def test_the_first_failure_is_raised():
    with pytest.raises(ValueError, match="job 1 is broken"):
        run_parallel(fail, [(0,), (1,), (2,)], jobs=1)


def test_no_work_needs_no_worker():
    assert run_parallel(fail, []) == []


def end_as_a_machine_short_of_memory_ends_it(number):
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at(number):
    raise OSError(errno.ENOSPC, "No space left on device", "steps.csv") if number else BncapError("a.jpg is broken")


def test_a_killed_worker_is_an_error_with_its_remedy():
    with pytest.raises(BncapError, match=r"06_ablations: a worker process ended abruptly.*--jobs"):
        run_parallel(end_as_a_machine_short_of_memory_ends_it, [(0,), (1,)], jobs=2, label="06_ablations")


def test_what_a_worker_says_arrives_as_it_was_said():
    with pytest.raises(BncapError, match=r"^a\.jpg is broken$"):
        run_parallel(fail_at, [(0,)], jobs=1)
    with pytest.raises(OSError, match=r"steps\.csv") as error:
        run_parallel(fail_at, [(1,)], jobs=1)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("wanted", ["two", "-1", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("BNCAP_JOBS", wanted)
    with pytest.raises(BncapError, match="BNCAP_JOBS"):
        run_parallel(fail, [(0,)])
