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
from gpt1.kernels.packing import Row
from gpt1.tasks.targets import Answers, Bins, Classes, Number, Target

START, DELIMITER, EXTRACT = 0, 1, 2  # the special tokens, counted from the end of the vocabulary
PAIRS = 1000  # of positions that attention compares: as many cost what a token does (600 to 2,000, by width and type)
QUARTER = 4  # head and tail: a quarter is head, as the 128 of 510 tokens of Sun et al. 2019; windows share a quarter

Layout = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    columns: the names of its columns on the command line, texts first; `optional` ones may be missing.
    layout: its sequences; a sequence is groups of fields, the fields of a group stand side by side, a delimiter between
        groups. Where `each` is set, the last field takes every answer in turn and each gives a sequence.
    """

    name: str
    columns: tuple[str, ...]
    layout: Layout
    target: type[Target]
    score_target: type[Target] | None = None  # with --score
    each: bool = False
    optional: tuple[str, ...] = ()

    @property
    def sequences(self) -> int:
        """Sequences of an example (of an answer, where `each` is set)."""
        return len(self.layout)


KINDS = {
    kind.name: kind
    for kind in [
        Kind("classification", ("text",), (((0,),),), Classes),
        Kind("regression", ("text",), (((0,),),), Number),
        Kind("entailment", ("premise", "hypothesis"), (((0,), (1,)),), Classes),
        Kind("similarity", ("text_a", "text_b"), (((0,), (1,)), ((1,), (0,))), Classes, score_target=Bins),
        Kind(
            "choice",
            ("context", "question", "choices"),
            (((0, 1), (2,)),),
            Answers,
            each=True,
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
class Encoded:
    """An example as token sequences, special tokens in place.

    cut: tokens are missing. windows: more than 1 where a text is read in windows; all sequences of the first window
    stand first, then those of the second, … alike: its sequences may be computed together as far as they begin alike.
    """

    sequences: list[list[int]]
    cut: bool = False
    windows: int = 1
    alike: bool = False

    @cached_property
    def rows(self) -> list[tuple[list[int], Row]]:
        """The tokens that go through the model, in rows of one sequence or of several that begin alike."""
        if self.windows > 1:
            return [row for window in self.apart() for row in window.rows]
        one_by_one = [(sequence, Row(0, (len(sequence),))) for sequence in self.sequences]
        if not self.alike or len(self.sequences) == 1:
            return one_by_one
        # The last of the common tokens stays with the rests: what follows it differs, and each predicts its own.
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self.sequences, strict=False))
        shared = max(0, sum(1 for _ in alike) - 1)
        rests = [sequence[shared:] for sequence in self.sequences]
        ids = [*self.sequences[0][:shared], *chain.from_iterable(rests)]
        saved = shared * (len(rests) - 1)
        if len(ids) ** 2 - sum(len(sequence) ** 2 for sequence in self.sequences) > PAIRS * saved:
            return one_by_one
        return [(ids, Row(shared, tuple(map(len, rests))))]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for _, row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(row.tokens for _, row in self.rows)

    def apart(self) -> list[Encoded]:
        """Each window as an example of its own."""
        if self.windows == 1:
            return [self]
        each = len(self.sequences) // self.windows
        return [
            Encoded(self.sequences[first : first + each], alike=self.alike)
            for first in range(0, len(self.sequences), each)
        ]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """All the texts of the examples in the order in which `encode` takes their ids."""
    return [text for example in examples for text in (*example.fields, *example.answers)]


def encode(
    kind: Kind,
    examples: Sequence[Example],
    ids: Sequence[list[int]],
    vocab_size: int,
    context: int,
    cut: str = "longest",
    long: str = "cut",
    alike: bool = False,
) -> list[Encoded]:
    """`ids`, the tokens of `texts_of(examples)`, laid out as figure 1 says, none longer than `context`.

    The special tokens have the ids vocab_size (start), + 1 (delimiter), + 2 (extract), which no text can produce.
    cut: which fields of an example that is too long give tokens (config.py). long: which of a field's tokens stay.
    alike: the answers of an example may be computed together.
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
        one = lay_out(kind, fields, answers, vocab_size, context, cut, long)
        encoded.append(replace(one, alike=alike and kind.each))
    return encoded


