"""Input transformations of figure 1 of the paper: every kind of task as token sequences for one model.

classification   <s> text <e>
entailment       <s> premise $ hypothesis <e>
similarity       <s> a $ b <e>  and  <s> b $ a <e>, their hidden states at <e> added
choice           <s> context question $ answer_k <e> for every answer k
regression       <s> text <e>, the head outputs one number
multilabel       <s> text <e>, the head outputs a logit for each label
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, takewhile
from typing import Any

from gpt1.errors import UserError
from gpt1.kernels.packing import PackedRow
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target

START, DELIMITER, EXTRACT = 0, 1, 2  # the special tokens, counted from the end of the vocabulary
PAIRS_PER_TOKEN = 1000
"""Pairs of positions in attention that cost as much as one token (measured: 600 to 2,000, by width and type)."""
OVERLAP_DIVISOR = 4
"""head-tail: a quarter is head, as 128 of 510 tokens in Sun et al. 2019; windows: a quarter overlaps."""

Layout = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        columns: Roles of its columns on the command line, texts first.
        layout: Its sequences. A sequence is groups of fields (by index): fields of a group are joined directly, groups
            with a delimiter between them.
        target: The type of its labels; with --score `score_target`.
        multiple_choice: One sequence per answer, which takes the place of the last field.
        optional: Roles that may be missing.
        several_labels: A row may have several labels, also in one 0/1 column for each label.
    """

    name: str
    columns: tuple[str, ...]
    layout: Layout
    target: type[Target]
    score_target: type[Target] | None = None
    multiple_choice: bool = False
    optional: tuple[str, ...] = ()
    several_labels: bool = False

    def predicts_number(self, score: bool) -> bool:
        """Whether the label is a number, with or without --score."""
        target = self.score_target if score and self.score_target else self.target
        return target in (OrdinalBins, StandardizedNumber)

    @property
    def sequences(self) -> int:
        """Sequences per example (per answer if `multiple_choice`)."""
        return len(self.layout)

    @property
    def is_symmetric(self) -> bool:
        """Whether the order of a pair has no meaning: the model sees both."""
        return self.sequences > 1


KINDS = {
    kind.name: kind
    for kind in [
        Kind("classification", ("text",), (((0,),),), Classes),
        Kind("multilabel", ("text",), (((0,),),), MultiLabel, several_labels=True),
        Kind("regression", ("text",), (((0,),),), StandardizedNumber),
        Kind("entailment", ("premise", "hypothesis"), (((0,), (1,)),), Classes),
        Kind("similarity", ("text_a", "text_b"), (((0,), (1,)), ((1,), (0,))), Classes, score_target=OrdinalBins),
        Kind(
            "choice",
            ("context", "question", "choices"),
            (((0, 1), (2,)),),
            Answers,
            multiple_choice=True,
            optional=("question",),
        ),
    ]
}


@dataclass(frozen=True)
class Example:
    """One row: its texts, its answers (multiple choice only), its label (None if unlabeled), its weight."""

    fields: tuple[str, ...]
    answers: tuple[str, ...] = ()
    label: Any = None
    weight: float = 1.0

    @property
    def has_text(self) -> bool:
        return any(text.strip() for text in (*self.fields, *self.answers))


