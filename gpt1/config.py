"""Every setting of gpt1: type, default, unit, reason, source. Flags, YAML keys, checks and docs come from here.

A run's settings are laid over each other in this order, later ones win: the defaults below, the recipe, the model size
(pre-training) or the part that is trained (fine-tuning), the `--config` file, the flags.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from gpt1.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Range:
    """The range that a number may lie in; both ends count, but for `low` where `exclude_low` is set."""

    low: float = -math.inf
    high: float = math.inf
    exclude_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.exclude_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.exclude_low:
            return f"above {self.low}" + (f" and at most {self.high}" if self.high < math.inf else "")
        return f"at least {self.low}" if self.high == math.inf else f"between {self.low} and {self.high}"


Count = Annotated[int, Range(1)]
# A model's dimensions, an order of magnitude above the largest there are: a damaged or hostile config.json must not
# fill the memory before its weights are looked at.
Vocabulary = Annotated[int, Range(1, 2**24)]
Layers = Annotated[int, Range(1, 2**10)]
Heads = Annotated[int, Range(1, 2**10)]
Width = Annotated[int, Range(1, 2**16)]
Context = Annotated[int, Range(1, 2**22)]
Probability = Annotated[float, Range(0, 0.99)]
Decay = Annotated[float, Range(0, 0.99999)]  # at 1 the bias correction would divide by nothing
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, exclude_low=True)]
OptimizerName = Literal["adam", "adamw", "sgd"]
Precision = Literal["auto", "bf16", "fp32"]
Recipe = Literal["default", "paper"]
Cut = Literal["longest", "shares"]
LongTextStrategy = Literal["cut", "head-tail", "windows"]
Architecture = Literal["transformer", "lstm"]


@dataclass(frozen=True)
class GPTConfig:
    """What a model is: `config.json` of a model folder. The defaults are the paper's (4.1)."""

    vocab_size: Vocabulary = 40478
    """Rows of the token embedding without the three special tokens (the release: 40,000 merges and 478 symbols)."""
    n_layer: Layers = 12
    """Transformer blocks."""
    n_head: Heads = 12
    """Attention heads a block; n_embd is a multiple of it."""
    n_embd: Width = 768
    """Width of the residual stream; the feed-forward layer is four times as wide."""
    context: Context = 512
    """Positions that the model knows, in tokens."""
    dropout: Probability = 0.1
    """Dropout on embeddings, residual branches and attention."""
    special_tokens: Annotated[int, Range(0, 3)] = 0
    """Rows after the vocabulary: 0 when pre-trained, 3 (start, delimiter, extract) after fine-tuning."""
    architecture: Architecture = "transformer"
    """What stands between embedding and softmax: Transformer blocks, or LSTM layers without positions (table 5)."""
    lstm_units: Width = 2048
    """Units of an LSTM layer (paper, table 5)."""

    def __post_init__(self) -> None:
        validate(self)
        if self.n_embd % self.n_head:
            raise UserError(
                f"--n-embd {self.n_embd} is not a multiple of --n-head {self.n_head}.",
                "Every head gets an equal share of the width.",
            )

    @property
    def embedding_rows(self) -> int:
        """Rows of the token embedding, special tokens counted."""
        return self.vocab_size + self.special_tokens

    @property
    def n_parameters(self) -> int:
        if self.architecture == "lstm":
            units = self.lstm_units
            layer = 4 * units * (self.n_embd + units + 1) + (units + 1) * self.n_embd
            return self.embedding_rows * self.n_embd + self.n_layer * layer
        block = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.embedding_rows + self.context) * self.n_embd + self.n_layer * block


