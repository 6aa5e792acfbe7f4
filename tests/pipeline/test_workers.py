import errno
import os
import signal
import time

import pytest

from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import deadline, warm
from bncap.pipeline.workers import run_parallel


@pytest.fixture(scope="module", autouse=True)
def shared_server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "preloaded", lambda: ("torch",))
        with warm.server():
            yield


def describe(number):
    import torch

    return number, torch.get_num_threads(), len(os.sched_getaffinity(0)), os.getpid()


def fail(number):
    if number == 1:
        raise ValueError("job 1 is broken")
    return number


def sum_of_many(seed):
    """The last bits of these depend on how many threads share the sums, and on the state of the generator."""
    import torch

    torch.manual_seed(seed)
    x = torch.randn(300, 400)
    return (x @ x.T).sum().item(), x.softmax(1).sum().item(), torch.rand(1).item()


def test_results_come_in_order_from_pinned_single_threads():
    found = run_parallel(describe, [(i,) for i in range(4)], jobs=2)
    assert [number for number, *_ in found] == [0, 1, 2, 3]
    assert {threads for _, threads, _, _ in found} == {1} and {cpus for _, _, cpus, _ in found} == {1}
    assert os.getpid() not in {process for *_, process in found}


def test_the_same_bytes_come_from_one_worker_and_two_and_from_a_server_of_the_calls_own(monkeypatch):
    jobs = [(seed,) for seed in range(5)]
    expected = run_parallel(sum_of_many, jobs, jobs=1)
    assert run_parallel(sum_of_many, jobs, jobs=2) == expected
    assert run_parallel(sum_of_many, jobs[::-1], jobs=2) == expected[::-1]
    monkeypatch.delenv(warm.VARIABLE)
    monkeypatch.setattr(warm, "preloaded", lambda: ())
    assert run_parallel(sum_of_many, jobs, jobs=2) == expected


def test_the_first_failure_is_raised():
    with pytest.raises(ValueError, match="job 1 is broken"):
        run_parallel(fail, [(0,), (1,), (2,)], jobs=1)


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


def test_no_work_needs_no_worker():
    assert run_parallel(fail, []) == []


def end_as_a_machine_short_of_memory_ends_it(number):
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_at(number):
    raise OSError(errno.ENOSPC, "No space left on device", "steps.csv") if number else BncapError("a.jpg is broken")


def test_a_killed_worker_is_an_error_with_its_remedy_and_the_next_call_has_new_ones():
    with pytest.raises(BncapError, match=r"06_ablations: a worker process ended abruptly.*--jobs"):
        run_parallel(end_as_a_machine_short_of_memory_ends_it, [(0,), (0,)], jobs=2, label="06_ablations")
    assert run_parallel(end_as_a_machine_short_of_memory_ends_it, [(1,), (2,)], jobs=2) == [1, 2]


def test_what_a_worker_says_arrives_as_it_was_said_with_where_it_was_said():
    with pytest.raises(BncapError, match=r"^a\.jpg is broken$") as error:
        run_parallel(fail_at, [(0,)], jobs=1)
    assert "in fail_at" in str(error.value.__cause__)
    with pytest.raises(OSError, match=r"steps\.csv") as error:
        run_parallel(fail_at, [(1,)], jobs=1)
    assert error.value.errno == errno.ENOSPC


def a_bar_is_shown():
    from tqdm.auto import tqdm

    return not tqdm(range(1)).disable


def test_workers_show_no_bars_though_the_server_has_imported_what_draws_them(monkeypatch):
    monkeypatch.delenv(warm.VARIABLE)
    monkeypatch.setattr(warm, "preloaded", lambda: ("tqdm.auto",))
    assert run_parallel(a_bar_is_shown, [()]) == [False]


def check_the_time(path):
    deadline.check(str(path))


def test_the_time_limit_and_the_environment_of_the_moment_reach_the_workers(monkeypatch, tmp_path):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path))
    assert run_parallel(os.getenv, [("BNCAP_ARTIFACTS",), ("TQDM_DISABLE",)]) == [str(tmp_path), "1"]
    monkeypatch.setenv(deadline.VARIABLE, str(time.time() - 1))
    with pytest.raises(OutOfTime, match="time is up at epoch 3"):
        run_parallel(check_the_time, [("epoch 3",)])


@pytest.mark.parametrize("wanted", ["two", "-1", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("BNCAP_JOBS", wanted)
    with pytest.raises(BncapError, match="BNCAP_JOBS"):
        run_parallel(fail, [(0,)])