@dataclass(frozen=True)
class EncodedExample:
    """An example as token sequences with special tokens.

    Attributes:
        sequences: Token ids; all sequences of the first window, then those of the second, ...
        is_truncated: Whether tokens are missing.
        windows: Number of windows, more than 1 only with --long windows.
        shared_prefix: Whether the common prefix of the sequences may be computed once.
        has_text: Whether the row has a text; without one nothing is predicted.
    """

    sequences: list[list[int]]
    is_truncated: bool = False
    windows: int = 1
    shared_prefix: bool = False
    has_text: bool = True

    @cached_property
    def packed_rows(self) -> list[tuple[list[int], PackedRow]]:
        """Token ids per row of the packed batch: one sequence, or several that share a prefix."""
        if self.windows > 1:
            return [row for window in self.split_windows() for row in window.packed_rows]
        one_by_one = [(sequence, PackedRow(0, (len(sequence),))) for sequence in self.sequences]
        if not self.shared_prefix or len(self.sequences) == 1:
            return one_by_one
        # The last common token belongs to the suffixes: each sequence predicts its own next token from it.
        common = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self.sequences, strict=False))
        prefix = max(0, sum(1 for _ in common) - 1)
        suffixes = [sequence[prefix:] for sequence in self.sequences]
        ids = [*self.sequences[0][:prefix], *chain.from_iterable(suffixes)]
        saved = prefix * (len(suffixes) - 1)
        if len(ids) ** 2 - sum(len(sequence) ** 2 for sequence in self.sequences) > PAIRS_PER_TOKEN * saved:
            return one_by_one
        return [(ids, PackedRow(prefix, tuple(map(len, suffixes))))]

    @property
    def max_row_tokens(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for _, row in self.packed_rows)

    @property
    def tokens(self) -> int:
        """Tokens of all packed rows."""
        return sum(row.tokens for _, row in self.packed_rows)

    def split_windows(self) -> list[EncodedExample]:
        """Each window as a separate example."""
        if self.windows == 1:
            return [self]
        each = len(self.sequences) // self.windows
        return [
            EncodedExample(self.sequences[first : first + each], shared_prefix=self.shared_prefix)
            for first in range(0, len(self.sequences), each)
        ]


def example_texts(examples: Sequence[Example]) -> list[str]:
    """All texts of the examples, in the order in which `encode_examples` expects their ids."""
    return [text for example in examples for text in (*example.fields, *example.answers)]


def encode_examples(
    kind: Kind,
    examples: Sequence[Example],
    ids: Sequence[list[int]],
    vocab_size: int,
    context: int,
    cut: str = "longest",
    long: str = "cut",
    shared_prefix: bool = False,
) -> list[EncodedExample]:
    """Build the token sequences of the examples (paper, figure 1), none longer than `context`.

    Special tokens have the ids vocab_size (start), + 1 (delimiter) and + 2 (extract), which no text can produce.

    Args:
        kind: The kind of task.
        examples: The examples.
        ids: Token ids of each text of `example_texts(examples)`.
        vocab_size: Tokens of the vocabulary, without special tokens.
        context: Maximum number of tokens per sequence.
        cut: Which fields of a too long example lose tokens: `longest` first, or fixed `shares`.
        long: Which tokens of a too long text remain: its beginning (`cut`), `head-tail`, or all in `windows`.
        shared_prefix: Whether the common prefix of an example's answers may be computed once.

    Raises:
        UserError: If `context` has no room for one token of each field.
    """
    groups = kind.layout[0]
    special = len(groups) + 1
    if context < special + sum(map(len, groups)):  # at least one token of each field
        raise UserError(
            f"a context of {context} tokens is too short for {kind.name} ({special} are special tokens).",
            "Use a model with a longer --context.",
        )
    parts = iter(ids)
    encoded = []
    for example in examples:
        fields = [next(parts) for _ in example.fields]
        answers = [next(parts) for _ in example.answers]
        one = build_sequences(kind, fields, answers, vocab_size, context, cut, long)
        encoded.append(replace(one, shared_prefix=shared_prefix and kind.multiple_choice))
    return encoded


