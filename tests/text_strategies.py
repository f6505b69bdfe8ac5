"""Texts for tests of tokenizers: prose that every Python has, and fragments that a fast path may get wrong."""

from __future__ import annotations

from pydoc_data.topics import topics

import spacy
from hypothesis import strategies as st

PROSE = list(topics.values())  # English that every Python has
SPACY_SPECIAL_CASES = sorted(spacy.blank("en").tokenizer.rules)
MAX_EXAMPLES = 400

# Fragments that a fast path may get wrong: at least one step of the pipeline treats each in a special way.
FRAGMENTS = [
    fragment
    for line in (
        "the Quick BROWN don't It's cannot rock'n'roll Mr. a.m. U.S. e.g. 3.14 10km. x I dont's cannot. it's. 's. X:",
        "' '' 'em 's 'Tis : :) :3 =D <3 >.< o.O v.s. 8) (: ''b f. lovin' . .. ... , ,, - -- --- ! ?! gonna cannot's",
        '" "" ( ) [ ] { } / // * _ | ~ + ++ ; \\ \\n # @ $5 50% ^ ` = http://a.bc/d?e=f a@b.com www.x.org',
        "“ ” ‘ ’ „ ‚ ‛ ‟ ʼ — – ― … ´ • « » ° ½ £ € ™ © ¬ ¦ \u200b \u2060 \ufeff \ufeff\ufeff \xad \u200d",
        "&amp; &lt;b&gt; &eacute; &EACUTE; &#233; &#x2019; &nosuch; & &amp;amp; ＆amp; < > 안녕 日本語 ｆｕｌｌ ﾊﾛｰ 😀",
        "é É ü ß œuvre œ Œ ñ Ã Ã© à Â â€™ â€œ schÃ¶n ï»¿ ð Î Ð Ø ÃƒÂ© вЂ Привет ΟΔΟΣ σς Σ ﬁ Ĳ ǆ ŉ ẛ ḥ Ḥ ž ƒ ſ İ ı",
        "\u1112\u1161\u11ab e\u0301 o\u0308 \u0301 👩\u200d💻 \ud83d\ude00 \ud800 \udfff \ufffd \ufffc \0 \x07",
        "\x1b[31m \x1b \x7f \x80 \x9f \n \n\n \r\n \r \t \x0b \x0c \x1c \x1f \x85 \xa0 \u2003 \u2028 \u2029 \u3000",
    )
    for fragment in line.split(" ")
]
FRAGMENTS += [" ", "  ", " \n ", "Ã ", "Â ", "<br />"]

mixed_texts = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.sampled_from(SPACY_SPECIAL_CASES),
        st.text("aeIsSdD'.:,-\"<>=3poOx()_ \n“’é", max_size=6),
        st.text(max_size=3),
    ),
    max_size=14,
).map("".join)
