"""Words of reviews, and what kind each is: objective, sentiment, stop-word, of another language, or other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from recbole_symcere.data.tokens import SPECIAL, TokenisedReviews

GROUPS = ("objective", "sentiment", "stop-word", "other language", "other")
LEAST_REVIEWS = 5  # in fewer, a word's items and language can't be told from chance
LEAST_BITS = 0.25  # beyond chance: leaves out the words that a corpus spreads over all items, such as "movie", "price"
PERMUTATIONS = 1000
LEAST_VALENCE = 1.0  # of VADER's -4 to 4; weaker ones are such as "number" and "top"
MOST_IN_MAIN = 0.1  # of the reviews with a word of another language; the detector errs on short reviews
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


@dataclass(frozen=True)
class Occurrences:
    """Each word of some reviews, in their order.

    Attributes:
        vocabulary: texts, distinct and sorted; lower case, without the punctuation around them.
        word: int [W], numbers in ``vocabulary``.
        review: int [W], numbers of reviews, ascending.
        place: int [W], the word's number in its review, as in ``TokenisedReviews.word_index``.
    """

    vocabulary: np.ndarray
    word: np.ndarray
    review: np.ndarray
    place: np.ndarray

    @property
    def texts(self) -> np.ndarray:
        """Of each occurrence, [W]."""
        return self.vocabulary[self.word]

    def of(self, rows: np.ndarray) -> Occurrences:
        """Those in some reviews."""
        return self._only(np.isin(self.review, rows))

    def lettered(self) -> Occurrences:
        """Those with a letter: neither punctuation, nor numbers, nor what the tokenizer does not know."""
        return self._only(np.array([any(map(str.isalpha, text)) for text in self.vocabulary], bool)[self.word])

    def _only(self, which: np.ndarray) -> Occurrences:
        return replace(self, word=self.word[which], review=self.review[which], place=self.place[which])


def occurrences(reviews: TokenisedReviews, tokenizer: Tokenizer) -> Occurrences:
    """The words that training's word masking hides, spelled by the tokenizer.

    Whole words, and in scripts without spaces, such as Japanese, the tokenizer's pieces.
    """
    word_index = np.asarray(reviews.word_index)
    tokens = np.flatnonzero(word_index != SPECIAL)
    token_ids, place = np.asarray(reviews.token_ids)[tokens], word_index[tokens]
    review = np.repeat(np.arange(len(reviews)), reviews.lengths)[tokens]
    starts = np.flatnonzero((np.diff(place, prepend=-1) != 0) | (np.diff(review, prepend=-1) != 0))
    spellings: dict[bytes, int] = {}  # token ids -> number
    words = [
        spellings.setdefault(token_ids[start:stop].tobytes(), len(spellings))
        for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True)
    ]
    ids = [np.frombuffer(spelling, token_ids.dtype).tolist() for spelling in spellings]
    texts = [_cleaned(text) for text in tokenizer.decode_batch(ids, skip_special_tokens=True)]
    vocabulary, number = np.unique(np.array(texts, str), return_inverse=True)
    return Occurrences(vocabulary, number[np.array(words, int)], review[starts], place[starts])


def _cleaned(text: str) -> str:
    text = text.lower().strip()
    return _EDGES.sub("", text) or text


@dataclass(frozen=True)
class WordGroups:
    """Says which group a word is in: the first whose words hold it.

    Sentiment goes before stop-words, because stop-word lists hold "good", "great" and "best". Both lexicons are
    published and go before what is estimated from the corpus. "Other language" goes before "objective", because
    reviewers of one country meet the items that are sold there.

    Attributes:
        language: the main language of the corpus, ISO 639-1.
        words: the words of each group but ``other``, in the order in which the groups are asked:
            ``sentiment``, with a valence in VADER's lexicon (Hutto and Gilbert 2014), none where the language is not
            English; ``stop-word``, stopwords-iso's of the language; ``other language``, in ``LEAST_REVIEWS`` training
            reviews or more, of which next to none is in the main language; ``objective``, concentrated in few items,
            see :func:`concentrated`.
    """

    language: str
    words: Mapping[str, Collection[str]]

    def of(self, word: str) -> str:
        """Returns one of ``GROUPS``; a word that training did not meet is ``other`` unless a lexicon holds it."""
        return next((group for group, words in self.words.items() if word in words), "other")


def word_groups(words: Occurrences, items: np.ndarray, languages: Sequence[str], seed: int) -> WordGroups:
    """Groups of a corpus' words.

    Args:
        words: of all training reviews.
        items: int [n], the item of each training review.
        languages: [n], of each training review, see :func:`languages_of`.
        seed: of the permutations.
    """
    main = Counter(languages).most_common(1)[0][0]
    pairs = np.unique(np.stack([words.word, words.review]), axis=1)  # a word counts once in a review
    word, review = pairs
    n = np.bincount(word, minlength=len(words.vocabulary))
    in_main = np.bincount(word, np.array(languages)[review] == main, minlength=len(words.vocabulary))
    foreign = (n >= LEAST_REVIEWS) & (in_main <= MOST_IN_MAIN * n)
    objective = concentrated(word, items[review], len(words.vocabulary), items, seed)
    sentiment, stop_words = lexicons(main)
    estimated = {"other language": foreign, "objective": objective}
    of_corpus = {group: frozenset(words.vocabulary[which].tolist()) for group, which in estimated.items()}
    return WordGroups(main, {"sentiment": sentiment, "stop-word": stop_words, **of_corpus})


def languages_of(texts: Sequence[str]) -> list[str]:
    """The language of each text by py3langid (Lui and Baldwin 2012), ISO 639-1."""
    import py3langid

    return [py3langid.classify(text)[0] for text in tqdm(texts, desc="languages", unit="review", delay=3)]


def lexicons(language: str) -> tuple[frozenset[str], frozenset[str]]:
    """Sentiment words and stop-words of a language; empty where no library has them."""
    import stopwordsiso

    stop_words = stopwordsiso.stopwords(language) if stopwordsiso.has_lang(language) else ()
    if language != "en":
        return frozenset(), frozenset(stop_words)
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    valences = SentimentIntensityAnalyzer().lexicon
    sentiment = (word for word, valence in valences.items() if abs(valence) >= LEAST_VALENCE)
    return frozenset(sentiment), frozenset(stop_words)


def concentrated(word: np.ndarray, item: np.ndarray, n_words: int, items: np.ndarray, seed: int) -> np.ndarray:
    """Words that tell about the item: bool [n_words].

    A word's information is the divergence of its reviews' items from all reviews' items, its pointwise part in the
    mutual information of words and items. That of few reviews is large by chance alone, so it is compared with what as
    many reviews drawn at random have. A word is concentrated if it is in ``LEAST_REVIEWS`` or more, and its information
    is above that of each of ``PERMUTATIONS`` draws (p < 0.001) and at least ``LEAST_BITS`` above their mean.

    Args:
        word, item: int [P], each word once for each review with it, and that review's item.
        items: int [n], of all reviews.
        seed: of the draws.
    """
    counts = np.bincount(word, minlength=n_words)
    enough = counts >= LEAST_REVIEWS
    sizes = np.unique(counts[enough])
    if not len(sizes):
        return enough
    by_chance = information_by_chance(items, sizes, seed)
    bits, column = information(word, item, n_words, items)[enough], np.searchsorted(sizes, counts[enough])
    enough[enough] = (bits > by_chance.max(0)[column]) & (bits >= by_chance.mean(0)[column] + LEAST_BITS)
    return enough


def information(word: np.ndarray, item: np.ndarray, n_words: int, items: np.ndarray) -> np.ndarray:
    """The divergence of p(item | word) from p(item) in bits, float64 [n_words]; NaN for words without reviews.

    Args:
        word, item, items: as for :func:`concentrated`.
    """
    shares = np.bincount(items) / len(items)
    (words, of), counts = np.unique(np.stack([word, item]), axis=1, return_counts=True)
    n = np.bincount(word, minlength=n_words)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(words, counts * np.log2(counts / shares[of]), n_words) / n - np.log2(n)


def information_by_chance(
    items: np.ndarray, sizes: np.ndarray, seed: int, permutations: int = PERMUTATIONS
) -> np.ndarray:
    """:func:`information` of words in reviews drawn at random, float64 [permutations, sizes].

    One permutation of the reviews serves all sizes: its first m are a draw of m, and what each further review adds to
    the sum of count · log2(count / share) over items depends on how often its item came before.

    Args:
        items: int [n], of all reviews.
        sizes: int, ascending, from 1 to n: how many reviews have the word.
    """
    random = np.random.default_rng(seed)
    log_shares = np.log2(np.maximum(np.bincount(items), 1) / len(items))
    found = np.empty((permutations, len(sizes)))
    for row in tqdm(found, desc="words by chance", unit="permutation", delay=3):
        drawn = random.permutation(items)
        order = np.argsort(drawn, kind="stable")
        before = np.empty(len(items))
        before[order] = np.arange(len(items)) - np.searchsorted(drawn[order], drawn[order])
        added = (before + 1) * np.log2(before + 1) - before * np.log2(np.maximum(before, 1)) - log_shares[drawn]
        row[:] = np.cumsum(added)[sizes - 1] / sizes - np.log2(sizes)
    return found
