"""The votes of nearest neighbours against a loop, and the divergence that a network learnt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import made
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from facekit.checkpoint import ModelConfig
from facekit.errors import CheckpointError, SettingError
from facekit.train.heads import BregmanSubnetworks, ProjectionHead
from facekit.train.probe import neighbours
from facekit.train.probe.backbone import Backbone
from facekit.train.probe.divergence import open_divergence
from facekit.train.probe.examples import TEST, TRAIN, Examples, Picture
from facekit.train.probe.features import Features
from facekit.train.probe.neighbours import NeighbourSettings, neighbour_outputs, vote

UNKNOWN = math.nan


def cosine(queries: Tensor, bank: Tensor) -> Tensor:
    return queries @ bank.T


def slow_vote(bank: Tensor, targets: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    """Wu et al. 2018, 3.4, one query and one target at a time."""
    out = torch.empty(len(queries), targets.shape[1], dtype=torch.float64)
    for row, query in enumerate(queries.tolist()):
        scores = [sum(a * b for a, b in zip(query, other, strict=True)) for other in bank.tolist()]
        nearest = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        for column in range(targets.shape[1]):
            known = [i for i in nearest if not math.isnan(targets[i, column])]
            weights = [math.exp(scores[i] / temperature) for i in known]
            votes = sum(w * float(targets[i, column]) for w, i in zip(weights, known, strict=True))
            out[row, column] = votes / sum(weights) if known else 0.5
    return out.float()


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.1), (7, 0.02), (200, 0.5)])
def test_votes_are_those_of_a_loop(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(k)
    bank = F.normalize(torch.randn(23, 6, generator=generator))
    queries = F.normalize(torch.randn(11, 6, generator=generator))
    targets = (torch.rand(23, 3, generator=generator) < 0.4).float()
    targets[torch.rand(23, 3, generator=generator) < 0.3] = UNKNOWN
    settings = NeighbourSettings(neighbours=k, temperature=temperature)
    expected = slow_vote(bank, targets, queries, k, temperature)
    whole = vote(bank, targets, queries, settings, cosine)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(neighbours, "_AT_ONCE", 50)
    torch.testing.assert_close(vote(bank, targets, queries, settings, cosine), whole)


def test_a_low_temperature_is_the_nearest_neighbour_and_loses_nobody() -> None:
    bank, queries = torch.eye(3), F.normalize(torch.tensor([[1.0, 0.2, 0.1], [0.0, 0.1, 1.0]]))
    settings = NeighbourSettings(temperature=1e-3)
    assert vote(bank, torch.eye(3), queries, settings, cosine).argmax(1).tolist() == [0, 2]
    unknown = torch.full((3, 1), UNKNOWN)
    assert vote(bank, unknown, queries, settings, cosine).tolist() == [[0.5], [0.5]]


def features(vectors: Tensor, examples: Examples, source: str = "made") -> Features:
    """Features that are already known."""
    config = ModelConfig("made", vectors.shape[1], 8, "rgb", (0.0,) * 3, (1.0,) * 3)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network.append(torch.nn.Linear(3, vectors.shape[1]))
    found = Features(Backbone(source, network, config, made.CPU), examples, "vector")
    found._kept[0].copy_(vectors)
    found._known[:, 0] = True
    return found


def examples(task: str, targets: Tensor, names: tuple[str, ...]) -> Examples:
    split = torch.where(torch.arange(len(targets)) % 3 == 2, TEST, TRAIN).to(torch.uint8)
    return Examples("made", task, names, [Picture(Path("none"))] * len(targets), targets, split)


def test_what_each_task_gets() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = 5 * torch.randn(60, 4, generator=generator)
    labels = (vectors[:, 0] > 0).long() + 2 * (vectors[:, 1] > 0).long()
    settings = NeighbourSettings(neighbours=5)
    told = examples("classes", labels, ("a", "b", "c", "d"))
    rows, wanted = told.rows(TRAIN), told.rows(TEST)
    outputs = neighbour_outputs(features(vectors, told), rows, wanted, settings)
    units = F.normalize(vectors)
    one_hot = F.one_hot(labels[rows], 4).float()
    torch.testing.assert_close(
        outputs.softmax(1), vote(units[rows], one_hot, units[wanted], settings, cosine), rtol=0, atol=1e-5
    )
    assert float((outputs.argmax(1) == labels[wanted]).float().mean()) > 0.6

    both = torch.stack([labels % 2, labels // 2], 1).float()
    both[0, 0] = UNKNOWN
    told = examples("attributes", both, ("a", "b"))
    outputs = neighbour_outputs(features(vectors, told), rows, wanted, settings)
    shares = vote(units[rows], both[rows], units[wanted], settings, cosine)
    assert (outputs > 0).equal(shares > 0.5)
    assert bool(outputs.isfinite().all())

    told = examples("identities", labels, ("a", "b", "c", "d"))
    torch.testing.assert_close(
        neighbour_outputs(features(vectors, told), rows, wanted, settings), units[wanted]
    )
    told = examples("affect", both, ("valence", "arousal"))
    with pytest.raises(SettingError, match="made: nearest neighbours do not tell affect"):
        neighbour_outputs(features(vectors, told), rows, wanted, settings)


def write_head(folder: Path, **changes: Tensor) -> tuple[ProjectionHead, BregmanSubnetworks]:
    """``head.safetensors`` as the recipe writes it."""
    torch.manual_seed(0)
    projection, subnetworks = ProjectionHead(4, version="bregman", out=8), BregmanSubnetworks(8, 6, 5)
    with torch.no_grad():  # so that each of them wins somewhere
        usual = subnetworks.eval()(F.normalize(projection.eval()(torch.randn(500, 4))))
        subnetworks.out_bias -= usual.mean(0)
    tensors = {f"projection.{name}": value for name, value in projection.state_dict().items()}
    tensors |= {f"subnetworks.{name}": value for name, value in subnetworks.state_dict().items()}
    tensors |= {"temperature": torch.tensor(0.1), "sigma": torch.tensor(0.9), **changes}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "head.safetensors")
    return projection, subnetworks


def test_the_divergence_is_that_of_the_heads_pieces(tmp_path: Path) -> None:
    projection, subnetworks = write_head(tmp_path)
    head = open_divergence(str(tmp_path))
    vectors = torch.randn(9, 4)
    with torch.no_grad():
        u = subnetworks(F.normalize(projection(vectors)))
    torch.testing.assert_close(head.pieces(vectors), u)
    similarity = head.similarity(u[:3], u)
    for i in range(3):
        for j in range(9):
            divergence = float(u[i].max() - u[i, int(u[j].argmax())])
            assert float(similarity[i, j]) == pytest.approx(math.exp(-divergence / (2 * 0.9**2)), rel=1e-5)


def test_neighbours_in_the_divergence_vote(tmp_path: Path) -> None:
    write_head(tmp_path)
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(3))
    head = open_divergence(str(tmp_path))
    winners = head.pieces(vectors).argmax(1)
    assert len(set(winners.tolist())) > 1
    told = examples("classes", winners, tuple("abcdef"))
    settings = replace(NeighbourSettings(neighbours=4, temperature=0.01), divergence="bregman")
    rows, wanted = told.rows(TRAIN), told.rows(TEST)
    outputs = neighbour_outputs(features(vectors, told, str(tmp_path)), rows, wanted, settings)
    known = torch.isin(winners[wanted], winners[rows])
    assert outputs[known].argmax(1).equal(winners[wanted][known])  # the same winner: no divergence at all


def test_what_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"divergence=bregman: .*head.safetensors is not there"):
        open_divergence("scratch:resnet10t")
    write_head(tmp_path / "a", **{"subnetworks.out_bias": torch.zeros(7)})
    with pytest.raises(CheckpointError, match="not the head of the recipe bregman"):
        open_divergence(str(tmp_path / "a"))
    write_head(tmp_path / "b", **{"sigma": torch.tensor(0.0)})
    with pytest.raises(CheckpointError, match="sigma=0"):
        open_divergence(str(tmp_path / "b"))
    write_head(tmp_path / "c", **{"subnetworks.hidden_weight": torch.zeros(6, 9, 5)})
    with pytest.raises(CheckpointError, match="vectors of 8 for sub-networks of 9"):
        open_divergence(str(tmp_path / "c"))
    (tmp_path / "c" / "head.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_divergence(str(tmp_path / "c"))
    save_file({"sigma": torch.tensor(1.0)}, tmp_path / "c" / "head.safetensors")
    with pytest.raises(CheckpointError, match="not the head of the recipe bregman"):
        open_divergence(str(tmp_path / "c"))


def test_settings_that_no_vote_could_go_by() -> None:
    with pytest.raises(SettingError, match="neighbours=0"):
        NeighbourSettings(neighbours=0)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match="temperature="):
            NeighbourSettings(temperature=temperature)
