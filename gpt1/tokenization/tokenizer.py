"""Text ↔ ids, with the released GPT-1 vocabulary or one trained on your texts.

    tokenizer = Tokenizer.load("openai/")                       # or Tokenizer.train(texts, vocab_size=8000)
    tokenizer.encode("Hello, World!")                           # [3570, 240, 1276, 267] with the released vocabulary
    tokenizer.decode([3570, 240, 1276, 267])                    # "hello , world !"

A tokenizer is a vocabulary (token → id), an ordered list of merges and a pipeline (pipelines.py). The three special
tokens of fine-tuning are not part of it: their ids start at vocab_size, and no text is encoded to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpt1.config import MAX_VOCABULARY
from gpt1.errors import UserError, did_you_mean, require_count
from gpt1.files.atomic import atomic_write_json, atomic_write_text
from gpt1.files.foreign import MAX_JSON_BYTES, Fields, parse_json, read_bounded, short
from gpt1.files.names import GPT1_FILES, HUGGING_FACE_FILES, LIBRARY_FILE, OPENAI_FILES
from gpt1.files.reading import filesystem, is_url
from gpt1.runs.folder import find_model_folder
from gpt1.tokenization.bpe import END_OF_WORD

if TYPE_CHECKING:
    from gpt1.tokenization.arrays import IdArray
    from gpt1.tokenization.pipelines import Pipeline

SPECIAL_TOKENS = ("<start>", "<delimiter>", "<extract>")
VERIFIED_VERSIONS = {"spacy": "3.8.18", "ftfy": "6.3.1"}
"""Library versions with which the ids were verified to be those of the released encoder."""


class Tokenizer:
    """Encodes text to token ids and decodes ids to text.

    Attributes:
        vocab_size: Number of tokens, without the three special tokens.
        pipeline: "original" or "lossless" (pipelines.py).
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        pipeline: str,
        library_versions: Mapping[str, str] = VERIFIED_VERSIONS,
    ) -> None:
        self.pipeline = pipeline
        self.vocab_size = len(vocabulary)
        self._vocabulary = dict(vocabulary)
        self._merges = list(merges)
        self._made_with = dict(library_versions)

    # ---- text ↔ ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Like `encode` for each text; faster for many short texts."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Iterable[str]) -> list[IdArray]:
        """Like `encode_batch`, with the ids of each text as a uint32 array: faster, and a tenth of the memory."""
        return self._pipeline.encode_batch(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, without special tokens.

        The lossless pipeline gives the exact text, the original one lower-cased words with a space between them.

        Raises:
            ValueError: If an id does not exist.
        """
        return self._pipeline.decode(map(self._check_id, ids))

    def display_token(self, id: int) -> str:
        """A readable form of one token: line breaks as \\n, and `th…` for an incomplete word (original pipeline)."""
        if self._check_id(id) >= self.vocab_size:
            return SPECIAL_TOKENS[id - self.vocab_size]
        return self._pipeline.display_token(int(id))

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes that one token of the vocabulary adds to a text; they may be a part of a character."""
        return self._pipeline.token_bytes(int(id))

    def count_unknown(self, ids: Iterable[int]) -> int:
        """The number of <unk> ids; always 0 in the lossless pipeline."""
        return 0 if self.unknown_id is None else sum(id == self.unknown_id for id in ids)

    @property
    def unknown_id(self) -> int | None:
        """The id of <unk>; None in the lossless pipeline."""
        return self._pipeline.unknown_id

    @property
    def newline_id(self) -> int:
        """The token of a line break, which also separates the documents of a corpus."""
        return self._pipeline.newline_id

    @cached_property
    def _pipeline(self) -> Pipeline:
        from gpt1.tokenization.pipelines import PIPELINES

        return PIPELINES[self.pipeline](self._vocabulary, self._merges)

    def _check_id(self, id: int) -> int:
        if not 0 <= id < self.vocab_size + len(SPECIAL_TOKENS):
            raise ValueError(
                f"token id {id} does not exist: ids are 0 to {self.vocab_size - 1}, and special tokens the next 3"
            )
        return int(id)

    def __getstate__(self) -> dict[str, Any]:
        """Without the caches when a tokenizer is sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_pipeline"}

    # ---- identity

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the pipeline, vocabulary and merges. Tokenizers with the same fingerprint give the same ids."""
        content = [self.pipeline, sorted(self._vocabulary.items()), self._merges]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def version_warning(self) -> str | None:
        """A warning if other library versions are installed than the tokenizer was made with, else None."""
        if self.pipeline != "original":
            return None
        differences = [
            f"{name} {made_with} ({installed} is installed)"
            for name, made_with in self._made_with.items()
            if (installed := _version(name)) != made_with
        ]
        if not differences:
            return None
        return f"the tokenizer was made with {' and '.join(differences)}: the ids of a few texts may differ"

    # ---- training

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pipeline: str = "auto") -> Tokenizer:
        """Train a tokenizer. The same texts give the same vocabulary.

        Args:
            texts: Texts to learn the vocabulary from.
            vocab_size: Number of tokens; the vocabulary is smaller if the texts do not contain enough words.
            pipeline: "original" for English, "lossless" for anything else, or "auto": original if at least 90 % of the
                letters are basic Latin.

        Raises:
            UserError: If `vocab_size` is too small for the characters of the texts, or larger than that of any model,
                or the pipeline does not exist.
        """
        from gpt1.tokenization.pipelines import PIPELINES, detect_pipeline

        require_count(vocab_size, "vocab_size")
        if vocab_size > MAX_VOCABULARY:  # the library would abort the process
            problem = f"vocab_size {vocab_size} is too large: a model has at most {MAX_VOCABULARY:,} tokens."
            raise UserError(problem, f"Use vocab_size {MAX_VOCABULARY} or less.")
        if isinstance(texts, str):
            texts = [texts]
        if pipeline == "auto":
            pipeline, texts = detect_pipeline(texts)
        if pipeline not in PIPELINES:
            choices = ["auto", *PIPELINES]
            raise UserError(
                f"unknown pipeline '{pipeline}'.{did_you_mean(str(pipeline), choices)}",
                f"Choices: {', '.join(choices)}.",
            )
        vocabulary, merges = PIPELINES[pipeline].learn(texts, vocab_size)
        return cls(vocabulary, merges, pipeline, {name: _version(name) for name in VERIFIED_VERSIONS})

    # ---- folders

    @staticmethod
    def find_files(folder: str | Path) -> tuple[str, ...]:
        """The names of the tokenizer's files in a folder; UserError if it contains no tokenizer."""
        names = _list_folder(folder)
        if files := _known_files(names):
            return files
        found = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "") if names else "no files"
        raise UserError(
            f"{folder} contains no tokenizer; found: {found}.",
            f"A tokenizer is {', '.join(GPT1_FILES)} (gpt1), or {' and '.join(OPENAI_FILES)} (OpenAI's release).",
        )

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Load a tokenizer from a folder or fsspec URL.

        Args:
            folder: Folder with the files of `save`, of OpenAI's release, or of Hugging Face's copy of it; or a run or
                corpus folder, `starter`, or a name on the Hugging Face hub.

        Raises:
            UserError: If the folder contains no tokenizer, or a file was changed or damaged.
        """
        if not is_url(folder):
            folder = find_model_folder(folder)
            inner = Path(folder) / "tokenizer"  # of a corpus folder
            folder = inner if inner.is_dir() and not _known_files(_list_folder(folder)) else folder
        files = cls.find_files(folder)
        about = _read_json_object(folder, files[0]) if files is GPT1_FILES else {}
        if files == (LIBRARY_FILE,):
            vocabulary, merges, pipeline = _read_library_file(folder)
        else:
            vocabulary = _read_json_object(folder, files[-2])
            merges = _read_merges(folder, files[-1])
            pipeline = str(about.get("pipeline", "original"))
        validate_vocabulary(vocabulary, merges, pipeline, f"{folder}/{files[-2:][0]}")
        made_with = about.get("made_with")
        if not isinstance(made_with, dict) or not all(
            isinstance(made_with.get(name), str) for name in VERIFIED_VERSIONS
        ):
            made_with = VERIFIED_VERSIONS
        tokenizer = cls(vocabulary, merges, pipeline, {name: made_with[name] for name in VERIFIED_VERSIONS})
        if about.get("fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(
                f"the tokenizer in {folder} does not match its fingerprint (SHA-256 differs): a file was changed.",
                "Copy the folder again, or train the tokenizer again.",
            )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write GPT1_FILES to a folder, gpt1_tokenizer.json last, so that an incomplete folder is not a tokenizer."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        about = {
            "format": 1,
            "pipeline": self.pipeline,
            "vocab_size": self.vocab_size,
            "made_with": self._made_with,
            "fingerprint": self.fingerprint,
        }
        merges = "".join(f"{first} {second}\n" for first, second in self._merges)
        atomic_write_text(path / GPT1_FILES[1], json.dumps(self._vocabulary, ensure_ascii=False, indent=0) + "\n")
        atomic_write_text(path / GPT1_FILES[2], "#version: 0.2\n" + merges)
        atomic_write_json(path / GPT1_FILES[0], about)


def validate_vocabulary(
    vocabulary: Mapping[str, Any], merges: Sequence[tuple[str, str]], pipeline: str, where: str
) -> None:
    """UserError unless the vocabulary and merges are valid for the pipeline."""
    from gpt1.tokenization.pipelines import PIPELINES, SURROGATE

    def refuse(problem: str) -> NoReturn:
        raise UserError(f"{where} {problem}.", TOKENIZER_HINT)

    if pipeline not in PIPELINES:
        raise UserError(f"{where}: unknown pipeline {short(pipeline)}.", "Use a newer version of gpt1.")
    ids = [id for id in vocabulary.values() if type(id) is int]
    if len(ids) < len(vocabulary) or sorted(ids) != list(range(len(ids))):
        refuse("is not a vocabulary: it must map tokens to the ids 0, 1, 2 and so on")
    missing = [token for token in PIPELINES[pipeline].required_tokens() if token not in vocabulary]
    if missing:
        refuse(f"is not a vocabulary of the {pipeline} pipeline: token {missing[0]!r} is missing")
    for first, second in merges:
        if not (first in vocabulary and second in vocabulary and first + second in vocabulary):
            refuse(f"does not match its merges, which join {short(first)} and {short(second)}")
    known = PIPELINES[pipeline].characters()
    for token in vocabulary:
        if (known and not known.issuperset(token)) or SURROGATE.search(token):
            refuse(f"is not a vocabulary: token {short(token)} cannot occur in a text")
    merged = {first + second for first, second in merges}
    words = (token for token in vocabulary if token.endswith(END_OF_WORD) and len(token) > 1 + len(END_OF_WORD))
    if pipeline == "original" and (missing_word := next((word for word in words if word not in merged), None)):
        refuse(f"does not match its merges: none of them produces {short(missing_word)}")


TOKENIZER_HINT = f"Use a folder written by gpt1, or OpenAI's {' and '.join(OPENAI_FILES)}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _list_folder(folder: str | Path) -> set[str]:
    """The names of the files in a folder or below a URL."""
    try:
        if is_url(folder):
            system, path = filesystem(folder)
            return {name.rstrip("/").rsplit("/", 1)[-1] for name in system.ls(path, detail=False)}
        return set(os.listdir(folder))
    except FileNotFoundError as error:
        raise UserError(f"the folder {folder} does not exist.", TOKENIZER_HINT) from error
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file, but a tokenizer is a folder.", TOKENIZER_HINT) from error


def _read_text(folder: str | Path, name: str) -> str:
    where = f"{folder}/{name}"
    if is_url(folder):
        system, path = filesystem(f"{str(folder).rstrip('/')}/{name}")
        with system.open(path, "rb") as file:
            data = bytes(file.read(MAX_JSON_BYTES + 1))
        if len(data) > MAX_JSON_BYTES:
            raise UserError(f"{where} has more than {MAX_JSON_BYTES:,} bytes.", "Check that this is the right file.")
    else:
        data = read_bounded(Path(folder) / name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8: it was changed or damaged.", TOKENIZER_HINT) from error


def _read_json_object(folder: str | Path, name: str) -> dict[str, Any]:
    content = parse_json(_read_text(folder, name), f"{folder}/{name}", fix=TOKENIZER_HINT)
    if not isinstance(content, dict):
        raise UserError(f"{folder}/{name} does not contain a JSON object.", TOKENIZER_HINT)
    return content


def _read_merges(folder: str | Path, name: str) -> list[tuple[str, str]]:
    """One pair per line, after an optional header."""
    merges = []
    for number, line in enumerate(_read_text(folder, name).rstrip("\n").split("\n"), start=1):
        if number == 1 and line.startswith("#version"):
            continue
        first, separator, second = line.partition(" ")
        if not separator or not first or not second or " " in second:
            raise UserError(f"{folder}/{name}, line {number}: {short(line)} is not a pair of tokens.", TOKENIZER_HINT)
        merges.append((first, second))
    return merges


def _read_library_file(folder: str | Path) -> tuple[dict[str, Any], list[tuple[str, str]], str]:
    """(vocabulary, merges, pipeline) of a tokenizer.json; UserError unless one of gpt1's pipelines reads texts so."""
    content = Fields(_read_json_object(folder, LIBRARY_FILE), f"{folder}/{LIBRARY_FILE}", TOKENIZER_HINT)
    model, splitter = content.object("model"), content.object("pre_tokenizer", {})
    parts = (model.text("type", ""), model.values.get("end_of_word_suffix") or "", splitter.text("type", ""))
    pipelines = {("BPE", END_OF_WORD, "BertPreTokenizer"): "original", ("BPE", "", "ByteLevel"): "lossless"}
    if parts not in pipelines or (splitter.values.get("add_prefix_space") and parts[2] == "ByteLevel"):
        content.refuse("gpt1 does not split texts in this way; it has the byte-level BPE and the one of GPT-1")
    merges = []
    for pair in model.items("merges", object):
        pair = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            content.refuse(f"{short(pair)} is not a pair of tokens")
        merges.append((pair[0], pair[1]))
    return dict(model.object("vocab").values), merges, pipelines[parts]


def _known_files(names: set[str]) -> tuple[str, ...]:
    """The files of a tokenizer among `names`; empty if they are not complete."""
    formats = (GPT1_FILES, OPENAI_FILES, HUGGING_FACE_FILES, (LIBRARY_FILE,))
    return next((files for files in formats if names.issuperset(files)), ())
