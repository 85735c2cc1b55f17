"""RecBole's quick start for this package: the functions have RecBole's names and return what RecBole's return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole_symcere import distributed
from recbole_symcere.config import Config
from recbole_symcere.data.loaders import create_dataset, data_preparation
from recbole_symcere.loading import load_data_and_model
from recbole_symcere.properties import parse_value
from recbole_symcere.recbole_settings import mode_on_test, what_is_ranked
from recbole_symcere.recommend import recommend
from recbole_symcere.run import fit, store_what_serves, write_result

__all__ = [
    "create_dataset",
    "data_preparation",
    "load_data_and_model",
    "objective_function",
    "recommend",
    "run_recbole_symcere",
]


def run_recbole_symcere(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Trains a model, stops on validation, and ranks the test part once.

    A run whose ``checkpoint_file`` shows that it was interrupted goes on. Within ``distributed.process_group()`` all
    processes that ``torchrun`` started train the one model, and the first of them writes.

    Args:
        model, dataset: names; a file or the dictionary may hold them instead. A model may be a class of your own: it
            has the settings of the classes that it inherits from, and those of its attribute ``defaults``.
        config_file_list: YAML files, later ones over earlier ones.
        config_dict: settings over those of the files.
        saved: True keeps the best epoch in ``checkpoint_file`` and tests it; False tests the last epoch.

    Returns:
        RecBole's dictionary: best_valid_score, valid_score_bigger, best_valid_result, test_result.

    Raises:
        ConfigError, DatasetError, ReviewFileError, EncoderError, LeakError, CheckpointError: before training begins.
        TrainingError: the loss is not finite.
    """
    config = Config(model, dataset, config_file_list, config_dict)
    fitted = fit(config, saved)
    trainer, logger = fitted.trainer, getLogger()
    if saved:
        store_what_serves(fitted)
    started = perf_counter()
    show = bool(config["show_progress"])
    test_result = fitted.rank_test(load_best_model=saved, show_progress=show)
    result = {
        "best_valid_score": fitted.best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": fitted.best_valid_result,
        "test_result": test_result,
    }
    logger.info(f"{trainer.epochs_run} epochs in {fitted.seconds:.1f} s; the best was number {trainer.best_epoch}")
    if ranked := what_is_ranked(mode_on_test(config.settings["eval_args"])):
        logger.warning(ranked)
    logger.info(_table({"valid": fitted.best_valid_result, "test": test_result}))
    if config["result_file"] and distributed.is_main():
        write_result(Path(config["result_file"]), config, fitted, result, perf_counter() - started)
    return result


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Runs one trial of a hyper-parameter search without progress bars, as RecBole's ``HyperTuning`` calls it.

    Args:
        config_dict: settings; texts are read as YAML, because ``HyperTuning`` passes lists as texts.
        config_file_list, saved: as for :func:`run_recbole_symcere`.

    Returns:
        What :func:`run_recbole_symcere` returns, and the name of the model.
    """
    given = {key: parse_value(value) if isinstance(value, str) else value for key, value in (config_dict or {}).items()}
    quiet = {"show_progress": False, "state": "ERROR"} | given
    model = Config(config_file_list=config_file_list, config_dict=quiet)["model"]
    return {"model": model} | run_recbole_symcere(config_file_list=config_file_list, config_dict=quiet, saved=saved)


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The metrics as rows, and the parts of the data as columns."""
    rows = [f"{'':22}" + "".join(f"{part:>12}" for part in results)]
    rows += (
        f"{metric:22}" + "".join(f"{result[metric]:12.4f}" for result in results.values())
        for metric in next(iter(results.values()))
    )
    return "results\n" + "\n".join(rows)
