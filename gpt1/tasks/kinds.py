"""Figure 1 of the paper: each kind of task is one record, and any of them becomes token sequences for the same model.

classification   <s> text <e>
entailment       <s> premise $ hypothesis <e>
similarity       <s> a $ b <e>  and  <s> b $ a <e>, their last states added
choice           <s> context question $ answer_k <e> for every answer k
regression       <s> text <e>, the head gives one number
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
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target

START, DELIMITER, EXTRACT = 0, 1, 2  # the special tokens, counted from the end of the vocabulary
PAIRS_PER_TOKEN = (
    1000  # of positions that attention compares: as many cost what a token does (600 to 2,000, by width and type)
)
OVERLAP_DIVISOR = (
    4  # head and tail: a quarter is head, as the 128 of 510 tokens of Sun et al. 2019; windows share a quarter
)

Layout = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    columns: the names of its columns on the command line, texts first; `optional` ones may be missing.
    layout: its sequences; a sequence is groups of fields, the fields of a group stand side by side, a delimiter between
        groups. Where `multiple_choice` is set, the last field takes every answer in turn and each gives a sequence.
    """

    name: str
    columns: tuple[str, ...]
    layout: Layout
    target: type[Target]
    score_target: type[Target] | None = None  # with --score
    multiple_choice: bool = False
    optional: tuple[str, ...] = ()

    @property
    def sequences(self) -> int:
        """Sequences of an example (of an answer, where `each` is set)."""
        return len(self.layout)


KINDS = {
    kind.name: kind
    for kind in [
        Kind("classification", ("text",), (((0,),),), Classes),
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
    """One labelled (or unlabelled) row: the texts of its fields, for multiple choice its answers, its label."""

    fields: tuple[str, ...]
    answers: tuple[str, ...] = ()
    label: Any = None


@dataclass(frozen=True)
class EncodedExample:
    """An example as token sequences, special tokens in place.

    is_truncated: tokens are missing. windows: more than 1 where a text is read in windows; all sequences of the first window
    stand first, then those of the second, … alike: its sequences may be computed together as far as they begin alike.
    """

    sequences: list[list[int]]
    is_truncated: bool = False
    windows: int = 1
    shared_prefix: bool = False

    @cached_property
    def packed_rows(self) -> list[tuple[list[int], PackedRow]]:
        """The tokens that go through the model, in rows of one sequence or of several that begin alike."""
        if self.windows > 1:
            return [row for window in self.split_windows() for row in window.packed_rows]
        one_by_one = [(sequence, PackedRow(0, (len(sequence),))) for sequence in self.sequences]
        if not self.shared_prefix or len(self.sequences) == 1:
            return one_by_one
        # The last of the common tokens stays with the rests: what follows it differs, and each predicts its own.
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self.sequences, strict=False))
        shared = max(0, sum(1 for _ in alike) - 1)
        rests = [sequence[shared:] for sequence in self.sequences]
        ids = [*self.sequences[0][:shared], *chain.from_iterable(rests)]
        saved = shared * (len(rests) - 1)
        if len(ids) ** 2 - sum(len(sequence) ** 2 for sequence in self.sequences) > PAIRS_PER_TOKEN * saved:
            return one_by_one
        return [(ids, PackedRow(shared, tuple(map(len, rests))))]

    @property
    def max_row_tokens(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for _, row in self.packed_rows)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(row.tokens for _, row in self.packed_rows)

    def split_windows(self) -> list[EncodedExample]:
        """Each window as an example of its own."""
        if self.windows == 1:
            return [self]
        each = len(self.sequences) // self.windows
        return [
            EncodedExample(self.sequences[first : first + each], shared_prefix=self.shared_prefix)
            for first in range(0, len(self.sequences), each)
        ]


def example_texts(examples: Sequence[Example]) -> list[str]:
    """All the texts of the examples in the order in which `encode` takes their ids."""
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
    """`ids`, the tokens of `example_texts(examples)`, laid out as figure 1 says, none longer than `context`.

    The special tokens have the ids vocab_size (start), + 1 (delimiter), + 2 (extract), which no text can produce.
    cut: which fields of an example that is too long give tokens (config.py). long: which of a field's tokens stay.
    shared_prefix: the answers of an example may be computed together.
    """
    groups = kind.layout[0]
    special = len(groups) + 1
    if context < special + sum(map(len, groups)):  # a token of each field at least
        raise UserError(
            f"a context of {context} tokens is too short for {kind.name} ({special} are special tokens).",
            "Take a model with a longer --context.",
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
    """What a sequence shows of a text that may take `limit` tokens there."""
    if len(text) <= limit:
        return text
    if long == "head-tail":
        head = -(-limit // OVERLAP_DIVISOR)
        return text[:head] + text[len(text) - (limit - head) :]
    first = window * (len(text) - limit) // max(1, windows - 1)  # spread evenly from the beginning to the end
    return text[first : first + limit]


def count_windows(length: int, limit: int) -> int:
    """Windows of `limit` tokens that show all of `length` tokens, each at least a quarter of the one before it."""
    return 1 if length <= limit else 1 + -(-(length - limit) // (limit - limit // OVERLAP_DIVISOR))


def truncation_warning(encoded: Sequence[EncodedExample], context: int, long: str) -> str:
    """What became of the texts that are too long, for a person."""
    return told_of_lengths(Counter((example.is_truncated, example.windows) for example in encoded), context, long)


def told_of_lengths(lengths: Counter[tuple[bool, int]], context: int, long: str) -> str:
    """`truncation_warning` from how many examples there are of each (cut, windows)."""
    all_of_them = max(1, lengths.total())
    if long != "windows":
        kept = ", head and tail kept" if long == "head-tail" else ""
        share = sum(n for (cut, _), n in lengths.items() if cut) / all_of_them
        return f"{share:.1%} of the texts cut at {context} tokens{kept}"
    several = [(windows, n) for (_, windows), n in lengths.items() if windows > 1]
    texts = sum(n for _, n in several)
    each = f" ({sum(windows * n for windows, n in several) / texts:.1f} each)" if texts else ""
    return f"{texts / all_of_them:.1%} of the texts read in windows of {context} tokens{each}"


def truncated_share(encoded: Sequence[EncodedExample]) -> float:
    return sum(example.is_truncated for example in encoded) / max(1, len(encoded))


def windowed_share(encoded: Sequence[EncodedExample]) -> float:
    return sum(example.windows > 1 for example in encoded) / max(1, len(encoded))


def longest_first_limits(lengths: Sequence[int], budget: int) -> list[int]:
    """Lengths that fit `budget` in all: the longest field gives first, equal ones give alike. An odd token goes too, so
    that the order of two texts never decides what is left of them."""
    limits = list(lengths)
    excess = sum(limits) - budget
    while excess > 0:
        longest = max(limits)
        tallest = [i for i, limit in enumerate(limits) if limit == longest]
        next_lower = max((limit for limit in limits if limit < longest), default=0)
        drop = min(-(-excess // len(tallest)), longest - next_lower)  # of each
        for i in tallest:
            limits[i] -= drop
        excess -= drop * len(tallest)
    return limits


def fixed_share_limits(groups: Sequence[Sequence[int]], lengths: Sequence[int], share: int) -> list[int]:
    """Lengths where each group has at most `share` tokens, its first fields first: the release's rule."""
    limits = list(lengths)
    for group in groups:
        left = share
        for field in group:
            limits[field] = min(limits[field], left)
            left -= limits[field]
    return limits
