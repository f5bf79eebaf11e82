"""Processes as ``torchrun`` starts them, forked from one that has imported torch, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

START = "forkserver" if os.name == "posix" else "spawn"
multiprocessing.set_forkserver_preload(["facekit.train.loop", "facekit.train.state"])


def environments(world: int) -> list[dict[str, str]]:
    """What ``torchrun`` tells each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def started(world: int, main: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """So many processes that run ``main`` of an importable module, with one thread each."""
    context = multiprocessing.get_context(START)
    processes = [
        context.Process(target=_run, args=(environment, main, arguments), daemon=True)
        for environment in environments(world)
    ]
    for process in processes:
        process.start()
    return list(processes)


def exit_codes(world: int, main: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Of so many processes, when they have ended; one that has not within two minutes is killed."""
    processes = started(world, main, *arguments)
    for process in processes:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run(environment: dict[str, str], main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    main(*arguments)
