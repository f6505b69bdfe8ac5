"""The two pipelines from text to ids and back.

original   ftfy, normalization, spaCy, lower case, BPE over characters: the ids of the released encoder, for English.
lossless   BPE over the bytes of the unmodified text: decoding gives back any text in any language exactly.

Both have a vocabulary and merges, and can learn them from texts.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, TypeAlias

from gpt1.errors import UserError
from gpt1.tokenization.bpe import END_OF_WORD, UNKNOWN, Pair, WordEncoder, ids_to_bytes, learn_merges
from gpt1.tokenization.standardize import NEWLINE, separate_punctuation, split_blocks
from gpt1.tokenization.words import EnglishWordSplitter

if TYPE_CHECKING:
    from gpt1.tokenization.arrays import IdArray

LINE_BREAK = "\n" + END_OF_WORD
ENCODE_CHARACTERS = 1 << 20
"""Characters encoded at a time: enough to process new chunks in batches, few enough to limit memory."""
MAX_ALPHABET_SIZE = 256
"""Maximum number of characters in a trained vocabulary of the original pipeline (the released one has 238)."""
MIN_CHARACTER_SHARE = 1e-5
"""A character with a smaller share of all characters becomes <unk>."""
MAX_WORD_CHARACTERS = 100
"""Longer words (encoded images, rows of dots) are not language and are skipped in training."""
DETECTION_CHARACTERS = 1_000_000
"""Characters that `detect_pipeline` looks at."""
SURROGATE = re.compile("([\ud800-\udfff])")

VocabularyAndMerges = tuple[dict[str, int], list[Pair]]


class OriginalPipeline:
    """The released encoder. The ids of chunks (text between white space) are cached, because chunks repeat."""

    MAX_CACHED_CHUNKS = 1 << 19
    CONTEXT_DEPENDENT = 0xFFFFFFFF
    """Placeholder id of a chunk whose ids depend on the rest of the line (see words.py)."""

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
        pending: list[tuple[list[IdArray], str]] = []  # (list that receives the ids, block of text)
        size = 0
        for text in texts:
            encoded.append([])
            for block in split_blocks(text):
                pending.append((encoded[-1], block))
                size += len(block)
                if size >= ENCODE_CHARACTERS:
                    self._encode(pending)
                    pending, size = [], 0
        if pending:
            self._encode(pending)
        return [concat_ids(parts) for parts in encoded]

    def _encode(self, blocks: list[tuple[list[IdArray], str]]) -> None:
        from gpt1.tokenization.arrays import gather_ids, unique_chunks

        chunks, indices, chunk_ends = unique_chunks([block for _, block in blocks])
        with self._lock:
            if len(self._chunks) > self.MAX_CACHED_CHUNKS:
                self._reset_cache()
            self._cache_chunks([chunk for chunk in chunks if chunk not in self._chunks])
            all_ids, ends = gather_ids([self._chunks[chunk] for chunk in chunks], indices)
            any_dependent = self.CONTEXT_DEPENDENT in all_ids
            start = 0
            for (parts, block), end in zip(blocks, ends[chunk_ends - 1].tolist(), strict=True):
                ids = all_ids[start:end]
                dependent = any_dependent and self.CONTEXT_DEPENDENT in ids
                parts.append(self._encode_by_line(block) if dependent else ids)
                start = end

    def _cache_chunks(self, new: list[str]) -> None:
        """Add the ids of new chunks to the cache."""
        cache = self._chunks
        separated = separate_punctuation(new)
        unseen = list(set(" ".join(separated).split()).difference(cache))
        split = english_words().split_chunks(unseen)
        lowered = [(words or "").lower() for words in split]
        word_ids = self._word_ids(" ".join(lowered).split())
        for part, words, original in zip(unseen, lowered, split, strict=True):
            ids = word_ids.get(words) or b"".join(map(word_ids.__getitem__, words.split()))
            cache[part] = ids_to_bytes([self.CONTEXT_DEPENDENT]) if original is None else ids
        for chunk, parts in zip(new, separated, strict=True):
            if chunk != parts:  # otherwise the chunk is its only part
                cache[chunk] = b"".join(map(cache.__getitem__, parts.split()))

    def _encode_by_line(self, block: str) -> IdArray:
        """The ids of a block; a line with a context-dependent chunk is split into words as a whole."""
        from gpt1.tokenization.arrays import ids_from_bytes

        dependent = ids_to_bytes([self.CONTEXT_DEPENDENT])
        lines = []
        for _, line in groupby(block.split(), NEWLINE.__eq__):
            chunks = list(line)
            ids = b"".join(map(self._chunks.__getitem__, chunks))
            if dependent in ids:  # cannot occur in other ids, at any byte offset
                text = " ".join(" ".join(separate_punctuation(chunks)).split())
                words = english_words().split_line(text).lower().split()
                ids = b"".join(map(self._word_ids(words).__getitem__, words))
            lines.append(ids)
        return ids_from_bytes(b"".join(lines))

    def decode(self, ids: Iterable[int]) -> str:
        """The lower-cased words with a space between them, and line breaks."""
        text = "".join(self._tokens.get(id, "") for id in ids).replace(END_OF_WORD, " ")
        return re.sub(" ?\n ?", "\n", text.removesuffix(" "))

    def display_token(self, id: int) -> str:
        """`the` for a token that ends a word, `th…` for one that does not."""
        token = self._tokens[id]
        if token == UNKNOWN:
            return token
        return token.removesuffix(END_OF_WORD).replace("\n", "\\n") if token.endswith(END_OF_WORD) else token + "…"

    def token_bytes(self, id: int) -> bytes:
        """The token with a space after a complete word."""
        return self._tokens[id].replace(END_OF_WORD, " ").encode("utf-8", "replace")

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
        """Vocabulary: <unk>; each character within a word and at its end; a token per merge; the line break."""
        word_counts = count_words(texts)
        counts: Counter[str] = Counter()
        for word, count in word_counts.items():
            for char in word:
                counts[char] += count
        min_count = MIN_CHARACTER_SHARE * counts.total()
        by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        alphabet = [char for char, count in by_count if count >= min_count][:MAX_ALPHABET_SIZE]
        tokens = [UNKNOWN, *alphabet, *(char + END_OF_WORD for char in alphabet)]
        n_merges = vocab_size - len(tokens) - 1
        if n_merges < 0:
            raise UserError(
                f"vocab_size {vocab_size} is too small: the {len(alphabet)} characters of these texts need two tokens "
                "each, <unk> and the line break need one each.",
                f"Use vocab_size {len(tokens) + 1} or more.",
            )
        known = set(alphabet)
        usable = {
            word: n
            for word, n in word_counts.items()
            if len(word) <= MAX_WORD_CHARACTERS
            and known.issuperset(word)
            and UNKNOWN not in word  # merges must not produce that token
        }
        merges = learn_merges(usable, n_merges)
        tokens += ["".join(pair) for pair in merges]
        return {token: id for id, token in enumerate([*tokens, LINE_BREAK])}, merges


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Number of occurrences of each lower-cased word."""
    chunks: Counter[str] = Counter()
    for text in texts:
        for block in split_blocks(text):
            chunks.update(block.split())
    del chunks[NEWLINE]
    parts: Counter[str] = Counter()
    for separated, count in zip(separate_punctuation(list(chunks)), chunks.values(), strict=True):
        for part in separated.split():
            parts[part] += count
    words: Counter[str] = Counter()
    for (part, count), split in zip(parts.items(), english_words().split_chunks(list(parts)), strict=True):
        for word in (english_words().split_line(part) if split is None else split).lower().split():
            words[word] += count
    return words


