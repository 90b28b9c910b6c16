"""Stages of a pipeline side by side, with bounded queues between them, and the end of a run by Ctrl-C."""

from __future__ import annotations

import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_UP_S = 0.1  # how often a waiting thread looks whether it is still wanted


def prefetch(
    items: Iterable[Item], size: int, stop: threading.Event | None = None
) -> Generator[Item, None, None]:
    """Takes items in a thread of its own, at most `size` ahead of the reader; to be closed after use.

    Args:
        stop: Ends the items early once it is set.
    """
    ahead: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
    unwanted = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> bool:
        while not unwanted.is_set():
            try:
                ahead.put((item, error), timeout=_LOOK_UP_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as error:  # noqa: BLE001 - raised in the reader
            put(None, error)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while stop is None or not stop.is_set():
            try:
                item, error = ahead.get(timeout=_LOOK_UP_S)
            except queue.Empty:
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        unwanted.set()
        thread.join()


class Newest(Generic[Item]):
    """Takes items as fast as they come, in a thread of its own, and hands out the newest.

    To be iterated once and closed after use; the last item is handed out in any case.

    Args:
        stop: Ends the items early once it is set.

    Attributes:
        dropped: Items that nobody took in time.
    """

    def __init__(self, items: Iterable[Item], stop: threading.Event | None = None) -> None:
        self.dropped = 0
        self._items, self._stop = items, stop or threading.Event()
        self._changed = threading.Condition()
        self._newest: tuple[Item] | None = None
        self._error: BaseException | None = None
        self._ended = self._unwanted = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._ended, timeout=_LOOK_UP_S)
                entry, self._newest = self._newest, None
                ended, error = self._ended, self._error
            if entry is not None:
                yield entry[0]
            elif error is not None:
                raise error
            elif ended:
                return

    def close(self) -> None:
        """Takes no more; waits for the item that is under way."""
        self._unwanted = True
        self._thread.join()

    def _run(self) -> None:
        error = None
        try:
            for item in self._items:
                if self._unwanted:
                    break
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = (item,)
                    self._changed.notify()
        except BaseException as problem:  # noqa: BLE001 - raised in the reader
            error = problem
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify()


def in_turn(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """Results in the order of the items, which several threads work on."""
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class Background(Generic[Item]):
    """Hands items to a function in a thread of its own, in order, at most `size` behind.

    As a context manager it waits for what was handed over; after an exception it drops what waits.
    """

    def __init__(self, work: Callable[[Item], object], size: int) -> None:
        self._work = work
        self._waiting: queue.Queue[tuple[Item] | None] = queue.Queue(size)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hands over an item; raises what the function raised for a former one."""
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._waiting.put((item,), timeout=_LOOK_UP_S)
                return
            except queue.Full:
                continue

    def close(self) -> None:
        """Waits until all is done; raises what the function raised."""
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Background[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        self._dropped = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            if self._error is not None or self._dropped:
                continue
            try:
                self._work(entry[0])
            except BaseException as error:  # noqa: BLE001 - raised where the next item comes from
                self._error = error


@contextmanager
def shared_cores(stages: int) -> Iterator[None]:
    """While stages compute side by side, each one's torch kernels take their share of the cores only.

    Otherwise all of them start threads for all cores and wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(before // stages, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event that is given; the next raises KeyboardInterrupt, as always.

    Outside the main thread nothing changes and the event is never set.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    former = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, former)
