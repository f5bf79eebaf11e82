"""Threads that load things before their turn, in bounded memory, and end with the iterator they serve."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TypeVar

__all__ = ["load_ahead"]

_Source = TypeVar("_Source")
_Loaded = TypeVar("_Loaded")


def load_ahead(
    sources: Iterable[_Source],
    load: Callable[[_Source], _Loaded],
    weigh: Callable[[_Source | _Loaded], int],
    *,
    limit: int,
    window: int,
    workers: int,
) -> Generator[_Loaded, None, None]:
    """Yields ``load(source)`` for each source, in order, while threads already load the next ones.

    Sources are pulled in the caller's thread. An exception of ``sources`` or ``load`` comes out as it is.
    After it, or when the generator is closed, loads that have begun are waited for, and the rest is dropped.

    Args:
        sources: may be endless.
        load: runs in the threads.
        weigh: what a source, or what was loaded from it, takes of ``limit``.
        limit: nothing is pulled or loaded while as much waits for its turn, except what has its turn.
        window: sources pulled ahead.
        workers: threads; each may exceed the limit by what it has in hand.
    """
    gate = _Gate(limit)

    def work(index: int, source: _Source) -> _Loaded:
        gate.enter(index)
        loaded = load(source)
        gate.add(weigh(loaded))
        return loaded

    pending = iter(sources)
    waiting: deque[tuple[Future[_Loaded], int]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="facekit-load")
    try:
        for turn in count():
            if not waiting or gate.has_room():
                for source in pending:
                    gate.add(weigh(source))
                    waiting.append((pool.submit(work, turn + len(waiting), source), weigh(source)))
                    if len(waiting) >= window or not gate.has_room():
                        break
            if not waiting:
                return
            gate.call(turn)
            future, weight = waiting.popleft()
            loaded = future.result()
            gate.add(-weight - weigh(loaded))
            yield loaded
    finally:
        gate.call(sys.maxsize)  # whoever waits may go
        pool.shutdown(wait=True, cancel_futures=True)


class _Gate:
    """Holds loads back while too much waits, but never the one whose turn it is, or all would wait for it."""

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
