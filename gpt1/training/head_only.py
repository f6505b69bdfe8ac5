"""`--train head`: the backbone runs once over every example, its states are kept on disk, the head learns from them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt1.config import FinetuneConfig
from gpt1.corpus.order import batch_indices
from gpt1.devices import translate_resource_errors
from gpt1.errors import UserError
from gpt1.files.atomic import fsync_file
from gpt1.files.foreign import check_regular
from gpt1.inference.task_logits import average_windows
from gpt1.kernels.to_device import to_device
from gpt1.model.head import TaskModel
from gpt1.model.losses import FeatureMicroBatch, Losses, l2
from gpt1.progress import Progress
from gpt1.tasks.collate import collate, micro_batches, window_index
from gpt1.tasks.kinds import EncodedExample
from gpt1.tasks.targets import Target
from gpt1.training.loop import StepBatch
from gpt1.version import __version__

FEATURE_BATCH_TOKENS = {"cpu": 4096, "mps": 16384, "cuda": 131072}  # tokens of one forward pass; nothing is kept for a
# backward pass, so a GPU takes more of them than training does
MAX_CACHE_BYTES = 2 * 10**9  # of all the features on disk
STALE_TEMP_SECONDS = 86400  # seconds; what a killed process left half written


class HeadOnlySource:
    """The source of `--train head`: the loop sees only the states at the extract tokens."""

    micro_batch_size = 0  # a linear layer needs hardly any memory, and no setting changes how much

    def __init__(
        self,
        model: TaskModel,
        target: Target,
        targets: Tensor,
        train_examples: Sequence[EncodedExample],
        validation_examples: Sequence[EncodedExample],
        cfg: FinetuneConfig,
        progress: Progress,
    ) -> None:
        self.head, self.target, self.targets, self.cfg = model.head, target, targets, cfg
        self.model: nn.Module = model.head
        coded = [*train_examples, *validation_examples]
        windows = [window for example in coded for window in example.split_windows()]
        states = load_or_extract_features(model, coded, cfg, progress)
        features = torch.split(states, [len(window.sequences) for window in windows])  # [sequences, n_embd] of each
        self.window_tokens = [window.tokens for window in windows]
        self.window_counts = [example.windows for example in train_examples]
        self.first_window = np.cumsum([0, *self.window_counts])  # window of each example
        self.features, self.validation_features = features[: self.first_window[-1]], features[self.first_window[-1] :]
        self.validation_window_counts = [example.windows for example in validation_examples]

    def step_batch(self, step: int) -> StepBatch:
        seed = self.cfg.seed
        epoch, chosen = batch_indices(step, len(self.window_counts), self.cfg.batch_size, seed)
        seen = [self.first_window[i] + window_index(self.window_counts[i], seed, epoch, i) for i in chosen.tolist()]
        states, example = concatenate_features([self.features[i] for i in seen])
        targets = to_device(self.targets[torch.from_numpy(chosen)], states.device)
        piece = FeatureMicroBatch(states, example, targets, len(chosen))
        return StepBatch(epoch, [piece], sum(self.window_tokens[i] for i in seen))

    def loss_fn(self, batch: Any) -> Losses:
        return l2(self.head, self.target.loss, batch)

    def validation_logits(self) -> Tensor:
        logits: Tensor = self.head(*concatenate_features(self.validation_features))
        return average_windows(logits.detach().float().cpu(), self.validation_window_counts)


def concatenate_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(states [sequences, n_embd], example [sequences], in the processor's memory) of some examples."""
    example = torch.tensor([n for n, states in enumerate(features) for _ in range(len(states))])
    return torch.cat(list(features)), example


def load_or_extract_features(
    model: TaskModel, examples: Sequence[EncodedExample], cfg: FinetuneConfig, progress: Progress
) -> Tensor:
    """The states at the extract tokens of every sequence of every example, in order: [sequences, n_embd], as the model
    computes them. With `cache_features` from disk if they are there, else they are kept there."""
    folder = cache_dir() if cfg.cache_features else None
    if folder is None:
        return extract_features(model, examples, progress, cfg.micro_batch)
    path = folder / "features" / f"{features_fingerprint(model, examples)}.safetensors"
    shape = (sum(len(example.sequences) for example in examples), model.gpt.config.n_embd)
    states = read_cached_features(path, shape, progress)
    if states is not None:
        progress.log(f"features of {len(examples):,} examples taken from {path.parent}")
        return states.to(model.gpt.tokens.weight.device)
    states = extract_features(model, examples, progress, cfg.micro_batch)
    write_cached_features(path, states, progress)
    return states


