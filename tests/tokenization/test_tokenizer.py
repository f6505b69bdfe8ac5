"""The tokenizer against OpenAI's algorithm written plainly (reference_tokenizer.py), and its own laws."""

from __future__ import annotations

import itertools
import json
import lzma
import os
import pickle
import random
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
from gpt1.tokenization import standardise as fast
from gpt1.tokenization.pipelines import OriginalPipeline
from gpt1.tokenization.tokenizer import GPT1_FILES, OPENAI_FILES, Tokenizer
from gpt1.tokenization.words import EnglishWordSplitter


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(PROSE, vocab_size=1500, pipeline="original")


@pytest.fixture(scope="module")
def reference(trained, tmp_path_factory) -> ReferenceTokenizer:
    folder = tmp_path_factory.mktemp("reference")
    trained.save(folder)
    return ReferenceTokenizer.load(folder, "vocab.json", "merges.txt")


@pytest.fixture(scope="module")
def lossless() -> Tokenizer:
    return Tokenizer.train([*PROSE[:20], "안녕하세요 세계"], vocab_size=400, pipeline="lossless")


@pytest.fixture(scope="module")
def released(shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "openai")


# ---- the original's ids ----------------------------------------------------------------------------------------------


def test_the_released_vocabulary_gives_the_ids_of_the_released_encoder(released, shared_data):
    golden = [json.loads(line) for line in (shared_data / "openai/golden_ids.jsonl").open(encoding="utf-8")]
    assert len(golden) == 298
    assert [row["text"] for row in golden if released.encode(row["text"]) != row["ids"]] == []
    assert released.encode_batch(row["text"] for row in golden) == [row["ids"] for row in golden]
    assert (released.vocab_size, released.unknown_id, released.newline_id) == (40478, 0, 40477)


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
@example("' ''b")  # spaCy joins the quotes within the chunk unless the quote before comes first
@example("a'' '")
@example("said: ''Tis\n''Tis 'em.' so")
@example("&amp; <\n&amp;")  # from the first < on, ftfy leaves entities alone
@example("é ＜\né &amp;")
@example("œ")  # ftfy looks at what follows: here the end of the text, there a line break
@example("œ\nœ")
@example("Ã la carte")
@example("caf\u00e9 &am\ufeffp; <")  # ftfy goes over a line again until nothing changes
def test_any_text_gets_the_ids_of_the_plain_algorithm(trained, reference, text):
    assert trained.encode(text) == reference.encode(text)


@settings(max_examples=60)
@given(batch=st.lists(mixed_texts, max_size=6))
def test_a_text_has_the_same_ids_alone_in_a_batch_and_with_caches_of_any_size(trained, batch):
    alone = [trained.encode(text) for text in batch]
    assert trained.encode_batch(batch) == alone
    forgetful = OriginalPipeline(trained._vocabulary, trained._merges)
    forgetful.CACHE = 3
    assert [forgetful.encode_batch([text])[0].tolist() for text in batch] == alone


def test_lines_of_novels_get_the_ids_of_the_plain_algorithm(released, shared_data):
    plain = ReferenceTokenizer.load(shared_data / "openai")
    with lzma.open(shared_data / "data/books/train-00.jsonl.xz", "rt", encoding="utf-8") as books:
        text = json.loads(next(itertools.islice(books, 3, None)))["text"][:300_000]
    with_quotes = text.replace(' "', " “").replace('" ', "” ").replace("'", "’").replace("--", "—")
    for novel in (text, with_quotes):
        assert released.encode(novel) == plain.encode(novel)
        lines = novel.split("\n")[:200]
        assert released.encode_batch(lines) == [plain.encode(line) for line in lines]


def test_threads_get_the_same_ids(trained):
    fresh = pickle.loads(pickle.dumps(trained))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fresh.encode, PROSE[:40])) == [trained.encode(text) for text in PROSE[:40]]


