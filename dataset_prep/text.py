"""SQL of DuckDB that cleans texts and tokens. Most functions turn one SQL expression into another."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from html.entities import html5

from dataset_prep.engine import Executor, literal

WHITE_SPACE = r"\p{Z}\t\n\x0B\f\r\x{85}"  # Unicode's White_Space; \s of RE2 covers only ASCII
WORD = f"[^{WHITE_SPACE}]+"
ASCII_WHITE_SPACE = range(9, 14)  # without the space itself

BREAK = r"<br\b[^<>]*>|</p\s*>"
# The elements of HTML that occur in reviews. Anything else in angle brackets ("<sigh>", "a < b > c") is text.
ELEMENTS = (
    "a|abbr|b|big|blockquote|center|cite|code|del|div|em|font|h[1-6]|hr|i|iframe|img|input|ins|li|ol|p|pre|q|s|script|"
    "small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul|video"
)
TAG = rf"</?(?:{ELEMENTS})(?:\s[^<>]*)?/?>"
ENTITY = r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{0,31});"

# pandas.read_csv, with which RecBole reads files, takes these words for missing values.
MISSING_WORDS = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
RESERVED_TOKENS = ("[PAD]",)  # RecBole names its padding, the token 0, so
# Characters that a token must not hold: control characters, double quotes, and the sign that begins an encoded one.
UNSAFE = r"\x00-\x1F\x7F\"%"


def words(text: str) -> str:
    """Returns SQL for the number of words of a text, which are the runs of characters between white space.

    In a text of ASCII, all white space is replaced by spaces, and the text is split at the spaces. That takes a quarter
    of the time of the regular expression that other texts need.
    """
    spaced = text
    for character in ASCII_WHITE_SPACE:
        spaced = f"replace({spaced}, chr({character}), ' ')"
    has_others = " OR ".join(f"contains({text}, chr({character}))" for character in ASCII_WHITE_SPACE)
    spaced = f"CASE WHEN {has_others} THEN {spaced} ELSE {text} END"
    split = f"len([word FOR word IN string_split({spaced}, ' ') IF word <> ''])"
    found = f"len(regexp_extract_all({text}, {literal(WORD)}))"
    return f"CASE WHEN strlen({text}) = len({text}) THEN {split} ELSE {found} END"


def without_html(text: str, entities: Mapping[str, str]) -> str:
    """Returns SQL for a text without HTML.

    Breaks and ends of paragraphs become newlines, and other tags are removed.

    Args:
        text: SQL for the text.
        entities: the entities to replace, and their characters. The result is not searched for entities again.
    """
    untagged = f"""regexp_replace(regexp_replace({text}, {literal(BREAK)}, chr(10), 'gi'), {literal(TAG)}, '', 'gi')"""
    untagged = f"CASE WHEN contains({text}, '<') THEN {untagged} ELSE {text} END"
    if not entities:
        return untagged
    characters = f"MAP([{_literals(entities)}], [{_literals(entities.values())}])"
    pieces = f"regexp_extract_all({untagged}, {literal(f'{ENTITY}|[^&]+|&')})"
    replaced = f"array_to_string([coalesce({characters}[piece], piece) FOR piece IN {pieces}], '')"
    return f"CASE WHEN contains({text}, '&') THEN {replaced} ELSE {untagged} END"


def entities_in(engine: Executor, table: str, column: str) -> dict[str, str]:
    """Returns the HTML entities that occur in a column of a table, with their semicolons, and their characters."""
    engine.view(
        "entities",
        f"SELECT {column} FROM {table} WHERE contains({column}, '&')",
        f"SELECT DISTINCT unnest(regexp_extract_all({column}, {literal(ENTITY)})) AS entity FROM batch",
    )
    found = engine.execute("SELECT DISTINCT entity FROM entities", task="looking for HTML entities")
    return {entity: html.unescape(entity) for (entity,) in found if entity[1] == "#" or entity[1:] in html5}


def token(value: str) -> str:
    """Returns SQL that encodes an id, so that RecBole's reader of tab-separated files can't change it.

    Control characters, double quotes and per cent signs are percent-encoded (``%09``). So is the first character of an
    id that pandas takes for a missing value (``NA`` becomes ``%4EA``) or RecBole for padding. Different ids stay
    different, and ``urllib.parse.unquote`` returns the original id.
    """
    special = f"{value} IN ({_literals((*MISSING_WORDS, *RESERVED_TOKENS))})"
    pieces = f"regexp_extract_all({value}, {literal(f'[{UNSAFE}]|[^{UNSAFE}]+')})"
    encoded = f"CASE WHEN regexp_matches(piece, {literal(f'[{UNSAFE}]')}) THEN {_encoded('piece')} ELSE piece END"
    return f"""CASE WHEN {special} THEN {_encoded(f"{value}[1]")} || {value}[2:]
        WHEN regexp_matches({value}, {literal(f"[{UNSAFE}]")})
            THEN array_to_string([{encoded} FOR piece IN {pieces}], '')
        ELSE {value} END"""


def _encoded(character: str) -> str:
    return f"'%' || hex({character})"


def _literals(texts: Iterable[str]) -> str:
    return ", ".join(map(literal, texts))
