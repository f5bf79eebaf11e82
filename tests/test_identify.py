"""People by their best sample, against a loop over everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.errors import SettingError
from facekit.identify import Identification, Match, PersonIndex


def unit(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_loop(vectors: np.ndarray, people: list[str], probe: np.ndarray, top_k: int) -> list[tuple[str, int]]:
    """(person, row of the best sample), best first; of equals the first row counts."""
    scores = (vectors.astype(np.float64) @ probe.astype(np.float64)).astype(np.float32)
    best: dict[str, int] = {}
    for row in sorted(range(len(people)), key=lambda row: (-scores[row], row)):
        best.setdefault(people[row], row)
    return list(best.items())[:top_k]


@settings(max_examples=40, deadline=None)
@given(
    people=st.lists(st.sampled_from("ABCDE"), max_size=60),
    crowd=st.integers(0, 200),
    top_k=st.integers(1, 7),
    distinct=st.integers(1, 50),
)
def test_as_a_loop_over_everything_has_it(people: list[str], crowd: int, top_k: int, distinct: int) -> None:
    """With few distinct vectors, so with many ties, and with one person who crowds the others out."""
    people = people + ["X"] * crowd
    vectors = unit(distinct)[np.arange(len(people)) % distinct]
    probes = unit(4, seed=1)
    probes[0] = unit(distinct)[0]
    index = PersonIndex(vectors, people, [str(row) for row in range(len(people))])
    for probe, found in zip(probes, index.search(probes, top_k), strict=True):
        assert [(match.person, int(match.source)) for match in found] == by_loop(
            vectors, people, probe, top_k
        )
        assert [match.rank for match in found] == list(range(1, len(found) + 1))
        for match in found:
            assert match.similarity == pytest.approx(float(vectors[int(match.source)] @ probe), abs=1e-6)


def test_one_person_with_a_thousand_near_samples_does_not_hide_the_others() -> None:
    probe = unit(1)
    near = probe + 0.01 * unit(1000, seed=2)
    far = unit(3, seed=3)
    vectors = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), far]).astype(np.float32)
    people = ["crowd"] * 1000 + ["A", "B", "C"]
    (found,) = PersonIndex(vectors, people, people).search(probe, 3)
    assert found[0].person == "crowd"
    assert len({match.person for match in found}) == 3


def test_nobody_and_nothing() -> None:
    empty = PersonIndex(np.empty((0, 16), np.float32), [], [])
    assert empty.search(unit(2), 5) == [[], []]
    assert PersonIndex(unit(3), list("ABC"), list("abc")).search(unit(0), 5) == []


def test_bad_arguments() -> None:
    index = PersonIndex(unit(3), list("ABC"), list("abc"))
    with pytest.raises(SettingError, match="top_k is 0"):
        index.search(unit(1), 0)
    with pytest.raises(SettingError, match="dimensions"):
        index.search(unit(1, dim=8), 1)


def test_a_match_unpacks() -> None:
    match = Match("Ann", 0.5, "a.jpg", 1)
    person, similarity = match
    assert (person, similarity) == ("Ann", 0.5)
    assert match.to_dict() == {"person": "Ann", "similarity": 0.5, "source": "a.jpg", "rank": 1}


def test_an_identification_reads_as_a_name() -> None:
    best = Match("Ann", 0.5, "a.jpg", 1)
    known, stranger = Identification("Ann", best, 0.4, 1e-3), Identification(None, best, 0.6)
    nobody = Identification(None, None, 0.6)
    assert (bool(known), bool(stranger), bool(nobody)) == (True, False, False)
    assert (f"{known}", f"{stranger:>9}", str(nobody)) == ("Ann", "  unknown", "unknown")
    assert (known.similarity, stranger.similarity, nobody.similarity) == (0.5, 0.5, -1)
    assert known.to_dict() == {"person": "Ann", "best": best.to_dict(), "threshold": 0.4, "far": 1e-3}
    assert nobody.to_dict() == {"person": None, "best": None, "threshold": 0.6, "far": None}
