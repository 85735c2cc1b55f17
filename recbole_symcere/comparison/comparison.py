"""A comparison of models: for each model and dataset a search on validation, then runs on test, then tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.entry import Entry, ablations_of, check_inputs, is_ours
from recbole_symcere.comparison.preset import Preset, measure_geometry, paper_texts
from recbole_symcere.comparison.rendering import texts_of
from recbole_symcere.comparison.search import Search, search_space
from recbole_symcere.comparison.tables import NEEDED, Run, make_table, make_tables
from recbole_symcere.comparison.ties import ties_sheet
from recbole_symcere.comparison.validation import validation_sheet
from recbole_symcere.comparison.work import work_alone
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.metrics import PRIMARY, metric_of
from recbole_symcere.model.parts import import_modules
from recbole_symcere.model.registry import get_model
from recbole_symcere.outputs import make_output_folder
from recbole_symcere.properties import nearest

FIRST_SEED = 2020
DECIMALS = 4  # how many decimals of a metric the tables show
SET_HERE = ("model", "dataset", "seed", "checkpoint_file", "result_file")  # what the comparison itself gives each run


@dataclass(frozen=True)
class Plan:
    """What to compare, and how thoroughly; the same under every protocol.

    Attributes:
        models, datasets: names, each given once.
        ours: the models that are not baselines; None for SymCERE and the models that extend it.
        n_trials, n_seeds: the numbers of trials and of runs of each model on each dataset.
        settings: settings by name; each goes to the models that read it.
        output: the folder that keeps finished work.
        ablations: whether to run ``ours`` also with each single change in ``properties/ablation/MODEL.yaml``.
        n_search_seeds: the number of seeds with which each trial is trained.
        n_tie_seeds: the number of orders of rows of equal time that each model is run with.
        preset: where the models come from, if a preset names them.
    """

    models: Sequence[str]
    datasets: Sequence[str]
    ours: Sequence[str] | None = None
    n_trials: int = 10
    n_seeds: int = 5
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: Path = Path("comparison")
    ablations: bool = False
    n_search_seeds: int = 1
    n_tie_seeds: int = 1
    preset: Preset | None = None


class Comparison:
    """A comparison of models on datasets under one or several protocols; finished work is kept on disk.

    Attributes:
        parts: the comparison under each protocol.
        entries: all rows of all tables, which share one list of work.

    Raises:
        ConfigError: a name is given twice, ``ours`` has a name that ``models`` lacks or that is a probe, all models are
            probes, there are no changes for ``ablations``, a setting is read by no model or can't be used, or
            ``output`` can't be written to.
    """

    def __init__(self, plan: Plan, protocols: Sequence[str]) -> None:
        import_modules(plan.settings.get("imports", []))
        plan = replace(plan, ours=_ours(plan))
        _check_names(plan, protocols)
        given = [_settings_of_each(plan, {"protocol": protocol, "seed": FIRST_SEED}) for protocol in protocols]
        make_output_folder(plan.output, "--output")
        several = len(protocols) > 1
        self.plan = plan
        self.parts = [UnderProtocol(plan, *each, several) for each in zip(protocols, given, strict=True)]
        self.entries = [entry for part in self.parts for entry in part.entries]

    def check_inputs(self) -> None:
        """Checks what no finished work has read; see :func:`entry.check_inputs`."""
        check_inputs(self.entries)

    def work(self) -> None:
        """Does all trials and runs that are left in this process; see :func:`work_alone`."""
        self.check_inputs()
        work_alone(self.entries)

    def write_tables(self) -> str:
        """Writes all tables and the best settings of each model; returns the summary in Markdown."""
        summaries = [part.write_tables() for part in self.parts]
        if len(self.parts) == 1:
            return summaries[0]
        return _write(self.plan.output, "protocols", texts_of(self._side_by_side()))["md"]

    def _side_by_side(self) -> Any:
        """Returns the table with a column for each protocol and dataset."""
        done = [
            replace(run, dataset=f"{part.protocol}, {run.dataset}")
            for part in self.parts
            for run in part.runs_of_models()
        ]
        return replace(make_table(done, (PRIMARY,), self.plan.ours or ()), seconds={})


class UnderProtocol:
    """A comparison under one protocol.

    Args:
        plan: what to compare, with the names of ``ours``.
        given: the settings of each model on each dataset.
        several: whether there are other protocols, so that names must say which one this is.
    """

    def __init__(self, plan: Plan, protocol: str, given: Sequence[Mapping[str, Any]], several: bool) -> None:
        self.plan, self.protocol, self.tables = plan, protocol, plan.output / protocol
        self.models: list[Entry] = []
        self.ablations: list[Entry] = []
        self.ties: list[Entry] = []
        changes = {model: ablations_of(model) if plan.ablations else {} for model in plan.ours or ()}
        for own in given:
            entry = self._entry(own, f"{protocol}: " * several)
            self.models.append(entry)
            for name, change in changes.get(entry.model, {}).items():
                folder = entry.folder.with_name(f"{entry.model}, {name}")
                self.ablations.append(entry.variation(name, folder, change, entry.seeds))
            for seed in range(1, plan.n_tie_seeds):
                folder = plan.output / "ties" / protocol / entry.dataset / entry.model / f"tie-{seed}"
                self.ties.append(entry.variation(f"tie order {seed}", folder, {"tie_seed": seed}, entry.seeds[:1]))

    @property
    def entries(self) -> list[Entry]:
        """All rows, in the order in which they are worked on."""
        return [*self.models, *self.ablations, *self.ties]

    def _entry(self, own: Mapping[str, Any], prefix: str) -> Entry:
        config = Config(config_dict=dict(own))
        model, dataset, complete = config["model"], config["dataset"], config.settings
        searched = search_space(model, config.model_class)
        space = {key: values for key, values in searched.items() if key not in own}
        fixed = {key: value for key, value in complete.items() if key not in runs.NOT_COMPARED | space.keys()}
        name, plan = f"{self.protocol}/{dataset}/{model}", self.plan
        search = Search(plan.output / "search", name, space, complete, plan.n_trials, fixed, plan.n_search_seeds)
        seeds = range(FIRST_SEED, FIRST_SEED + plan.n_seeds)
        return Entry(dataset, model, model, own, search, plan.output / "runs" / name, seeds, prefix + dataset)

    def runs_of_models(self) -> list[Run]:
        """Returns the complete runs of the models that are no probes."""
        return _runs([entry for entry in self.models if not is_probe(entry.model)])

    def write_tables(self) -> str:
        """Writes all tables and the best settings of each model; returns the summary in Markdown."""
        done, ours = self.runs_of_models(), self.plan.ours or ()
        probes = _runs([entry for entry in self.models if is_probe(entry.model)])
        ablations = {
            model: _runs([entry for entry in (*self.models, *self.ablations) if entry.model == model])
            for model in dict.fromkeys(entry.model for entry in self.ablations)
        }
        tables: dict[str, Any] = make_tables(done, ours, ablations, probes)
        if validation := validation_sheet(done):
            tables["validation"] = validation
        if self.ties:
            orders: dict[tuple[str, str], list[Run]] = {}
            for entry in self.ties:
                orders.setdefault((entry.dataset, entry.model), []).extend(_runs([entry]))
            tables["ties"] = ties_sheet(_runs(self.models), orders)
        texts = {name: _write(self.tables, name, texts_of(table)) for name, table in tables.items()}
        if find_spec("matplotlib"):
            from recbole_symcere.analysis.compared import write_figures  # needs packages of the extra analysis

            write_figures(self.tables / "figures", done, ours)
        for entry in self.models:
            path = self.tables / "tuned" / entry.dataset / f"{entry.model}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(entry.chosen), encoding="utf-8")
        return self._of_preset(done) or texts["summary"]["md"]

    def _of_preset(self, done: Sequence[Run]) -> str:
        """Writes what the preset adds, and returns it in Markdown."""
        preset, text = self.plan.preset, ""
        if preset and preset.table:
            text = _write(self.tables, preset.table, paper_texts(preset, done))["md"]
        if preset and preset.geometry:
            text += measure_geometry(self.models, self.tables / "geometry")
        return text


def _write(folder: Path, name: str, texts: dict[str, str]) -> dict[str, str]:
    """Writes the forms of a table, which stand under the suffixes of their files, and returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return texts


