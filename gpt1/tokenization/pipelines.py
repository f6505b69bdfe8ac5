"""From a text to ids and back: the original's way, and a way that loses nothing.

original   ftfy, standardisation, spaCy, lower case, BPE over characters: the released encoder's ids, made for English.
lossless   BPE over the bytes of the text as it is: any text in any language comes back exactly.

Both are made of a vocabulary and merges, both can learn them from texts.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Protocol

from gpt1.errors import UserError
from gpt1.tokenization.bpe import END_OF_WORD, UNKNOWN, Pair, WordEncoder, ids_to_bytes, learn_merges
from gpt1.tokenization.standardise import NEWLINE, separate_punctuation, split_blocks
from gpt1.tokenization.words import EnglishWordSplitter

if TYPE_CHECKING:
    from gpt1.tokenization.arrays import IdArray

LINE_BREAK = "\n" + END_OF_WORD
ENCODE_CHARACTERS = 1 << 20
"""Characters that are encoded at a time: enough to learn the new chunks together, few enough to keep memory flat."""
MAX_ALPHABET_SIZE = 256
"""Characters that a learned vocabulary of the original pipeline knows at most (the released one: 238)."""
MIN_CHARACTER_SHARE = 1e-5
"""A character that makes up less than this share of the words becomes <unk>."""
MAX_WORD_CHARACTERS = 100
"""Longer words (encoded pictures, rows of dots) teach nothing about language and are left out of learning."""
DETECTION_CHARACTERS = 1_000_000
"""Characters that `choose` looks at."""
SURROGATE = re.compile("([\ud800-\udfff])")

VocabularyAndMerges = tuple[dict[str, int], list[Pair]]


class Pipeline(Protocol):
    unknown_id: int | None
    newline_id: int

    def encode_batch(self, texts: Iterable[str]) -> list[IdArray]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def display_token(self, id: int) -> str: ...


class OriginalPipeline:
    """The released encoder. Chunks between white space repeat, so their ids are remembered, up to CACHE of them."""

    CACHE = 1 << 19
    CONTEXT_DEPENDENT = 0xFFFFFFFF
    """Stands where an id depends on the rest of the line (see words.py)."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[Pair]) -> None:
        self.unknown_id: int | None = vocabulary[UNKNOWN]
        self.newline_id = vocabulary[LINE_BREAK]
        self._tokens = {id: token for token, id in vocabulary.items()}
        self._word_ids = WordEncoder(vocabulary, merges, vocabulary[UNKNOWN])
        self._lock = threading.Lock()  # servers encode from several threads
        self._reset_cache()

    def _reset_cache(self) -> None:
        self._chunks: dict[str, bytes] = {NEWLINE: ids_to_bytes([self.newline_id])}

    def encode_batch(self, texts: Iterable[str]) -> list[IdArray]:
        from gpt1.tokenization.arrays import concat_ids

        encoded: list[list[IdArray]] = []
        waiting: list[tuple[list[IdArray], str]] = []  # (where the ids go, a block of text)
        size = 0
        for text in texts:
            encoded.append([])
            for block in split_blocks(text):
                waiting.append((encoded[-1], block))
                size += len(block)
                if size >= ENCODE_CHARACTERS:
                    self._encode(waiting)
                    waiting, size = [], 0
        if waiting:
            self._encode(waiting)
        return [concat_ids(parts) for parts in encoded]

    def _encode(self, waiting: list[tuple[list[IdArray], str]]) -> None:
        from gpt1.tokenization.arrays import gather_ids, unique_chunks

        chunks, which, chunk_ends = unique_chunks([block for _, block in waiting])
        with self._lock:
            if len(self._chunks) > self.CACHE:
                self._reset_cache()
            self._cache_chunks([chunk for chunk in chunks if chunk not in self._chunks])
            all_ids, ends = gather_ids([self._chunks[chunk] for chunk in chunks], which)
            some_depend = self.CONTEXT_DEPENDENT in all_ids
            start = 0
            for (parts, block), end in zip(waiting, ends[chunk_ends - 1].tolist(), strict=True):
                ids = all_ids[start:end]
                parts.append(self._by_line(block) if some_depend and self.CONTEXT_DEPENDENT in ids else ids)
                start = end

    def _cache_chunks(self, new: list[str]) -> None:
        """Put the ids of chunks that are not known to those that are."""
        known = self._chunks
        separated = separate_punctuation(new)
        unseen = list(set(" ".join(separated).split()).difference(known))
        cut = english_words().split_chunks(unseen)
        words = [(words or "").lower() for words in cut]
        word_ids = self._word_ids(" ".join(words).split())
        for piece, lowered, dependent in zip(unseen, words, cut, strict=True):
            ids = word_ids.get(lowered) or b"".join(map(word_ids.__getitem__, lowered.split()))
            known[piece] = ids_to_bytes([self.CONTEXT_DEPENDENT]) if dependent is None else ids
        for chunk, pieces in zip(new, separated, strict=True):
            if chunk != pieces:  # else it was its own only piece
                known[chunk] = b"".join(map(known.__getitem__, pieces.split()))

    def _by_line(self, block: str) -> IdArray:
        """The ids of a block, cutting a line that holds a dependent chunk as a whole."""
        from gpt1.tokenization.arrays import ids_from_bytes

        dependent = ids_to_bytes([self.CONTEXT_DEPENDENT])
        lines = []
        for _, line in groupby(block.split(), NEWLINE.__eq__):
            chunks = list(line)
            ids = b"".join(map(self._chunks.__getitem__, chunks))
            if dependent in ids:  # no ids look like it, at any byte
                standardised = " ".join(" ".join(separate_punctuation(chunks)).split())
                words = english_words().split_line(standardised).lower().split()
                ids = b"".join(map(self._word_ids(words).__getitem__, words))
            lines.append(ids)
        return ids_from_bytes(b"".join(lines))

    def decode(self, ids: Iterable[int]) -> str:
        """The lower-cased words, one space between them; newline tokens as line breaks."""
        text = "".join(self._tokens.get(id, "") for id in ids).replace(END_OF_WORD, " ")
        return re.sub(" ?\n ?", "\n", text.removesuffix(" "))

    def display_token(self, id: int) -> str:
        """`the` for a token that ends a word, `th…` for one that does not."""
        token = self._tokens[id]
        if token == UNKNOWN:
            return token
        return token.removesuffix(END_OF_WORD).replace("\n", "\\n") if token.endswith(END_OF_WORD) else token + "…"

    @staticmethod
    def required_tokens() -> list[str]:
        """Tokens that no vocabulary of this pipeline lacks."""
        return [UNKNOWN, LINE_BREAK]

    @staticmethod
    def characters() -> set[str]:
        """The characters that tokens are made of; empty: any."""
        return set()

    @staticmethod
    def learn(texts: Iterable[str], vocab_size: int) -> VocabularyAndMerges:
        """<unk>; each character within a word and at its end; one token for each merge; the line break."""
        counts = count_words(texts)
        letters: Counter[str] = Counter()
        for word, count in counts.items():
            for letter in word:
                letters[letter] += count
        rare = MIN_CHARACTER_SHARE * letters.total()
        alphabet = [
            letter for letter, count in sorted(letters.items(), key=lambda item: (-item[1], item[0])) if count >= rare
        ]
        alphabet = alphabet[:MAX_ALPHABET_SIZE]
        tokens = [UNKNOWN, *alphabet, *(letter + END_OF_WORD for letter in alphabet)]
        free = vocab_size - len(tokens) - 1
        if free < 0:
            raise UserError(
                f"vocab_size {vocab_size} is too small: the {len(alphabet)} characters of these texts need two tokens "
                "each, <unk> and the line break one.",
                f"Use vocab_size {len(tokens) + 1} or more.",
            )
        known = set(alphabet)
        usable = {
            word: n
            for word, n in counts.items()
            if len(word) <= MAX_WORD_CHARACTERS
            and known.issuperset(word)
            and UNKNOWN not in word  # no merge makes that token
        }
        merges = learn_merges(usable, free)
        tokens += ["".join(pair) for pair in merges]
        return {token: id for id, token in enumerate([*tokens, LINE_BREAK])}, merges


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each lower-cased word stands in the texts."""
    chunks: Counter[str] = Counter()
    for text in texts:
        for block in split_blocks(text):
            chunks.update(block.split())
    del chunks[NEWLINE]
    pieces: Counter[str] = Counter()
    for separated, count in zip(separate_punctuation(list(chunks)), chunks.values(), strict=True):
        for piece in separated.split():
            pieces[piece] += count
    words: Counter[str] = Counter()
    for (piece, count), cut in zip(pieces.items(), english_words().split_chunks(list(pieces)), strict=True):
        for word in (english_words().split_line(piece) if cut is None else cut).lower().split():
            words[word] += count
    return words


@cache
def english_words() -> EnglishWordSplitter:
    return EnglishWordSplitter()


class LosslessPipeline:
    """BPE over UTF-8 bytes, as in GPT-2: every byte is a token, so that nothing is unknown and nothing is changed."""

    unknown_id: int | None = None

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[Pair]) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        self._library = Tokenizer(BPE(vocab=dict(vocabulary), merges=list(merges)))
        self._library.pre_tokenizer = ByteLevel(add_prefix_space=False)
        byte = {char: byte for byte, char in enumerate(byte_characters())}
        self._bytes = {id: bytes(byte[char] for char in token) for token, id in vocabulary.items()}
        self._byte_ids = [vocabulary[char] for char in byte_characters()]
        self.newline_id = self._byte_ids[ord("\n")]

    def encode_batch(self, texts: Iterable[str]) -> list[IdArray]:
        from gpt1.tokenization.arrays import ids_from_bytes

        return [ids_from_bytes(ids_to_bytes(self._encode(text))) for text in texts]

    def _encode(self, text: str) -> list[int]:
        if text.isascii() or not SURROGATE.search(text):
            return list(self._library.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for part in SURROGATE.split(text):
            if SURROGATE.fullmatch(part):  # UTF-8 has no place for half a pair: its three bytes, one by one
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogatepass")]
            else:
                ids += self._encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8 (a model may write such) as U+FFFD."""
        data = b"".join(self._bytes.get(id, b"") for id in ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def display_token(self, id: int) -> str:
        """The token's text; bytes that are a part of a character as `<0xE2>`."""
        try:
            return self._bytes[id].decode("utf-8").replace("\n", "\\n")
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in self._bytes[id])

    @staticmethod
    def required_tokens() -> list[str]:
        return byte_characters()

    @staticmethod
    def characters() -> set[str]:
        return set(byte_characters())

    @staticmethod
    def learn(texts: Iterable[str], vocab_size: int) -> VocabularyAndMerges:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer

        if vocab_size < 256:
            raise UserError(
                f"vocab_size {vocab_size} is too small: each of the 256 bytes is a token of the lossless pipeline.",
                "Use vocab_size 256 or more.",
            )
        library = Tokenizer(BPE())
        library.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(vocab_size=vocab_size, initial_alphabet=sorted(byte_characters()), show_progress=False)
        library.train_from_iterator((text.encode("utf-8", "replace").decode() for text in texts), trainer)
        model = json.loads(library.to_str())["model"]
        return model["vocab"], [(first, second) for first, second in model["merges"]]


@cache
def byte_characters() -> list[str]:
    """The character that stands for each byte in a vocabulary file, as GPT-2 chose: itself where it has a shape."""
    shaped = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shaped else next(others)) for byte in range(256)]


PIPELINES: dict[str, type[OriginalPipeline] | type[LosslessPipeline]] = {
    "original": OriginalPipeline,
    "lossless": LosslessPipeline,
}


def detect_pipeline(texts: Iterable[str]) -> tuple[str, Iterable[str]]:
    """(pipeline, texts): "original" where nine letters in ten of the first SAMPLE characters are basic Latin."""
    remaining = iter(texts)
    sample: list[str] = []
    size = 0
    while size < DETECTION_CHARACTERS and (text := next(remaining, None)) is not None:
        sample.append(text)
        size += len(text)
    letters = [char for text in sample for char in text[:DETECTION_CHARACTERS] if char.isalpha()]
    latin = sum(map(str.isascii, letters))
    return "original" if letters and latin >= 0.9 * len(letters) else "lossless", chain(sample, remaining)
