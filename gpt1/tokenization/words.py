"""Splits the chunks of a normalized text into words, as spaCy's English tokenizer does.

spaCy splits a text at white space and then each chunk separately, so the words of a chunk can be cached. The exception
is its last pass, which looks at the words of the whole text and joins special cases (`'` `em` → `'em`). It never joins
words with a space between them, but they influence which of two overlapping special cases wins. The words of a chunk
with such a case depend on its neighbors: the result for the chunk is None, and its line is split as a whole. Such
chunks are rare (50 in 7.3 million chunks of novels).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

SIMPLE_CHUNK = re.compile(r"([A-Za-z]*[a-z])(\.|:|'s|)")
SUFFIX_CHARACTERS = 64
"""Characters at the end of a text that are searched for a suffix."""
LONG_CHUNK_CHARACTERS = 128
"""Affixes of longer chunks are split off here instead of in spaCy. All special cases are shorter."""
VERIFIED_SPACY_VERSION = "3.8."
"""Versions of spaCy with which `_split_simple`, `_strip_affixes`, `limit_suffix_search`, `simplify_url_match` and
`_merge_special_cases` were tested. Other versions process every chunk and line themselves."""


class EnglishWordSplitter:
    """spaCy's `blank("en")` for normalized text: separated punctuation, and single spaces as the only white space."""

    def __init__(self) -> None:
        from spacy.about import __version__ as version
        from spacy.symbols import ORTH
        from spacy.tokenizer import Tokenizer

        self._verified = version.startswith(VERIFIED_SPACY_VERSION)
        self._nlp = _blank_english()
        self._lock = threading.Lock()  # a memory zone belongs to one thread
        self._spacy = self._nlp.tokenizer
        self._rules = {text: [word[ORTH] for word in words] for text, words in self._spacy.rules.items()}
        self._prefix = lru_cache(1 << 10)(self._spacy.find_prefix)  # length of the prefix of a text
        self._suffix = lru_cache(1 << 10)(self._spacy.find_suffix)
        names = ("prefix_search", "suffix_search", "infix_finditer", "token_match", "url_match")
        patterns = {name: getattr(self._spacy, name) for name in names}
        if self._verified:
            patterns["suffix_search"] = limit_suffix_search(patterns["suffix_search"])
            patterns["url_match"] = simplify_url_match(patterns["url_match"])
        without_rules = Tokenizer(self._nlp.vocab, **patterns)
        self._cases: dict[str, list[list[str]]] = {}  # first word → the word sequences that the last pass looks for
        self._merging_cases: dict[str, list[list[str]]] = {}  # those of them that it changes
        for text, words in self._rules.items():
            split = [word.text for word in without_rules(text)]
            if _has_affix(self._spacy, text):
                self._cases.setdefault(split[0], []).append(split)
                if split != words:
                    self._merging_cases.setdefault(split[0], []).append(split)
        self._chunkwise = _chunkwise_tokenizer(Tokenizer, self._nlp.vocab, self._spacy.rules, patterns)

    def split_chunks(self, chunks: Sequence[str]) -> list[str | None]:
        """The words of every chunk with a space between them; None if they depend on the chunk's neighbors."""
        split = [self._split_simple(chunk) for chunk in chunks]
        rest = [i for i, words in enumerate(split) if words is None]
        for i, words in zip(rest, self._split_with_spacy([chunks[i] for i in rest]), strict=True):
            split[i] = None if self._depends_on_neighbors(words) else " ".join(words)
        return split

    def split_line(self, line: str) -> str:
        """The words of a whole line with a space between them."""
        if not self._verified:
            with self._lock, self._nlp.memory_zone():
                return " ".join(word.text for word in self._spacy(line))
        words: list[str] = []
        chunk_starts: set[int] = set()  # index of the first word of each chunk
        for chunk in self._split_with_spacy(line.split(" ")):
            chunk_starts.add(len(words))
            words += chunk
        return " ".join(self._merge_special_cases(words, chunk_starts))

    def _merge_special_cases(self, words: list[str], chunk_starts: set[int]) -> list[str]:
        """spaCy's last pass over the words of a line.

        spaCy's own implementation (3.8.18) can write out of bounds and crash the process if a line contains several
        `=°C.`, which become more words, before other cases that become fewer.
        """
        matches = [
            (i, i + len(case))
            for i, word in enumerate(words)
            for case in self._cases.get(word, ())
            if words[i : i + len(case)] == case
        ]
        ends: dict[int, int] = {}
        covered: set[int] = set()
        for start, end in sorted(matches, key=lambda match: (match[0] - match[1], match[0])):  # longest first
            if start not in covered and end - 1 not in covered:
                ends[start] = end
            covered.update(range(start, end))
        merged: list[str] = []
        i = 0
        while i < len(words):
            end = ends.get(i, i + 1)
            case = words[i:end]
            in_one_chunk = i in ends and chunk_starts.isdisjoint(range(i + 1, end))
            merged += self._rules.get("".join(case), case) if in_one_chunk else case
            i = end
        return merged

    def _split_simple(self, chunk: str) -> str | None:
        """The words of most chunks without calling spaCy; None for the others.

        spaCy splits a word of ASCII letters only if it is a special case (`cannot`). It splits off a final `.` (after a
        lower-case letter), `:` or `'s`, unless the chunk is a special case (`Mr.`, `it's`).
        """
        match = SIMPLE_CHUNK.fullmatch(chunk)
        if match is None or chunk in self._rules or not self._verified:
            return None
        word, end = match.groups()
        if not end:
            return word
        return None if word in self._rules else f"{word} {end}"

    def _split_with_spacy(self, chunks: Sequence[str]) -> list[list[str]]:
        middles = list(chunks)
        affixes = {}
        for i, chunk in enumerate(chunks):
            if len(chunk) > LONG_CHUNK_CHARACTERS and self._verified:
                before, middles[i], after = self._strip_affixes(chunk)
                affixes[i] = before, after
        text = " ".join(middles)
        with self._lock, self._nlp.memory_zone():  # spaCy discards the new words afterwards, which limits memory
            lengths = iter(self._chunkwise(text).to_array("LENGTH").tolist())
        split = []
        start = 0
        for middle in middles:
            end, words = start + len(middle), []
            while start < end:
                length = next(lengths)
                words.append(text[start : start + length])
                start += length
            split.append(words)
            start = end + 1
        for i, (before, after) in affixes.items():
            split[i] = before + split[i] + after
        return split

    def _strip_affixes(self, chunk: str) -> tuple[list[str], str, list[str]]:
        """(prefixes, rest, suffixes) of a long chunk, split off one prefix and one suffix at a time as in spaCy.

        spaCy copies the rest each time, which takes hours for a row of a million punctuation marks.
        """
        before: list[str] = []
        after: list[str] = []
        start, end = 0, len(chunk)
        while end - start > LONG_CHUNK_CHARACTERS:
            head, tail = chunk[start : start + SUFFIX_CHARACTERS], chunk[end - SUFFIX_CHARACTERS : end]
            first = start + (self._prefix(head) if head.strip(".") else self._spacy.find_prefix(chunk[start:end]))
            last = end - (self._suffix(tail) if tail.strip(".") else self._chunkwise.find_suffix(chunk[first:end]))
            if last - first < LONG_CHUNK_CHARACTERS or last - first == end - start:
                break
            if start < first:
                before.append(chunk[start:first])
            if last < end:
                after.append(chunk[last:end])
            start, end = first, last
        return before, chunk[start:end], after[::-1]

    def _depends_on_neighbors(self, words: list[str]) -> bool:
        return any(
            words[i : i + len(case)] == case
            for i, word in enumerate(words)
            for case in self._merging_cases.get(word, ())
        )


