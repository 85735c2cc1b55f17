"""Texts free of HTML and otherwise as they were; tokens that RecBole's reader gives back."""

import html
import io
import re
from html.entities import html5
from urllib.parse import unquote

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from dataset_prep.engine import Engine, identifier, literal
from dataset_prep.text import ENTITY, MISSING_WORDS, entities_in, token, without_html, words
from tests.dataset_prep.rows import scratch_engine

quick = settings(deadline=None, max_examples=25)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def fill(engine: Engine, values: list[str]) -> None:
    """Table ``texts``, with ``value`` and its ``place``."""
    engine.execute(
        "CREATE TABLE texts AS SELECT unnest($1::VARCHAR[]) AS value, unnest(range(len($1))) AS place", [values]
    )


def computed(engine: Engine, expression: str) -> list[str]:
    return [value for (value,) in engine.execute(f"SELECT {expression} FROM texts ORDER BY place")]


def cleaned(texts: list[str]) -> list[str]:
    with scratch_engine() as engine:
        fill(engine, texts)
        return computed(engine, without_html("value", entities_in(engine, "texts", "value")))


@quick
@given(st.lists(st.one_of(any_text.filter(bool), st.sampled_from([*MISSING_WORDS, "[PAD]", '"a', '"', "50%", "%4EA"]))))
def test_tokens_come_back_from_recboles_reader_and_stay_apart(values: list[str]) -> None:
    with scratch_engine() as engine:
        fill(engine, values)
        tokens = computed(engine, token("value"))
    table = "a:token\tb:token\n" + "".join(f"{value}\t{value}\n" for value in tokens)
    read = pd.read_csv(io.StringIO(table, newline=""), delimiter="\t", dtype=str, engine="python")
    assert read["a:token"].tolist() == read["b:token"].tolist() == tokens
    assert [unquote(value, errors="surrogateescape") for value in tokens] == values
    assert "[PAD]" not in tokens


def test_every_word_that_pandas_takes_for_missing_is_known() -> None:
    assert set(MISSING_WORDS) >= STR_NA_VALUES - {""}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("one<br/>two<BR />three<br clear='all'>four", "one\ntwo\nthree\nfour"),
        ("<p>one</p><p>two</p>", "one\ntwo\n"),
        ('see <a href="http://x.y/?a=1">the <b>bold</b> one</a>', "see the bold one"),
        ("Tom &amp; Jerry &#34;quoted&#x22; &eacute;&nbsp;&hearts;", 'Tom & Jerry "quoted" \xe9\xa0♥'),
        ("&amp;lt;br&amp;gt;", "&lt;br&gt;"),  # once: what was escaped twice stays escaped
        ("&lt;br&gt;", "<br>"),
        ("I <3 it, a < b > c, <sigh>, <bravo>", "I <3 it, a < b > c, <sigh>, <bravo>"),
        ("AT&T; R&D &madeup; &;", "AT&T; R&D &madeup; &;"),
        ("naïve\u2028ＦＵＬＬ が\u3099\t\r\n\x00", "naïve\u2028ＦＵＬＬ が\u3099\t\r\n\x00"),
    ],
)
def test_breaks_tags_and_entities_are_cleaned_and_nothing_else(text: str, clean: str) -> None:
    assert cleaned([text]) == [clean]


@quick
@given(st.lists(any_text.map(lambda text: text.replace("<", "").replace("&", "")), min_size=1))
def test_text_without_html_is_unchanged(texts: list[str]) -> None:
    assert cleaned(texts) == texts


pieces = st.one_of(
    st.sampled_from(sorted(name for name in html5 if name.endswith(";"))).map("&{}".format),
    st.integers(0, 0x110010).map("&#{};".format),
    st.integers(0, 0x110010).map("&#x{:X};".format),
    st.sampled_from(["&", "&amp", "x", " ", ";", "#"]),
)


@quick
@given(st.lists(pieces, max_size=8).map("".join))
def test_entities_are_those_of_html(text: str) -> None:
    expected = re.sub(ENTITY, lambda match: html.unescape(match[0]) if _is_known(match[0]) else match[0], text)
    assert cleaned([text]) == [expected]


def _is_known(entity: str) -> bool:
    return entity.startswith("&#") or entity[1:] in html5


@quick
@given(st.lists(st.text(st.sampled_from("a字é \t\n\r\x0b\x0c\x85\xa0\u2003\u3000"), max_size=12), min_size=1))
def test_words_are_what_stands_between_white_space(texts: list[str]) -> None:
    with scratch_engine() as engine:
        fill(engine, texts)
        assert computed(engine, words("value")) == [len(text.split()) for text in texts]


@quick
@given(any_text)
@example("it's")
@example('say "hi"')
def test_any_text_can_be_a_literal_or_a_name(text: str) -> None:
    quotable = text.replace("\0", "")
    with scratch_engine() as engine:
        assert engine.value(f"SELECT {literal(quotable)}") == quotable
        if quotable.strip():
            assert engine.value(f"SELECT {identifier(quotable)} FROM (SELECT 1 AS {identifier(quotable)})") == 1
