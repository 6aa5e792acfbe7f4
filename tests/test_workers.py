import os

import pytest

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
