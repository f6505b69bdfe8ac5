"""The tokenizer compared with a plain implementation of OpenAI's (reference_tokenizer.py), and its own laws."""

from __future__ import annotations

import itertools
import json
import lzma
import os
import pickle
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_tokenizer import ReferenceTokenizer
from text_strategies import MAX_EXAMPLES, PROSE, mixed_texts

from gpt1.errors import UserError
from gpt1.tokenization import standardize as fast
from gpt1.tokenization.pipelines import OriginalPipeline
from gpt1.tokenization.tokenizer import GPT1_FILES, OPENAI_FILES, Tokenizer
from gpt1.tokenization.words import EnglishWordSplitter


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    return Tokenizer.train(PROSE, vocab_size=1500, pipeline="original")


@pytest.fixture(scope="module")
def reference(original, tmp_path_factory) -> ReferenceTokenizer:
    folder = tmp_path_factory.mktemp("reference")
    original.save(folder)
    return ReferenceTokenizer.load(folder, "vocab.json", "merges.txt")


@pytest.fixture(scope="module")
def lossless() -> Tokenizer:
    return Tokenizer.train([*PROSE[:20], "안녕하세요 세계"], vocab_size=400, pipeline="lossless")


@pytest.fixture(scope="module")
def released_tokenizer(shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "openai")


# ---- ids of the released encoder -------------------------------------------------------------------------------------


def test_the_released_vocabulary_gives_the_ids_of_the_released_encoder(released_tokenizer, shared_data):
    golden = [json.loads(line) for line in (shared_data / "openai/golden_ids.jsonl").open(encoding="utf-8")]
    assert len(golden) == 298
    assert [row["text"] for row in golden if released_tokenizer.encode(row["text"]) != row["ids"]] == []
    assert released_tokenizer.encode_batch(row["text"] for row in golden) == [row["ids"] for row in golden]
    assert (released_tokenizer.vocab_size, released_tokenizer.unknown_id, released_tokenizer.newline_id) == (
        40478,
        0,
        40477,
    )


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
@example("' ''b")  # spaCy joins the quotes of the chunk unless the earlier quote takes one of them
@example("a'' '")
@example("said: ''Tis\n''Tis 'em.' so")
@example("&amp; <\n&amp;")  # after the first <, ftfy does not decode entities
@example("é ＜\né &amp;")
@example("œ")  # ftfy looks at the next character: here the end of the text, in the next example a line break
@example("œ\nœ")
@example("Ã la carte")
@example("caf\u00e9 &am\ufeffp; <")  # ftfy repeats its steps on a line until nothing changes
def test_any_text_has_the_ids_of_the_reference(original, reference, text):
    assert original.encode(text) == reference.encode(text)


@settings(max_examples=60)
@given(batch=st.lists(mixed_texts, max_size=6))
def test_ids_do_not_depend_on_the_batch_or_the_cache_size(original, batch):
    alone = [original.encode(text) for text in batch]
    assert original.encode_batch(batch) == alone
    small_cache = OriginalPipeline(original._vocabulary, original._merges)
    small_cache.MAX_CACHED_CHUNKS = 3
    assert [small_cache.encode_batch([text])[0].tolist() for text in batch] == alone


def test_novels_have_the_ids_of_the_reference(released_tokenizer, shared_data):
    expected = ReferenceTokenizer.load(shared_data / "openai")
    with lzma.open(shared_data / "data/books/train-00.jsonl.xz", "rt", encoding="utf-8") as books:
        text = json.loads(next(itertools.islice(books, 3, None)))["text"][:300_000]
    with_quotes = text.replace(' "', " “").replace('" ', "” ").replace("'", "’").replace("--", "—")
    for novel in (text, with_quotes):
        assert released_tokenizer.encode(novel) == expected.encode(novel)
        lines = novel.split("\n")[:200]
        assert released_tokenizer.encode_batch(lines) == [expected.encode(line) for line in lines]


def test_threads_get_the_same_ids(original):
    fresh = pickle.loads(pickle.dumps(original))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fresh.encode, PROSE[:40])) == [original.encode(text) for text in PROSE[:40]]


