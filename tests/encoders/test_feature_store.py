import threading
import time

import pytest

from bncap.encoders.features import prefetched


def test_results_come_in_order_whichever_thread_is_first():
    def slow_at_first(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(prefetched(slow_at_first, range(20), threads=4)) == [i * i for i in range(20)]


def test_work_is_done_ahead_but_no_further_than_asked():
    done = []
    found = prefetched(done.append, range(100), ahead=3)
    next(found)
    for _ in range(200):
        if len(done) == 4:
            break
        time.sleep(0.005)
    time.sleep(0.02)
    assert done == [0, 1, 2, 3]
    found.close()


def test_an_error_in_the_thread_reaches_the_caller_after_what_came_before():
    def fail_at_three(i):
        if i == 3:
            raise ValueError("picture 3 is broken")
        return i

    found, seen = prefetched(fail_at_three, range(10)), []
    with pytest.raises(ValueError, match="picture 3 is broken"):
        seen.extend(found)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("end", ["closed early", "used up", "failed"])
def test_the_threads_end_with_the_iterator(end):
    before = threading.active_count()
    found = prefetched(lambda i: 1 // (5 - i), range(10) if end == "failed" else range(5), threads=2)
    assert next(found) == 0
    if end == "closed early":
        found.close()
    elif end == "failed":
        with pytest.raises(ZeroDivisionError):
            list(found)
    else:
        list(found)
    assert threading.active_count() == before
