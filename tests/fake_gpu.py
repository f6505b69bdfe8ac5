"""A device that is none: its tensors lie in the processor's memory, but torch holds them for a GPU's.

So the paths that a GPU takes (torch's own kernels instead of gpt1's, tensors moved there and back) run where there is
none, with numbers that can be compared. As on a GPU, tensors of both sides do not mix, and every look from one side at
the numbers of the other is written down, with the functions it comes from: on a GPU the processor would have to wait.
As on Apple's, there is no float64, and the fused AdamW takes no notice of `grad_scale`.

A device cannot be taken back, so this is for a process of its own: `python tests/fake_gpu.py FOLDER gpu`, or cuda
for a real one, leaves in FOLDER what every path gave there and on the processor.
"""

from __future__ import annotations

import inspect
import json
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

PACKAGE = Path(gpt1.__file__).parent
GPU = "gpu"
ATEN = torch.ops.aten
SYNC_STACKS: list[list[str]] = []
"""For each look at numbers of the device: the functions of gpt1 that were running, outermost first."""


class FakeDeviceModule:
    """What torch asks the module of a device for (as torch.cuda)."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = _lazy_init = staticmethod(lambda *_: None)
    _is_in_bad_fork = staticmethod(lambda: False)


class FakeGpuTensor(torch.Tensor):
    """A tensor on the device; `cpu_tensor` are its numbers."""

    cpu_tensor: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> FakeGpuTensor:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        there: FakeGpuTensor = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=f"{GPU}:0", **layout)  # type: ignore[attr-defined]
        there.cpu_tensor = here
        return there

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.cpu_tensor})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class FactoryMode(TorchDispatchMode):
    """Tensors that are made on the device, from no other that is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return dispatch(func, args, kwargs) if is_fake_gpu(kwargs.get("device")) else func(*args, **kwargs)


class FunctionShims(TorchFunctionMode):
    """What torch does in C++ for its own devices only."""

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
    frames = [frame for frame in inspect.stack(context=0) if PACKAGE in Path(frame.filename).parents]
    SYNC_STACKS.append([frame.function for frame in reversed(frames)])


def unwrap(t: FakeGpuTensor) -> torch.Tensor:
    return t.cpu_tensor


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers here; its result is on the device where a factor was, or where it shall be."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, FakeGpuTensor)]
    device = kwargs.get("device")
    comes_back = bool(there) and device is not None and not is_fake_gpu(device)
    if func is ATEN.copy_.default:
        comes_back = not isinstance(args[0], FakeGpuTensor)
    elif (
        there
        and func is not ATEN._to_copy.default
        and any(t.dim() for t in tensors if not isinstance(t, FakeGpuTensor))
    ):
        raise RuntimeError(f"{func.name()}: Expected all tensors to be on the same device")
    if comes_back or (there and func is ATEN._local_scalar_dense.default):
        record_sync()
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if there and func is ATEN._fused_adamw_.default:
        kwargs = {**kwargs, "grad_scale": None}
    out = func(*tree_map_only(FakeGpuTensor, unwrap, args), **tree_map_only(FakeGpuTensor, unwrap, kwargs))
    if comes_back or not (there or is_fake_gpu(device)):
        return out
    if any(t.dtype == torch.float64 for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
        raise TypeError(f"{func.name()}: this device has no float64")
    known = {
        id(t.cpu_tensor): t for t in there
    }  # what an operation in place gives back is the tensor that it was given
    return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else FakeGpuTensor(t), out)


@contextmanager
def fake_gpu_backend() -> Iterator[None]:
    """While it lasts, `--device gpu` is a device like another."""
    _setup_privateuseone_for_python_backend(GPU, FakeDeviceModule())
    with pytest.MonkeyPatch.context() as patch, FactoryMode(), FunctionShims():
        patch.setattr(torch, "inference_mode", torch.no_grad)  # its tensors cannot be wrapped
        patch.setattr(torch, "Generator", CpuGenerator)
        from gpt1 import devices
        from gpt1.training import head_only as features

        patch.setattr(devices, "DEVICES", (*devices.DEVICES, GPU))
        patch.setitem(features.FEATURE_BATCH_TOKENS, GPU, features.FEATURE_BATCH_TOKENS["cuda"])
        yield


# ---- what is run there and here

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
    """A progress that ends the process's work, as a kill would, after an update."""

    def __init__(self, after: int) -> None:
        self.after = after

    def advance(self, done: int, **values: float) -> None:
        if done >= self.after:
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def make_rows(n: int) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, most)))

    some = [{"text": text(12), "other": text(3), "third": text(3) + " it", "number": i % 2} for i in range(n)]
    return [{**row, "label": "xy"[row["number"]]} for row in some]


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
    """Figures of every path, on one device."""
    from gpt1 import finetune, load, pretrain

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
    except KeyboardInterrupt:
        pretrain(texts, resume=True, **resumed)  # type: ignore[arg-type]
        found["resumed"] = read_losses(folder / "resumed")
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, make_rows(60))))
    for kind, columns in KIND_COLUMNS.items():
        for train in ("all", "head", "last:1"):
            settings = {"train": train, "precision": "fp32", "head_dropout": 0.0, "dropout": 0.0, "epochs": 2}
            out = folder / f"{kind}-{train.partition(':')[0]}"
            run = finetune(table, from_=base, out=out, kind=kind, device=device, **columns, **settings)
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
    place, device = Path(sys.argv[1]), sys.argv[2]
    texts = make_corpus(place)
    with (
        fake_gpu_backend() if device == GPU else nullcontext()
    ):  # first: torch counts the devices at the first gradient
        there = run_all_paths(place / "there", device, texts)
    here = run_all_paths(place / "here", "cpu", texts)
    (place / "found.json").write_text(json.dumps({"here": here, "there": there, "looks": SYNC_STACKS}))
