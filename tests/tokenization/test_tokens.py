"""The steps of the tokenizer, each compared with the library or plain algorithm that it replaces."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import ftfy
import numpy as np
import spacy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_tokenizer import merge_pairs, standardize
from text_strategies import MAX_EXAMPLES, SPACY_SPECIAL_CASES, mixed_texts

from gpt1.tokenization import standardize as fast
from gpt1.tokenization.arrays import gather_ids, ids_from_bytes, unique_chunks
from gpt1.tokenization.bpe import WordEncoder, ids_to_bytes, learn_merges
from gpt1.tokenization.pipelines import OriginalPipeline
from gpt1.tokenization.words import (
    LONG_CHUNK_CHARACTERS,
    SUFFIX_CHARACTERS,
    EnglishWordSplitter,
    limit_suffix_search,
    simplify_url_match,
)

# ---- ftfy and spaCy --------------------------------------------------------------------------------------------------


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
@example("caf\u00e9 &am\ufeffp; <")
@example("“&”amp;\ufeff &\u00e9;")
def test_fix_text_equals_ftfy(text):
    assert fast.fix_text(text) == ftfy.fix_text(text)


def test_fix_text_equals_ftfy_for_all_neighbors_of_the_characters_fixed_without_it():
    ascii_characters = " a.'\n"
    letters = random.Random(0).sample(fast.LETTERS, 60) + list("àáâãéñøßÀÁÉÑØÜƒžŠẞ")
    some = [*fast.TYPOGRAPHY, *ascii_characters]
    words = ["".join(triple) for triple in itertools.product(some, repeat=3)]
    words += ["".join(pair) for pair in itertools.product(fast.LETTERS, repeat=2)][:: len(fast.LETTERS) // 64]
    words += ["".join(triple) for triple in itertools.product(letters, some, [*letters[::9], *some])]
    for word in words:
        assert fast.fix_text(word) == ftfy.fix_text(word), ascii(word)


def test_fix_text_equals_ftfy_for_a_line_longer_than_its_limit():
    line = "caf\u00e9 \u2019tis &amp; " * 70_000
    assert fast.fix_text(line + "<\n&amp;") == ftfy.fix_text(line + "<\n&amp;")


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
def test_chunks_with_separated_punctuation_equal_the_standardized_text(text):
    chunks = [chunk for block in fast.split_blocks(text) for chunk in block.split()]
    parts = [["\n"] if chunk == fast.NEWLINE else fast.separate_punctuation([chunk])[0].split() for chunk in chunks]
    assert " ".join(itertools.chain.from_iterable(parts)) == standardize(ftfy.fix_text(text))


# All white space of Python, some that Python does not count as such, and letters of one to four bytes.
SPACES = [char for char in map(chr, range(0x110000)) if char.isspace()]
spaced = st.text(st.sampled_from([*SPACES, *"ab\0\u200b\ufeff\u180eé€😀"])).map(str.strip).filter(bool)


@settings(max_examples=MAX_EXAMPLES)
@given(blocks=st.lists(spaced, min_size=1, max_size=5))
@example(blocks=["a" + "b".join(SPACES) + "c"])
def test_chunks_equal_those_of_str_split(blocks):
    chunks, indices, ends = unique_chunks(blocks)
    assert len(set(chunks)) == len(chunks)
    assert [chunks[i] for i in indices] == [chunk for block in blocks for chunk in block.split()]
    assert ends.tolist() == list(itertools.accumulate(len(block.split()) for block in blocks))


@given(table=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=4), min_size=1, max_size=6), data=st.data())
def test_gathered_rows_are_concatenated(table, data):
    indices = data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, max_size=12))
    ids, ends = gather_ids([ids_to_bytes(row) for row in table], np.array(indices, np.int32))
    assert ids.tolist() == [id for i in indices for id in table[i]]
    assert ends.tolist() == list(itertools.accumulate(len(table[i]) for i in indices))


WORDS = EnglishWordSplitter()
CHUNKS = st.one_of(
    st.sampled_from(SPACY_SPECIAL_CASES),
    st.lists(
        st.sampled_from([*SPACY_SPECIAL_CASES, "'", ".", ":", "''", "a", "Mr", "em", "word", "5"]), max_size=4
    ).map("".join),
    st.text("abszIDS'.:<>=3o&#\\^", max_size=6),
)
LINES = (
    st.lists(CHUNKS, min_size=1, max_size=6)
    .map(" ".join)
    .map(standardize)
    .filter(lambda line: line and "\n" not in line)  # "\n" is one of spaCy's special cases
)


@settings(max_examples=MAX_EXAMPLES)
@given(line=LINES)
def test_words_split_by_chunk_equal_spacys_words_of_the_line(line):
    by_chunk = WORDS.split_chunks(line.split(" "))
    expected = " ".join(word.text for word in spacy_words(line))
    assert WORDS.split_line(line) == expected
    if None not in by_chunk:
        assert " ".join(by_chunk) == expected


def test_a_line_is_split_without_spacys_last_pass_which_may_crash(monkeypatch):
    monkeypatch.setattr(WORDS, "_spacy", None)
    one, other = "=\xb0C.\xb0C.\xb0C.", "'':-)))"
    line = " ".join([one] * 40 + [other] * 40)
    assert WORDS.split_line(line) == " ".join([WORDS.split_line(one)] * 40 + [WORDS.split_line(other)] * 40)
    assert WORDS.split_line("' ''b") == "' ' ' b"


def spacy_words(line, english=spacy.blank("en")):  # noqa: B008  (created once for all examples)
    return english(line)


SUFFIXES = spacy.blank("en").tokenizer.suffix_search
SUFFIX_PARTS = [*"=#<>'\".,!_…a1Z😀日é°²%", "'s", "km/h", "m³", "US$", "°C.", "كوب", "AB."]


@settings(max_examples=MAX_EXAMPLES)
@given(
    text=st.lists(
        st.tuples(st.sampled_from(SUFFIX_PARTS), st.integers(1, SUFFIX_CHARACTERS + 2)), min_size=1, max_size=5
    )
)
@example([("a", 1), (".", SUFFIX_CHARACTERS)])
@example([("9", SUFFIX_CHARACTERS), ("km/h", 1)])
def test_suffixes_are_found_by_looking_at_the_last_characters_only(text):
    word = "".join(part * times for part, times in text)
    searched: list[str] = []
    found = limit_suffix_search(lambda text: searched.append(text) or SUFFIXES(text))(word)
    expected = SUFFIXES(word)
    assert (found and found[0]) == (expected and expected[0])
    assert len(searched[0].rstrip(".")) <= SUFFIX_CHARACTERS


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from(["=", "'", ".", ":", "é", "9", "a.b", "'s", "km/h", "US$", "''", ":)"]),
            st.sampled_from([1, 2, 5, SUFFIX_CHARACTERS + 1, LONG_CHUNK_CHARACTERS]),
        ),
        min_size=1,
        max_size=5,
    )
)
@example([("=", LONG_CHUNK_CHARACTERS), (".", LONG_CHUNK_CHARACTERS), ("é", 1)])
@example([("=", LONG_CHUNK_CHARACTERS + 1), (".", SUFFIX_CHARACTERS + 1), (":)", 1)])
def test_a_long_chunk_is_split_as_in_spacy(runs):
    chunk = "".join(part * times for part, times in runs)
    assert WORDS.split_line(f"a {chunk} b") == " ".join(word.text for word in spacy_words(f"a {chunk} b"))


def test_spacy_gets_only_the_middle_of_a_long_row_of_punctuation(monkeypatch):
    seen: list[str] = []
    chunkwise = WORDS._chunkwise
    monkeypatch.setattr(WORDS, "_chunkwise", lambda text: seen.append(text) or chunkwise(text))
    assert WORDS.split_chunks(["=" * 20_000]) == [" ".join("=" * 20_000)]
    assert [len(text) <= LONG_CHUNK_CHARACTERS + SUFFIX_CHARACTERS for text in seen] == [True]


URL_MATCH = spacy.blank("en").tokenizer.url_match


@settings(max_examples=MAX_EXAMPLES)
@given(st.lists(st.sampled_from(["a", "b.de", ":", "@", "/", "?", "http://", "1.2.3.4", ":80", "é", "-"]), max_size=8))
@example(["a", ":", "b", "@", "b.de"])
@example(["http://", "a", ":", "@", ":", "@", "b.de", ":80", "/"])
def test_the_simplified_url_pattern_matches_the_same_texts(parts):
    text = "".join(parts)
    assert bool(simplify_url_match(URL_MATCH)(text)) == bool(URL_MATCH(text))


def test_the_simplified_url_pattern_has_no_quadratic_part():
    quadratic = r"(?::\S*)?@"  # takes hours for a row of a million colons
    assert quadratic in URL_MATCH.__self__.pattern
    assert quadratic not in simplify_url_match(URL_MATCH).__self__.pattern


# ---- merges ----------------------------------------------------------------------------------------------------------

small_words = st.text("abc", min_size=1, max_size=7)


@settings(max_examples=MAX_EXAMPLES)
@given(words=st.lists(small_words, min_size=1), data=st.data())
def test_words_are_merged_by_lowest_rank_for_any_order_of_merges(words, data):
    symbols = [*"abc", "a</w>", "b</w>", "c</w>"]
    merges = []
    for _ in range(data.draw(st.integers(0, 12))):
        first = data.draw(st.sampled_from([symbol for symbol in symbols if not symbol.endswith("</w>")]))
        pair = (first, data.draw(st.sampled_from(symbols)))
        if pair not in merges:
            merges.insert(data.draw(st.integers(0, len(merges))), pair)
            symbols += ["".join(pair)] * ("".join(pair) not in symbols)
    vocabulary = {symbol: id for id, symbol in enumerate(["<unk>", *symbols])}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = WordEncoder(vocabulary, merges, unknown_id=0)(words)
    for word in words:
        assert ids_from_bytes(ids[word]).tolist() == [vocabulary[part] for part in merge_pairs(word, ranks)]


@given(counts=st.dictionaries(small_words, st.integers(1, 5), min_size=1), limit=st.integers(0, 15))
def test_each_merge_is_the_most_frequent_pair_that_gives_a_new_token(counts, limit):
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    expected: list[tuple[str, str]] = []
    while len(expected) < limit:
        total = Counter()
        for word, symbols in words.items():
            for pair in itertools.pairwise(symbols):
                total[pair] += counts[word]
        total = {pair: n for pair, n in total.items() if "".join(pair) not in map("".join, expected)}
        if not total:
            break
        best = min(total, key=lambda pair: (-total[pair], pair))
        expected.append(best)
        for word, symbols in words.items():
            words[word] = merge(symbols, best)
    assert learn_merges(counts, limit) == expected


def test_no_merge_produces_the_unknown_token():
    vocabulary, merges = OriginalPipeline.learn(["@<unk>@ x"] * 50, 60)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert "<unk>" not in map("".join, merges)


def merge(symbols, pair):
    """Merge one position after the other, from the left."""
    text = "\0".join(["", *symbols, ""])
    first, second = pair
    while (joined := text.replace(f"\0{first}\0{second}\0", f"\0{first}{second}\0", 1)) != text:
        text = joined
    return text.strip("\0").split("\0")