def test_an_interrupt_while_words_are_cached_leaves_no_wrong_ids(original, monkeypatch):
    fresh = pickle.loads(pickle.dumps(original))
    with monkeypatch.context() as patch:
        patch.setattr(EnglishWordSplitter, "split_chunks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fresh.encode("interrupted learning")
    assert fresh.encode("interrupted learning") == original.encode("interrupted learning")


@pytest.fixture(scope="module")
def english_of_another_version():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.tokenization.words.VERIFIED_SPACY_VERSION", "another")
        return EnglishWordSplitter()


@given(text=mixed_texts)
def test_unverified_versions_of_ftfy_and_spacy_bypass_the_fast_paths(
    original, reference, english_of_another_version, text
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.tokenization.standardize.VERIFIED_FTFY_VERSION", "another")
        patch.setattr("gpt1.tokenization.pipelines.english_words", lambda: english_of_another_version)
        assert fast.fix_text(text) == ftfy.fix_text(text)
        assert pickle.loads(pickle.dumps(original)).encode(text) == reference.encode(text)


# ---- training a vocabulary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", ["original", "lossless"])
def test_the_same_texts_give_the_same_vocabulary_in_another_process_and_order(pipeline, tmp_path):
    code = (
        "from pydoc_data.topics import topics; from gpt1.tokenization.tokenizer import Tokenizer; "
        f"print(Tokenizer.train(list(topics.values())[:12][::-1], 600, {pipeline!r}).fingerprint)"
    )
    expected = Tokenizer.train(PROSE[:12], 600, pipeline).fingerprint
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == expected


@pytest.mark.parametrize(
    ("pipeline", "size"), [("original", 300), ("original", 2000), ("lossless", 256), ("lossless", 700)]
)
def test_a_vocabulary_has_the_requested_size(pipeline, size):
    tokenizer = Tokenizer.train(PROSE[:30], size, pipeline)
    assert tokenizer.vocab_size == size
    assert max(tokenizer.encode(PROSE[40])) < size


@pytest.mark.parametrize("pipeline", ["original", "lossless"])
def test_short_texts_give_a_smaller_vocabulary(pipeline):
    tokenizer = Tokenizer.train(["ab ab abc\n"], 5000, pipeline)
    assert tokenizer.vocab_size == len({tokenizer.display_token(id) for id in range(tokenizer.vocab_size)}) < 300
    assert tokenizer.decode(tokenizer.encode("abc ab")) == "abc ab"


@pytest.mark.parametrize(("pipeline", "minimum"), [("original", 8), ("lossless", 256)])
def test_the_error_for_a_too_small_vocabulary_gives_the_minimum_size(pipeline, minimum):
    with pytest.raises(UserError) as error:
        Tokenizer.train(["abc"], minimum - 1, pipeline)
    assert str(minimum - 1) in error.value.problem
    assert f"{minimum} or more" in error.value.fix
    assert Tokenizer.train(["abc"], minimum, pipeline).vocab_size == minimum


def test_only_rare_characters_become_unknown():
    tokenizer = Tokenizer.train(["the cat sat, é. " * 10_000, "Ж"], 100, "original")
    assert tokenizer.count_unknown(tokenizer.encode("tacet, é hat.")) == 0
    ids = tokenizer.encode("the Ж and Жж")
    assert tokenizer.count_unknown(ids) == ids.count(tokenizer.unknown_id) == 5  # Ж, n and d of `and`, Ж, ж


@pytest.mark.parametrize(
    ("texts", "pipeline"),
    [
        (PROSE[:5], "original"),
        (["안녕하세요 세계 hello"] * 3, "lossless"),
        (["12345 67"], "lossless"),
        ([], "lossless"),
    ],
)
def test_auto_selects_original_for_latin_letters_and_lossless_otherwise(texts, pipeline):
    tokenizer = Tokenizer.train(iter(texts), 400)
    assert tokenizer.pipeline == pipeline
    assert tokenizer.fingerprint == Tokenizer.train(texts, 400, pipeline).fingerprint


def test_the_error_for_an_unknown_pipeline_suggests_the_closest():
    with pytest.raises(UserError, match="Did you mean lossless"):
        Tokenizer.train(["a"], 300, "losless")


# ---- the lossless pipeline -------------------------------------------------------------------------------------------

anything = st.text(st.one_of(st.characters(), st.sampled_from("\r\n\0\t \x85\ud83d\ude00\ud800각ㄱ😀")))


@settings(max_examples=MAX_EXAMPLES)
@given(text=st.one_of(anything, mixed_texts))
def test_the_lossless_pipeline_preserves_any_text(lossless, text):
    ids = lossless.encode(text)
    assert lossless.decode(ids) == text
    assert lossless.count_unknown(ids) == 0
    assert lossless.unknown_id is None


@given(ids=st.lists(st.integers(0, 402)))
def test_the_lossless_pipeline_decodes_any_ids(lossless, ids):
    assert isinstance(lossless.decode(ids), str)
    assert lossless.decode([id for id in ids if id < lossless.vocab_size]) == lossless.decode(ids)


# ---- special tokens, decoding and display ----------------------------------------------------------------------------


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
def test_no_text_is_encoded_to_a_special_token(original, lossless, text):
    for tokenizer in (original, lossless):
        assert all(0 <= id < tokenizer.vocab_size for id in tokenizer.encode(text))


def test_texts_that_look_like_special_tokens_are_plain_text(original):
    for text in ("<unk>", "<start> a <delimiter> b <extract>", "the</w>", "\0", "<s> <e>"):
        ids = original.encode(text)
        assert original.count_unknown(ids) == 0
        assert max(ids, default=0) < original.vocab_size


@settings(max_examples=MAX_EXAMPLES)
@given(lines=st.lists(st.lists(st.from_regex("[A-Za-z]{1,9}", fullmatch=True), min_size=1), min_size=1))
def test_decoding_gives_lower_cased_words_and_line_breaks(original, reference, lines):
    text = "\n".join(map(" ".join, lines))
    words = [" ".join(reference.words(" ".join(line))) for line in lines]
    assert original.decode(original.encode(text)) == "\n".join(words)


def test_decoding_drops_special_tokens_and_rejects_unknown_ids(original):
    ids, size = original.encode("one word"), original.vocab_size
    assert original.decode([size, *ids, size + 1, size + 2]) == "one word"
    assert [original.display_token(size + k) for k in range(3)] == ["<start>", "<delimiter>", "<extract>"]
    for id in (-1, size + 3):
        with pytest.raises(ValueError, match=str(id)):
            original.decode([id])
        with pytest.raises(ValueError, match=str(id)):
            original.display_token(id)


def test_a_displayed_token_shows_whether_it_ends_a_word(original, lossless):
    (word,) = original.encode("the")
    assert original.display_token(word) == "the"
    ids = original.encode("zqxthe")
    assert [original.display_token(id).endswith("…") for id in ids] == [True] * (len(ids) - 1) + [False]
    assert original.display_token(original.newline_id) == lossless.display_token(lossless.newline_id) == "\\n"
    assert original.display_token(0) == "<unk>"
    assert lossless.display_token(lossless.encode("각")[0]) == "<0xEA>"


@pytest.mark.parametrize("name", ["original", "lossless"])
def test_a_line_break_is_encoded_to_the_newline_token(name, request):
    tokenizer = request.getfixturevalue(name)
    assert tokenizer.newline_id in tokenizer.encode("a\nb")
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.newline_id, *tokenizer.encode("b")]) == "a\nb"


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["original", "lossless"])
def test_a_saved_tokenizer_loads_unchanged(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path / "a/b")
    again = Tokenizer.load(tmp_path / "a/b")
    assert (again.fingerprint, again.pipeline) == (tokenizer.fingerprint, name)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode_batch(PROSE[:10]) == tokenizer.encode_batch(PROSE[:10])
    assert sorted(os.listdir(tmp_path / "a/b")) == sorted(Tokenizer.find_files(tmp_path / "a/b")) == sorted(GPT1_FILES)
    assert Tokenizer.load((tmp_path / "a/b").as_uri()).fingerprint == tokenizer.fingerprint


