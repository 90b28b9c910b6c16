from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fasthmr.runtime.threads import Background, Newest, first_interrupt, in_turn, prefetch, shared_cores


def test_items_come_in_order_from_another_thread() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for index in range(20):
            threads.add(threading.get_ident())
            yield index

    assert list(prefetch(items(), 3)) == list(range(20))
    assert threads and threading.get_ident() not in threads


def test_the_source_runs_only_a_little_ahead() -> None:
    threads_before = threading.active_count()
    taken = []

    def items() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    ahead = prefetch(items(), 4)
    next(ahead)
    time.sleep(0.3)
    assert len(taken) <= 6
    ahead.close()
    assert len(taken) <= 6
    assert threading.active_count() <= threads_before


def test_errors_of_the_source_arrive() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    ahead = prefetch(items(), 4)
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_a_stop_ends_the_items_even_when_the_source_waits() -> None:
    stop, wake = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        wake.wait(5)

    ahead = prefetch(items(), 4, stop)
    assert next(ahead) == 1
    threading.Timer(0.1, lambda: (stop.set(), wake.set())).start()
    assert list(ahead) == []


def test_several_threads_give_results_in_order() -> None:
    threads_before = threading.active_count()

    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0.001)
        return item * item

    taken = []
    items = (taken.append(item) or item for item in range(50))
    results = in_turn(work, items, 2)
    assert next(results) == 0
    assert len(taken) <= 4
    assert list(results) == [item * item for item in range(1, 50)]
    with pytest.raises(ZeroDivisionError):
        list(in_turn(lambda item: 1 // item, [1, 0, 1], 2))
    early = in_turn(work, iter(range(50)), 2)
    next(early)
    early.close()
    assert threading.active_count() <= threads_before


def test_background_work_is_done_in_order_and_waited_for() -> None:
    done = []
    with Background(lambda item: (time.sleep(0.01), done.append(item)), 2) as work:
        for index in range(10):
            work.put(index)
    assert done == list(range(10))


def test_errors_of_background_work_arrive() -> None:
    def fail(item: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Background(fail, 1) as work:
        for index in range(100):
            work.put(index)
    with pytest.raises(ZeroDivisionError), Background(fail, 1) as work:
        work.put(0)


def test_after_an_error_waiting_items_are_dropped() -> None:
    threads_before = threading.active_count()
    done = []
    with pytest.raises(KeyError), Background(lambda item: (time.sleep(0.05), done.append(item)), 8) as work:
        for index in range(8):
            work.put(index)
        raise KeyError
    assert len(done) < 8
    assert threading.active_count() <= threads_before


def test_stages_share_the_cores() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        inside = []
        with shared_cores(2):
            thread = threading.Thread(target=lambda: inside.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert [torch.get_num_threads(), *inside] == [2, 2]
            with shared_cores(5):
                assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_r16_the_first_interrupt_is_noted_and_the_second_raises() -> None:
    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), first_interrupt() as stopped:
        assert not stopped.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert stopped.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is former


def test_interrupts_in_other_threads_are_left_alone() -> None:
    events = []

    def work() -> None:
        with first_interrupt() as stopped:
            events.append(stopped.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert events == [False]


def test_the_newest_item_goes_first() -> None:
    threads_before = threading.active_count()

    def items() -> Iterator[int]:
        for index in range(50):
            time.sleep(0.01)
            yield index

    newest = Newest(items())
    got = []
    for item in newest:
        got.append(item)
        time.sleep(0.05)
    assert got == sorted(set(got)) and got[-1] == 49
    assert newest.dropped == 50 - len(got) > 20
    newest.close()
    assert threading.active_count() <= threads_before


def test_the_newest_item_of_a_broken_source() -> None:
    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.2)
        raise ZeroDivisionError

    newest = Newest(items())
    with pytest.raises(ZeroDivisionError):
        assert list(newest) == [1]
    stop = threading.Event()
    stop.set()
    assert list(Newest(iter(range(3)), stop)) == []