def build_sequences(
    kind: Kind, fields: list[list[int]], answers: list[list[int]], vocab_size: int, context: int, cut: str, long: str
) -> EncodedExample:
    start, delimiter, extract = vocab_size + START, vocab_size + DELIMITER, vocab_size + EXTRACT
    if kind.multiple_choice:
        lengths = [*map(len, fields), max(map(len, answers))]
    else:
        lengths = [len(field) for field in fields]
    n_groups = len(kind.layout[0])
    if cut == "shares":
        limits = fixed_share_limits(kind.layout[0], lengths, context // n_groups - 2)
    else:
        limits = longest_first_limits(lengths, context - n_groups - 1)
    windows = max(map(count_windows, lengths, limits)) if long == "windows" else 1
    sequences = []
    for window in range(windows):
        for groups in kind.layout:
            for answer in answers if kind.multiple_choice else [[]]:
                texts = [*fields, answer] if kind.multiple_choice else fields
                sequence = [start]
                for number, group in enumerate(groups):
                    sequence += [delimiter] if number else []
                    for field in group:
                        sequence += truncate_text(texts[field], limits[field], long, window, windows)
                sequences.append([*sequence, extract])
    return EncodedExample(sequences, is_truncated=limits != lengths and windows == 1, windows=windows)


def truncate_text(text: list[int], limit: int, long: str, window: int, windows: int) -> list[int]:
    """The tokens of a text that a sequence contains if it has room for `limit` of them."""
    if len(text) <= limit:
        return text
    if long == "head-tail":
        head = -(-limit // OVERLAP_DIVISOR)
        return text[:head] + text[len(text) - (limit - head) :]
    first = window * (len(text) - limit) // max(1, windows - 1)  # spread evenly over the text
    return text[first : first + limit]


def count_windows(length: int, limit: int) -> int:
    """Fewest windows of `limit` tokens that cover `length` tokens with at least a quarter of overlap."""
    return 1 if length <= limit else 1 + -(-(length - limit) // (limit - limit // OVERLAP_DIVISOR))


def truncation_warning(encoded: Sequence[EncodedExample], context: int, long: str) -> str:
    """How many texts were too long and what was done with them, in words."""
    return truncation_summary(Counter((example.is_truncated, example.windows) for example in encoded), context, long)


def truncation_summary(lengths: Counter[tuple[bool, int]], context: int, long: str) -> str:
    """As `truncation_warning`, from the number of examples of each (is_truncated, windows)."""
    total = max(1, lengths.total())
    if long != "windows":
        kept = ", head and tail kept" if long == "head-tail" else ""
        share = sum(n for (is_truncated, _), n in lengths.items() if is_truncated) / total
        return f"{share:.1%} of the texts truncated to {context} tokens{kept}"
    windowed = [(windows, n) for (_, windows), n in lengths.items() if windows > 1]
    texts = sum(n for _, n in windowed)
    each = f" ({sum(windows * n for windows, n in windowed) / texts:.1f} each)" if texts else ""
    return f"{texts / total:.1%} of the texts read in windows of {context} tokens{each}"


def truncated_share(encoded: Sequence[EncodedExample]) -> float:
    return sum(example.is_truncated for example in encoded) / max(1, len(encoded))


def windowed_share(encoded: Sequence[EncodedExample]) -> float:
    return sum(example.windows > 1 for example in encoded) / max(1, len(encoded))


def longest_first_limits(lengths: Sequence[int], budget: int) -> list[int]:
    """Lengths of the fields that sum to at most `budget`; the longest fields are shortened first, equal ones equally.

    A remainder is dropped too, so that the order of two texts does not decide how many of their tokens remain.
    """
    limits = list(lengths)
    excess = sum(limits) - budget
    while excess > 0:
        longest = max(limits)
        longest_fields = [i for i, limit in enumerate(limits) if limit == longest]
        next_lower = max((limit for limit in limits if limit < longest), default=0)
        drop = min(-(-excess // len(longest_fields)), longest - next_lower)  # tokens of each
        for i in longest_fields:
            limits[i] -= drop
        excess -= drop * len(longest_fields)
    return limits


def fixed_share_limits(groups: Sequence[Sequence[int]], lengths: Sequence[int], share: int) -> list[int]:
    """Lengths of the fields if each group has at most `share` tokens, first fields first (rule of the release)."""
    limits = list(lengths)
    for group in groups:
        left = share
        for field in group:
            limits[field] = min(limits[field], left)
            left -= limits[field]
    return limits
