"""Reads the dataset of a run with RecBole, and keeps the id of its review with each interaction."""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_symcere import distributed
from recbole_symcere.config import Config
from recbole_symcere.data.embeddings import Embedder, cached_embeddings
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.data.tokens import TokenisedReviews, tokenise
from recbole_symcere.errors import DatasetError

MASKING_SEED = 2020
COLUMN = r"[^:]+:(token|float|token_seq|float_seq)"
SHOWN_CHARACTERS = 200  # how much of a faulty value a message shows
PARTS = 3  # training, validation and test


class ReviewDataset(Dataset):
    """A dataset of RecBole whose interactions, from ``NAME.inter``, have the ids of their reviews.

    RecBole filters and splits whole rows, so the id in the column ``REVIEW_ID_FIELD`` stays with its interaction. The
    texts stay in ``NAME.review.jsonl``, because RecBole's reader would corrupt them. Without the column, the dataset
    can be used by the models that read no text.

    Each part of a split reaches only the reviews of its own interactions, so training reaches no held-out text.

    Raises:
        DatasetError: a file or a column is missing, a timestamp is not a number, or a review id is missing or occurs
            twice.
    """

    inter_feat: Any  # a DataFrame before RecBole's build(), and an Interaction after it

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
        return (
            f"{path}: no such file; convert a raw dump with `symcere prep SOURCE --input FILE --output {path.parent}`, "
            f"or set data_path to the folder that holds {self.dataset_name}/"
        )

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        encoding = self.config["encoding"] or "utf-8"
        for path in self._inter_paths:
            self._check_header(path, encoding)
        try:
            super()._load_inter_feat(token, dataset_path)
        except ValueError as error:  # pandas names neither the file nor the line
            raise self._unreadable(encoding, error) from error
        self._check_interactions()

    def _check_header(self, path: Path, encoding: str) -> None:
        try:
            with path.open(encoding=encoding) as file:
                header = file.readline().rstrip("\r\n").split(self.config["field_separator"])
        except LookupError as error:
            raise DatasetError(f"{path}: {error}; set encoding to that of the file, such as utf-8 or cp932") from error
        except UnicodeError as error:
            raise DatasetError(f"{path}: not {encoding} ({error}); set encoding to that of the file") from error
        names = [column.partition(":")[0] for column in header]
        needed = [self.uid_field, self.iid_field]
        if self.config["eval_args"]["order"] == "TO":
            needed.append(self.time_field)
        missing = [name for name in needed if name not in names]
        if missing or not all(re.fullmatch(COLUMN, column) for column in header):
            raise DatasetError(
                f"{path}, line 1: expected columns `name:type` with {', '.join(needed)}, tab-separated, "
                f"but found {_shown(', '.join(header))}"
            )

    def _unreadable(self, encoding: str, error: ValueError) -> DatasetError:
        """Returns an error that names the first line that can't be read."""
        found = (broken for path in self._inter_paths if (broken := _broken_line(path, encoding, self.config)))
        names = " or ".join(map(str, self._inter_paths))
        unknown = DatasetError(f"{names}: can't be read ({_shown(error)}); convert the raw dump again")
        return next(found, unknown)

    def _check_interactions(self) -> None:
        feat: pd.DataFrame = self.inter_feat
        if self.config["eval_args"]["order"] == "TO" and self.time_field not in feat:
            raise DatasetError(
                f"{self._inter_paths[0]}: {self.time_field} is not loaded, but order: TO needs it; add it to load_col"
            )
        for field in (self.time_field, self.review_field):
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
                lines = (number for number, values in _rows(path, self.config) if values)
                return f"{path}, line {next(islice(lines, row, None))}"
            row -= size
        raise IndexError(row)

    @property
    def _file_sizes(self) -> list[int]:
        return [len(self.inter_feat)] if self.benchmark_filename_list is None else self.file_size_list

    def _data_filtering(self) -> None:
        try:
            super()._data_filtering()
        except ValueError as error:  # RecBole says only "Some feat is empty"
            raise DatasetError(
                f"{self._inter_path}: no interaction is left after filtering; loosen the filters"
            ) from error

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

    @cached_property
    def _inter_path(self) -> Path:
        return Path(self.dataset_path) / f"{self.dataset_name}.inter"

    @cached_property
    def _inter_paths(self) -> list[Path]:
        """The files of the interactions: one file, or one for each part that ``benchmark_filename`` names."""
        parts = self.benchmark_filename_list
        if parts is None:
            return [self._inter_path]
        if not (isinstance(parts, list) and len(parts) == PARTS and all(isinstance(part, str) for part in parts)):
            raise DatasetError(
                f"benchmark_filename is {parts!r}; name three parts, for training, validation and testing, such as "
                "[train, valid, test]"
            )
        return [self._inter_path.with_name(f"{self.dataset_name}.{part}.inter") for part in parts]

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

    def tokenised_reviews(self, encoder: Embedder) -> TokenisedReviews:
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


def _rows(path: Path, config: Config) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the values of each line after the first. A blank line, which pandas skips, has none."""
    with path.open(encoding=config["encoding"] or "utf-8", newline="\n") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            values = line.rstrip("\r\n").split(config["field_separator"])
            yield number, values if len(values) > 1 or values[0].strip() else []


def _broken_line(path: Path, encoding: str, config: Config) -> DatasetError | None:
    """Returns an error for the first line that can't be read, or None.

    This is slow, and is only used after pandas could not read the file.
    """
    separator = config["field_separator"]
    try:
        with path.open(encoding=encoding) as file:
            names = file.readline().rstrip("\r\n").split(separator)
        for number, values in _rows(path, config):
            for name, value in zip(names, values, strict=False):
                if value.startswith('"'):
                    return DatasetError(f"{path}, line {number}: {name} begins with a quotation mark; take it out")
                if name.endswith(":float") and value and not _is_number(value):
                    return DatasetError(f"{path}, line {number}: {name} is {_shown(value)!r}, not a number; mend it")
    except UnicodeError as error:
        return DatasetError(f"{path}: not {encoding} ({error}); set encoding to that of the file")
    return None


def _shown(value: object) -> str:
    return str(value)[:SHOWN_CHARACTERS]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
