"""SymCEREPlus: named evidence with fitted weights, of which a graph model with SymCERE's contrast is a part.

No setting must be searched; ``properties/model/SymCEREPlus.yaml`` has those that can be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.tokens import WholeTexts
from recbole_symcere.known import Known, asking_moments
from recbole_symcere.model.asked import Asked
from recbole_symcere.model.baselines.history import moments
from recbole_symcere.model.choice import OTHERS, STRANGERS, check_weights, draw_choices, fit_weights
from recbole_symcere.model.evidence import EVIDENCE, Graph, Need, People, evidence_names, standardised
from recbole_symcere.model.graph import FoldingLightGCN
from recbole_symcere.model.item_statistics import ItemStatistics, ItemTexts
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.model.symcere import Nodes, SymCERE
from recbole_symcere.model.text.encoder import FROZEN_SETTINGS
from recbole_symcere.model.text.views import frozen_encoder, projection, training_vectors
from recbole_symcere.model.text.words import count_words, with_word_statistics
from recbole_symcere.questions import Questions

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDS = 5  # of users: in validation each is ranked by weights that were fitted to the other folds


class SymCEREPlus(SymCERE):
    """Ranks by a weighted sum of evidence, of which a graph model with SymCERE's contrast is a part.

    Training fits the graph model: LightGCN without layer 0, the softmax over all items that a user has not met, and
    SymCERE's contrast with the reviews, each of which is its vector beside its word statistics. Afterwards the weights
    of the evidence are fitted to the interactions of validation, which no evidence has seen. Until then, and so in the
    validations during training, the graph model ranks alone.

    Args:
        config: see ``properties/model/SymCEREPlus.yaml``.
        dataset: the interactions that train; the model reads no review of any other interaction.
        texts: what the training reviews tell; None makes the model read them.

    Attributes:
        weights: [1 + FOLDS, 2, K], the weight of each piece of evidence for strangers and for others: fitted to all
            users of validation, and then without the users of one fold. All 0 before they are fitted.
        weight_errors: [2, K], the standard errors of the first weights; 0 for a weight of 0.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the reviews or their encoder can't be had, or the interactions have
            no times.
    """

    learns_from_validation = True
    serves = True
    folds_in = True
    ranks_new_items = True
    unread: ClassVar = (
        "lora_alpha", "lora_dropout", "lora_r", "message_dropout",
        "text_learning_rate", "text_memory", "text_views", "text_warmup_steps", "word_masking",
    )  # fmt: skip
    graph_encoder: FoldingLightGCN
    weights: Tensor
    weight_errors: Tensor
    moments: Tensor
    now: Tensor
    features: Tensor
    review_rows: Tensor

    def __init__(self, config: Config, dataset: ReviewDataset, texts: ItemTexts | None = None) -> None:
        super().__init__(config, dataset)
        self.contrasted = config["contrasted"]
        self.whole_texts: WholeTexts | None = None
        self.encoder_settings = (
            {key: config[key] for key in (*FROZEN_SETTINGS, "text_adapter")}
            if config["text_source"] == "reviews"
            else None
        )
        self.asked: Asked | None = None
        self._questions: Questions | None = None
        if texts is None:
            encoder = frozen_encoder(config)
            self._read = partial(training_vectors, config, encoder=encoder)
            vectors = self._read(dataset)
            texts = ItemTexts.of_reviews(dataset, vectors)
            if encoder and self.encoder_settings:
                self.whole_texts = WholeTexts(encoder.fast_tokenizer)
            if self.settings.reads_reviews:
                features = with_word_statistics(config, dataset, vectors, encoder)
                self.projection = projection(self.settings.projection, features.shape[1], self.graph_encoder.width)
                self.register_buffer("features", features, persistent=False)
                self.register_buffer("review_rows", dataset.review_rows(), persistent=False)
        self.statistics = ItemStatistics.of_training(dataset, texts)
        self.evidence = {name: EVIDENCE.find(name)() for name in evidence_names(config)}
        self.given_weights: dict[str, float] | None = config["evidence_weights"]
        size = len(self.evidence)
        self.register_buffer("weights", torch.zeros(1 + FOLDS, 2, size))
        self.register_buffer("weight_errors", torch.zeros(2, size))
        user, item = (dataset.inter_feat[field] for field in (self.USER_ID, self.ITEM_ID))
        edge = torch.searchsorted(self.graph.pairs, user * self.n_items + item)
        latest = torch.full((self.graph.n_edges,), -torch.inf, dtype=torch.float64)
        self.register_buffer("moments", latest.scatter_reduce_(0, edge, moments(dataset), "amax"), persistent=False)
        self.register_buffer("now", asking_moments(config, dataset), persistent=False)
        self.cross_fitted = False

    @classmethod
    def check_parts(cls, config: Config) -> None:
        """Checks that the parts that the settings name exist.

        Raises:
            ConfigError: one of them does not, or the weights are not those of the evidence.
        """
        super().check_parts(config)
        for name in (*config["evidence"], *config["short_lived"]):
            EVIDENCE.find(name)
        check_weights(config["evidence_weights"], evidence_names(config))

    def build_text_encoder(self, config: Config, dataset: ReviewDataset) -> None:
        """Does nothing: the evidence reads the vectors of the reviews, too, so the constructor gets them for both."""

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model as :meth:`SymCERE.to_rank` does; what the reviews tell is in the state."""
        prefix = "statistics.texts."
        texts = {name.removeprefix(prefix): table for name, table in state.items() if name.startswith(prefix)}
        return cls(config.with_settings(cross_weight=0.0), dataset, ItemTexts(**texts))

    # Training: the graph model

    def to_contrast(self, interaction: Interaction) -> Interaction:
        """Returns ``contrasted`` interactions of a batch, drawn at random, or the whole batch if it is smaller."""
        if len(interaction) <= self.contrasted:
            return interaction
        rows = torch.randperm(len(interaction), device=self.graph.item.device)[: self.contrasted]
        # RecBole's own way of taking rows would bring their numbers back to the host.
        return Interaction({field: values[rows] for field, values in interaction.interaction.items()})

    def review_vectors(self, review_ids: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
        """Returns the unit vectors of the interactions' reviews, [B, d], twice, since no words are masked."""
        vectors = self.unit(self.projection(self.features[self.review_rows[review_ids]]))
        return vectors, vectors

    # After training: the weights of the evidence

    @torch.no_grad()
    def learn_from_validation(self, valid: ReviewDataset, known: Known) -> None:
        """Fits the weights to the interactions of validation, to all of them and without those of each fold of users.

        Where strangers have no interaction there, their weights are those of the others. Weights that
        ``evidence_weights`` gives are not fitted.
        """
        self.eval()
        self.about_to_rank(known)
        for row in (OTHERS, STRANGERS):
            speaking = [row == OTHERS or piece.needs is Need.NOTHING for piece in self.evidence.values()]
            pieces = torch.tensor(speaking, device=self.weights.device)
            if self.given_weights is not None:
                self.weights[:, row] = pieces * self.weights.new_tensor(
                    [self.given_weights[name] for name in self.evidence]
                )
                continue
            user, item = self._chosen(valid, row)
            if not len(user):
                self.weights[:, row] = pieces * (self.weights[:, OTHERS] if row == STRANGERS else 1.0)
                continue
            users, choices, best = draw_choices(user, item, self._items.known, self._table, self._alternatives, pieces)
            fold_of = self._fold_of(users)
            fitted = fit_weights(choices, best)
            self.weights[:, row] = 0
            self.weights[0, row, pieces], self.weight_errors[row, pieces] = fitted.values, fitted.errors()
            for fold in range(FOLDS):
                rest, best_of_rest = choices.of_users(fold_of != fold), best.of_users(fold_of != fold)
                again = fit_weights(rest, best_of_rest, fitted.values) if len(rest.owner) else fitted
                self.weights[1 + fold, row, pieces] = again.values
        self.cross_fitted = False
        getLogger().info(self._told())

    @property
    def ranks_strangers(self) -> bool:  # type: ignore[override]
        """Whether the weights are fitted: those of strangers need no history."""
        return bool(self.weights[0].any())

    def learned(self) -> dict[str, Any]:
        """Returns the weights and their standard errors, for users with a training interaction and for strangers."""
        return {
            f"weights of {kind}": {
                name: {"weight": float(self.weights[0, row, k]), "error": float(self.weight_errors[row, k])}
                for k, name in enumerate(self.evidence)
            }
            for row, kind in ((OTHERS, "users with a history"), (STRANGERS, "strangers"))
        }

    def _told(self) -> str:
        """The weights with their standard errors, a line for each kind of users."""
        lines = []
        for kind, weights in self.learned().items():
            told = (
                f"{name} {found['weight']:.2f}" + (f" ± {found['error']:.2f}" if found["error"] else "")
                for name, found in weights.items()
                if found["weight"]
            )
            lines.append(f"{kind}: {', '.join(told) or 'none'}")
        return "\n".join(lines)

    def take_over(self, first: Recommender) -> None:
        """Takes over the weights that a first fit learned from validation."""
        assert isinstance(first, SymCEREPlus)
        self.weights.copy_(first.weights)
        self.weight_errors.copy_(first.weight_errors)

    def _chosen(self, valid: ReviewDataset, row: int) -> tuple[Tensor, Tensor]:
        """Returns the interactions of validation of strangers, or of the others, with known items: users and items."""
        known = self.statistics.known
        if self.asked is None:
            user, item = (valid.inter_feat[field].to(self.now.device) for field in (self.USER_ID, self.ITEM_ID))
            taken = known[item]
        else:
            user, item, taken = self.asked.chosen()
        taken &= self._has_history(user) == (row == OTHERS)
        return user[taken], item[taken]

    def _alternatives(self, users: Tensor) -> Tensor:
        """Returns which items the users [B] could have chosen, [B, n_items] bool."""
        if self.asked:
            return self.asked.alternatives(users) & self._items.known
        return ~self.graph.known_pairs(users, torch.arange(self.n_items, device=users.device)) & self._items.known

    # Ranking

    def about_to_rank(self, known: Known) -> None:
        """Sets the moment at which each user is asked, or the questions.

        In validation, nobody is ranked by weights of the own fold.
        """
        if known.questions is not self._questions:
            self._questions, self.asked = known.questions, None
            if known.questions is not None:
                questions = known.questions.to(self.now.device)
                self.asked = Asked(questions, self.statistics, self._read(questions.past))
            self._kept_vectors = None  # to give them to the statistics of the questions
        if known.moments is not None and self.asked is None:
            self.now = known.moments.to(self.now)
        self.cross_fitted = known.validates

    @property
    def _items(self) -> ItemStatistics:
        return self.asked.statistics if self.asked else self.statistics

    def _has_history(self, users: Tensor) -> Tensor:
        """Returns whether a history is known of each user, or of each question, [B] bool."""
        return self.asked.questions.n_met[users] > 0 if self.asked else self.graph.has_edge[users]

    def _fold_of(self, users: Tensor) -> Tensor:
        return (self.asked.questions.user[users] if self.asked else users) % FOLDS

    def people(self, users: Tensor) -> People:
        """Returns what the users [B] did in training, or those who ask the questions with these numbers."""
        if self.asked:
            return self.asked.people(users)
        owner, item, edge = self.graph.histories(users)
        return People(
            owner=owner,
            item=item,
            moment=self.moments[edge],
            now=self.now[users],
            words=self.statistics.texts.of_users[users],
            n_written=torch.bincount(owner, minlength=len(users)),
        )

    def standardised(self, users: Tensor) -> dict[str, Tensor]:
        """Returns each piece of evidence for all items and the given users [B], [B, n_items], on one scale."""
        self._vectors()  # gives the graph's vectors to the statistics
        people = self.people(users)
        return {name: standardised(piece, people, self._items) for name, piece in self.evidence.items()}

    def _table(self, users: Tensor) -> Tensor:
        return torch.stack([*self.standardised(users).values()], 2)

    def contributions(self, users: Tensor) -> dict[str, Tensor]:
        """Returns what each piece of evidence adds to the scores of all items, [B, n_items] each."""
        fold = 1 + self._fold_of(users) if self.cross_fitted else torch.zeros_like(users)
        weights = self.weights[fold, self._has_history(users).long()]
        found = self.standardised(users)
        return {name: weights[:, k, None] * scores for k, (name, scores) in enumerate(found.items())}

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores of all items for the given users, [B * n_items]."""
        users = interaction[self.USER_ID]
        if not self.ranks_strangers:
            if self.asked is None:
                return super().full_sort_predict(interaction)
            self._vectors()
            return Graph().scores(self.people(users), self._items).flatten()
        return sum(self.contributions(users).values(), torch.zeros(())).flatten()

    def predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores [B] of the given (user, item) pairs; all items are scored for each different user."""
        users, row = interaction[self.USER_ID].unique(return_inverse=True)
        scores = self.full_sort_predict(Interaction({self.USER_ID: users})).view(len(users), -1)
        return scores[row, interaction[self.ITEM_ID]]

    def ranking_vectors(self) -> Nodes:
        """Returns the graph's vectors of users [n_users, d] and items [n_items, d], and gives them to the evidence."""
        users, items = super().ranking_vectors()
        folding = self.graph_encoder.folding(self.graph)
        self.statistics.take_graph(folding, items)
        if self.asked:
            self.asked.take_graph(folding, items)
        return users, items

    def to_serve(self, trained: ReviewDataset, past: ReviewDataset, known: Known) -> dict[str, Any]:
        """Returns what :class:`~recbole_symcere.serving.recommender.Recommender` reads.

        The users' training interactions, ``item`` and ``moment``, are sorted by user; those of user u are from
        ``start[u]`` to ``start[u + 1]``. ``past_item`` and ``past_start`` are the items that the users have met in
        training or validation.
        """
        self.eval()
        self.about_to_rank(known)
        self._vectors()  # gives the graph's vectors to the statistics
        statistics, texts = self.statistics, self.statistics.texts
        met = torch.unique(past.inter_feat[self.USER_ID] * self.n_items + past.inter_feat[self.ITEM_ID])
        users = torch.arange(self.n_users + 1)
        tables = ("item", "moment", "walks", "nearest", "folding", "vectors")
        record = {
            "users": [str(token) for token in past.field2id_token[self.USER_ID]],
            "items": [str(token) for token in past.field2id_token[self.ITEM_ID]],
            "evidence": list(self.evidence),
            "weights": self.weights[0],
            "start": torch.searchsorted(self.graph.user.cpu(), users),
            "item": self.graph.item,
            "moment": self.moments,
            "n_written": torch.bincount(self.graph.user, minlength=self.n_users),
            "past_start": torch.searchsorted(met // self.n_items, users),
            "past_item": met % self.n_items,
            "now": self.now,
            "statistics": {name: getattr(statistics, name) for name in tables} | {"usual_age": statistics.usual_age},
            "texts": dict(texts.named_buffers()),
            "encoder": self.encoder_settings,
            "words": count_words(trained, self.whole_texts) if self.whole_texts else None,
        }
        return _on_the_cpu(record)


def _on_the_cpu(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy whose tensors, also those in dictionaries, are on the CPU."""
    return {
        name: _on_the_cpu(value) if isinstance(value, dict) else value.cpu() if isinstance(value, Tensor) else value
        for name, value in record.items()
    }
