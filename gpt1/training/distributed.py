"""One model trained by several processes: `torchrun … -m gpt1 pretrain …`, a process a card, on one machine or many.

Each takes its share of every update's samples. The loss of a sample is weighted as a part of the whole update, so the
gradients of all processes add up to exactly the plain gradient, and every process makes the same step with it. The
first one writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt1.devices import world_size
from gpt1.errors import OUT_OF_MEMORY, Diverged, GPT1Error, Interrupted, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This one and those beside it; by default it is alone, and nothing in here does anything."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    def shard_samples(self, samples: NDArray[Any]) -> NDArray[Any]:  # [n, ...] → [n / count, ...]
        """Every count-th sample; none where an update has fewer samples than there are processes."""
        return samples[self.rank :: self.world_size]

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the sum of those of all processes, to the same bits in all of them."""
        if self.world_size > 1:
            with peer_errors():
                for waiting in [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    waiting.wait()

    def any_rank(self, flag: bool) -> bool:
        """Whether any process says so. Asked in the processors' memory: no card is waited for."""
        if self.world_size > 1:
            votes = torch.tensor(int(flag))
            self.all_reduce([votes])
            return bool(votes)
        return flag

    def broadcast_from_rank0(self, compute: Callable[[], T]) -> T:
        """What the first process finds: it may look at a folder that others do not see, or measure otherwise than they
        would."""
        found = [compute() if self.is_rank0 else None]
        if self.world_size > 1:
            with peer_errors():
                torch.distributed.broadcast_object_list(found)
        return cast(T, found[0])

    def barrier(self) -> None:
        """Until all of them have come here."""
        self.any_rank(False)


SINGLE_PROCESS = Processes()


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes that torchrun started, connected while it lasts; this one alone where it did not.

    A run that was stopped, or has diverged, is told by the first one only."""
    if world_size() == 1:
        yield SINGLE_PROCESS
        return
    mine = not torch.distributed.is_initialized()  # else a program that calls us has connected them
    if mine and torch.cuda.is_available():
        cards, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        if local >= cards:
            problem = f"torchrun started more processes than this machine has GPUs ({cards})."
            raise UserError(problem, f"Use --nproc-per-node {cards}; for processors alone hide the GPUs from it.")
        torch.cuda.set_device(local)
    if mine:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank = torch.distributed.get_rank()
    try:
        yield Processes(rank, torch.distributed.get_world_size())
    except (Interrupted, Diverged) as stopped:
        if rank:
            raise SystemExit(stopped.exit_code) from None
        raise
    finally:
        if mine:
            torch.distributed.destroy_process_group()


def is_rank0() -> bool:
    """Whether this process is the one that speaks, also before and after they are connected."""
    return os.environ.get("RANK", "0") == "0"


def require_single_process(command: str) -> None:
    """Refuse to do the same work in several processes, into the same folder."""
    if (count := world_size()) > 1:
        raise UserError(
            f"{command} is the work of one process, and torchrun started {count}.", "Start it without torchrun."
        )


@contextmanager
def peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise
        reason = str(error).splitlines()[0][:200]
        raise GPT1Error(
            f"another process of this run has gone ({reason}).",
            "See what it said; then start all of them again, with --resume if there is a checkpoint.",
        ) from None
