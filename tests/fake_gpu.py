"""A fake GPU: its tensors are in CPU memory, but torch treats them as tensors of another device.

So the code paths of a GPU (torch's kernels instead of gpt1's, tensors moved there and back) run without one, with
results that can be compared. As on a GPU, tensors of both devices cannot be mixed, and every synchronization (the CPU
reads values of the device) is recorded with the functions that called it: on a GPU the CPU would have to wait. As on
Apple GPUs, there is no float64, and the fused AdamW ignores `grad_scale`.

A device cannot be unregistered, so this runs in its own process: `python tests/fake_gpu.py FOLDER gpu` (cuda for a real
GPU) writes the results of every path on the device and on the CPU to FOLDER.
"""

from __future__ import annotations

import inspect
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import gpt1

PACKAGE = f"{Path(gpt1.__file__).parent}{os.sep}"
GPU = "gpu"
ATEN = torch.ops.aten
SYNC_STACKS: list[list[str]] = []
"""For each synchronization: the running functions of gpt1, outermost first."""


class FakeDeviceModule:
    """The functions that torch expects of the module of a device (like torch.cuda)."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = _lazy_init = staticmethod(lambda *_: None)
    _is_in_bad_fork = staticmethod(lambda: False)


class FakeGpuTensor(torch.Tensor):
    """A tensor on the device; `cpu_tensor` has its values."""

    cpu_tensor: torch.Tensor

    @staticmethod
    def __new__(cls, cpu_tensor: torch.Tensor) -> FakeGpuTensor:
        layout = {"strides": cpu_tensor.stride(), "storage_offset": cpu_tensor.storage_offset()}
        layout["dtype"] = cpu_tensor.dtype
        tensor: FakeGpuTensor = torch.Tensor._make_wrapper_subclass(cls, cpu_tensor.shape, device=f"{GPU}:0", **layout)  # type: ignore[attr-defined]
        tensor.cpu_tensor = cpu_tensor
        return tensor

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeGpuTensor({self.cpu_tensor})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class FactoryMode(TorchDispatchMode):
    """Handles functions that create tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return dispatch(func, args, kwargs) if is_fake_gpu(kwargs.get("device")) else func(*args, **kwargs)


