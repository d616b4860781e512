"""Processes that stand for ranks of one machine: gloo on loopback, one thread each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_ranks(
    commands: Sequence[Sequence[str]], cwd: Path, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Start one process for each rank; its arguments follow `python`."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(commands)),
        "LOCAL_WORLD_SIZE": str(len(commands)),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **(environment or {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]


def outputs(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str]]:
    """Exit code and text of each process."""
    try:
        texts = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def run_ranks(
    size: int, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
) -> list[tuple[int, str]]:
    """Run `python ARGUMENTS` as each of `size` ranks to its end."""
    return outputs(start_ranks([arguments] * size, cwd, environment))