@cache
def english_words() -> EnglishWordSplitter:
    return EnglishWordSplitter()


class LosslessPipeline:
    """BPE over UTF-8 bytes, as in GPT-2: every byte is a token, so no token is unknown and no text is changed."""

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
            if SURROGATE.fullmatch(part):  # not valid in UTF-8: encode its three bytes one by one
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogatepass")]
            else:
                ids += self._encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text; invalid UTF-8, which a model may generate, becomes U+FFFD."""
        data = b"".join(self._bytes.get(id, b"") for id in ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def display_token(self, id: int) -> str:
        """The token's text; bytes of an incomplete character as `<0xE2>`."""
        try:
            return self._bytes[id].decode("utf-8").replace("\n", "\\n")
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in self._bytes[id])

    def token_bytes(self, id: int) -> bytes:
        return self._bytes[id]

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
    """The character for each byte in a vocabulary file, as in GPT-2: itself if it is visible, else from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


Pipeline: TypeAlias = OriginalPipeline | LosslessPipeline
PIPELINES: dict[str, type[Pipeline]] = {"original": OriginalPipeline, "lossless": LosslessPipeline}


def detect_pipeline(texts: Iterable[str]) -> tuple[str, Iterable[str]]:
    """(pipeline, texts): "original" if at least 90 % of the letters at the beginning of the texts are basic Latin."""
    remaining = iter(texts)
    sample: list[str] = []
    size = 0
    while size < DETECTION_CHARACTERS and (text := next(remaining, None)) is not None:
        sample.append(text)
        size += len(text)
    letters = [char for text in sample for char in text[:DETECTION_CHARACTERS] if char.isalpha()]
    latin = sum(map(str.isascii, letters))
    return "original" if letters and latin >= 0.9 * len(letters) else "lossless", chain(sample, remaining)