def test_an_interrupt_while_new_words_are_learned_leaves_no_wrong_ids(trained, monkeypatch):
    fresh = pickle.loads(pickle.dumps(trained))
    with monkeypatch.context() as patch:
        patch.setattr(EnglishWordSplitter, "split_chunks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fresh.encode("interrupted learning")
    assert fresh.encode("interrupted learning") == trained.encode("interrupted learning")


@pytest.fixture(scope="module")
def english_of_another_version():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.tokenization.words.VERIFIED_SPACY_VERSION", "another")
        return EnglishWordSplitter()


@given(text=mixed_texts)
def test_other_versions_of_ftfy_and_spacy_get_whatever_only_they_can_tell(
    trained, reference, english_of_another_version, text
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.tokenization.standardise.VERIFIED_FTFY_VERSION", "another")
        patch.setattr("gpt1.tokenization.pipelines.english_words", lambda: english_of_another_version)
        assert fast.fix_text(text) == ftfy.fix_text(text)
        assert pickle.loads(pickle.dumps(trained)).encode(text) == reference.encode(text)


# ---- learning a vocabulary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", ["original", "lossless"])
def test_the_same_texts_give_the_same_vocabulary_in_another_process_and_order(pipeline, tmp_path):
    code = (
        "from pydoc_data.topics import topics; from gpt1.tokenization.tokenizer import Tokenizer; "
        f"print(Tokenizer.train(list(topics.values())[:12][::-1], 600, {pipeline!r}).fingerprint)"
    )
    ours = Tokenizer.train(PROSE[:12], 600, pipeline).fingerprint
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert theirs.stdout.strip() == ours


@pytest.mark.parametrize(
    ("pipeline", "size"), [("original", 300), ("original", 2000), ("lossless", 256), ("lossless", 700)]
)
def test_a_vocabulary_has_the_size_that_was_asked_for(pipeline, size):
    tokenizer = Tokenizer.train(PROSE[:30], size, pipeline)
    assert tokenizer.vocab_size == size
    assert max(tokenizer.encode(PROSE[40])) < size


@pytest.mark.parametrize("pipeline", ["original", "lossless"])
def test_texts_that_hold_too_little_give_a_smaller_vocabulary_that_tells_its_size(pipeline):
    tokenizer = Tokenizer.train(["ab ab abc\n"], 5000, pipeline)
    assert tokenizer.vocab_size == len({tokenizer.display_token(id) for id in range(tokenizer.vocab_size)}) < 300
    assert tokenizer.decode(tokenizer.encode("abc ab")) == "abc ab"


@pytest.mark.parametrize(("pipeline", "least"), [("original", 8), ("lossless", 256)])
def test_a_vocabulary_that_cannot_hold_the_characters_is_refused_with_the_size_that_can(pipeline, least):
    with pytest.raises(UserError) as refused:
        Tokenizer.train(["abc"], least - 1, pipeline)
    assert str(least - 1) in refused.value.problem
    assert f"{least} or more" in refused.value.fix
    assert Tokenizer.train(["abc"], least, pipeline).vocab_size == least


def test_only_characters_that_are_rare_in_the_texts_become_unknown():
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
def test_auto_takes_the_original_pipeline_for_latin_letters_and_the_lossless_one_for_the_rest(texts, pipeline):
    tokenizer = Tokenizer.train(iter(texts), 400)
    assert tokenizer.pipeline == pipeline
    assert tokenizer.fingerprint == Tokenizer.train(texts, 400, pipeline).fingerprint


def test_a_pipeline_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean lossless"):
        Tokenizer.train(["a"], 300, "losless")


# ---- nothing lost ----------------------------------------------------------------------------------------------------

anything = st.text(st.one_of(st.characters(), st.sampled_from("\r\n\0\t \x85\ud83d\ude00\ud800각ㄱ😀")))


@settings(max_examples=MAX_EXAMPLES)
@given(text=st.one_of(anything, mixed_texts))
def test_the_lossless_pipeline_gives_back_any_text(lossless, text):
    ids = lossless.encode(text)
    assert lossless.decode(ids) == text
    assert lossless.count_unknown(ids) == 0
    assert lossless.unknown_id is None


@given(ids=st.lists(st.integers(0, 402)))
def test_any_ids_decode_in_the_lossless_pipeline(lossless, ids):
    assert isinstance(lossless.decode(ids), str)
    assert lossless.decode([id for id in ids if id < lossless.vocab_size]) == lossless.decode(ids)


# ---- ids ↔ people ----------------------------------------------------------------------------------------------------


@settings(max_examples=MAX_EXAMPLES)
@given(text=mixed_texts)
def test_no_text_gives_a_special_token(trained, lossless, text):
    for tokenizer in (trained, lossless):
        assert all(0 <= id < tokenizer.vocab_size for id in tokenizer.encode(text))


def test_texts_that_look_like_tokens_are_text(trained):
    for text in ("<unk>", "<start> a <delimiter> b <extract>", "the</w>", "\0", "<s> <e>"):
        ids = trained.encode(text)
        assert trained.count_unknown(ids) == 0
        assert max(ids, default=0) < trained.vocab_size


@settings(max_examples=MAX_EXAMPLES)
@given(lines=st.lists(st.lists(st.from_regex("[A-Za-z]{1,9}", fullmatch=True), min_size=1), min_size=1))
def test_decoding_gives_the_lower_cased_words_and_the_line_breaks(trained, reference, lines):
    text = "\n".join(map(" ".join, lines))
    words = [" ".join(reference.words(" ".join(line))) for line in lines]
    assert trained.decode(trained.encode(text)) == "\n".join(words)


def test_decoding_leaves_special_tokens_out_and_refuses_ids_that_do_not_exist(trained):
    ids, size = trained.encode("one word"), trained.vocab_size
    assert trained.decode([size, *ids, size + 1, size + 2]) == "one word"
    assert [trained.display_token(size + k) for k in range(3)] == ["<start>", "<delimiter>", "<extract>"]
    for id in (-1, size + 3):
        with pytest.raises(ValueError, match=str(id)):
            trained.decode([id])
        with pytest.raises(ValueError, match=str(id)):
            trained.display_token(id)


def test_a_token_shows_whether_it_ends_a_word(trained, lossless):
    (word,) = trained.encode("the")
    assert trained.display_token(word) == "the"
    pieces = trained.encode("zqxthe")
    assert [trained.display_token(id).endswith("…") for id in pieces] == [True] * (len(pieces) - 1) + [False]
    assert trained.display_token(trained.newline_id) == lossless.display_token(lossless.newline_id) == "\\n"
    assert trained.display_token(0) == "<unk>"
    assert lossless.display_token(lossless.encode("각")[0]) == "<0xEA>"


@pytest.mark.parametrize("name", ["trained", "lossless"])
def test_the_newline_token_is_what_a_line_break_encodes_to(name, request):
    tokenizer = request.getfixturevalue(name)
    assert tokenizer.newline_id in tokenizer.encode("a\nb")
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.newline_id, *tokenizer.encode("b")]) == "a\nb"


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trained", "lossless"])
def test_a_saved_tokenizer_comes_back_the_same(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path / "a/b")
    again = Tokenizer.load(tmp_path / "a/b")
    assert (again.fingerprint, again.pipeline, again.vocab_size) == (
        tokenizer.fingerprint,
        name_of(name),
        tokenizer.vocab_size,
    )
    assert again.encode_batch(PROSE[:10]) == tokenizer.encode_batch(PROSE[:10])
    assert sorted(os.listdir(tmp_path / "a/b")) == sorted(Tokenizer.find_files(tmp_path / "a/b")) == sorted(GPT1_FILES)
    assert Tokenizer.load((tmp_path / "a/b").as_uri()).fingerprint == tokenizer.fingerprint


