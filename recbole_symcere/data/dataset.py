"""RecBole's Dataset, whose every interaction keeps its one review."""

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils.argument_list import dataset_arguments
from torch import Tensor

from recbole_symcere import distributed
from recbole_symcere.data.reviews import Embedder, TokenisedReviews, cached_embeddings, read_reviews, tokenise
from recbole_symcere.errors import DatasetError

# Settings beside RecBole's own ``dataset_arguments`` on which a saved dataset depends.
FURTHER_ARGUMENTS = ("REVIEW_ID_FIELD", "seed", "repeatable", "eval_args")
MASKING_SEED = 2020
COLUMN = r"[^:]+:(token|float|token_seq|float_seq)"
SHOWN_CHARACTERS = 200  # of what is wrong, in a message


class ReviewDataset(Dataset):
    """Interactions from ``NAME.inter``, each with the id of its review; the texts stay in ``NAME.review.jsonl``.

    RecBole's operations are row-wise, so the id in ``REVIEW_ID_FIELD`` follows its interaction through all of them,
    and texts never pass through RecBole's reader, which corrupts them. The field is optional: without it the dataset
    serves the models that read no text.

    Raises:
        DatasetError: a file or a column is missing, a timestamp is not a number, or a review id is missing or stands
            twice.
    """

    inter_feat: Any  # a DataFrame until RecBole's build(), an Interaction after it

    def _get_field_from_config(self) -> None:
        super()._get_field_from_config()
        self.review_field = self.config["REVIEW_ID_FIELD"]

    def _load_data(self, token: str, dataset_path: str) -> None:
        path = self._inter_path
        if self.benchmark_filename_list is None and not path.is_file():  # RecBole would try a download that is gone
            raise DatasetError(
                f"{path}: no such file; convert a raw dump with `python -m dataset_prep SOURCE --input FILE "
                f"--output {path.parent}`, or set data_path to the folder that holds {token}/"
            )
        super()._load_data(token, dataset_path)

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        encoding = self.config["encoding"] or "utf-8"
        try:
            if self.benchmark_filename_list is None:
                self._check_header(self._inter_path)
            super()._load_inter_feat(token, dataset_path)
        except DatasetError:
            raise
        except UnicodeError as error:
            raise DatasetError(
                f"{self._inter_path}: not {encoding} ({error}); set encoding to the file's own"
            ) from error
        except ValueError as error:  # pandas names no line
            raise _broken_line(self._inter_path, self.config) or DatasetError(
                f"{self._inter_path}: can't be read ({_shown(error)}); convert the raw dump again"
            ) from error
        self._check_interactions(self._inter_path)

    def _check_header(self, path: Path) -> None:
        try:
            file = path.open(encoding=self.config["encoding"] or "utf-8")
        except LookupError as error:
            raise DatasetError(f"{path}: {error}; set encoding to the file's own, such as utf-8 or cp932") from error
        with file:
            header = file.readline().rstrip("\r\n").split(self.config["field_separator"])
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

    def _check_interactions(self, path: Path) -> None:
        feat: pd.DataFrame = self.inter_feat
        if self.config["eval_args"]["order"] == "TO" and self.time_field not in feat:
            raise DatasetError(f"{path}: {self.time_field} is not loaded, but order: TO needs it; add it to load_col")
        for field in (self.time_field, self.review_field):
            if field in feat and feat[field].isna().any():
                line = int(np.flatnonzero(feat[field].isna())[0]) + 2
                raise DatasetError(f"{path}, line {line}: no {field}; give the line one or delete it")
        if self.review_field in feat and feat[self.review_field].duplicated().any():
            repeated = feat[self.review_field].duplicated(keep=False).to_numpy()
            first = feat[self.review_field].to_numpy()[repeated][0]
            lines = np.flatnonzero((feat[self.review_field] == first).to_numpy()) + 2
            raise DatasetError(
                f"{path}, lines {lines[0]} and {lines[1]}: review_id {first!r} stands more than once; "
                "give each interaction its own"
            )

    def _data_filtering(self) -> None:
        try:
            super()._data_filtering()
        except ValueError as error:  # RecBole's "Some feat is empty"
            raise DatasetError(f"{self._inter_path}: no interaction is left after filtering; loosen it") from error

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        """As RecBole's, but time keeps its float64: in float32, events less than two minutes apart fall together."""
        interaction = super()._dataframe_to_interaction(data)
        if self.time_field in data:
            interaction.interaction[self.time_field] = torch.tensor(data[self.time_field].to_numpy(np.float64))
        return interaction

    # Reviews of this part's interactions, and of no others: the part that trains can't reach a held-out text.

    @property
    def has_reviews(self) -> bool:
        """Whether each interaction carries a review id."""
        return self.review_field in self.inter_feat

    @cached_property
    def _inter_path(self) -> Path:
        return Path(self.dataset_path) / f"{self.dataset_name}.inter"

    @property
    def review_path(self) -> Path:
        """The file of review texts."""
        return self._inter_path.with_suffix(".review.jsonl")

    def review_rows(self) -> Tensor:
        """[n_review_ids] long: where a review id's text stands in ``review_texts``.

        Ids of other parts get n, one past the last: to look a held-out review up is an index error.
        """
        self._need_reviews()
        rows = torch.full((self.num(self.review_field),), len(self))
        rows[self.inter_feat[self.review_field]] = torch.arange(len(self))
        return rows

    def review_texts(self) -> list[str]:
        """The texts of this part's interactions, in their order.

        Raises:
            DatasetError: the interactions carry no review ids.
            ReviewFileError: the file is missing or broken, or lacks one of the ids.
        """
        self._need_reviews()
        review_ids = self.field2id_token[self.review_field][self.inter_feat[self.review_field].numpy()]
        return read_reviews(self.review_path, review_ids.tolist())

    def _need_reviews(self) -> None:
        if not self.has_reviews:
            raise DatasetError(
                f"{self._inter_path}: no column {self.review_field}, which models that read reviews need; keep it in "
                "load_col, or convert the raw dump with `python -m dataset_prep`"
            )

    def tokenised_reviews(self, encoder: Embedder) -> TokenisedReviews:
        """Token ids of ``review_texts``, cached on disk."""
        texts = self.review_texts()
        with distributed.first_of_machine_first():
            return tokenise(texts, encoder.fast_tokenizer, encoder.max_length, self._cache_dir, self._bars)

    def embedded_reviews(self, encoder: Embedder, views: int, mask_ratio: float) -> list[np.ndarray]:
        """Vectors of ``review_texts``, clean and in ``views`` word-masked views, cached on disk.

        Runs of all seeds share the masked views: to encode them takes longer than most runs.

        Returns:
            1 + views arrays, float32 [n, hidden].
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
        """RecBole's pickle of the filtered dataset, with the fingerprint of what it was made from."""
        self.source = source_fingerprint(self.config)
        super().save()


def _broken_line(path: Path, config: Config) -> DatasetError | None:
    """The first line with a quotation mark or a text for a number; read slowly, only to explain."""
    with path.open(encoding=config["encoding"] or "utf-8", newline="\n") as file:
        names = file.readline().rstrip("\r\n").split(config["field_separator"])
        for number, line in enumerate(file, start=2):
            values = line.rstrip("\r\n").split(config["field_separator"])
            for name, value in zip(names, values, strict=False):
                if value.startswith('"'):
                    return DatasetError(f"{path}, line {number}: {name} begins with a quotation mark; take it out")
                if name.endswith(":float") and value and not _is_number(value):
                    return DatasetError(f"{path}, line {number}: {name} is {_shown(value)!r}, not a number; mend it")
    return None


def _shown(value: object) -> str:
    return str(value)[:SHOWN_CHARACTERS]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def source_fingerprint(config: Config) -> str:
    """A hash of all that determines the interactions: atomic files, settings, this package's version."""
    from recbole_symcere import __version__

    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*")):
        if path.suffix != ".json":  # the converter's statistics decide nothing
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    settings = {key: config[key] for key in (*dataset_arguments, *FURTHER_ARGUMENTS)}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