def test_files_of_openai_and_hugging_face_load_as_the_same_tokenizer(released_tokenizer, shared_data, tmp_path):
    for name, source in (("vocab.json", OPENAI_FILES[0]), ("merges.txt", OPENAI_FILES[1])):
        (tmp_path / name).write_bytes((shared_data / "openai" / source).read_bytes())
    (tmp_path / "config.json").write_text("{}")
    assert Tokenizer.load(tmp_path).fingerprint == released_tokenizer.fingerprint
    released_tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == released_tokenizer.fingerprint


def test_the_fingerprint_depends_on_vocabulary_merges_and_pipeline(original):
    vocabulary, merges = original._vocabulary, original._merges
    swapped = {**vocabulary, "a": vocabulary["b"], "b": vocabulary["a"]}
    others = [Tokenizer(swapped, merges, "original"), Tokenizer(vocabulary, merges[::-1], "original")]
    others.append(Tokenizer(vocabulary, merges, "lossless"))
    assert len({original.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert Tokenizer(dict(reversed(vocabulary.items())), merges, "original").fingerprint == original.fingerprint


def test_the_error_for_a_folder_without_tokenizer_lists_its_files(original, tmp_path):
    with pytest.raises(UserError, match="missing does not exist"):
        Tokenizer.load(tmp_path / "missing")
    with pytest.raises(UserError, match="found: no files"):
        Tokenizer.load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"found: notes\.txt") as error:
        Tokenizer.load(tmp_path)
    assert OPENAI_FILES[0] in error.value.fix
    with pytest.raises(UserError, match="is a file"):
        Tokenizer.load(tmp_path / "notes.txt")
    original.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match="contains no tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", GPT1_FILES)