def name_of(fixture):
    return "original" if fixture == "trained" else fixture


def test_openais_files_and_hugging_faces_copy_are_the_same_tokenizer(released, shared_data, tmp_path):
    for name, source in (("vocab.json", OPENAI_FILES[0]), ("merges.txt", OPENAI_FILES[1])):
        (tmp_path / name).write_bytes((shared_data / "openai" / source).read_bytes())
    (tmp_path / "config.json").write_text("{}")
    assert Tokenizer.load(tmp_path).fingerprint == released.fingerprint
    released.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == released.fingerprint


def test_a_fingerprint_changes_with_whatever_changes_the_ids(trained):
    vocabulary, merges = trained._vocabulary, trained._merges
    swapped = {**vocabulary, "a": vocabulary["b"], "b": vocabulary["a"]}
    others = [Tokenizer(swapped, merges, "original"), Tokenizer(vocabulary, merges[::-1], "original")]
    others.append(Tokenizer(vocabulary, merges, "lossless"))
    assert len({trained.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert Tokenizer(dict(reversed(vocabulary.items())), merges, "original").fingerprint == trained.fingerprint


def test_folders_that_hold_no_tokenizer_are_refused_by_what_they_hold(trained, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        Tokenizer.load(tmp_path / "missing")
    with pytest.raises(UserError, match="it holds nothing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"it holds notes\.txt") as refused:
        Tokenizer.load(tmp_path)
    assert OPENAI_FILES[0] in refused.value.fix
    with pytest.raises(UserError, match="is a file"):
        Tokenizer.load(tmp_path / "notes.txt")
    trained.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", GPT1_FILES)
def test_no_changed_byte_is_loaded(trained, tmp_path, name):
    trained.save(tmp_path)
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
        assert (loaded.fingerprint, loaded.pipeline) == (trained.fingerprint, "original")  # a byte that says nothing


def test_a_vocabulary_of_another_kind_is_refused(lossless, trained, tmp_path):
    lossless.save(tmp_path)
    (tmp_path / GPT1_FILES[0]).unlink()  # what is left looks like GPT-2's folder
    with pytest.raises(UserError, match="has no token '<unk>'"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "\n</w>": 1}))
    with pytest.raises(UserError, match="does not fit its merges"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gpt1_tokenizer.json", "[]", "gpt1_tokenizer.json holds no JSON object"),
        ("gpt1_tokenizer.json", '{"pipeline": ["original"]}', "which this gpt1 does not know"),
        ("vocab.json", '["<unk>"]', "vocab.json holds no JSON object"),
        *(("vocab.json", f'{{"<unk>": 0, "a": {id}}}', "0, 1, 2") for id in ("7", '"1"', "null", "1.0")),
        ("merges.txt", "", r"merges\.txt, line 1: '' is no pair"),
    ],
)
def test_files_of_another_form_are_refused_by_name(trained, tmp_path, name, content, said):
    trained.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        Tokenizer.load(tmp_path)


def test_merges_without_a_header_are_all_read_and_those_that_are_cut_short_are_refused(trained, tmp_path):
    trained.save(tmp_path)
    header, *lines = (tmp_path / "merges.txt").read_text("utf-8").split("\n")
    (tmp_path / "merges.txt").write_text("\n".join(lines), "utf-8")
    assert Tokenizer.load(tmp_path).fingerprint == trained.fingerprint
    (tmp_path / GPT1_FILES[0]).unlink()  # as Hugging Face hands it out, without a fingerprint
    for kept in (0, len(lines) // 2):
        (tmp_path / "merges.txt").write_text("\n".join([header, *lines[:kept]]), "utf-8")
        with pytest.raises(UserError, match=r"does not fit its merges: none of them makes '.*</w>'"):
            Tokenizer.load(tmp_path)


def test_other_versions_of_spacy_or_ftfy_are_told(trained, tmp_path):
    assert trained.version_warning() is None
    trained.save(tmp_path)
    about = json.loads((tmp_path / GPT1_FILES[0]).read_text())
    about["made_with"]["spacy"] = "2.0.11"
    (tmp_path / GPT1_FILES[0]).write_text(json.dumps(about))
    assert "spacy 2.0.11, here is " in Tokenizer.load(tmp_path).version_warning()


@pytest.mark.parametrize(
    ("done", "spared"),
    [("fingerprint", "spacy ftfy tokenizers torch numpy pyarrow fsspec"), ("encode('a b')", "pandas fsspec")],
)
def test_a_tokenizer_that_is_loaded_or_encodes_imports_no_library_for_nothing(done, spared, trained, tmp_path):
    trained.save(tmp_path)
    code = f"import sys; from gpt1 import Tokenizer; Tokenizer.load(sys.argv[1]).{done}; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not set(spared.split()) & set(output.stdout.split())