@torch.inference_mode()
def extract_features(
    model: TaskModel, examples: Sequence[EncodedExample], progress: Progress, micro_batch: int = 0
) -> Tensor:  # → [sequences, n_embd]
    """One pass of the backbone over every example, no dropout, batched by length: `micro_batch` of the longest at a
    time, or as many as are usual on the device."""
    model.eval()
    device = model.gpt.tokens.weight.device
    windows = [window for example in examples for window in example.split_windows()]
    longest = max(window.max_row_tokens for window in windows)
    tokens = micro_batch * longest or FEATURE_BATCH_TOKENS[device.type]
    counts = [len(window.sequences) for window in windows]
    first = np.cumsum([0, *counts])
    found = torch.empty(0)
    progress.begin("features of every example", len(examples), unit="examples")
    done = 0
    with translate_resource_errors(feature_oom_advice(min(tokens // longest, len(windows)))):
        for piece in micro_batches(windows, range(len(windows)), tokens):
            batch = collate(windows, piece, None, device)
            states = model.features(batch.ids, batch.packing)
            if not done:
                found = states.new_empty(sum(counts), states.shape[1])
            rows = np.concatenate([np.arange(first[i], first[i] + counts[i]) for i in piece])
            found[torch.from_numpy(rows).to(device)] = states
            done += len(piece)
            progress.advance(done * len(examples) // len(windows))
    progress.end()
    return found


def feature_oom_advice(micro_batch_size: int) -> str:
    """What to do where memory does not suffice for `micro_batch_size` of the longest examples."""
    if micro_batch_size > 1:
        return f"--micro-batch {micro_batch_size // 2} (now {micro_batch_size}) takes half as much: the features stay the same."
    return "Use a smaller model, or shorter texts."


# ---- on disk: a file is named by the SHA-256 of all that decides what is in it


def cache_dir() -> Path | None:
    """Where features are kept: GPT1_CACHE, or gpt1 in the system's folder for caches; None for a user without one."""
    if named := os.environ.get("GPT1_CACHE"):
        try:
            return Path(named).expanduser()
        except RuntimeError:
            raise UserError(f"GPT1_CACHE {named}: there is no such user here.", "Name a folder.") from None
    try:
        usual = {"darwin": Path.home() / "Library/Caches", "win32": Path.home() / "AppData/Local"}
        base = usual.get(sys.platform, Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    variable = {"darwin": "", "win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    return Path(os.environ.get(variable) or base) / "gpt1"


def features_fingerprint(model: TaskModel, examples: Sequence[EncodedExample]) -> str:
    """SHA-256 over the weights (those of the special tokens, which each seed draws anew, among them), the sequences
    that go in, and what they are computed with. Tokenizer, context and rules for long texts decide the sequences, so
    they are in it too."""
    gpt = model.gpt
    shape = {name: value for name, value in asdict(gpt.config).items() if name != "dropout"}  # it drops nothing here
    device = gpt.tokens.weight.device.type
    digest = hashlib.sha256(
        json.dumps(
            ["gpt1-features-1", __version__, torch.__version__, shape, str(gpt.activation_dtype), device]
        ).encode()
    )
    for name, tensor in gpt.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    for example in examples:
        for sequence in example.sequences:
            digest.update(np.array([len(sequence), *sequence], dtype=np.int64).tobytes())
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data


def read_cached_features(path: Path, shape: tuple[int, int], progress: Progress) -> Tensor | None:
    """The features of a file, which counts as used now; None where there is none, or where it is damaged."""
    try:
        if not path.exists():
            return None
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            if tuple(file.get_slice("states").get_shape()) != shape:
                raise ValueError("it has another shape")
            states: Tensor = file.get_tensor("states")
            said = (file.metadata() or {}).get("sha256")
        if not states.is_floating_point() or hashlib.sha256(tensor_bytes(states)).hexdigest() != said:
            raise ValueError("SHA-256 differs")
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return states
    except PermissionError as error:
        progress.log(f"{path.parent} cannot be read ({error.strerror}): the features are computed again")
        return None
    except (SafetensorError, OSError, UserError, ValueError) as error:  # cut short, changed, or gone meanwhile
        progress.log(f"{path} is damaged ({str(error).splitlines()[0]}): its features are computed again")
        return None


def write_cached_features(path: Path, states: Tensor, progress: Progress) -> None:
    """Write the file whole or not at all. A disk that does not take it costs the next run its time, and this one
    nothing."""
    if states.nbytes > MAX_CACHE_BYTES:
        size, most = f"{states.nbytes / 1e9:.1f} GB", f"{MAX_CACHE_BYTES / 1e9:g} GB"
        progress.log(f"the features are not kept on disk: {size} is more than {most}")
        return
    states = states.detach().cpu().contiguous()
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": states}, aside, metadata={"sha256": hashlib.sha256(tensor_bytes(states)).hexdigest()})
        with open(aside, "rb+") as file:
            fsync_file(file)
        aside.replace(path)
        prune_feature_cache(path.parent)
    except (OSError, SafetensorError) as error:
        progress.log(f"the features are not kept in {path.parent}: {str(error).splitlines()[0]}")
    finally:
        with suppress(OSError):
            aside.unlink()


def prune_feature_cache(folder: Path) -> None:
    """Of the files, those used last stay, as many as fit into MOST_BYTES."""
    total = 0
    for _, size, path in sorted(list_cache_files(folder, "*.safetensors"), reverse=True):
        total += size
        if total > MAX_CACHE_BYTES:
            path.unlink(missing_ok=True)
    for used, _, path in list_cache_files(folder, ".*.tmp"):
        if time.time() - used > STALE_TEMP_SECONDS:
            path.unlink(missing_ok=True)


def list_cache_files(folder: Path, pattern: str) -> Iterator[tuple[float, int, Path]]:
    """(when used last, bytes, path) of each file; those that another process removes meanwhile are passed over."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            said = path.stat()
            yield said.st_mtime, said.st_size, path