def lay_out(
    kind: Kind, fields: list[list[int]], answers: list[list[int]], vocab_size: int, context: int, cut: str, long: str
) -> Encoded:
    start, delimiter, extract = vocab_size + START, vocab_size + DELIMITER, vocab_size + EXTRACT
    if kind.each:
        lengths = [*map(len, fields), max(map(len, answers))]
    else:
        lengths = [len(field) for field in fields]
    n_groups = len(kind.layout[0])
    if cut == "shares":
        limits = fixed_shares(kind.layout[0], lengths, context // n_groups - 2)
    else:
        limits = cut_longest(lengths, context - n_groups - 1)
    windows = max(map(windows_of, lengths, limits)) if long == "windows" else 1
    sequences = []
    for window in range(windows):
        for groups in kind.layout:
            for answer in answers if kind.each else [[]]:
                texts = [*fields, answer] if kind.each else fields
                sequence = [start]
                for number, group in enumerate(groups):
                    sequence += [delimiter] if number else []
                    for field in group:
                        sequence += shown(texts[field], limits[field], long, window, windows)
                sequences.append([*sequence, extract])
    return Encoded(sequences, cut=limits != lengths and windows == 1, windows=windows)


def shown(text: list[int], limit: int, long: str, window: int, windows: int) -> list[int]:
    """What a sequence shows of a text that may take `limit` tokens there."""
    if len(text) <= limit:
        return text
    if long == "head-tail":
        head = -(-limit // QUARTER)
        return text[:head] + text[len(text) - (limit - head) :]
    first = window * (len(text) - limit) // max(1, windows - 1)  # spread evenly from the beginning to the end
    return text[first : first + limit]


def windows_of(length: int, limit: int) -> int:
    """Windows of `limit` tokens that show all of `length` tokens, each at least a quarter of the one before it."""
    return 1 if length <= limit else 1 + -(-(length - limit) // (limit - limit // QUARTER))


def told_of_length(encoded: Sequence[Encoded], context: int, long: str) -> str:
    """What became of the texts that are too long, for a person."""
    return told_of_lengths(Counter((example.cut, example.windows) for example in encoded), context, long)


def told_of_lengths(lengths: Counter[tuple[bool, int]], context: int, long: str) -> str:
    """`told_of_length` from how many examples there are of each (cut, windows)."""
    all_of_them = max(1, lengths.total())
    if long != "windows":
        kept = ", head and tail kept" if long == "head-tail" else ""
        share = sum(n for (cut, _), n in lengths.items() if cut) / all_of_them
        return f"{share:.1%} of the texts cut at {context} tokens{kept}"
    several = [(windows, n) for (_, windows), n in lengths.items() if windows > 1]
    texts = sum(n for _, n in several)
    each = f" ({sum(windows * n for windows, n in several) / texts:.1f} each)" if texts else ""
    return f"{texts / all_of_them:.1%} of the texts read in windows of {context} tokens{each}"


def cut_share(encoded: Sequence[Encoded]) -> float:
    return sum(example.cut for example in encoded) / max(1, len(encoded))


def windowed_share(encoded: Sequence[Encoded]) -> float:
    return sum(example.windows > 1 for example in encoded) / max(1, len(encoded))


def cut_longest(lengths: Sequence[int], budget: int) -> list[int]:
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


def fixed_shares(groups: Sequence[Sequence[int]], lengths: Sequence[int], share: int) -> list[int]:
    """Lengths where each group has at most `share` tokens, its first fields first: the release's rule."""
    limits = list(lengths)
    for group in groups:
        left = share
        for field in group:
            limits[field] = min(limits[field], left)
            left -= limits[field]
    return limits