def is_probe(model: str) -> bool:
    """Whether a model only shows what a protocol lets through."""
    return get_model(model).is_probe


def _ours(plan: Plan) -> list[str]:
    return [model for model in plan.models if is_ours(model)] if plan.ours is None else list(plan.ours)


def _check_names(plan: Plan, protocols: Sequence[str]) -> None:
    ours = plan.ours or ()
    given = {"--models": plan.models, "--datasets": plan.datasets, "--ours": ours, "--protocol": protocols}
    for option, names in given.items():
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{option} names {name} twice: name it once")
    if absent := sorted(set(ours) - set(plan.models)):
        raise ConfigError(f"--ours names {', '.join(absent)}, which --models does not")
    probes = [model for model in plan.models if is_probe(model)]
    if own := sorted(set(ours) & set(probes)):
        raise ConfigError(f"--ours names {own[0]}, which is a probe: probes are not compared with other models")
    if len(probes) == len(plan.models):
        raise ConfigError(f"--models names only probes ({', '.join(probes)}): name a model to compare as well")
    if plan.ablations and not any(map(ablations_of, ours)):
        raise ConfigError("--ablation: no model of ours has changes in properties/ablation/MODEL.yaml")
    if plan.n_tie_seeds > 1 and "tie_seed" in plan.settings:
        raise ConfigError("tie_seed can't be set beside --tie-seeds, which sets it for each run: leave one out")


