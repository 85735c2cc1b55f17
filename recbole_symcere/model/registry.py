"""The names of models, and what they stand for.

A model's name is that of a file ``properties/model/NAME.yaml``, which has the model's settings and says what it is:
``implementation`` is the path of one of this package's classes, and ``variant_of`` is the name of another model, whose
settings the file changes. A file with neither changes the settings of a model of RecBole. A model's module is imported
only when the model is asked for, so this module imports no model. A user's class has no such file: :data:`MODELS` has
its name once the setting ``imports`` has imported its module.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import recbole
import recbole.trainer
import recbole.utils

from recbole_symcere.errors import ConfigError
from recbole_symcere.model.parts import Registry, imported
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.properties import load_yaml, nearest, properties_folder

RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
IMPLEMENTATION, VARIANT_OF = "implementation", "variant_of"
MODELS: Registry[type] = Registry("model")  # models of users, by their names


def model_file(name: str) -> Path:
    """This package's property file of a model; the file need not exist."""
    return properties_folder() / "model" / f"{name}.yaml"


def read_model_file(name: str) -> dict[str, Any]:
    """The settings in this package's property file of a model, without what the file says about the model itself."""
    content = load_yaml(model_file(name)) if model_file(name).is_file() else {}
    return {key: value for key, value in content.items() if key not in (IMPLEMENTATION, VARIANT_OF)}


def our_models() -> list[str]:
    """The names of this package's own models."""
    files = sorted((properties_folder() / "model").glob("*.yaml"))
    return [file.stem for file in files if IMPLEMENTATION in load_yaml(file)]


def model_with_setting(key: str) -> str | None:
    """The name of a general recommender, of this package or of RecBole, that has a setting, or None."""
    own = next((model for model in our_models() if key in read_model_file(model)), None)
    return own or next((name for name in _general_models() if key in _recbole_file(name)), None)


@cache
def _general_models() -> list[str]:
    """The names of RecBole's general recommenders."""
    modules = {file.stem for file in RECBOLE_PROPERTIES.parent.glob("model/general_recommender/*.py")}
    return sorted(file.stem for file in (RECBOLE_PROPERTIES / "model").glob("*.yaml") if file.stem.lower() in modules)


def _recbole_file(name: str) -> dict[str, Any]:
    return load_yaml(RECBOLE_PROPERTIES / "model" / f"{name}.yaml")


def variants(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The property files that make a variant of a model, with their content, the variant's own file last.

    Returns:
        Nothing where ``name`` is not a variant.

    Raises:
        ConfigError: a variant is, over others, a variant of itself.
    """
    line: list[tuple[Path, dict[str, Any]]] = []
    while (path := model_file(name)).is_file() and VARIANT_OF in (content := load_yaml(path)):
        if path in (file for file, _ in line):
            raise ConfigError(f"{path}: {name} is a variant of itself")
        line.insert(0, (path, content))
        name = str(content[VARIANT_OF])
    return line


def get_model(name: str) -> type[Recommender]:
    """Finds a general recommender by its name: a model of this package or of RecBole, or a variant of one.

    Raises:
        ConfigError: there is no such model, or it is of a kind that needs other data.
    """
    if name in MODELS:
        return with_hooks(MODELS[name])
    if line := variants(name):
        return get_model(str(line[0][1][VARIANT_OF]))
    content = load_yaml(model_file(name)) if model_file(name).is_file() else {}
    if path := content.get(IMPLEMENTATION):
        return with_hooks(_import(f"{model_file(name)}: {IMPLEMENTATION}", str(path)))
    return with_hooks(_recbole_model(name))


@cache
def with_hooks(model: type) -> type[Recommender]:
    """Gives a model of RecBole, or a user's own, the hooks of :class:`Recommender` with their defaults."""
    if issubclass(model, Recommender):
        return model
    return type(model.__name__, (model, Recommender), {"__module__": model.__module__, "__doc__": model.__doc__})


def _import(where: str, path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type | None = getattr(imported(where, module), name, None)
    if found is None:
        raise ConfigError(f"{where}: {module} has no {name}")
    return found


def _recbole_model(name: str) -> type:
    known = {path.stem for path in (RECBOLE_PROPERTIES / "model").glob("*.yaml")}
    if name not in known:
        if (file := model_file(name)).is_file():
            raise ConfigError(f"{file}: the file has neither {IMPLEMENTATION} nor {VARIANT_OF}; give one of them")
        ours = {path.stem for path in (properties_folder() / "model").glob("*.yaml")}
        raise ConfigError(f"there is no model {name!r}{nearest(name, known | ours | MODELS.keys())}")
    # The kind is read from the path, because importing RecBole's sequential models turns on autograd's anomaly
    # detection, which slows everything down.
    folder = next(RECBOLE_PROPERTIES.parent.glob(f"model/*_recommender/{name.lower()}.py")).parent
    if folder.name != "general_recommender":
        kind = folder.name.removesuffix("_recommender").replace("_", "-")
        raise ConfigError(f"{name} is a {kind} recommender; only general ones run on this data")
    try:
        model: type = recbole.utils.get_model(name)
    except ImportError as error:
        raise ConfigError(f"the model {name} can't be imported: {error}") from error
    trainer = recbole.utils.get_trainer(model.type, name)  # type: ignore[attr-defined]
    if trainer not in (recbole.trainer.Trainer, recbole.trainer.TraditionalTrainer):
        raise ConfigError(f"{name} is trained by RecBole's {trainer.__name__}, whose runs can't be resumed or compared")
    return model
