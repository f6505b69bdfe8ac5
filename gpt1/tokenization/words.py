"""Where spaCy's English tokenizer cuts the chunks of a standardised text into words.

spaCy cuts a text at white space and then each chunk by itself, so a chunk's words can be remembered. Its last pass is
the exception: it goes over the words of the whole text and joins what makes up a special case (`'` `em` → `'em`).
Words with a space between them are never joined, but they count when it decides which of two overlapping cases wins.
A chunk that holds such a case is therefore given back as None: its words depend on its neighbours, and its line has to
be cut as a whole. Such chunks are rare (50 in 7.3 million chunks of novels).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

SIMPLE_CHUNK = re.compile(r"([A-Za-z]*[a-z])(\.|:|'s|)")
SUFFIX_CHARACTERS = 64
"""Characters at the end of a text in which a suffix is looked for."""
LONG_CHUNK_CHARACTERS = 128
"""Of chunks that are longer, signs at both ends are cut off here. No special case is as long."""
VERIFIED_SPACY_VERSION = "3.8."
"""Versions of spaCy that `_plain`, `_strip_affixes`, `limit_suffix_search`, `simplify_url_match` and `_merge_special_cases` were read and tested
against. Another one is asked for every chunk and every line."""


class EnglishWordSplitter:
    """spaCy's `blank("en")`, for text that is standardised: punctuation set off, no white space but single spaces."""

    def __init__(self) -> None:
        from spacy.about import __version__ as version
        from spacy.symbols import ORTH
        from spacy.tokenizer import Tokenizer

        self._proved = version.startswith(VERIFIED_SPACY_VERSION)
        self._nlp = _blank_english()
        self._lock = threading.Lock()  # a memory zone is one thread's
        self._spacy = self._nlp.tokenizer
        self._rules = {text: [word[ORTH] for word in words] for text, words in self._spacy.rules.items()}
        self._prefix = lru_cache(1 << 10)(self._spacy.find_prefix)  # characters of the prefix that a text begins with
        self._suffix = lru_cache(1 << 10)(self._spacy.find_suffix)
        names = ("prefix_search", "suffix_search", "infix_finditer", "token_match", "url_match")
        patterns = {name: getattr(self._spacy, name) for name in names}
        if self._proved:
            patterns["suffix_search"] = limit_suffix_search(patterns["suffix_search"])
            patterns["url_match"] = simplify_url_match(patterns["url_match"])
        bare = Tokenizer(self._nlp.vocab, **patterns)
        self._cases: dict[str, list[list[str]]] = {}  # first word → the word sequences that the last pass looks for
        self._merging_cases: dict[str, list[list[str]]] = {}  # those of them that it changes
        for text, words in self._rules.items():
            cut = [word.text for word in bare(text)]
            if _has_affix(self._spacy, text):
                self._cases.setdefault(cut[0], []).append(cut)
                if cut != words:
                    self._merging_cases.setdefault(cut[0], []).append(cut)
        self._chunkwise = _chunkwise_tokenizer(Tokenizer, self._nlp.vocab, self._spacy.rules, patterns)

    def split_chunks(self, chunks: Sequence[str]) -> list[str | None]:
        """The words of every chunk with a space between them; None for a chunk whose words depend on its neighbours."""
        cut = [self._split_simple(chunk) for chunk in chunks]
        rest = [number for number, words in enumerate(cut) if words is None]
        for number, words in zip(rest, self._split_with_spacy([chunks[number] for number in rest]), strict=True):
            cut[number] = None if self._depends_on_neighbours(words) else " ".join(words)
        return cut

    def split_line(self, line: str) -> str:
        """The words of a whole line with a space between them."""
        if not self._proved:
            with self._lock, self._nlp.memory_zone():
                return " ".join(word.text for word in self._spacy(line))
        words: list[str] = []
        begins: set[int] = set()  # of the chunks, among the words
        for chunk in self._split_with_spacy(line.split(" ")):
            begins.add(len(words))
            words += chunk
        return " ".join(self._merge_special_cases(words, begins))

    def _merge_special_cases(self, words: list[str], begins: set[int]) -> list[str]:
        """What spaCy's last pass makes of the words of a line. Its own writes beyond its memory where a line holds some
        `=°C.`, which become more words, before what becomes fewer (3.8.18): the process may end."""
        matches = [
            (at, at + len(case))
            for at, word in enumerate(words)
            for case in self._cases.get(word, ())
            if words[at : at + len(case)] == case
        ]
        ends: dict[int, int] = {}
        taken: set[int] = set()
        for start, end in sorted(matches, key=lambda match: (match[0] - match[1], match[0])):  # the longest first
            if start not in taken and end - 1 not in taken:
                ends[start] = end
            taken.update(range(start, end))
        passed: list[str] = []
        at = 0
        while at < len(words):
            end = ends.get(at, at + 1)
            case = words[at:end]
            whole = at in ends and begins.isdisjoint(range(at + 1, end))
            passed += self._rules.get("".join(case), case) if whole else case
            at = end
        return passed

    def _split_simple(self, chunk: str) -> str | None:
        """The words of most chunks without asking spaCy; None for the others.

        Of ASCII letters spaCy only cuts special cases (`cannot`). At their end it cuts off `.` (after a small letter),
        `:` and `'s`, unless that makes a special case (`Mr.`, `it's`).
        """
        plain = SIMPLE_CHUNK.fullmatch(chunk)
        if plain is None or chunk in self._rules or not self._proved:
            return None
        word, end = plain.groups()
        if not end:
            return word
        return None if word in self._rules else f"{word} {end}"

    def _split_with_spacy(self, chunks: Sequence[str]) -> list[list[str]]:
        middles = list(chunks)
        affixes = {}
        for number, chunk in enumerate(chunks):
            if len(chunk) > LONG_CHUNK_CHARACTERS and self._proved:
                before, middles[number], after = self._strip_affixes(chunk)
                affixes[number] = before, after
        text = " ".join(middles)
        with self._lock, self._nlp.memory_zone():  # spaCy forgets the new words afterwards: memory stays flat
            lengths = iter(self._chunkwise(text).to_array("LENGTH").tolist())
        cut = []
        start = 0
        for middle in middles:
            end, words = start + len(middle), []
            while start < end:
                length = next(lengths)
                words.append(text[start : start + length])
                start += length
            cut.append(words)
            start = end + 1
        for number, (before, after) in affixes.items():
            cut[number] = before + cut[number] + after
        return cut

    def _strip_affixes(self, chunk: str) -> tuple[list[str], str, list[str]]:
        """(signs cut off at the beginning of a long chunk, what is left, signs cut off at its end), as spaCy does it, a
        prefix and a suffix at a time. Its own way copies what is left each time: hours for a row of a million signs."""
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

    def _depends_on_neighbours(self, words: list[str]) -> bool:
        return any(
            words[at : at + len(joined)] == joined
            for at, word in enumerate(words)
            for joined in self._merging_cases.get(word, ())
        )


