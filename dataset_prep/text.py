"""SQL that cleans texts and tokens. Each function takes an SQL expression of a string and returns another."""

from __future__ import annotations

import html
from collections.abc import Mapping
from html.entities import html5

from dataset_prep.engine import Engine, literal

WHITE_SPACE = r"\p{Z}\t\n\x0B\f\r\x{85}"  # Unicode's White_Space, for RE2, which knows ASCII's only
WORD = f"[^{WHITE_SPACE}]+"

BREAK = r"<br\b[^<>]*>|</p\s*>"
# Elements that people and shops put into reviews. Anything else in angle brackets ("<sigh>", "a < b > c") is text.
ELEMENTS = (
    "a|abbr|b|big|blockquote|center|cite|code|del|div|em|font|h[1-6]|hr|i|iframe|img|input|ins|li|ol|p|pre|q|s|script|"
    "small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul|video"
)
TAG = rf"</?(?:{ELEMENTS})(?:\s[^<>]*)?/?>"
ENTITY = r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{0,31});"

# What pandas.read_csv, and with it RecBole's reader, takes for a missing value
MISSING_WORDS = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
RESERVED_TOKENS = ("[PAD]",)  # RecBole's own token 0
UNSAFE_CHARACTERS = {chr(code): f"%{code:02X}" for code in (*range(0x20), 0x7F, ord('"'), ord("%"))}


def words(text: str) -> str:
    """The number of runs of characters between white space.

    A text of printable ASCII is split at its spaces, which takes a third of the time.
    """
    spaced = f"len([word FOR word IN string_split({text}, ' ') IF word <> ''])"
    found = f"len(regexp_extract_all({text}, {literal(WORD)}))"
    return f"CASE WHEN regexp_matches({text}, '[^ -~]') THEN {found} ELSE {spaced} END"


def without_html(text: str, entities: Mapping[str, str]) -> str:
    """Breaks and ends of paragraphs as newlines, other tags gone, ``entities`` replaced once; all else unchanged."""
    untagged = f"""regexp_replace(regexp_replace({text}, {literal(BREAK)}, chr(10), 'gi'), {literal(TAG)}, '', 'gi')"""
    untagged = f"CASE WHEN contains({text}, '<') THEN {untagged} ELSE {text} END"
    if not entities:
        return untagged
    return f"CASE WHEN contains({text}, '&') THEN {_replaced(untagged, ENTITY, '&', entities)} ELSE {untagged} END"


def entities_in(engine: Engine, table: str, column: str) -> dict[str, str]:
    """The HTML entities (with their semicolon) that occur in a column, and the characters that they stand for."""
    found = engine.execute(
        f"SELECT DISTINCT unnest(regexp_extract_all({column}, {literal(ENTITY)})) FROM {table} "
        f"WHERE contains({column}, '&')",
        task="looking for HTML entities",
    )
    return {entity: html.unescape(entity) for (entity,) in found if entity[1] == "#" or entity[1:] in html5}


def token(value: str) -> str:
    """``value`` as RecBole's tab-separated reader gives it back: percent-encoded where that reader would break it.

    Control characters, double quotes and per cent signs are encoded (``%09``), and so is the first character of a
    value that means "missing" to pandas (``NA`` becomes ``%4EA``) or padding to RecBole. Different values stay
    different, and ``urllib.parse.unquote`` gives the value back.
    """
    unsafe = "".join(f"\\x{{{ord(character):X}}}" for character in UNSAFE_CHARACTERS)
    encoded = _replaced(value, f"[{unsafe}]", unsafe, UNSAFE_CHARACTERS)
    special = ", ".join(map(literal, (*MISSING_WORDS, *RESERVED_TOKENS)))
    first = f"'%' || upper(hex({value}[1])) || {value}[2:]"
    return f"""CASE WHEN {value} IN ({special}) THEN {first}
        WHEN regexp_matches({value}, {literal(f"[{unsafe}]")}) THEN {encoded} ELSE {value} END"""


def _replaced(value: str, pattern: str, start: str, replacements: Mapping[str, str]) -> str:
    """Matches of ``pattern``, which begin with a character of ``start``, by their replacements, where they have one."""
    pieces = f"regexp_extract_all({value}, {literal(f'{pattern}|[^{start}]+|[{start}]')})"
    keys = ", ".join(map(literal, replacements))
    values = ", ".join(map(literal, replacements.values()))
    return f"array_to_string([coalesce(MAP([{keys}], [{values}])[piece], piece) FOR piece IN {pieces}], '')"
