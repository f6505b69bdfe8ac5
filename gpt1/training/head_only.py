"""`--train head`: the backbone runs once over all examples, its features are cached, and the head trains on them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gpt1.config import FinetuneConfig
from gpt1.corpus.order import batch_indices
from gpt1.devices import translate_resource_errors
from gpt1.errors import ResourceError, UserError
from gpt1.files.atomic import remove_stale
from gpt1.files.foreign import check_regular
from gpt1.formatting import count_noun
from gpt1.inference.task_logits import average_windows
from gpt1.kernels.to_device import to_device
from gpt1.model.head import TaskModel
from gpt1.model.losses import FeatureMicroBatch, Losses, l2
from gpt1.model.weights import write_safetensors
from gpt1.progress import Progress
from gpt1.tasks.collate import collate, micro_batches, window_index
from gpt1.tasks.kinds import EncodedExample
from gpt1.tasks.targets import Target
from gpt1.training.loop import StepBatch
from gpt1.version import __version__

FEATURE_BATCH_TOKENS = {"cpu": 4096, "mps": 16384, "cuda": 131072}
"""Tokens per forward pass. Nothing is kept for a backward pass, so a GPU takes more than in training."""
MAX_CACHE_BYTES = 2 * 10**9  # of all features on disk


class HeadOnlySource:
    """Batches of `--train head`: the features of the examples, which are the hidden states at the extract tokens."""

    micro_batch_size = 0  # a linear layer needs little memory, and no setting reduces it

    def __init__(
        self,
        model: TaskModel,
        target: Target,
        targets: Tensor,
        train_examples: Sequence[EncodedExample],
        validation_examples: Sequence[EncodedExample],
        cfg: FinetuneConfig,
        progress: Progress,
        weights: Tensor | None = None,
    ) -> None:
        self.weights = weights
        self.head, self.target, self.targets, self.cfg = model.head, target, targets, cfg
        self.model: nn.Module = model.head
        examples = [*train_examples, *validation_examples]
        windows = [window for example in examples for window in example.split_windows()]
        states = load_or_extract_features(model, examples, cfg, progress)
        features = torch.split(states, [len(window.sequences) for window in windows])  # each [sequences, n_embd]
        self.window_tokens = [window.tokens for window in windows]
        self.window_counts = [example.windows for example in train_examples]
        self.first_window = np.cumsum([0, *self.window_counts])  # the first window of each example
        self.features, self.validation_features = features[: self.first_window[-1]], features[self.first_window[-1] :]
        self.validation_window_counts = [example.windows for example in validation_examples]

    def step_batch(self, step: int) -> StepBatch:
        seed = self.cfg.seed
        epoch, chosen = batch_indices(step, len(self.window_counts), self.cfg.batch_size, seed)
        windows = [self.first_window[i] + window_index(self.window_counts[i], seed, epoch, i) for i in chosen.tolist()]
        states, example_index = concatenate_features([self.features[i] for i in windows])
        targets = to_device(self.targets[torch.from_numpy(chosen)], states.device)
        weights = None if self.weights is None else to_device(self.weights[torch.from_numpy(chosen)], states.device)
        micro_batch = FeatureMicroBatch(states, example_index, targets, len(chosen), weights)
        return StepBatch(epoch, [micro_batch], sum(self.window_tokens[i] for i in windows))

    def loss_fn(self, batch: Any) -> Losses:
        return l2(self.head, self.target.loss, batch)

    def validation_logits(self) -> Tensor:
        logits: Tensor = self.head(*concatenate_features(self.validation_features))
        return average_windows(logits.detach().float().cpu(), self.validation_window_counts, self.head.independent)


def concatenate_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(features [sequences, n_embd], index of the example [sequences] on the CPU) of some examples."""
    example_index = torch.tensor([n for n, states in enumerate(features) for _ in range(len(states))])
    return torch.cat(list(features)), example_index


def load_or_extract_features(
    model: TaskModel, examples: Sequence[EncodedExample], cfg: FinetuneConfig, progress: Progress
) -> Tensor:
    """The features of all sequences of all examples, in order [sequences, n_embd], in the dtype of the activations.

    With `cache_features`, they are read from disk, or written there.
    """
    folder = cache_dir() if cfg.cache_features else None
    if folder is None:
        return extract_features(model, examples, progress, cfg.micro_batch)
    path = folder / "features" / f"{features_fingerprint(model, examples)}.safetensors"
    shape = (sum(len(example.sequences) for example in examples), model.gpt.config.n_embd)
    states = read_cached_features(path, shape, progress)
    if states is not None:
        progress.log(f"features of {count_noun(len(examples), 'example')} loaded from {path.parent}")
        return states.to(model.gpt.tokens.weight.device)
    states = extract_features(model, examples, progress, cfg.micro_batch)
    write_cached_features(path, states, progress)
    return states