def limit_suffix_search(search: Callable[[str], Any]) -> Callable[[str], Any]:
    """spaCy's search for suffixes, which looks at every place of a text for what can only stand at its end, over the
    last characters: else a row of 8,000 signs, cut off one by one, takes half a minute. All of its patterns are shorter
    than TAIL, with what they want before them, but for a row of full stops."""

    def found(text: str) -> Any:
        return search(text[max(0, len(text.rstrip(".")) - SUFFIX_CHARACTERS) :])

    return found


def simplify_url_match(url_match: Any) -> Callable[[str], Any]:
    """spaCy's test for addresses, without the part of `user:password@` that matches nothing more and tries every colon
    with every end: hours for a row of a million colons."""
    pattern = url_match.__self__
    return re.compile(pattern.pattern.replace(r"\S+(?::\S*)?@", r"\S+@"), pattern.flags).match


def _blank_english() -> Any:
    import spacy

    english = cast(Any, spacy.blank("en"))
    english.vocab.lex_attr_getters = {}  # notes about each word (its shape, is it like a number) that nobody reads here
    return english


def _has_affix(spacy: Any, text: str) -> bool:
    return bool(spacy.find_prefix(text) or spacy.find_infix(text) or spacy.find_suffix(text))


def _chunkwise_tokenizer(tokenizer: Any, vocab: Any, rules: dict[str, Any], patterns: dict[str, Any]) -> Any:
    """A spaCy tokenizer that cuts each chunk by itself.

    spaCy decides while it takes in its special cases which of them its last pass will look for: those that its prefix,
    suffix and infix patterns would cut. So the patterns find nothing until all special cases are in.
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