class FunctionShims(TorchFunctionMode):
    """Replaces what torch does in C++ for its own devices only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and is_fake_gpu(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.tolist and isinstance(args[0], FakeGpuTensor):
            record_sync()
            return args[0].cpu_tensor.tolist()
        return func(*args, **kwargs)


class CpuGenerator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> CpuGenerator:
        return super().__new__(cls)


def is_fake_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == GPU


def record_sync() -> None:
    stack, frame = list[str](), inspect.currentframe()
    while frame:
        if frame.f_code.co_filename.startswith(PACKAGE):
            stack.insert(0, frame.f_code.co_name)
        frame = frame.f_back
    SYNC_STACKS.append(stack)


def unwrap(t: FakeGpuTensor) -> torch.Tensor:
    return t.cpu_tensor


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run the operation on the CPU values; the result is on the device of an input, or on `device`."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_gpu = [t for t in tensors if isinstance(t, FakeGpuTensor)]
    device = kwargs.get("device")
    to_cpu = bool(on_gpu) and device is not None and not is_fake_gpu(device)
    if func is ATEN.copy_.default:
        to_cpu = not isinstance(args[0], FakeGpuTensor)
    elif (
        on_gpu
        and func is not ATEN._to_copy.default
        and any(t.dim() for t in tensors if not isinstance(t, FakeGpuTensor))
    ):
        raise RuntimeError(f"{func.name()}: Expected all tensors to be on the same device")
    if to_cpu or (on_gpu and func is ATEN._local_scalar_dense.default):
        record_sync()
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if on_gpu and func is ATEN._fused_adamw_.default:
        kwargs = {**kwargs, "grad_scale": None}
    out = func(*tree_map_only(FakeGpuTensor, unwrap, args), **tree_map_only(FakeGpuTensor, unwrap, kwargs))
    if to_cpu or not (on_gpu or is_fake_gpu(device)):
        return out
    if any(t.dtype == torch.float64 for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
        raise TypeError(f"{func.name()}: this device has no float64")
    known = {id(t.cpu_tensor): t for t in on_gpu}  # operations in place return their input
    return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else FakeGpuTensor(t), out)


@contextmanager
def fake_gpu_backend() -> Iterator[None]:
    """Makes `--device gpu` a valid device."""
    _setup_privateuseone_for_python_backend(GPU, FakeDeviceModule())
    with pytest.MonkeyPatch.context() as patch, FactoryMode(), FunctionShims():
        patch.setattr(torch, "inference_mode", torch.no_grad)  # its tensors cannot be wrapped
        patch.setattr(torch, "Generator", CpuGenerator)
        from gpt1 import devices
        from gpt1.training import head_only as features

        patch.setattr(devices, "DEVICES", (*devices.DEVICES, GPU))
        patch.setitem(features.FEATURE_BATCH_TOKENS, GPU, features.FEATURE_BATCH_TOKENS["cuda"])
        yield


# ---- the paths that run on both devices

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "far", "from", "it", "in", "rain", "good", "bad"]
KIND_COLUMNS: dict[str, dict[str, str]] = {
    "classification": {"text": "text", "label": "label"},
    "entailment": {"premise": "text", "hypothesis": "other", "label": "label"},
    "similarity": {"text_a": "text", "text_b": "other", "label": "label"},
    "regression": {"text": "text", "label": "number"},
    "choice": {"context": "text", "choices": "other,third", "label": "number"},
}
TINY_SETTINGS = {"n_layer": 2, "n_embd": 32, "n_head": 2, "context": 32, "batch_size": 4, "steps": 20, "dropout": 0.0}


class InterruptAfterStep:
    """A progress that stops the run after a step, like a kill."""

    def __init__(self, after: int) -> None:
        self.after = after

    def advance(self, done: int, **values: float) -> None:
        if done >= self.after:
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def make_rows(n: int) -> list[dict[str, Any]]:
    rng = random.Random(0)

    def text(max_words: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, max_words)))

    rows = [{"text": text(12), "other": text(3), "third": text(3) + " it", "number": i % 2} for i in range(n)]
    return [{**row, "label": "xy"[row["number"]]} for row in rows]


def make_corpus(folder: Path) -> Path:
    from gpt1 import Tokenizer
    from gpt1.corpus.corpus import write_corpus

    (folder / "text.txt").write_text("\n".join(row["text"] for row in make_rows(400)))
    tokenizer = Tokenizer.train([(folder / "text.txt").read_text()], vocab_size=120)
    write_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer)
    return folder / "corpus"


def read_losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines]


def run_all_paths(folder: Path, device: str, texts: Path) -> dict[str, Any]:
    """Results of every path on one device."""
    from gpt1 import finetune, load
    from gpt1.training import linear_probe
    from gpt1.training import pretrain as pretrain_module
    from gpt1.training import run as run_module

    run_module.report_on_exit = lambda run: nullcontext()  # type: ignore[assignment]  # the pages take half of the time
    pretrain_module.sample_prompts = lambda setup: []  # type: ignore[assignment]  # `generate` below is the same path
    linear_probe.MAX_ITERATIONS = 10  # each is many small operations, alike each time
    pretrain = pretrain_module.pretrain
    folder.mkdir()
    found: dict[str, Any] = {}
    base = folder / "fp32"
    for name, settings in {
        "fp32": {},
        "adamw": {"optimizer": "adamw", "clip_norm": 0.0},
        "sgd": {"optimizer": "sgd", "micro_batch": 2},
        "bf16": {"precision": "bf16", "micro_batch": 1},
        "clipped": {"clip_norm": 0.1},
    }.items():
        run = pretrain(texts, out=folder / name, device=device, **{"precision": "fp32", **TINY_SETTINGS, **settings})
        found[f"pretrain {name}"] = read_losses(run)
    try:
        resumed = dict(out=folder / "resumed", device=device, precision="fp32", checkpoint_every=5, **TINY_SETTINGS)
        pretrain(texts, progress=InterruptAfterStep(10), **resumed)  # type: ignore[arg-type]
    except gpt1.errors.Interrupted:
        pretrain(texts, resume=True, **resumed)  # type: ignore[arg-type]
        found["resumed"] = read_losses(folder / "resumed")
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, make_rows(60))))
    for kind, columns in KIND_COLUMNS.items():
        for train in ("all", "head", "last:1"):
            settings = {"train": train, "precision": "fp32", "head_dropout": 0.0, "dropout": 0.0, "epochs": 2}
            settings["head_first"] = (kind, train) == ("classification", "all")
            out = folder / f"{kind}-{train.partition(':')[0]}"
            run = finetune(table, from_=base, out=out, kind=kind, device=device, baselines=False, **columns, **settings)
            found[f"finetune {kind} {train}"] = read_losses(run)
        found[f"predict {kind}"] = load(folder / f"{kind}-all", device=device).predict(make_rows(9))
    model = load(base, device=device)
    found["next"] = [list(pair) for pair in model.next_tokens("the cat", 5)]
    found["generate"] = model.generate("the cat", max_tokens=60, temperature=0.0)
    found["drawn"] = model.generate("the cat", max_tokens=20, temperature=1.0, top_k=9, top_p=0.9, seed=1)
    beginnings = ["the cat", "dogs ran far from it", "rain", "a mat and"]
    found["several"] = model.generate(beginnings, max_tokens=40, temperature=0.7, top_p=0.9, seed=2)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, device = Path(sys.argv[1]), sys.argv[2]
    texts = make_corpus(folder)
    with fake_gpu_backend() if device == GPU else nullcontext():  # first: torch counts devices at the first gradient
        there = run_all_paths(folder / "there", device, texts)
    here = run_all_paths(folder / "here", "cpu", texts)
    (folder / "found.json").write_text(json.dumps({"here": here, "there": there, "looks": SYNC_STACKS}))
