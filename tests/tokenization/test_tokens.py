"""The steps of the tokenizer, each against the library or the plain algorithm that it stands for."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import ftfy
import numpy as np
import spacy
from drawn_texts import EXAMPLES, SPECIAL_CASES, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_tokenizer import best_pairs_first, standardise

from gpt1.tokenization import standardise as fast
from gpt1.tokenization.arrays import distinct, rows_of, unpacked
from gpt1.tokenization.bpe import WordEncoder, learn_merges, packed
from gpt1.tokenization.pipelines import Original
from gpt1.tokenization.words import LONG, TAIL, EnglishWords, at_the_end, in_one_way

# ---- the steps, each against the library that it stands for ----------------------------------------------------------


@settings(max_examples=EXAMPLES)
@given(text=texts)
@example("caf\u00e9 &am\ufeffp; <")
@example("“&”amp;\ufeff &\u00e9;")
def test_fix_is_ftfy(text):
    assert fast.fix(text) == ftfy.fix_text(text)


def test_fix_is_ftfy_for_every_neighbourhood_of_the_characters_that_are_settled_without_it():
    ascii_signs = " a.'\n"
    letters = random.Random(0).sample(fast.LETTERS, 60) + list("àáâãéñøßÀÁÉÑØÜƒžŠẞ")
    some = [*fast.TYPOGRAPHY, *ascii_signs]
    words = ["".join(triple) for triple in itertools.product(some, repeat=3)]
    words += ["".join(pair) for pair in itertools.product(fast.LETTERS, repeat=2)][:: len(fast.LETTERS) // 64]
    words += ["".join(triple) for triple in itertools.product(letters, some, [*letters[::9], *some])]
    for word in words:
        assert fast.fix(word) == ftfy.fix_text(word), ascii(word)


def test_fix_is_ftfy_for_a_line_longer_than_ftfy_takes_at_a_time():
    line = "caf\u00e9 \u2019tis &amp; " * 70_000
    assert fast.fix(line + "<\n&amp;") == ftfy.fix_text(line + "<\n&amp;")


@settings(max_examples=EXAMPLES)
@given(text=texts)
def test_chunks_set_apart_are_the_standardised_text(text):
    chunks = [chunk for block in fast.blocks(text) for chunk in block.split()]
    parts = [["\n"] if chunk == fast.NEWLINE else fast.separate([chunk])[0].split() for chunk in chunks]
    assert " ".join(itertools.chain.from_iterable(parts)) == standardise(ftfy.fix_text(text))


# Every character that Python takes for white space, some that it does not, and letters of one to four bytes.
SPACES = [char for char in map(chr, range(0x110000)) if char.isspace()]
spaced = st.text(st.sampled_from([*SPACES, *"ab\0\u200b\ufeff\u180eé€😀"])).map(str.strip).filter(bool)


@settings(max_examples=EXAMPLES)
@given(blocks=st.lists(spaced, min_size=1, max_size=5))
@example(blocks=["a" + "b".join(SPACES) + "c"])
def test_distinct_chunks_are_those_of_split(blocks):
    chunks, which, ends = distinct(blocks)
    assert len(set(chunks)) == len(chunks)
    assert [chunks[number] for number in which] == [chunk for block in blocks for chunk in block.split()]
    assert ends.tolist() == list(itertools.accumulate(len(block.split()) for block in blocks))


@given(table=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=4), min_size=1, max_size=6), data=st.data())
def test_rows_of_a_table_are_put_one_after_another(table, data):
    which = data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, max_size=12))
    ids, ends = rows_of([packed(row) for row in table], np.array(which, np.int32))
    assert ids.tolist() == [id for number in which for id in table[number]]
    assert ends.tolist() == list(itertools.accumulate(len(table[number]) for number in which))


WORDS = EnglishWords()
CHUNKS = st.one_of(
    st.sampled_from(SPECIAL_CASES),
    st.lists(st.sampled_from([*SPECIAL_CASES, "'", ".", ":", "''", "a", "Mr", "em", "word", "5"]), max_size=4).map(
        "".join
    ),
    st.text("abszIDS'.:<>=3o&#\\^", max_size=6),
)


@settings(max_examples=EXAMPLES)
@given(line=st.lists(CHUNKS, min_size=1, max_size=6).map(" ".join).map(standardise).filter(bool))
def test_words_cut_chunk_by_chunk_are_spacys_words_of_the_line(line):
    cut = WORDS.cut(line.split(" "))
    whole = " ".join(word.text for word in spacy_words(line))
    assert WORDS.cut_line(line) == whole
    if None not in cut:
        assert " ".join(cut) == whole


def test_a_line_is_cut_without_the_last_pass_of_spacy_which_may_end_the_process(monkeypatch):
    monkeypatch.setattr(WORDS, "_spacy", None)
    one, other = "=\xb0C.\xb0C.\xb0C.", "'':-)))"
    line = " ".join([one] * 40 + [other] * 40)
    assert WORDS.cut_line(line) == " ".join([WORDS.cut_line(one)] * 40 + [WORDS.cut_line(other)] * 40)
    assert WORDS.cut_line("' ''b") == "' ' ' b"


def spacy_words(line, english=spacy.blank("en")):  # noqa: B008  one for all examples
    return english(line)


SUFFIXES = spacy.blank("en").tokenizer.suffix_search
SIGNS = [*"=#<>'\".,!_…a1Z😀日é°²%", "'s", "km/h", "m³", "US$", "°C.", "كوب", "AB."]


@settings(max_examples=EXAMPLES)
@given(text=st.lists(st.tuples(st.sampled_from(SIGNS), st.integers(1, TAIL + 2)), min_size=1, max_size=5))
@example([("a", 1), (".", TAIL)])
@example([("9", TAIL), ("km/h", 1)])
def test_suffixes_are_found_in_the_last_characters_alone(text):
    word = "".join(sign * times for sign, times in text)
    looked_at: list[str] = []
    found = at_the_end(lambda text: looked_at.append(text) or SUFFIXES(text))(word)
    expected = SUFFIXES(word)
    assert (found and found[0]) == (expected and expected[0])
    assert len(looked_at[0].rstrip(".")) <= TAIL


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from(["=", "'", ".", ":", "é", "9", "a.b", "'s", "km/h", "US$", "''", ":)"]),
            st.sampled_from([1, 2, 5, TAIL + 1, LONG]),
        ),
        min_size=1,
        max_size=5,
    )
)
@example([("=", LONG), (".", LONG), ("é", 1)])
@example([("=", LONG + 1), (".", TAIL + 1), (":)", 1)])
def test_a_long_chunk_is_cut_as_spacy_does(runs):
    chunk = "".join(sign * times for sign, times in runs)
    assert WORDS.cut_line(f"a {chunk} b") == " ".join(word.text for word in spacy_words(f"a {chunk} b"))


def test_of_a_long_row_of_signs_spacy_sees_no_more_than_the_middle(monkeypatch):
    seen: list[str] = []
    cut = WORDS._chunkwise
    monkeypatch.setattr(WORDS, "_chunkwise", lambda text: seen.append(text) or cut(text))
    assert WORDS.cut(["=" * 20_000]) == [" ".join("=" * 20_000)]
    assert [len(text) <= LONG + TAIL for text in seen] == [True]


URL_MATCH = spacy.blank("en").tokenizer.url_match


@settings(max_examples=EXAMPLES)
@given(st.lists(st.sampled_from(["a", "b.de", ":", "@", "/", "?", "http://", "1.2.3.4", ":80", "é", "-"]), max_size=8))
@example(["a", ":", "b", "@", "b.de"])
@example(["http://", "a", ":", "@", ":", "@", "b.de", ":80", "/"])
def test_an_address_is_what_spacy_takes_for_one(parts):
    text = "".join(parts)
    assert bool(in_one_way(URL_MATCH)(text)) == bool(URL_MATCH(text))


def test_no_address_is_looked_for_from_every_colon_to_every_end():
    several_ways = r"(?::\S*)?@"  # a row of a million colons takes hours with it
    assert several_ways in URL_MATCH.__self__.pattern
    assert several_ways not in in_one_way(URL_MATCH).__self__.pattern


# ---- merges ----------------------------------------------------------------------------------------------------------

small_words = st.text("abc", min_size=1, max_size=7)


@settings(max_examples=EXAMPLES)
@given(words=st.lists(small_words, min_size=1), data=st.data())
def test_words_are_merged_best_pair_first_whatever_the_order_of_the_merges(words, data):
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
    ids = WordEncoder(vocabulary, merges, unknown=0)(words)
    for word in words:
        assert unpacked(ids[word]).tolist() == [vocabulary[part] for part in best_pairs_first(word, ranks)]


@given(counts=st.dictionaries(small_words, st.integers(1, 5), min_size=1), limit=st.integers(0, 15))
def test_each_merge_is_the_most_frequent_pair_of_its_time_that_makes_a_new_token(counts, limit):
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
            words[word] = merged(symbols, best)
    assert learn_merges(counts, limit) == expected


def test_no_merge_makes_the_token_of_what_is_unknown():
    vocabulary, merges = Original.learn(["@<unk>@ x"] * 50, 60)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert "<unk>" not in map("".join, merges)


def merged(symbols, pair):
    """Joined one place after the other, from the left."""
    text = "\0".join(["", *symbols, ""])
    first, second = pair
    while (joined := text.replace(f"\0{first}\0{second}\0", f"\0{first}{second}\0", 1)) != text:
        text = joined
    return text.strip("\0").split("\0")