MODEL_SIZES: dict[str, dict[str, Any]] = {
    # The default recipe takes peak_lr from here, the recipe `paper` never does. Narrow post-LN models stand, and want,
    # a larger rate, but only after a slow warm-up: reached early it leaves them at the unigram loss (docs/lab-log.md).
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "context": 128, "peak_lr": 1e-3},
    "mini": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "peak_lr": 6e-4},
    "small": {"n_layer": 8, "n_head": 8, "n_embd": 512, "context": 512, "peak_lr": 4e-4},
    "gpt1": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 512, "peak_lr": 2.5e-4},
    # The LSTM of table 5 beside `mini`: the same embedding and context, one layer of 2048 units.
    "lstm": {"n_layer": 1, "n_head": 1, "n_embd": 384, "context": 256, "peak_lr": 1e-3, "architecture": "lstm"},
}
ModelSize = Literal["tiny", "mini", "small", "gpt1", "lstm"]


@dataclass(frozen=True)
class TrainingConfig:
    """What both stages share."""

    recipe: Recipe = "default"
    """`paper`: the settings and the behaviour of the paper and the released code. `default`: what works best here."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Everything random derives from it: the start, the order of the samples, dropout."""
    optimizer: OptimizerName = "adamw"
    """`adam` is Adam as released with the paper (decay and bias correction intertwined); `sgd` has momentum."""
    peak_lr: NotNegative = 2.5e-4
    """Learning rate after warm-up (paper 4.1). Post-LN models diverge when it is raised without a longer warm-up."""
    warmup: NotNegative = 2000
    """Linear warm-up from 0: a number of updates or, below 1, a fraction of all updates (paper 4.1: 2000 and 0.002)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the rate does after warm-up: falls to 0 along a cosine or a line, or stays."""
    weight_decay: NotNegative = 0.01
    """Decay of every weight that is no bias or gain (paper 4.1)."""
    beta1: Decay = 0.9
    """Adam's decay of the first moment; for `sgd` the momentum."""
    beta2: Decay = 0.999
    """Adam's decay of the second moment."""
    eps: NotNegative = 1e-8
    """Adam's ε."""
    clip_norm: NotNegative = 1.0
    """Largest global norm of the gradient (released code: 1); 0 does not clip."""
    batch_size: Count = 32
    """Sequences (pre-training) or examples (fine-tuning) of one update."""
    micro_batch: Annotated[int, Range(0)] = 0
    """Sequences of one forward pass; smaller needs less memory and gives the same update. 0: gpt1 chooses."""
    dropout: Probability = 0.1
    """Dropout on embeddings, residual branches and attention (paper 4.1)."""
    recompute: bool = False
    """Keep only each block's input and compute the rest again in the backward pass: less memory, a third more work."""
    precision: Precision = "auto"
    """Activations: `bf16`, `fp32`, or `auto`: bf16 if the device supports it natively. Weights are always fp32."""
    device: str = "auto"
    """`auto`: the GPU where there is one, else the processor. Or cpu, cuda, cuda:1, mps."""
    checkpoint_every: Annotated[int, Range(0)] = 500
    """Updates between two checkpoints; 0: only those of the held-out measurements and the last one."""
    keep: Count = 2
    """Checkpoints that stay on disk, besides the best."""


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Stage 1: L1 over a corpus."""

    model: ModelSize = "mini"
    """Size of the model; --n-layer, --n-head, --n-embd and --context change single dimensions of it."""
    n_layer: Layers = 6
    """Transformer blocks."""
    n_head: Heads = 6
    """Attention heads a block."""
    n_embd: Width = 384
    """Width of the residual stream."""
    context: Annotated[int, Range(2, 2**22)] = 256
    """Length of the training windows and number of positions, in tokens."""
    architecture: Architecture = "transformer"
    """Transformer blocks, or LSTM layers in their place (table 5); --model lstm says both."""
    lstm_units: Width = 2048
    """Units of an LSTM layer (paper, table 5)."""
    epochs: Positive = 1.0
    """Times that every window of the corpus is seen; may be a fraction. The paper: 100."""
    steps: Annotated[int, Range(0)] = 0
    """Number of updates, instead of --epochs; 0: --epochs decides."""
    valid_fraction: Annotated[float, Range(0, 0.5)] = 0.01
    """Share of the corpus, cut off its end, that is never trained on and gives the held-out loss."""
    eval_every: Annotated[int, Range(0)] = 250
    """Updates between two measurements of the held-out loss; 0: only at the end."""
    eval_windows: Count = 256
    """Held-out windows used for a measurement."""
    compile: bool = False
    """On a GPU: run the blocks through torch.compile, a minute or two at the start for faster updates. Where it fails,
    the run says so and goes on without it. Off by itself, because no run has measured yet where it pays."""


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Stage 2: L2, or L3 = L2 + λ·L1, over a labelled table."""

    optimizer: OptimizerName = "adam"
    peak_lr: NotNegative = 6.25e-5
    """Learning rate after warm-up (paper 4.1, for a width of 768). The default recipe multiplies it by the square of
    768 / --n-embd of the model, to 3.75e-4 at most: narrow models want more."""
    warmup: NotNegative = 0.002
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    train: str = "all"
    """What is trained: `all` (the paper), `head` (the new layer only), `last:K` (the last K blocks and the head)."""
    lm_coef: NotNegative = 0.5
    """λ, the weight of the language-modelling loss beside the task's (paper, eq. 5)."""
    epochs: Positive = 3.0
    """Times that every labelled row is seen."""
    head_dropout: Probability = 0.1
    """Dropout on the state that the new layer reads (paper 4.1)."""
    valid_fraction: Annotated[float, Range(0, 0.5)] = 0.1
    """Share of the training rows held out, stratified by label, to choose the best epoch; --valid gives your own."""
    cut: Cut = "longest"
    """Too long: cut the longest field first, or give every field a fixed share of the context as the release does."""
    long: LongTextStrategy = "cut"
    """What is kept of a text that is too long: its beginning; a quarter of what fits from its beginning, the rest from
    its end; or all of it, read in overlapping windows whose predictions are averaged."""
    shared_context: bool = True
    """Multiple choice: what the answers of a question have in common goes through the model once where that is less
    work, up to as many times less. Without dropout nothing changes by it; with dropout all answers see the context with
    the same units dropped, where the release draws them anew for each."""
    transfer_layers: Annotated[int, Range(-1)] = -1
    """Pre-trained blocks that are kept, the rest starts fresh (paper, figure 2 left); -1 keeps all of them."""
    from_scratch: bool = False
    """Take only the shape and the tokenizer of the pre-trained model, none of its weights (paper, table 5)."""
    deduplicate: bool = True
    """Leave out training rows that repeat another one, or that also stand in the validation file."""
    cache_features: bool = True
    """With `--train head`: keep on disk what the model says of every example, for later runs on the same rows."""


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "PretrainConfig": {
        "default": {"warmup": 0.15, "dropout": 0.0, "beta2": 0.99, "weight_decay": 0.1},
        # The paper names no clipping in stage 1.
        "paper": {"model": "gpt1", "optimizer": "adam", "peak_lr": 2.5e-4, "batch_size": 64, "epochs": 100.0}
        | {"clip_norm": 0.0},
    },
    "FinetuneConfig": {
        "default": {"warmup": 0.1},
        "paper": {"cut": "shares", "deduplicate": False, "shared_context": False},
    },
}

