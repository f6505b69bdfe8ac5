"""Every setting of gpt1: type, default, unit, reason, source. Flags, YAML keys, checks and docs are made from it.

Later sources override earlier ones: the defaults below, the recipe, the model size (pre-training) or the trained part
(fine-tuning), the `--config` file, the flags.
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
from gpt1.formatting import format_setting
from gpt1.recipes import MODEL_SIZES, RECIPES, default_note


@dataclass(frozen=True)
class Range:
    """A range of numbers. Both ends belong to it, except `low` if `exclude_low` is set."""

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
# Limits of a model's dimensions, an order of magnitude above the largest models: a damaged or hostile config.json must
# not fill the memory before the weights are checked.
MAX_VOCABULARY = 2**24
Vocabulary = Annotated[int, Range(1, MAX_VOCABULARY)]
Layers = Annotated[int, Range(1, 2**10)]
Heads = Annotated[int, Range(1, 2**10)]
Width = Annotated[int, Range(1, 2**16)]
Context = Annotated[int, Range(1, 2**22)]
Probability = Annotated[float, Range(0, 0.99)]
Decay = Annotated[float, Range(0, 0.99999)]  # at 1 the bias correction would divide by 0
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, exclude_low=True)]
OptimizerName = Literal["adam", "adamw", "muon", "sgd"]
Schedule = Literal["cosine", "linear", "constant", "wsd"]
Precision = Literal["auto", "bf16", "fp32"]
Recipe = Literal["default", "paper"]
Cut = Literal["longest", "shares"]
LongTextStrategy = Literal["cut", "head-tail", "windows"]
Architecture = Literal["transformer", "lstm"]
ValidationSplit = Literal["documents", "end"]
TrackerName = Literal["none", "mlflow", "wandb"]
MainMetric = Literal["auto", "accuracy", "f1", "f1_micro", "f1_macro", "matthews", "pearson", "spearman", "rmse", "mae"]


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a model: `config.json` of a model folder. The defaults are the paper's (section 4.1)."""

    vocab_size: Vocabulary = 40478
    """Tokens in the vocabulary, without the special tokens (GPT-1: 40,000 merges and 478 symbols)."""
    n_layer: Layers = 12
    """Transformer blocks."""
    n_head: Heads = 12
    """Attention heads per block; n_embd must be a multiple of it."""
    n_embd: Width = 768
    """Width of the residual stream; the feed-forward layer is four times as wide."""
    context: Context = 512
    """Number of positions, in tokens."""
    dropout: Probability = 0.1
    """Dropout on embeddings, residual branches and attention."""
    special_tokens: Annotated[int, Range(0, 3)] = 0
    """Embedding rows after the vocabulary: 0 when pre-trained, 3 (start, delimiter, extract) after fine-tuning."""
    architecture: Architecture = "transformer"
    """Layers between embedding and softmax: Transformer blocks, or LSTM layers without positions (table 5)."""
    lstm_units: Width = 2048
    """Units per LSTM layer (paper, table 5)."""

    def __post_init__(self) -> None:
        validate(self)
        if self.n_embd % self.n_head:
            raise UserError(
                f"--n-embd {self.n_embd} is not a multiple of --n-head {self.n_head}.",
                "Every head needs an equal share of the width: choose a multiple.",
            )

    @property
    def embedding_rows(self) -> int:
        """Rows of the token embedding, including special tokens."""
        return self.vocab_size + self.special_tokens

    @property
    def n_parameters(self) -> int:
        if self.architecture == "lstm":
            units = self.lstm_units
            layer = 4 * units * (self.n_embd + units + 1) + (units + 1) * self.n_embd
            return self.embedding_rows * self.n_embd + self.n_layer * layer
        block = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.embedding_rows + self.context) * self.n_embd + self.n_layer * block