@torch.inference_mode()
def extract_features(
    model: TaskModel, examples: Sequence[EncodedExample], progress: Progress, micro_batch: int = 0
) -> Tensor:  # → [sequences, n_embd]
    """Run the backbone over all examples, without dropout, batched by length.

    Args:
        model: Its `gpt` is the backbone.
        examples: Encoded examples.
        progress: Receives the number of examples done.
        micro_batch: Longest examples per forward pass; 0: FEATURE_BATCH_TOKENS.

    Returns:
        [sequences, n_embd], the hidden state at the extract token of each sequence, in order.
    """
    model.eval()
    device = model.gpt.tokens.weight.device
    windows = [window for example in examples for window in example.split_windows()]
    longest = max(window.max_row_tokens for window in windows)
    tokens = micro_batch * longest or FEATURE_BATCH_TOKENS[device.type]
    counts = [len(window.sequences) for window in windows]
    first = np.cumsum([0, *counts])
    features = torch.empty(0)
    progress.begin("computing features", len(examples), unit="examples")
    done = 0
    with translate_resource_errors(feature_oom_advice(min(tokens // longest, len(windows)))):
        for indices in micro_batches(windows, range(len(windows)), tokens):
            batch = collate(windows, indices, None, device)
            states = model.features(batch.ids, batch.packing)
            if not done:
                features = states.new_empty(sum(counts), states.shape[1])
            rows = np.concatenate([np.arange(first[i], first[i] + counts[i]) for i in indices])
            features[torch.from_numpy(rows).to(device)] = states
            done += len(indices)
            progress.advance(done * len(examples) // len(windows))
    progress.end()
    return features


def feature_oom_advice(micro_batch_size: int) -> str:
    """How to use less memory than `micro_batch_size` of the longest examples need."""
    if micro_batch_size > 1:
        halve = f"Use --micro-batch {micro_batch_size // 2} (now {micro_batch_size})"
        return f"{halve} to halve the memory of activations: the features stay the same."
    return "Use a smaller model, or shorter texts."


# ---- on disk: the file name is the SHA-256 of everything that affects the features


def cache_dir() -> Path | None:
    """GPT1_CACHE, or gpt1 in the system's cache folder; None for a user without a home folder."""
    if setting := os.environ.get("GPT1_CACHE"):
        try:
            return Path(setting).expanduser()
        except RuntimeError:
            raise UserError(f"GPT1_CACHE {setting}: there is no such user.", "Set GPT1_CACHE to a folder.") from None
    try:
        defaults = {"darwin": Path.home() / "Library/Caches", "win32": Path.home() / "AppData/Local"}
        base = defaults.get(sys.platform, Path.home() / ".cache")
    except RuntimeError:  # no home folder
        return None
    variable = {"darwin": "", "win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    return Path(os.environ.get(variable) or base) / "gpt1"


def features_fingerprint(model: TaskModel, examples: Sequence[EncodedExample]) -> str:
    """SHA-256 over the weights, the token sequences, and the versions, dtype and device that compute the features.

    The weights include the special-token embeddings, which depend on the random seed. Tokenizer, context and the rules
    for long texts are covered by the token sequences.
    """
    gpt = model.gpt
    shape = {name: value for name, value in asdict(gpt.config).items() if name != "dropout"}  # not applied here
    device = gpt.tokens.weight.device.type
    computed_with = ["gpt1-features-1", __version__, torch.__version__, shape, str(gpt.activation_dtype), device]
    digest = hashlib.sha256(json.dumps(computed_with).encode())
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
    """The features in a file, whose time of last use is updated; None if it is missing or damaged."""
    try:
        if not path.exists():
            return None
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            if tuple(file.get_slice("states").get_shape()) != shape:
                raise ValueError("it has a different shape")
            states: Tensor = file.get_tensor("states")
            expected_sha256 = (file.metadata() or {}).get("sha256")
        if not states.is_floating_point() or hashlib.sha256(tensor_bytes(states)).hexdigest() != expected_sha256:
            raise ValueError("SHA-256 differs")
        with suppress(OSError):  # the folder is read-only
            os.utime(path)
        return states
    except PermissionError as error:
        progress.log(f"{path.parent} cannot be read ({error.strerror}): computing the features again")
        return None
    except (SafetensorError, OSError, UserError, ValueError) as error:  # truncated, changed, or deleted meanwhile
        progress.log(f"{path} is damaged ({str(error).splitlines()[0]}): computing its features again")
        return None


def write_cached_features(path: Path, states: Tensor, progress: Progress) -> None:
    """Write the file atomically. If that fails, log a message and continue."""
    if states.nbytes > MAX_CACHE_BYTES:
        size, limit = f"{states.nbytes / 1e9:.1f} GB", f"{MAX_CACHE_BYTES / 1e9:g} GB"
        progress.log(f"the features are not cached: {size} exceeds the limit of {limit}")
        return
    try:
        write_safetensors(path, {"states": states}, {"sha256": hashlib.sha256(tensor_bytes(states)).hexdigest()})
        prune_feature_cache(path.parent)
    except (OSError, SafetensorError, UserError, ResourceError) as error:
        progress.log(f"the features cannot be cached in {path.parent}: {str(error).splitlines()[0]}")


def prune_feature_cache(folder: Path) -> None:
    """Delete the least recently used files beyond MAX_CACHE_BYTES, and old temporary files."""
    total = 0
    for _, size, path in sorted(list_cache_files(folder), reverse=True):
        total += size
        if total > MAX_CACHE_BYTES:
            path.unlink(missing_ok=True)
    remove_stale(folder, ".*.tmp")


def list_cache_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of each file; files that another process deletes meanwhile are skipped."""
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            yield stat.st_mtime, stat.st_size, path
