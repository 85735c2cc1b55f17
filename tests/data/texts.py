"""Texts that the tests of tokens and of embeddings share."""

from hypothesis import strategies as st

TEXTS = ["the good guitars", "good", "the  thing, the hat!", "ホテル とても良い駅", "é", "a b c d e f g h", "the"] * 2
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