ModelSize = Literal["tiny", "mini", "small", "gpt1", "lstm"]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of both stages."""

    recipe: Recipe = "default"
    """`paper`: settings and behavior of the paper and the released code. `default`: settings for small models."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Random seed of the initial weights, the order of the samples and dropout."""
    optimizer: OptimizerName = "adamw"
    """`adam` is the released code's Adam (weight decay and bias correction are coupled); `muon` orthogonalizes the
    updates of the matrices of the blocks, and is AdamW for the other parameters; `sgd` has momentum."""
    peak_lr: NotNegative = 2.5e-4
    """Learning rate after warm-up (paper 4.1). A higher value needs a longer warm-up, or post-LN models diverge."""
    embedding_lr_factor: NotNegative = 1.0
    """Learning rate of the token embedding as a multiple of that of the other weights."""
    warmup: NotNegative = 2000
    """Linear warm-up from 0: a number of steps or, below 1, a fraction of all steps (paper 4.1: 2000 and 0.002)."""
    schedule: Schedule = "cosine"
    """Learning rate after warm-up: falls to 0 as a cosine or a line, stays constant, or (`wsd`: warm-up, stable, decay)
    stays constant and falls to 0 as a line over the last fifth of the steps."""
    weight_decay: NotNegative = 0.01
    """Weight decay, not applied to biases and LayerNorm parameters (paper 4.1)."""
    beta1: Decay = 0.9
    """Adam's decay rate of the first moment; for `sgd` the momentum."""
    beta2: Decay = 0.999
    """Adam's decay rate of the second moment."""
    eps: NotNegative = 1e-8
    """Adam's ε."""
    init_std: NotNegative = 0.0
    """Standard deviation of new weights and of the embeddings of special tokens. 0: 0.02 · √(768 / n_embd), which is
    the paper's 0.02 at its width of 768 (paper 4.1); for an LSTM 0.02."""
    clip_norm: NotNegative = 1.0
    """Maximum global norm of the gradient (released code: 1); 0: no clipping."""
    batch_size: Count = 32
    """Sequences (pre-training) or examples (fine-tuning) per step."""
    micro_batch: Annotated[int, Range(0)] = 0
    """Sequences per forward pass. A smaller micro-batch needs less memory and gives the same step. 0: automatic."""
    dropout: Probability = 0.1
    """Dropout on embeddings, residual branches, attention (paper 4.1). From 2,000 labeled rows: as in pre-training."""
    activation_checkpointing: bool = False
    """Keep only each block's input and recompute the rest in the backward pass: less memory, a third more compute."""
    precision: Precision = "auto"
    """Activation type: `bf16`, `fp32`, or `auto` (bf16 if the device supports it natively). Weights are fp32."""
    device: str = "auto"
    """`auto` (a GPU if available, else the CPU), cpu, cuda, cuda:1 or mps."""
    checkpoint_every: Annotated[int, Range(0)] = 500
    """Steps between two checkpoints; 0: only at evaluations and at the end."""
    checkpoint_minutes: NotNegative = 5.0
    """Minutes between additional checkpoints, each of which replaces the previous one; the first is written after one
    minute. Saving takes at most 2% of the time. 0: only the checkpoints of --checkpoint-every."""
    keep: Count = 2
    """Checkpoints to keep on disk, besides the best one."""
    track: TrackerName = "none"
    """Experiment tracker that also receives the metrics: `mlflow` (MLFLOW_TRACKING_URI, or ./mlflow.db) or `wandb`
    (offline in the run folder; WANDB_MODE=online also sends them)."""


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Settings of stage 1: maximize L1 over a corpus (paper, eq. 1)."""

    model: ModelSize = "mini"
    """Model size; --n-layer, --n-head, --n-embd and --context override single dimensions."""
    n_layer: Layers = 6
    """Transformer blocks."""
    n_head: Heads = 6
    """Attention heads per block."""
    n_embd: Width = 384
    """Width of the residual stream."""
    context: Annotated[int, Range(2, 2**22)] = 256
    """Length of the training windows and number of positions, in tokens."""
    architecture: Architecture = "transformer"
    """Transformer blocks, or LSTM layers instead (table 5); --model lstm sets it too."""
    lstm_units: Width = 2048
    """Units per LSTM layer (paper, table 5)."""
    epochs: Positive = 1.0
    """Passes over the corpus; may be a fraction. Paper: 100."""
    steps: Annotated[int, Range(0)] = 0
    """Number of steps, instead of --epochs; 0: use --epochs."""
    valid_fraction: Annotated[float, Range(0, 0.5)] = 0.01
    """Share of the corpus for validation; it is never trained on."""
    valid_split: ValidationSplit = "end"
    """Which part of the corpus is the validation set. `documents`: whole documents from everywhere in the corpus, the
    same for every run; if there are too few short ones, pieces of long ones. `end`: the end of the corpus, as in
    earlier versions, so that their runs can be resumed and compared."""
    eval_every: Annotated[int, Range(0)] = 250
    """Steps between two evaluations of the validation loss; 0: only at the end."""
    eval_windows: Count = 256
    """Validation windows per evaluation."""
    compile: bool = False
    """On a GPU: compile the blocks with torch.compile, which takes a minute or two. If it fails, the run warns and
    continues without it. Off by default: for `mini` it gained nothing on an H200."""


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Settings of stage 2: maximize L2, or L3 = L2 + λ·L1, over labeled rows (paper, eq. 4 and 5)."""

    optimizer: OptimizerName = "adam"
    peak_lr: NotNegative = 6.25e-5
    """Learning rate after warm-up (paper 4.1, for a width of 768). The default recipe multiplies it by 768 / n_embd, up
    to 3.75e-4, which is the rate of the token embedding at every width. --from-scratch: 8/3 of both. Classification
    with 2,000 rows or more, λ of at least 0.5, no dropout and a width above 128: 4 times both, up to 5e-4."""
    warmup: NotNegative = 0.002
    schedule: Schedule = "linear"
    train: str = "all"
    """Trained part: `all` (the paper), `head` (only the new layer), `last:K` (the last K blocks and the head)."""
    lm_coef: NotNegative = 0.5
    """λ, the weight of the auxiliary language-modeling loss (paper, eq. 5)."""
    epochs: Positive = 3.0
    """Passes over the training rows."""
    head_first: bool = False
    """Initialize the new layer as a linear probe on the features of the pre-trained model, instead of randomly, before
    all weights are trained. The default recipe does so for tables below 2,000 rows."""
    keep_head: bool = False
    """Keep the output layer of a fine-tuned model. The labels of the rows must be among its labels."""
    head_dropout: Probability = 0.1
    """Dropout on the hidden state that the new layer reads (paper 4.1)."""
    valid_fraction: Annotated[float, Range(0, 0.5)] = 0.1
    """Share of the training rows split off for validation, stratified by label; --valid uses your own rows instead."""
    metric: MainMetric = "auto"
    """Metric that selects the best epoch. `auto`: that of a known data set, else accuracy, or Pearson for scores."""
    cut: Cut = "longest"
    """Inputs that are too long: truncate the longest field first, or give every field a fixed share (released code)."""
    long: LongTextStrategy = "cut"
    """Texts that are too long: keep the beginning (`cut`); fill a quarter of the room with the beginning and the rest
    with the end (`head-tail`); or average the predictions over overlapping windows of the whole text (`windows`)."""
    shared_context: bool = True
    """Multiple choice: compute the context that all answers of a question share once, if that is faster. Without
    dropout the result is the same. With dropout, all answers share the dropout mask of the context; the
    released code samples one mask per answer."""
    transfer_layers: Annotated[int, Range(-1)] = -1
    """Pre-trained blocks to transfer; the others start from scratch (paper, figure 2 left). -1: all."""
    from_scratch: bool = False
    """Use the shape and the tokenizer of the pre-trained model, but not its weights (paper, table 5)."""
    class_weight: str = ""
    """Weight of each label in the task loss: `balanced` (inverse to its frequency) or label=weight,…; empty: all 1.
    Before calibration, the probabilities are those of the reweighted rows."""
    deduplicate: bool = True
    """Remove training rows that are duplicates or are also in the validation file."""
    cache_features: bool = True
    """With `--train head` or `--head-first`: cache the features on disk, for later runs on the same rows."""


