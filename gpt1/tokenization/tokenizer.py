"""Text ↔ ids: the released GPT-1 vocabulary, or one learned from your texts.

    tokenizer = Tokenizer.load("openai/")                       # or Tokenizer.train(texts, vocab_size=8000)
    tokenizer.encode("Hello, World!")                           # [3570, 240, 1276, 267] with the released vocabulary
    tokenizer.decode([3570, 240, 1276, 267])                    # "hello , world !"

A tokenizer is a vocabulary (token → id), an ordered list of merges and a pipeline (tokens/pipelines.py). The three
special tokens of fine-tuning are no part of it: they take the ids from vocab_size on, and no text encodes to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_file
from gpt1.files.foreign import MAX_JSON_BYTES, parse_json, read_bounded, short
from gpt1.files.reading import filesystem, is_url
from gpt1.tokenization.bpe import END_OF_WORD

if TYPE_CHECKING:
    from gpt1.tokenization.arrays import IdArray
    from gpt1.tokenization.pipelines import Pipeline

GPT1_FILES = ("gpt1_tokenizer.json", "vocab.json", "merges.txt")
"""What `save` writes: what this is, token → id, and one merge a line, first learned first."""
OPENAI_FILES = ("encoder_bpe_40000.json", "vocab_40000.bpe")
"""What OpenAI released."""
HUGGING_FACE_FILES = ("vocab.json", "merges.txt")
"""The same two under the names that Hugging Face gave them."""
SPECIAL_TOKENS = ("<start>", "<delimiter>", "<extract>")
VERIFIED_VERSIONS = {"spacy": "3.8.18", "ftfy": "6.3.1"}
"""Versions for which the ids are known to be the released encoder's."""


class Tokenizer:
    """Attributes: `vocab_size` (without special tokens), `pipeline` ("original" or "lossless")."""

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
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """As `encode` for each text, faster for many short ones."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Iterable[str]) -> list[IdArray]:
        """As `encode_batch`, each text's ids as an array of uint32: faster still, and a tenth of the memory."""
        return self._pipeline.encode_batch(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The lower-cased words, one space between them (lossless: the exact text). Special tokens are left out."""
        return self._pipeline.decode(map(self._check_id, ids))

    def display_token(self, id: int) -> str:
        """One token as people may read it: line breaks as \\n, and `th…` for an unfinished word (original pipeline)."""
        if self._check_id(id) >= self.vocab_size:
            return SPECIAL_TOKENS[id - self.vocab_size]
        return self._pipeline.display_token(int(id))

    def count_unknown(self, ids: Iterable[int]) -> int:
        """How many of the ids are <unk>; none in the lossless pipeline."""
        return 0 if self.unknown_id is None else sum(id == self.unknown_id for id in ids)

    @property
    def unknown_id(self) -> int | None:
        return self._pipeline.unknown_id

    @property
    def newline_id(self) -> int:
        """The token of a line break; one stands between two documents of a corpus."""
        return self._pipeline.newline_id

    @cached_property
    def _pipeline(self) -> Pipeline:
        from gpt1.tokenization.pipelines import PIPELINES

        return PIPELINES[self.pipeline](self._vocabulary, self._merges)

    def _check_id(self, id: int) -> int:
        if not 0 <= id < self.vocab_size + len(SPECIAL_TOKENS):
            raise ValueError(
                f"there is no token {id}: ids run from 0 to {self.vocab_size - 1}, special tokens to 3 more"
            )
        return int(id)

    def __getstate__(self) -> dict[str, Any]:
        """Caches stay here when a tokenizer is sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_pipeline"}

    # ---- what it is

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides the ids. Two tokenizers with the same one give the same ids."""
        what = [self.pipeline, sorted(self._vocabulary.items()), self._merges]
        return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()

    def version_warning(self) -> str | None:
        """A line to show where the ids could differ from those of the tokenizer's maker, else None."""
        if self.pipeline != "original":
            return None
        other = [
            f"{name} {made}, here is {here}"
            for name, made in self._made_with.items()
            if (here := _version(name)) != made
        ]
        return f"the tokenizer was made with {'; '.join(other)}: a few texts may get other ids" if other else None

    # ---- learning

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pipeline: str = "auto") -> Tokenizer:
        """A vocabulary of `vocab_size` tokens (fewer where the texts hold no more) learned from the texts.

        pipeline: "original" for English, "lossless" for anything else, "auto": original where nine letters in ten are
        basic Latin (the attribute `pipeline` tells the choice). The same texts give the same vocabulary.
        """
        from gpt1.tokenization.pipelines import PIPELINES, detect_pipeline

        if isinstance(texts, str):
            texts = [texts]
        if pipeline == "auto":
            pipeline, texts = detect_pipeline(texts)
        if pipeline not in PIPELINES:
            choices = ["auto", *PIPELINES]
            raise UserError(
                f"there is no pipeline '{pipeline}'.{did_you_mean(pipeline, choices)}",
                f"Choices: {', '.join(choices)}.",
            )
        vocabulary, merges = PIPELINES[pipeline].learn(texts, vocab_size)
        return cls(vocabulary, merges, pipeline, {name: _version(name) for name in VERIFIED_VERSIONS})

    # ---- folders

    @staticmethod
    def find_files(folder: str | Path) -> tuple[str, ...]:
        """The names of the files that make up the tokenizer in this folder; UserError where there is none."""
        names = _list_folder(folder)
        for files in (GPT1_FILES, OPENAI_FILES, HUGGING_FACE_FILES):
            if names.issuperset(files):
                return files
        held = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
        raise UserError(
            f"{folder} holds no tokenizer; it holds {held}.",
            f"A tokenizer is {', '.join(GPT1_FILES)} (gpt1), or {' and '.join(OPENAI_FILES)} (OpenAI's release).",
        )

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a folder or fsspec URL: what `save` wrote, OpenAI's release, or Hugging Face's copy."""
        files = cls.find_files(folder)
        about = _read_json_object(folder, files[0]) if files is GPT1_FILES else {}
        vocabulary = _read_json_object(folder, files[-2])
        merges = _read_merges(folder, files[-1])
        pipeline = str(about.get("pipeline", "original"))
        validate_vocabulary(vocabulary, merges, pipeline, f"{folder}/{files[-2]}")
        made_with = about.get("made_with")
        if not isinstance(made_with, dict) or not all(
            isinstance(made_with.get(name), str) for name in VERIFIED_VERSIONS
        ):
            made_with = VERIFIED_VERSIONS
        tokenizer = cls(vocabulary, merges, pipeline, {name: made_with[name] for name in VERIFIED_VERSIONS})
        if about.get("fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(
                f"the tokenizer in {folder} is not the one that was saved there (SHA-256 differs): a file was changed.",
                "Copy the folder again, or train the tokenizer again.",
            )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write OUR_FILES; the one that names the others comes last, so that a half-written folder is no tokenizer."""
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
        _write_atomically(path / GPT1_FILES[1], json.dumps(self._vocabulary, ensure_ascii=False, indent=0) + "\n")
        _write_atomically(path / GPT1_FILES[2], "#version: 0.2\n" + merges)
        _write_atomically(path / GPT1_FILES[0], json.dumps(about, indent=2) + "\n")


