"""Data-parallel training: `torchrun … -m gpt1 pretrain …`, one process per GPU, on one machine or several.

Each process takes its share of the samples of a step. The loss of a sample is weighted as a part of the whole step, so
the gradients of all processes add up to exactly the gradient of one process, and all make the same optimizer step. Only
rank 0 writes files and prints.
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
from gpt1.errors import OUT_OF_MEMORY, Diverged, GPT1Error, Interrupted, UserError, first_line

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process and its peers. By default there is one process, and every method is a no-op."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    def shard_samples(self, samples: NDArray[Any]) -> NDArray[Any]:  # [n, ...] → [n / world_size, ...]
        """Every world_size-th sample, from `rank` on; none if a step has fewer samples than there are processes."""
        return samples[self.rank :: self.world_size]

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, with identical bits in all of them."""
        if self.world_size > 1:
            with peer_errors():
                for work in [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        return self.any_rank_each(flag)[0]

    def any_rank_each(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process. Uses a CPU tensor, so that no GPU is synchronized."""
        if self.world_size > 1:
            votes = torch.tensor(flags, dtype=torch.int64)
            self.all_reduce([votes])
            return [bool(vote) for vote in votes.tolist()]
        return list(flags)

    def broadcast_from_rank0(self, compute: Callable[[], T]) -> T:
        """The result of `compute` in rank 0, which may see other files or measure other values than its peers."""
        result = [compute() if self.is_rank0 else None]
        if self.world_size > 1:
            with peer_errors():
                torch.distributed.broadcast_object_list(result)
        return cast(T, result[0])

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        self.any_rank(False)


SINGLE_PROCESS = Processes()


@contextmanager
def process_group() -> Iterator[Processes]:
    """Connect the processes that torchrun started; without torchrun, yield a single process.

    If the run is stopped or diverges, only rank 0 reports it.
    """
    if world_size() == 1:
        yield SINGLE_PROCESS
        return
    owns_group = not torch.distributed.is_initialized()  # otherwise the calling program has connected them
    if owns_group and torch.cuda.is_available():
        gpus, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= gpus:
            problem = f"torchrun started more processes than this machine has GPUs ({gpus})."
            raise UserError(
                problem, f"Use torchrun --nproc-per-node {gpus}, or set CUDA_VISIBLE_DEVICES= to train on the CPU."
            )
        torch.cuda.set_device(local_rank)
    if owns_group:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank = torch.distributed.get_rank()
    try:
        yield Processes(rank, torch.distributed.get_world_size())
    except (Interrupted, Diverged) as stopped:
        if rank:
            raise SystemExit(stopped.exit_code) from None
        raise
    finally:
        if owns_group:
            torch.distributed.destroy_process_group()


def is_rank0() -> bool:
    """Whether this process prints and writes; works also while the processes are not connected."""
    return os.environ.get("RANK", "0") == "0"


def require_single_process() -> None:
    """Raise UserError under torchrun: several processes would do the same work in the same folder."""
    if (count := world_size()) > 1:
        raise UserError(f"gpt1 finetune runs in one process, but torchrun started {count}.", "Run it without torchrun.")


@contextmanager
def peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise
        reason = first_line(error, 200)
        raise GPT1Error(
            f"another process of this run has failed ({reason}).",
            "See its output. Then start all processes again, with --resume if there is a checkpoint.",
        ) from None