Config = TypeVar("Config")

RENAMED_SETTINGS = {"recompute": "activation_checkpointing"}
"""Former name → name of a setting. Flags, YAML keys and keywords with a former name still work."""


def recipe_defaults(config_class: type[Any], recipe: str, size: str | None = None) -> dict[str, Any]:
    """Settings of a recipe and, in pre-training, of a model size (by default the recipe's).

    The size overrides the recipe `default`; the recipe `paper` overrides the size.
    """
    base = dict(RECIPES[config_class.__name__].get(recipe, {}))
    if config_class is not PretrainConfig:
        return base
    by_size = MODEL_SIZES.get(size or base.get("model", PretrainConfig.model), {})
    return {**by_size, **base} if recipe == "paper" else {**base, **by_size}


def merge_settings(config_class: type[Config], *layers: Mapping[str, Any]) -> Config:
    """The defaults overridden by `layers`, of which later ones win.

    Args:
        config_class: PretrainConfig or FinetuneConfig.
        layers: Setting → value; settings named as fields or flags, values of their type or as text.

    Raises:
        UserError: for an unknown setting, a value of a wrong type or a value out of its range.
    """
    pairs = [pair for layer in layers for pair in layer.items()]
    return build_config(config_class, {field_name(config_class, name): value for name, value in pairs})


