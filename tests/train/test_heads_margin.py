"""The head against the plain formula: alone, shared out over processes, and with samples of the centres."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from side_by_side import START
from torch import Tensor
from torch.multiprocessing import start_processes

from facekit.errors import SettingError, TrainingError
from facekit.train.heads import MarginHead
from facekit.train.losses import margin_logits

DIM, BATCH = 16, 12
MARGINS = {"scale": 64.0, "margin": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "not divisible": {"classes": 10},
    "a process without centres": {"classes": 4},
    "cosine margin": {"classes": 7, "scale": 30.0, "margin": 0.0, "cosine_margin": 0.4},
    "under autocast": {"classes": 10, "autocast": True},
    "centres drawn in several blocks": {"classes": 9000},
}
SAMPLED = {"classes": 40, "sample_rate": 0.3, "scale": 8.0, "margin": 0.2}


def batch(classes: int, people: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(min(classes, people or classes), (BATCH,), generator=generator)
    labels[-1] = classes - 1
    return torch.randn(BATCH, 6, generator=generator), labels


def run(
    *, classes: int, rank: int = 0, world: int = 1, seed: int = 3, autocast: bool = False, **settings: Any
) -> dict[str, Any]:
    """One step of a linear backbone and the head with one process's part of the batch."""
    margins = {
        **MARGINS,
        **{k: settings.pop(k) for k in ("scale", "margin", "cosine_margin") if k in settings},
    }
    evaluating = settings.pop("evaluating", False)
    torch.manual_seed(0)
    head = MarginHead(DIM, classes, **settings).train(not evaluating)
    backbone = torch.nn.Linear(6, DIM)
    torch.manual_seed(seed)  # as the loop does for each step
    pictures, labels = (part.chunk(world)[rank] for part in batch(classes))
    embeddings = backbone(pictures)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, cosine = head(embeddings, labels, **margins)
        by_rows, by_embeddings = torch.autograd.grad(loss, (head.weight, embeddings))
    embeddings.backward(by_embeddings)
    return {
        "loss": loss.item(),
        "cosine": cosine.item(),
        "first": head.first,
        "rows": head.weight.detach(),
        "by rows": by_rows,
        "by embeddings": by_embeddings,
        "by backbone": backbone.weight.grad,
    }


def refused(rank: int, sizes: list[int], label: int) -> str:
    head = MarginHead(DIM, 5)
    with pytest.raises(TrainingError) as error:
        head(torch.randn(sizes[rank], DIM), torch.full((sizes[rank],), label), **MARGINS)
    return str(error.value)