def test_no_flipped_bit_changes_a_loaded_tokenizer(original, tmp_path, name):
    original.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(name)
    for _ in range(40):
        place = rng.randrange(len(whole))
        (tmp_path / name).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        )
        try:
            loaded = Tokenizer.load(tmp_path)
        except UserError:
            continue
        assert (loaded.fingerprint, loaded.pipeline) == (original.fingerprint, "original")  # a byte without meaning


def test_a_vocabulary_of_another_pipeline_is_an_error(lossless, original, tmp_path):
    lossless.save(tmp_path)
    (tmp_path / GPT1_FILES[0]).unlink()  # the remaining files have the names of GPT-2's
    with pytest.raises(UserError, match="token '<unk>' is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "\n</w>": 1}))
    with pytest.raises(UserError, match="does not match its merges"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gpt1_tokenizer.json", "[]", "gpt1_tokenizer.json does not contain a JSON object"),
        ("gpt1_tokenizer.json", '{"pipeline": ["original"]}', "unknown pipeline"),
        ("vocab.json", '["<unk>"]', "vocab.json does not contain a JSON object"),
        *(("vocab.json", f'{{"<unk>": 0, "a": {id}}}', "0, 1, 2") for id in ("7", '"1"', "null", "1.0")),
        ("merges.txt", "", r"merges\.txt, line 1: '' is not a pair"),
    ],
)
def test_the_error_for_a_malformed_file_names_the_file(original, tmp_path, name, content, problem):
    original.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=problem):
        Tokenizer.load(tmp_path)


def test_merges_need_no_header_and_truncated_merges_are_an_error(original, tmp_path):
    original.save(tmp_path)
    header, *lines = (tmp_path / "merges.txt").read_text("utf-8").split("\n")
    (tmp_path / "merges.txt").write_text("\n".join(lines), "utf-8")
    assert Tokenizer.load(tmp_path).fingerprint == original.fingerprint
    (tmp_path / GPT1_FILES[0]).unlink()  # like Hugging Face's files, without a fingerprint
    for n in (0, len(lines) // 2):
        (tmp_path / "merges.txt").write_text("\n".join([header, *lines[:n]]), "utf-8")
        with pytest.raises(UserError, match=r"does not match its merges: none of them produces '.*</w>'"):
            Tokenizer.load(tmp_path)


def test_other_library_versions_give_a_warning(original, tmp_path):
    assert original.version_warning() is None
    original.save(tmp_path)
    about = json.loads((tmp_path / GPT1_FILES[0]).read_text())
    about["made_with"]["spacy"] = "2.0.11"
    (tmp_path / GPT1_FILES[0]).write_text(json.dumps(about))
    assert re.search(r"made with spacy 2\.0\.11 \([\d.]+ is installed\)", Tokenizer.load(tmp_path).version_warning())


@pytest.mark.parametrize(
    ("action", "unneeded"),
    [("fingerprint", "spacy ftfy tokenizers torch numpy pyarrow fsspec"), ("encode('a b')", "pandas fsspec")],
)
def test_loading_and_encoding_do_not_import_unneeded_libraries(action, unneeded, original, tmp_path):
    original.save(tmp_path)
    code = f"import sys; from gpt1 import Tokenizer; Tokenizer.load(sys.argv[1]).{action}; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not set(unneeded.split()) & set(output.stdout.split())