def build_config(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    config = config_class(**{name: parse_value(config_class, name, value) for name, value in values.items()})
    validate(config)
    return config


def field_name(config_class: type[Any], name: str) -> str:
    """The field that `name` means: a field, a flag without `--`, or a former name of one; UserError if unknown."""
    field = name.replace("-", "_")
    field = RENAMED_SETTINGS.get(field, field)
    names = [f.name for f in dataclasses.fields(config_class)]
    if field not in names:
        raise UserError(
            f"there is no setting '{name}'.{did_you_mean(field, names)}", f"The settings are: {', '.join(names)}."
        )
    return field


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def format_flag(name: str, value: Any) -> str:
    """A setting as typed on the command line."""
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
    """A value from a flag, a YAML file or Python, converted to the setting's type."""
    base, _ = base_type(field_types(config_class)[name])
    if base is str and isinstance(value, list | dict):
        raise UserError(f"{flag_name(name)} {brief(value)} is not text.", default_note(config_class, name))
    if get_origin(base) is Literal and not isinstance(value, str):
        choices = ", ".join(map(str, get_args(base)))
        raise UserError(f"{flag_name(name)} {brief(value)} is not a valid choice.", f"Choices: {choices}.")
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
    raise UserError(f"{flag_name(name)} {brief(value)} is not {wanted}.", default_note(config_class, name))


def brief(value: Any) -> str:
    """A value for a message, shortened: values from files can be of any length."""
    if isinstance(value, int) and value.bit_length() > 200:  # str() refuses integers of too many digits
        return "a number of more than 60 digits"
    text = format_setting(value) if isinstance(value, float) and math.isfinite(value) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def default_value(config_class: type[Any], name: str) -> Any:
    return next(f.default for f in dataclasses.fields(config_class) if f.name == name)


def validate(config: Any) -> None:
    """UserError for a value that is out of its range or not among its choices."""
    config_class: Any = type(config)
    for name, hint in field_types(config_class).items():
        value = getattr(config, name)
        base, between = base_type(hint)
        if get_origin(base) is Literal and value not in get_args(base):
            choices = [str(choice) for choice in get_args(base)]
            problem = f"{flag_name(name)} {brief(value)} is not a valid choice.{did_you_mean(brief(value), choices)}"
            raise UserError(problem, f"Choices: {', '.join(choices)}.")
        if between and value not in between:
            problem = f"{flag_name(name)} {brief(value)} is out of range: it must be {between}."
            raise UserError(problem, default_note(config_class, name))


@cache
def descriptions(config_class: Any) -> dict[str, str]:
    """Setting → the docstring below it; a subclass inherits the docstrings that it does not override."""
    found: dict[str, str] = {}
    for ancestor in reversed(config_class.__mro__[:-1]):
        body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(ancestor)).body[0]).body
        for statement, following in pairwise(body):
            is_setting = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            if is_setting and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[statement.target.id] = inspect.cleandoc(str(following.value.value))  # type: ignore[attr-defined]
    return found