def work(rank: int, world: int, folder: str) -> None:
    """What each process does; the results go into a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results: dict[str, Any] = {name: run(rank=rank, world=world, **case) for name, case in CASES.items()}
    for name, more in {"sampled": {}, "again": {}, "other": {"seed": 4}, "all": {"evaluating": True}}.items():
        results[name] = run(rank=rank, world=world, **SAMPLED, **more)
    if world > 1:
        results["sizes"] = refused(rank, [4, 3, 4], 0)
        results["labels"] = refused(rank, [2, 2, 2], 5)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow), 3])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 1, 2 or 3 processes found, by case."""
    folder = tmp_path_factory.mktemp("processes")
    if request.param == 1:
        work(0, 1, str(folder))  # this one: to start another takes seconds
    else:
        start_processes(work, (request.param, str(folder)), nprocs=request.param, start_method=START)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def written_out(
    weight: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float,
    cosine_margin: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The loss and the mean target cosine in float64, by torch's own parts."""
    cosines = F.normalize(embeddings.double()) @ F.normalize(weight.double()).T
    logits = margin_logits(cosines, labels, scale=scale, margin=margin, cosine_margin=cosine_margin)
    return F.cross_entropy(logits, labels), cosines.gather(1, labels[:, None]).mean()


def close(found: Any, wanted: Any) -> None:
    """To 1e-5 of the largest number."""
    found, wanted = torch.as_tensor(found).double(), torch.as_tensor(wanted).double()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_computes_what_the_formula_says(
    results: list[dict[str, Any]], name: str
) -> None:
    case = {k: v for k, v in CASES[name].items() if k != "autocast"}
    margins = {**MARGINS, **{k: v for k, v in case.items() if k != "classes"}}
    parts = [part[name] for part in results]
    torch.manual_seed(0)
    weight = MarginHead(DIM, case["classes"]).weight
    backbone = torch.nn.Linear(6, DIM)
    pictures, labels = batch(case["classes"])
    embeddings = backbone(pictures)
    embeddings.retain_grad()
    loss, cosine = written_out(weight, embeddings, labels, **margins)
    loss.backward()
    assert torch.equal(torch.cat([part["rows"] for part in parts]), weight)
    for part in parts:
        close(part["loss"], loss.item())
        close(part["cosine"], cosine.item())
    close(torch.cat([part["by rows"] for part in parts]), weight.grad)
    close(torch.cat([part["by embeddings"] for part in parts]) / len(parts), embeddings.grad)
    close(torch.stack([part["by backbone"] for part in parts]).mean(0), backbone.weight.grad)


@pytest.mark.parametrize("name", CASES)
def test_centres_are_split_as_torch_chunks_them(results: list[dict[str, Any]], name: str) -> None:
    classes = CASES[name]["classes"]
    chunks = [part.tolist() for part in torch.arange(classes).chunk(len(results))]
    chunks += [[]] * (len(results) - len(chunks))
    parts = [part[name] for part in results]
    found = [list(range(part["first"], part["first"] + len(part["rows"]))) for part in parts]
    assert found == chunks


def test_a_sampled_loss_is_that_of_the_sample(results: list[dict[str, Any]]) -> None:
    parts = [part["sampled"] for part in results]
    pictures, labels = batch(SAMPLED["classes"])
    sample = [(part["by rows"].abs().sum(1) > 0).nonzero()[:, 0] + part["first"] for part in parts]
    for part, rows in zip(parts, sample, strict=True):
        own = labels.unique()
        own = own[(own >= part["first"]) & (own < part["first"] + len(part["rows"]))]
        assert set(own.tolist()) <= set(rows.tolist())
        assert len(rows) == max(math.ceil(0.3 * len(part["rows"])), len(own))
    kept = torch.cat(sample)
    assert len(kept) < 40
    torch.manual_seed(0)
    weight = MarginHead(DIM, SAMPLED["classes"]).weight
    embeddings = torch.nn.Linear(6, DIM)(pictures)
    loss, cosine = written_out(
        weight[kept], embeddings, torch.searchsorted(kept, labels), scale=8.0, margin=0.2
    )
    loss.backward()
    for part in parts:
        close(part["loss"], loss.item())
        close(part["cosine"], cosine.item())
    close(torch.cat([part["by rows"] for part in parts]), weight.grad)


def test_the_sample_follows_the_seed_of_the_step(results: list[dict[str, Any]]) -> None:
    for part in results:
        assert torch.equal(part["sampled"]["by rows"], part["again"]["by rows"])
    assert any(not torch.equal(part["sampled"]["by rows"], part["other"]["by rows"]) for part in results)


def test_evaluation_compares_with_everyone(results: list[dict[str, Any]]) -> None:
    for part in results:
        close(part["all"]["loss"], run(classes=40, scale=8.0, margin=0.2)["loss"])


def test_batches_that_differ_are_refused_by_every_process(results: list[dict[str, Any]]) -> None:
    world = len(results)
    if world == 1:
        pytest.skip("one process has none to differ from")
    for part in results:
        assert part["sizes"].startswith(f"batches of 3 to 4 faces in the {world} processes: give every")
        assert part["labels"].startswith("labels 5 ... 5 for 5 people: number them")


def test_the_sample_grows_to_hold_everyone_in_the_batch() -> None:
    torch.manual_seed(0)
    head = MarginHead(DIM, 30, sample_rate=0.1)
    labels = torch.arange(0, 30, 3)
    loss, _ = head(torch.randn(10, DIM), labels, scale=8.0, margin=0.0)
    loss.backward()
    assert (head.weight.grad.abs().sum(1) > 0).nonzero()[:, 0].tolist() == labels.tolist()


def test_every_centre_is_sampled_equally_often() -> None:
    torch.manual_seed(0)
    head = MarginHead(DIM, 20, sample_rate=0.25)
    counts = torch.zeros(20)
    for _ in range(400):
        head.weight.grad = None
        head(torch.randn(1, DIM), torch.tensor([7]), scale=8.0, margin=0.0)[0].backward()
        counts += head.weight.grad.abs().sum(1) > 0
    assert counts[7] == 400
    others = torch.cat([counts[:7], counts[8:]])
    mean = 400 * 4 / 19  # five of twenty, of which one is the person in the batch
    assert others.mean().item() == pytest.approx(mean)
    assert (others - mean).abs().max() < 5 * math.sqrt(mean)


def test_first_centres_are_those_of_one_draw() -> None:
    torch.manual_seed(0)
    weight = MarginHead(DIM, 9000).weight
    torch.manual_seed(0)
    assert torch.equal(weight, torch.nn.init.normal_(torch.empty(9000, DIM), std=0.01))


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, math.nan])
def test_a_sample_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(SettingError, match=r"sample_rate=.*: give a share in \(0, 1\]"):
        MarginHead(4, 4, sample_rate=rate)


def test_what_is_saved_is_the_own_rows_and_nothing_else() -> None:
    assert [(name, tuple(part.shape)) for name, part in MarginHead(8, 5).state_dict().items()] == [
        ("weight", (5, 8))
    ]


@pytest.mark.gpu
def test_on_a_gpu_the_head_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head, x, y = MarginHead(64, 500), torch.randn(32, 64), torch.randint(500, (32,))
    wanted, _ = head(x, y, **MARGINS)
    found, _ = head.cuda()(x.cuda(), y.cuda(), **MARGINS)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