def validate_vocabulary(
    vocabulary: Mapping[str, Any], merges: Sequence[tuple[str, str]], pipeline: str, where: str
) -> None:
    """UserError where the files are no vocabulary of this pipeline."""
    from gpt1.tokenization.pipelines import PIPELINES, SURROGATE

    if pipeline not in PIPELINES:
        raise UserError(
            f"{where}: made for the pipeline {short(pipeline)}, which this gpt1 does not know.",
            "Use a newer version of gpt1.",
        )
    ids = [id for id in vocabulary.values() if type(id) is int]
    if len(ids) < len(vocabulary) or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{where} is no vocabulary: it has to map tokens to the ids 0, 1, 2 and so on.", TOKENIZER_HINT)
    missing = [token for token in PIPELINES[pipeline].required_tokens() if token not in vocabulary]
    if missing:
        raise UserError(
            f"{where} is no vocabulary of the {pipeline} pipeline: it has no token {missing[0]!r}.", TOKENIZER_HINT
        )
    for first, second in merges:
        if not (first in vocabulary and second in vocabulary and first + second in vocabulary):
            pair = f"{short(first)} and {short(second)}"
            raise UserError(f"{where} does not fit its merges: they join {pair}.", TOKENIZER_HINT)
    known = PIPELINES[pipeline].characters()
    for token in vocabulary:
        if (known and not known.issuperset(token)) or SURROGATE.search(token):
            raise UserError(
                f"{where} is no vocabulary: the token {short(token)} cannot stand in a text.", TOKENIZER_HINT
            )
    made = {first + second for first, second in merges}
    words = (token for token in vocabulary if token.endswith(END_OF_WORD) and len(token) > 1 + len(END_OF_WORD))
    if pipeline == "original" and (lost := next((word for word in words if word not in made), None)):
        raise UserError(f"{where} does not fit its merges: none of them makes {short(lost)}.", TOKENIZER_HINT)


TOKENIZER_HINT = f"Use a folder that gpt1 wrote, or OpenAI's {' and '.join(OPENAI_FILES)}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _list_folder(folder: str | Path) -> set[str]:
    """The names of what lies in a folder or under a URL."""
    try:
        if is_url(folder):
            system, path = filesystem(folder)
            return {name.rstrip("/").rsplit("/", 1)[-1] for name in system.ls(path, detail=False)}
        return set(os.listdir(folder))
    except FileNotFoundError as error:
        raise UserError(f"there is no folder {folder}.", TOKENIZER_HINT) from error
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file; a tokenizer is a folder.", TOKENIZER_HINT) from error


def _read_text(folder: str | Path, name: str) -> str:
    where = f"{folder}/{name}"
    if is_url(folder):
        system, path = filesystem(f"{str(folder).rstrip('/')}/{name}")
        with system.open(path, "rb") as file:
            data = bytes(file.read(MAX_JSON_BYTES + 1))
        if len(data) > MAX_JSON_BYTES:
            raise UserError(f"{where} has more than {MAX_JSON_BYTES:,} bytes.", "Is this the right file?")
    else:
        data = read_bounded(Path(folder) / name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8: it was changed or damaged.", TOKENIZER_HINT) from error


def _read_json_object(folder: str | Path, name: str) -> dict[str, Any]:
    content = parse_json(_read_text(folder, name), f"{folder}/{name}", fix=TOKENIZER_HINT)
    if not isinstance(content, dict):
        raise UserError(f"{folder}/{name} holds no JSON object.", TOKENIZER_HINT)
    return content


def _read_merges(folder: str | Path, name: str) -> list[tuple[str, str]]:
    """One pair a line, behind a header."""
    merges = []
    for number, line in enumerate(_read_text(folder, name).rstrip("\n").split("\n"), start=1):
        if number == 1 and line.startswith("#version"):
            continue
        first, separator, second = line.partition(" ")
        if not separator or not first or not second or " " in second:
            raise UserError(f"{folder}/{name}, line {number}: {short(line)} is no pair of tokens.", TOKENIZER_HINT)
        merges.append((first, second))
    return merges


def _write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing of it."""
    with atomic_file(path) as file:
        file.write(text.encode())