Config = TypeVar("Config")


HEAD_ONLY_DEFAULTS: dict[str, Any] = {"lm_coef": 0.0, "peak_lr": 3e-3, "epochs": 30.0, "weight_decay": 0.0}
"""The default recipe with `--train head`: a small convex problem, which takes a large rate and many cheap epochs."""


def recipe_defaults(config_class: type[Any], recipe: str, size: str | None = None) -> dict[str, Any]:
    """What a recipe says and, in pre-training, a size (the recipe's, if none is named): the size wins over the default
    recipe, the paper's over any size."""
    base = dict(RECIPES[config_class.__name__].get(recipe, {}))
    if config_class is not PretrainConfig:
        return base
    sized = MODEL_SIZES.get(size or base.get("model", PretrainConfig.model), {})
    return {**sized, **base} if recipe == "paper" else {**base, **sized}


def merge_settings(config_class: type[Config], *layers: Mapping[str, Any]) -> Config:
    """The settings as they will be used: `layers` laid over the defaults, later layers winning; every value is checked.

    Raises UserError for a setting that does not exist or a value that breaks its rule.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            merged[field_name(config_class, name)] = value
    return build(config_class, merged)


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    config = config_class(**{name: parse_value(config_class, name, value) for name, value in values.items()})
    validate(config)
    return config


def field_name(config_class: type[Any], name: str) -> str:
    """`name` as the field's name, or UserError with the closest one."""
    field = name.replace("-", "_")
    names = [f.name for f in dataclasses.fields(config_class)]
    if field not in names:
        raise UserError(
            f"there is no setting '{name}'.{did_you_mean(field, names)}", f"The settings are: {', '.join(names)}."
        )
    return field


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def format_flag(name: str, value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool):
        return flag_name(name) if value else f"--no-{flag_name(name)[2:]}"
    return f"{flag_name(name)} {value}"


