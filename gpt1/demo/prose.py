"""Extract prose from a docstring: paragraphs of English, without lists, code, tables and markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

UNDERLINE = re.compile(r"\s*([-=~^*+#\"'])\1{2,}\s*$")
LIST_SECTIONS = re.compile(  # titles of sections that list names (numpydoc, Google style)
    r"(other |keyword )?(param(eter)?s?|arg(ument)?s?|attributes|methods|kwargs)|returns?|yields?|raises|warns|receives"
    r"|see also|references?|shape|inputs?|outputs?|properties|members|fields|bibliography|authors?",
    re.IGNORECASE,
)
ADMONITION = re.compile(
    r"\s*\.\. (note|warning|important|tip|hint|caution|attention|seealso|admonition)::\s*(?P<text>.*)$"
)
FIELD_OR_DIRECTIVE = re.compile(
    r"\s*(\.\. |:[a-zA-Z ]+( [^:]*)?:(\s|$)|@\w+|\w+ \([^)]*\):\s)"
)  # directive, citation, `x (int): …`
BULLET = re.compile(r"\s*([-*•+]|\(?\w{1,2}[.)])\s+")


def extract_prose(docstring: str) -> Iterator[str]:
    """The paragraphs of English in a docstring, without signatures, code, doctests, tables and formulas."""
    paragraph: list[str] = []
    for line in [*prose_lines(docstring), ""]:
        if line.strip() and not BULLET.match(line):
            paragraph.append(line.strip())
            continue
        if paragraph:
            text = strip_markup(" ".join(paragraph))
            if is_prose(text):
                yield text
        paragraph = [BULLET.sub("", line)] if line.strip() else []


def prose_lines(docstring: str) -> Iterator[str]:
    """The lines of a docstring that are neither code nor table, with a blank line for each removed line."""
    lines = [*docstring.expandtabs().splitlines(), ""]
    skip_indent: int | None = None  # lines that are indented deeper are removed
    in_table = in_doctest = in_fence = False
    for line, following in pairwise(lines):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.startswith("```"):
            in_fence = not in_fence
        elif text and UNDERLINE.match(following) and not UNDERLINE.match(line):
            in_table = bool(LIST_SECTIONS.fullmatch(text.rstrip(":")))
            skip_indent = None
        elif in_doctest:
            in_doctest = bool(text)
        elif text.startswith(">>>"):
            in_doctest = True
        elif not text or (skip_indent is not None and indent > skip_indent):
            pass
        elif in_fence or in_table or UNDERLINE.match(line):
            skip_indent = None
        elif match := ADMONITION.match(line):
            skip_indent = None
            yield match["text"]
            continue
        elif FIELD_OR_DIRECTIVE.match(line) or (LIST_SECTIONS.fullmatch(text.rstrip(":")) and text.endswith(":")):
            skip_indent = indent
        else:
            skip_indent = indent if text.endswith("::") else None
            yield line
            continue
        yield ""


def strip_markup(text: str) -> str:
    """Remove reStructuredText and Markdown markup; the result is one line."""
    text = re.sub(r":[a-zA-Z:]+:`[~!.]*([^`<]+?)\s*(<[^`]*>)?`", r"\1", text)  # :func:`~numpy.dot`
    text = re.sub(r"`([^`<]+?)\s*<[^`]*>`_*", r"\1", text)  # `text <address>`_
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)  # [text](address)
    text = re.sub(r"\s*\[[^\]]{1,8}\]_", "", text)  # citation
    text = re.sub(r"(?<![\w*])(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1(?![\w*])", r"\2", text)
    text = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", text.replace("`", "").replace("::", ":"))
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(^|(?<=[.!?]) )[^.!?]*:$", "", text)  # "… as follows:", whose list was removed


COMMON_WORDS = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "do", "does", "for", "from", "has",
    "have", "if", "in", "into", "is", "it", "its", "may", "must", "no", "not", "of", "on", "one", "only", "or",
    "other", "over", "same", "should", "so", "such", "than", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "use", "used", "using", "was", "we", "when", "where", "which", "while", "will", "with",
    "you", "your"
])  # fmt: skip


def is_prose(text: str) -> bool:
    """Whether a paragraph is English prose: a capital, a full stop, common words, little code."""
    words = text.split()
    if (
        len(words) < 8
        or not text[0].isupper()
        or text[-1] not in ".!?"
        or re.search(r"[={}\\<>$|^]|\.\.\.|%\(|--|http", text)
    ):
        return False
    common = sum(word.lower().strip(",.;:()") in COMMON_WORDS for word in words)
    odd = sum(not re.fullmatch(r"[(\"'“]?[A-Za-z][A-Za-z'’-]*[)\"'”]?[,.;:!?]?[)\"']?", word) for word in words)
    return common >= 0.25 * len(words) and odd <= 0.15 * len(words)


def normalize_words(text: str) -> str:
    """Lower-case words without digits and punctuation, to compare texts."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))
