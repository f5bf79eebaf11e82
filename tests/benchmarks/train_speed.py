"""Training images a second: the whole loop, beside the bare network and beside pytorch-metric-learning.

    python tests/benchmarks/train_speed.py

ResNet-50 with its embedding head (convrec, random weights) at 112 pixels, on made-up pictures that are kept
in memory. The contenders take turns in one process, so that whatever else the machine does meets them alike;
of each round the ratio to the bare network counts. All of them train the same network, in channels_last and
under the same autocast:

- ``facekit``: fit() itself: batches, augmentation, network, margin head, clipping, AdamW, log. Only saving is
  left out.
- ``bare``: forward and backward of the network on one random batch, and nothing else.
- ``bare + AdamW``: the same with the optimiser's step.
- ``peer``: a plain loop around pytorch-metric-learning's ArcFaceLoss and the same AdamW, on crops that are in
  memory already, without augmentation.
- ``peer, augmented``: the same, with torchvision's transforms of the same kinds, picture by picture, in a
  DataLoader with a worker a core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rounds import UNUSED, Bare, autocast, machine, make_pictures, now, ratios, spread, take_turns
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facekit.embed import resolve_device
from facekit.models import build
from facekit.train.augment import Augmentation
from facekit.train.config import DataSettings, RunSettings
from facekit.train.memory import keep_freed_memory
from facekit.train.recipes.convrec import ConvRecSettings, build_recipe

SIZE, DIM = 112, 512


class Peer:
    """pytorch-metric-learning in the loop that its documentation shows."""

    def __init__(
        self, crops: Tensor, labels: Tensor, batch: int, device: torch.device, *, augmented: bool
    ) -> None:
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.crops, self.labels, self.batch, self.augmented = crops, labels, batch, augmented
        self.device = device
        self.network = build("convrec").to(device, memory_format=torch.channels_last).train()
        self.loss = ArcFaceLoss(int(labels.max()) + 1, DIM).to(device)
        self.optimiser = torch.optim.AdamW(
            [*self.network.parameters(), *self.loss.parameters()], lr=1e-3, fused=True
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Float pictures in [-1, 1], without end."""
        if self.augmented:
            workers = os.cpu_count() or 1
            loader = DataLoader(
                Views(self.crops, self.labels),
                self.batch,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                prefetch_factor=1,
                pin_memory=self.device.type == "cuda",
            )
            while True:
                yield from loader
        while True:
            for rows in torch.randperm(len(self.crops)).split(self.batch):
                yield self.crops[rows].float() / 127.5 - 1, self.labels[rows]

    def __call__(self, steps: int) -> float:
        batches = self.batches()
        next(batches)  # the workers start, and are ahead by as much as they will be at the end
        began = now(self.device)
        for _ in range(steps):
            pictures, labels = (part.to(self.device, non_blocking=True) for part in next(batches))
            self.optimiser.zero_grad(set_to_none=True)
            with autocast(self.device):
                embeddings = self.network(pictures.contiguous(memory_format=torch.channels_last))
            self.loss(embeddings.float(), labels).backward()
            self.optimiser.step()
        return now(self.device) - began


class Views(Dataset[tuple[Tensor, Tensor]]):
    """torchvision's transforms, as strong as facekit's, without its changes of resolution."""

    def __init__(self, crops: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import v2

        a = Augmentation()
        self.crops, self.labels = crops, labels
        self.views = v2.Compose(
            [
                v2.RandomHorizontalFlip(a.flip),
                v2.RandomAffine(
                    a.rotation,
                    translate=(a.shift, a.shift),
                    scale=(1 - a.zoom, 1 + a.zoom),
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.ColorJitter(a.brightness, a.brightness, a.brightness),
                v2.RandomGrayscale(a.grey),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.views(self.crops[row]), self.labels[row]


def report(seconds: dict[str, list[float]], images: int) -> None:
    """A row each: median speed, and over the rounds median and extremes of two ratios."""
    print("| | images/s | of the bare network | facekit is so many times as fast |\n|---|---|---|---|")
    for name, own in seconds.items():
        speed = images / statistics.median(own)
        of_bare, times = ratios(seconds["bare"], own), ratios(own, seconds["facekit"])
        print(f"| {name} | {speed:.1f} | {spread(of_bare)} | {spread(times)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of each contender in a round")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(args.device)
    images = args.batch * args.steps
    with tempfile.TemporaryDirectory() as place:
        made = make_pictures(Path(place, "faces"), images, size=SIZE, people=64)
        crops = torch.from_numpy(made).permute(0, 3, 1, 2).contiguous()
        labels = torch.arange(images) % 64
        x = torch.randn(args.batch, 3, SIZE, SIZE, device=device)
        contenders: dict[str, Callable[[int], float]] = {
            "bare": Bare(build("convrec").to(device), [x]),
            "bare + AdamW": Bare(build("convrec").to(device), [x], optimiser=True),
            "peer": Peer(crops, labels, args.batch, device, augmented=False),
            "peer, augmented": Peer(crops, labels, args.batch, device, augmented=True),
        }
        settings = ConvRecSettings(
            data=DataSettings(data=Path(place, "faces"), heldout=0.0),
            run=RunSettings(
                out=Path(place, "run"),
                epochs=args.rounds + UNUSED,
                batch_size=args.batch,
                device=args.device,
                save_minutes=1e6,
            ),
            init="random",
        )
        seconds = take_turns(build_recipe(settings), settings.run, settings.optim, contenders)
    print(f"{machine(device)}, batch {args.batch}, {args.rounds} rounds of {args.steps} steps")
    report(seconds, images)


if __name__ == "__main__":
    main()
