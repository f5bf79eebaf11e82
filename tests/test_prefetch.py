"""Order, bounds and endings of loading ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.prefetch import map_ahead


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("facekit")]


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    assert not loaders()


def ahead(sources: Any, load: Any = lambda x: x, weigh: Any = lambda x: 1, **options: int) -> Any:
    return map_ahead(load, sources, weigh=weigh, **({"limit": 8, "window": 4, "workers": 2} | options))


@given(
    weights=st.lists(st.integers(0, 50), max_size=40),
    options=st.fixed_dictionaries(
        {"limit": st.integers(1, 60), "window": st.integers(1, 9), "workers": st.integers(1, 4)}
    ),
)
@settings(max_examples=60, deadline=None)
def test_everything_comes_once_and_in_order(weights: list[int], options: dict[str, int]) -> None:
    def weigh(thing: Any) -> int:
        return thing[0] if isinstance(thing, tuple) else 0

    assert list(ahead(weights, lambda w: (w,), weigh, **options)) == [(w,) for w in weights]


def test_an_endless_source_is_pulled_no_further_than_the_window() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            pulled.append(len(pulled))
            yield pulled[-1]

    with closing(ahead(endless(), weigh=lambda x: 0)) as loaded:
        for expected in range(100):
            assert next(loaded) == expected
            assert len(pulled) <= expected + 1 + 4


def test_what_waits_is_bounded_by_the_limit_and_one_thing_a_thread() -> None:
    lock, held, most = threading.Lock(), [0], [0]

    def load(source: int) -> tuple[int]:
        with lock:
            held[0] += 10
            most[0] = max(most[0], held[0])
        return (source,)

    def weigh(thing: Any) -> int:
        return 10 if isinstance(thing, tuple) else 0

    for _ in ahead(range(300), load, weigh, limit=30, window=100, workers=3):
        with lock:
            held[0] -= 10
    assert most[0] <= 30 + 3 * 10


def test_sources_that_are_heavy_themselves_are_not_pulled_ahead() -> None:
    pulled: list[int] = []

    def sources() -> Iterator[int]:
        for i in range(50):
            pulled.append(i)
            yield i

    for turn, _ in enumerate(ahead(sources(), weigh=lambda x: 5, limit=10, window=100)):
        assert len(pulled) <= turn + 4


def test_a_thing_above_the_limit_still_has_its_turn() -> None:
    assert list(ahead(range(9), weigh=lambda x: 1000, limit=1)) == list(range(9))


def test_leaving_early_ends_the_threads_and_drops_the_rest() -> None:
    loaded_things: list[int] = []
    loaded = ahead(range(1000), lambda x: loaded_things.append(x) or x)
    assert next(loaded) == 0
    assert loaders()
    loaded.close()
    assert not loaders()
    assert len(loaded_things) <= 1 + 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_a_load_comes_out_in_its_turn(error: type[BaseException]) -> None:
    def load(source: int) -> int:
        if source == 7:
            raise error("seven")
        return source

    seen: list[int] = []
    with pytest.raises(error, match="seven"):
        seen.extend(ahead(range(100), load))
    assert seen == list(range(7))


def test_each_thread_begins_with_what_it_is_told() -> None:
    begun: list[str] = []
    options = {"workers": 3, "window": 6}

    def begin() -> None:
        begun.append(threading.current_thread().name)

    list(map_ahead(lambda x: x, range(50), begin=begin, **options))
    assert 1 <= len(begun) == len(set(begun)) <= 3


def test_an_exception_of_the_sources_comes_out() -> None:
    def sources() -> Iterator[int]:
        yield from range(3)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(ahead(sources(), window=1))