@cache
def field_types(config_class: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(config_class, include_extras=True)


def base_type(hint: Any) -> tuple[Any, Range | None]:
    """(type or Literal, range) of an annotation."""
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        return base, next((extra for extra in extras if isinstance(extra, Range)), None)
    return hint, None


def parse_value(config_class: Any, name: str, value: Any) -> Any:
    """Text from a flag or a YAML file as the setting's type."""
    base, _ = base_type(field_types(config_class)[name])
    if base is str and isinstance(value, list | dict):
        raise UserError(
            f"{flag_name(name)} {brief(value)}: this is not a text.", f"Default: {default_value(config_class, name)}"
        )
    if get_origin(base) is Literal and not isinstance(value, str):
        choices = ", ".join(map(str, get_args(base)))
        raise UserError(f"{flag_name(name)} {brief(value)}: there is no such choice.", f"Choices: {choices}.")
    if get_origin(base) in (Literal, types.UnionType) or base is str:
        return str(value) if base is str else value
    if base is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "1", "false", "no", "0"):
            return str(value).lower() in ("true", "yes", "1")
    elif not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if base is float and math.isfinite(number):
            return number
        if base is int and math.isfinite(number) and number == int(number):
            return int(number)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[base]
    raise UserError(
        f"{flag_name(name)} {brief(value)}: this is not {wanted}.",
        f"Default: {flag_name(name)} {default_value(config_class, name)}",
    )


def brief(value: Any) -> str:
    """A value as a message quotes it: it may come from a file, and be as long as that."""
    if isinstance(value, int) and value.bit_length() > 200:  # too many digits for str() at some length
        return "a number of more than 60 digits"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def default_value(config_class: type[Any], name: str) -> Any:
    return next(f.default for f in dataclasses.fields(config_class) if f.name == name)


def validate(config: Any) -> None:
    """Every value inside its range or among its choices; UserError names the value, the rule and a way out."""
    config_class: Any = type(config)
    for name, hint in field_types(config_class).items():
        value = getattr(config, name)
        base, between = base_type(hint)
        if get_origin(base) is Literal and value not in get_args(base):
            choices = [str(choice) for choice in get_args(base)]
            raise UserError(
                f"{flag_name(name)} {brief(value)}: there is no such choice.{did_you_mean(brief(value), choices)}",
                f"Choices: {', '.join(choices)}.",
            )
        if between and value not in between:
            raise UserError(
                f"{flag_name(name)} {brief(value)} is out of range: it has to be {between}.",
                f"Default: {flag_name(name)} {default_value(config_class, name)}",
            )


@cache
def descriptions(config_class: Any) -> dict[str, str]:
    """The docstring under each setting, by name; a subclass inherits those that it does not repeat."""
    found: dict[str, str] = {}
    for ancestor in reversed(config_class.__mro__[:-1]):
        body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(ancestor)).body[0]).body
        for line, following in pairwise(body):
            is_setting = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            if is_setting and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[line.target.id] = inspect.cleandoc(str(following.value.value))  # type: ignore[attr-defined]
    return found