def _settings_of_each(plan: Plan, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns, for each dataset and model, the common settings and those of the plan that the model reads.

    Raises:
        ConfigError: a setting is read by no model, or can't be used.
    """
    models, datasets = plan.models, plan.datasets
    settings, of_one = _for_all_and_for_one(plan)
    if taken := sorted(set(settings).union(*of_one.values()) & set(SET_HERE)):
        raise ConfigError(f"{taken[0]} can't be set here: the comparison sets it for each run; leave it out")
    configs = [Config(model, dataset, config_dict=dict(common)) for dataset in datasets for model in models]
    read_by_none = sorted(set(settings) - set().union(*(config.known_keys for config in configs)))
    if read_by_none:
        ignored = Config(models[0], datasets[0], config_dict={key: settings[key] for key in read_by_none}).ignored
        owners = ", ".join(f"{key} is {owner}'s" for key, owner in ignored.items())
        raise ConfigError(f"no model of the comparison reads some of the settings: {owners}; leave them out")
    found = []
    for config in configs:
        model, known = config["model"], config.known_keys
        own = {key: value for key, value in settings.items() if key in known} | of_one[model]
        if unread := sorted(set(of_one[model]) - known):
            raise ConfigError(f"--{model}.{unread[0]}: {model} does not read {unread[0]}{nearest(unread[0], known)}")
        found.append({**common, **own, "model": model, "dataset": config["dataset"]})
        _check_metrics(Config(config_dict=found[-1]))
    return found


def _for_all_and_for_one(plan: Plan) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the settings that a plan has for all models, and by model those that ``MODEL.key`` gives to it alone.

    Raises:
        ConfigError: such a setting names a model that is not compared.
    """
    for_all: dict[str, Any] = {}
    for_one: dict[str, dict[str, Any]] = {model: {} for model in plan.models}
    for name, value in plan.settings.items():
        model, dot, key = name.partition(".")
        if not dot:
            for_all[name] = value
        elif model in for_one:
            for_one[model][key] = value
        else:
            raise ConfigError(f"--{name}: --models does not name {model}{nearest(model, for_one)}")
    return for_all, for_one


def _check_metrics(config: Config) -> None:
    known = {f"{metric.lower()}@{k}" for metric in config["metrics"] for k in config["topk"]}
    if absent := sorted(set(NEEDED) - known):
        raise ConfigError(f"the tables need {', '.join(absent)}: leave metrics and topk as they are, or add to them")
    if config["metric_decimal_place"] < DECIMALS:
        raise ConfigError(f"metric_decimal_place is {config['metric_decimal_place']}, but the tables need {DECIMALS}")
    if not config["valid_metric_bigger"] or metric_of(config["valid_metric"]).sign != 1:
        raise ConfigError(
            f"valid_metric is {config['valid_metric']}, but the search needs a metric whose higher values are better"
        )


def _runs(entries: Sequence[Entry]) -> list[Run]:
    return [runs.read_run(entry.name, entry.run_folder(seed)) for entry in entries for seed in entry.seeds]
