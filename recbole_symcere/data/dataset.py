"""Reads the dataset of a run with RecBole, and keeps the id of its review with each interaction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction, cat_interactions
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_symcere import distributed
from recbole_symcere.config import Config
from recbole_symcere.data.atomic import broken_line, check_columns, check_file, rows
from recbole_symcere.data.embeddings import Embedder, cached_embeddings
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.data.ties import drawn_parts, hashed_order, token_hashes
from recbole_symcere.data.tokens import TokenisedReviews, WholeTexts, tokenise
from recbole_symcere.errors import ConfigError, DatasetError, UserError
from recbole_symcere.properties import nearest
from recbole_symcere.recbole_settings import read_intervals, recboles_own_errors

MASKING_SEED = 2020


class ReviewDataset(Dataset):
    """A dataset of RecBole whose interactions, from ``NAME.inter``, have the ids of their reviews.

    RecBole filters and splits whole rows, so the id in the column ``REVIEW_ID_FIELD`` stays with its interaction. The
    texts stay in ``NAME.review.jsonl``, because RecBole's reader would corrupt them. Without the column, the dataset
    can be used by the models that read no text.

    Neither the order of the rows in a file nor the order of ids decides anything, because the rows are ordered by a
    hash of user, item and review id before a split orders them by time. With ``tie_break: file``, rows of the same time
    keep their order in the file, as in RecBole.

    Each part of a split reaches only the reviews of its own interactions, so training reaches no held-out text.

    Raises:
        DatasetError: a file or a column is missing, a timestamp is not a number, or a review id is missing or occurs
            twice.
    """

    inter_feat: Any  # a DataFrame before RecBole's build(), and an Interaction after it
    pieces: tuple["ReviewDataset", ...] = ()  # the parts that this part was joined from
    config: Config

    def _get_field_from_config(self) -> None:
        super()._get_field_from_config()
        self.review_field = self.config["REVIEW_ID_FIELD"]

    def _load_data(self, token: str, dataset_path: str) -> None:
        for path in self._inter_paths:  # RecBole would try to download it from an address that no longer exists
            if not path.is_file():
                raise DatasetError(self._missing(path))
        super()._load_data(token, dataset_path)

    def _missing(self, path: Path) -> str:
        if self.benchmark_filename_list is not None:
            return (
                f"{path}: no such file, but benchmark_filename names this part; mend the name, or leave "
                "benchmark_filename out"
            )
        from dataset_prep.sources import kinds  # late, because they are needed for this message only
        from recbole_symcere.named import named_dataset

        if named := named_dataset(self.dataset_name):
            elsewhere = "" if path.parent == Path("dataset", named.name) else f" --output {quote(str(path.parent))}"
            make = f"make it with `{named.command}{elsewhere}`"
        else:
            make = f"convert a raw dump with `symcere prep SOURCE --input FILE --output {path.parent}` (SOURCE is one "
            make += f"of {', '.join(kinds())})"
        return f"{path}: no such file; {make}, or set data_path to the folder that holds {self.dataset_name}/"

    def _from_scratch(self) -> None:
        with recboles_own_errors(self.config):
            super()._from_scratch()

    def build(self) -> list["ReviewDataset"]:
        """Splits the interactions into the parts of training, validation and test, as RecBole does.

        If the split has two shares, the second part is both validation and test.

        Raises:
            DatasetError: RecBole can't split them with these settings.
        """
        if self.benchmark_filename_list is None and self.config["tie_break"] == "hash":
            hashes = [token_hashes(self.field2id_token[field])[self.inter_feat[field]] for field in self._tie_fields]
            self._reorder(hashed_order(hashes, self.config["tie_seed"]))
        with recboles_own_errors(self.config):
            train, *held_out = super().build()
        return [train, held_out[0], held_out[-1]]

    def split_by_ratio(self, ratios: Sequence[float], group_by: str | None = None) -> list["ReviewDataset"]:
        """Splits as RecBole does; with ``questions: strangers`` the shares are of users, whom hash and seed draw."""
        if self.config["questions"] != "strangers":
            return super().split_by_ratio(ratios, group_by)
        self._drop_unused_col()
        hashes = token_hashes(self.field2id_token[self.uid_field])
        parts = drawn_parts(hashes, ratios, self.config["tie_seed"], self.config["seed"])
        return [self.copy(self.inter_feat[parts[self.inter_feat[self.uid_field]] == n]) for n in range(len(ratios))]

    @property
    def _tie_fields(self) -> list[str]:
        """The columns whose hash orders interactions of the same time."""
        return [self.uid_field, self.iid_field, *[self.review_field] * self.has_reviews]

    def _reorder(self, order: np.ndarray) -> None:
        feat: pd.DataFrame = self.inter_feat
        self.inter_feat = feat.iloc[order].reset_index(drop=True)

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        types = {"USER_ID_FIELD": "token", "ITEM_ID_FIELD": "token", "TIME_FIELD": "float"}
        needed = [*types][: 2 + self._orders_by_time]
        types |= {"REVIEW_ID_FIELD": "token", "RATING_FIELD": "float"}
        for path in self._inter_paths:
            check_file(path, self.config, needed, types)
            check_columns(path, self.config, "inter")
        with self._naming_broken_lines(self._inter_paths):
            super()._load_inter_feat(token, dataset_path)
        self._check_interactions()
        if self.config["tie_break"] == "hash":
            # RecBole numbers users and items in the order of the rows. This order must not be that of the file, and it
            # must not depend on tie_seed, by which only the rows of the same time may differ.
            order = hashed_order([token_hashes(self.inter_feat[field]) for field in self._tie_fields], seed=0)
            part = np.repeat(np.arange(len(self._file_sizes)), self._file_sizes)
            self._reorder(order[part[order].argsort(kind="stable")])

    @contextmanager
    def _naming_broken_lines(self, paths: Sequence[Path]) -> Iterator[None]:
        """Makes an error that names the file and the line of one in which pandas names neither."""
        try:
            yield
        except ValueError as error:
            found = (broken for path in paths if (broken := broken_line(path, self.config)))
            names = " or ".join(map(str, paths))
            unknown = DatasetError(f"{names}: can't be read ({str(error)[:200]}); convert the raw dump again")
            raise next(found, unknown) from error

    def _load_user_or_item_feat(
        self, token: str, dataset_path: str, source: FeatureSource, field_name: str
    ) -> pd.DataFrame | None:
        """Loads the features of users or items; a file that ``load_col`` names must exist and have their ids."""
        path = self._inter_path.with_suffix(f".{source.value}")
        asked = source.value in (self.config["load_col"] or {})
        if asked and not path.is_file():
            raise DatasetError(
                f"{path}: no such file, but load_col names its columns; take {source.value} out of load_col"
            )
        if path.is_file() and (asked or self.config["load_col"] is None):
            key = f"{source.value.upper()}_ID_FIELD"
            check_file(path, self.config, [key], {key: "token"})
            check_columns(path, self.config, source.value)
        with self._naming_broken_lines([path] if path.is_file() else []):
            return super()._load_user_or_item_feat(token, dataset_path, source, field_name)

    @property
    def _orders_by_time(self) -> bool:
        """Whether the split asks for times; a split of the user's own does not."""
        return self.benchmark_filename_list is None and self.config["eval_args"]["order"] == "TO"

    def _check_interactions(self) -> None:
        feat: pd.DataFrame = self.inter_feat
        needed = [self.uid_field, self.iid_field, *[self.time_field] * self._orders_by_time]
        for field in needed:
            if field not in feat:
                why = "order: TO needs it" if field == self.time_field else "every run needs it"
                raise DatasetError(f"{self._inter_paths[0]}: {field} is not loaded, but {why}; add it to load_col")
        for field in (*needed, self.time_field, self.review_field):
            if field in feat and feat[field].isna().any():
                row = int(np.flatnonzero(feat[field].isna())[0])
                raise DatasetError(f"{self._place(row)}: no {field}; add it or delete the line")
        if self.review_field in feat and feat[self.review_field].duplicated().any():
            repeated = feat[self.review_field].duplicated(keep=False).to_numpy()
            review_id = feat[self.review_field].to_numpy()[repeated][0]
            first, second = np.flatnonzero((feat[self.review_field] == review_id).to_numpy())[:2]
            raise DatasetError(
                f"{self._place(second)}: review_id {review_id!r} is already in {self._place(first)}; give each "
                "interaction its own"
            )

    def _place(self, row: int) -> str:
        """Returns the file and the line of a row of the interactions, before any row is filtered out."""
        for path, size in zip(self._inter_paths, self._file_sizes, strict=True):
            if row < size:
                lines = (number for number, values in rows(path, self.config) if values)
                return f"{path}, line {next(islice(lines, row, None))}"
            row -= size
        raise IndexError(row)

    @property
    def _file_sizes(self) -> list[int]:
        return [len(self.inter_feat)] if self.benchmark_filename_list is None else self.file_size_list

    def _data_filtering(self) -> None:
        if not len(self.inter_feat):
            raise DatasetError(f"{self._inter_path}: a header without a row; convert the raw dump again")
        usual = self.config
        self.config = usual.with_settings(val_interval=self._checked_filters())
        try:
            super()._data_filtering()
        except ValueError as error:  # RecBole says only "Some feat is empty"
            raise DatasetError(
                f"{self._inter_path}: no interaction is left after filtering; loosen the filters"
            ) from error
        finally:
            self.config = usual
        self._warn_of_unmet()

    def _warn_of_unmet(self) -> None:
        """Logs how many users and items of the files ``.user`` and ``.item`` have no interaction."""
        for feat, field, kind in ((self.user_feat, self.uid_field, "user"), (self.item_feat, self.iid_field, "item")):
            unmet = 0 if feat is None else int((~feat[field].isin(self.inter_feat[field])).sum())
            if unmet:
                self.logger.warning(
                    f"{unmet:,} of {len(feat):,} {kind}s in {self._inter_path.with_suffix(f'.{kind}')} have no "
                    "interaction: nothing trains them, but the model has them all the same; take them out of the file"
                )

    def _checked_filters(self) -> dict[str, str | list[str]]:
        """Checks that each filter names a column that is loaded, and values that the column can have.

        Returns:
            ``val_interval`` in RecBole's form: intervals of numbers as text, and lists of tokens, which are text, too.

        Raises:
            ConfigError: a filter would do nothing, or something else than it says.
        """
        if not self.config["filter_inter_by_user_or_item"] and self.user_feat is None is self.item_feat:
            raise ConfigError(
                "filter_inter_by_user_or_item=False changes nothing: it is about the files .user and .item, and "
                "load_col loads neither; leave it out"
            )
        found: dict[str, str | list[str]] = {}
        for field, value in (self.config["val_interval"] or {}).items():
            key = f"val_interval of {field}"
            if field not in self.field2type:
                loaded = sorted(self.field2type)
                raise ConfigError(
                    f"{key}: no such column is loaded{nearest(field, loaded)} (loaded: {', '.join(loaded)})"
                )
            if self.field2type[field] == FeatureType.FLOAT:
                found[field] = read_intervals(key, value)
            elif self.field2type[field] == FeatureType.TOKEN:
                found[field] = self._known_tokens(key, field, value)
            else:
                raise ConfigError(f"{key}: the column holds sequences, which RecBole does not filter")
        for source, names in (self.config["unused_col"] or {}).items():
            feat = getattr(self, f"{source}_feat", None)
            for name in names:
                if feat is None or name not in feat or name in (self.uid_field, self.iid_field):
                    raise ConfigError(
                        f"unused_col names {name}, but .{source} has no such column, or every run needs it; take it out"
                    )
        return found

    def _known_tokens(self, key: str, field: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            raise ConfigError(f"{key} is {value!r}, but the column holds tokens: give a list of those to keep")
        known = set().union(*(feat[field] for feat in self.field2feats(field)))
        for token in map(str, value):
            if token not in known:
                raise ConfigError(f"{key}: there is no {token!r}{nearest(token, known)}")
        return list(map(str, value))

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        """Converts as RecBole does, but keeps times in float64. In float32, times within two minutes can be equal."""
        interaction = super()._dataframe_to_interaction(data)
        if self.time_field in data:
            interaction.interaction[self.time_field] = torch.tensor(data[self.time_field].to_numpy(np.float64))
        return interaction

    @property
    def has_reviews(self) -> bool:
        """Whether each interaction has a review id."""
        return self.review_field in self.inter_feat

    def number_of(self, field: str, token: str, suggest: bool = True) -> int:
        """Returns the number of a user's or an item's token.

        Args:
            field: the column of users or of items.
            suggest: whether an error may name another token.

        Raises:
            UserError: there is no such token.
        """
        known = self.field2token_id[field]
        if token not in known or not known[token]:  # 0 is padding
            hint = nearest(token, (str(other) for other, number in known.items() if number)) if suggest else ""
            raise UserError(f"{self.dataset_name} has no {field.removesuffix('_id')} {token!r}{hint}")
        return int(known[token])

    @cached_property
    def _inter_path(self) -> Path:
        return Path(self.dataset_path) / f"{self.dataset_name}.inter"

    @cached_property
    def _inter_paths(self) -> list[Path]:
        """The files of the interactions: one file, or one for each part that ``benchmark_filename`` names."""
        parts = self.benchmark_filename_list
        names = [f".{part}" for part in parts] if parts else [""]
        return [self._inter_path.with_name(f"{self.dataset_name}{name}.inter") for name in names]

    @property
    def review_path(self) -> Path:
        """The file of review texts."""
        return self._inter_path.with_suffix(".review.jsonl")

    def review_rows(self) -> Tensor:
        """Returns the place of the text of each review id in :meth:`review_texts`, int64 [n_review_ids].

        The ids of reviews in other parts get the place after the last text, so that looking one up is an index error.

        Raises:
            DatasetError: the interactions have no review ids.
        """
        self._need_reviews()
        rows = torch.full((self.num(self.review_field),), len(self))
        rows[self.inter_feat[self.review_field]] = torch.arange(len(self))
        return rows

    def review_texts(self) -> list[str]:
        """Returns the texts of this part's interactions, in their order.

        Raises:
            DatasetError: the interactions have no review ids.
            ReviewFileError: the file is missing or broken, lacks one of the ids, or a text is blank.
        """
        self._need_reviews()
        review_ids = self.field2id_token[self.review_field][self.inter_feat[self.review_field].numpy()]
        return read_reviews(self.review_path, review_ids.tolist())

    def _need_reviews(self) -> None:
        if not self.has_reviews:
            raise DatasetError(
                f"{self._inter_paths[0]}: no column {self.review_field}, which models that read reviews need; keep it "
                "in load_col, or convert the raw dump with `symcere prep`"
            )

    def joined_with(self, other: "ReviewDataset") -> "ReviewDataset":
        """Returns a part with the interactions of this part, and then those of another part of the same split."""
        whole: ReviewDataset = self.copy(cat_interactions([self.inter_feat, other.inter_feat]))
        whole.pieces = tuple(part for part in (self, other) if len(part))
        return whole

    def tokenised_reviews(self, encoder: Embedder | WholeTexts) -> TokenisedReviews:
        """Returns the token ids of :meth:`review_texts`, which are cached on disk."""
        texts = self.review_texts()
        with distributed.first_of_machine_first():
            return tokenise(
                texts, encoder.fast_tokenizer, encoder.max_length, self._cache_dir, self._bars, encoder.prompt
            )

    def embedded_reviews(self, encoder: Embedder, views: int, mask_ratio: float) -> list[np.ndarray]:
        """Returns vectors of :meth:`review_texts`, which are cached on disk.

        Runs with different seeds share the masked views, because encoding them takes longer than most runs.

        Args:
            encoder: the encoder.
            views: the number of views with masked words.
            mask_ratio: the share of words to mask in them.

        Returns:
            1 + views arrays, float32 [n, hidden]: of the texts as they are, then of each masked view.
        """
        if self.pieces:  # so that nothing is encoded twice
            of_pieces = [piece.embedded_reviews(encoder, views, mask_ratio) for piece in self.pieces]
            return [np.concatenate(view) for view in zip(*of_pieces, strict=True)]
        texts = self.review_texts()
        return cached_embeddings(texts, encoder, views, mask_ratio, MASKING_SEED, self._cache_dir, self._bars)

    @property
    def _cache_dir(self) -> Path:
        return Path(self.config["text_cache_dir"])

    @property
    def _bars(self) -> bool:
        return bool(self.config["show_progress"])

    def save(self) -> None:
        """Saves RecBole's pickle of the filtered dataset, with the fingerprint of its files and settings."""
        self.source = source_fingerprint(self.config)
        super().save()
