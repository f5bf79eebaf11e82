"""Threads that work ahead of an iterator, in order and in bounded memory, and that end with it."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TypeVar

import torch

__all__ = ["map_ahead", "use_cores"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_ONE_AT_A_TIME = threading.Lock()


def _weightless(_: object) -> int:
    return 0


def map_ahead(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int,
    window: int,
    weigh: Callable[[_Item | _Result], int] = _weightless,
    limit: int = 1,
    begin: Callable[[], None] | None = None,
) -> Generator[_Result, None, None]:
    """Yields ``function(item)`` for each item, in order, while threads already work on the next ones.

    Items are pulled in the caller's thread. An exception of ``items`` or ``function`` comes out as it is.
    After it, or when the generator is closed, work that has begun is waited for, and the rest is dropped.

    Args:
        function: runs in the threads.
        items: may be endless.
        workers: threads.
        window: items pulled ahead.
        weigh: what an item, or its result, takes of ``limit``.
        limit: nothing is pulled or begun while as much waits for its turn, except what has its turn; each
            thread may exceed it by what it has in hand.
        begin: what each thread does first.
    """
    gate = _Gate(limit)

    def work(index: int, item: _Item) -> _Result:
        gate.enter(index)
        result = function(item)
        gate.add(weigh(result))
        return result

    pending = iter(items)
    waiting: deque[tuple[Future[_Result], int]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="facekit", initializer=begin)
    try:
        for turn in count():
            if not waiting or gate.has_room():
                for item in pending:
                    weight = weigh(item)
                    gate.add(weight)
                    waiting.append((pool.submit(work, turn + len(waiting), item), weight))
                    if len(waiting) >= window or not gate.has_room():
                        break
            if not waiting:
                return
            gate.call(turn)
            future, weight = waiting.popleft()
            result = future.result()
            gate.add(-weight - weigh(result))
            yield result
    finally:
        gate.call(sys.maxsize)  # whoever waits may go
        pool.shutdown(wait=True, cancel_futures=True)


class _Gate:
    """Holds work back while too much waits, but never the one whose turn it is, or all would wait for it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._turn = limit, 0, 0
        self._changed = threading.Condition()

    def has_room(self) -> bool:
        return self._held < self._limit

    def enter(self, index: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.has_room() or index <= self._turn)

    def add(self, weight: int) -> None:
        with self._changed:
            self._held += weight
            self._changed.notify_all()

    def call(self, turn: int) -> None:
        with self._changed:
            self._turn = turn
            self._changed.notify_all()


def use_cores(count: int) -> None:
    """Gives torch so many cores in this thread; all other threads keep what they have.

    torch keeps a number for every thread that has used it, and one for threads to come; ``set_num_threads``
    sets this thread's and the latter, which a newcomer therefore puts back.
    """
    with _ONE_AT_A_TIME, ThreadPoolExecutor(1) as newcomer:
        usual = newcomer.submit(torch.get_num_threads).result()
        torch.get_num_threads()  # or the thread would count as one to come
        torch.set_num_threads(count)
        newcomer.submit(torch.set_num_threads, usual).result()