def limit_suffix_search(search: Callable[[str], Any]) -> Callable[[str], Any]:
    """spaCy's suffix search, restricted to the last characters of a text.

    spaCy searches the whole text for patterns that can only match at its end: 30 s for a row of 8,000 punctuation
    marks. All patterns with their lookbehind are shorter than SUFFIX_CHARACTERS, except for a row of full stops.
    """

    def search_end(text: str) -> Any:
        return search(text[max(0, len(text.rstrip(".")) - SUFFIX_CHARACTERS) :])

    return search_end


def simplify_url_match(url_match: Any) -> Callable[[str], Any]:
    """spaCy's URL pattern without the redundant password part of `user:password@`.

    That part matches no additional text, and its backtracking takes hours for a row of a million colons.
    """
    pattern = url_match.__self__
    return re.compile(pattern.pattern.replace(r"\S+(?::\S*)?@", r"\S+@"), pattern.flags).match


def _blank_english() -> Any:
    import spacy

    english = cast(Any, spacy.blank("en"))
    english.vocab.lex_attr_getters = {}  # word attributes (shape, like_num) that are not used here
    return english


def _has_affix(spacy: Any, text: str) -> bool:
    return bool(spacy.find_prefix(text) or spacy.find_infix(text) or spacy.find_suffix(text))


def _chunkwise_tokenizer(tokenizer: Any, vocab: Any, rules: dict[str, Any], patterns: dict[str, Any]) -> Any:
    """A spaCy tokenizer that splits each chunk separately, without the last pass.

    When spaCy adds a special case, it registers it for the last pass if a prefix, suffix or infix pattern matches it.
    So the patterns match nothing until all special cases are added.
    """
    ready = False

    def guard(search: Callable[[str], Any], nothing: Any) -> Callable[[str], Any]:
        return lambda text: search(text) if ready else nothing

    nothing = {"prefix_search": None, "suffix_search": None, "infix_finditer": ()}
    chunkwise = tokenizer(
        vocab,
        rules={text: words for text, words in rules.items() if " " not in text},
        **{name: guard(found, nothing[name]) if name in nothing else found for name, found in patterns.items()},
    )
    ready = True
    return chunkwise
