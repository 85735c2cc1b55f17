"""Finding, reading and writing down settings: property files in YAML, and values from a command line.

A property file holds lines of the form ``key: value``. In the files of a model, and in ``overall.yaml``, a value may be
a mapping with the key ``default``; then it also says which values the setting can take::

    tau_cross: {default: 0.1, above: 0}
    projection: {default: linear, choices: [linear, mlp]}
    text_memory: {default: ~, type: float, at_least: 0}

``above``, ``at_least`` and ``at_most`` bound a number. ``type`` (``int``, ``float``, ``str``) is needed only where the
default is empty; otherwise a value must be of the default's kind, and a whole number where the default is one.
``optional: True`` allows an empty value where the default is not empty.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from recbole_symcere.errors import ConfigError

DEEPEST = 20  # levels of nesting in a property file
PREPARE = "prepare"  # the block in a dataset's property file that says how to prepare the dataset
TYPES: dict[str, type] = {"int": int, "float": float, "str": str}


PACKAGE = Path(__file__).resolve().parent
FOLDER = PACKAGE / "properties" if (PACKAGE / "properties").is_dir() else PACKAGE.parent / "properties"


def properties_folder() -> Path:
    """The folder of this package's property files: beside the package in a checkout, inside it once installed."""
    return FOLDER


class SafeLoader(yaml.SafeLoader):
    """A YAML loader that makes no Python objects and refuses keys that stand twice in one mapping.

    It reads ``1e-3`` as a number, as RecBole's files need; YAML 1.1 wants ``1.0e-3``. It refuses aliases and deep
    nesting, with which a short file could fill the memory and which no setting needs.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or self.depth > DEEPEST:
            problem = f"aliases, and values nested more than {DEEPEST} deep, are not read"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                problem = f"the key {name!r} stands in line {seen[name]} already; keep one of the two"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            if name is not None:
                seen[name] = key.start_mark.line + 1
        return node


SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads the mapping in a property file.

    Raises:
        ConfigError: the file is missing, can't be read, is not valid YAML, has a key twice, or holds no mapping.
    """
    try:
        content = deepcopy(_parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such property file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as a property file in UTF-8 ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected lines of the form 'key: value'")
    return content


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    """Parses YAML once a process: a comparison reads the same ten files at each look at what is finished."""
    return yaml.load(text, Loader=SafeLoader)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return f"{line}{getattr(error, 'problem', None) or error}"


def parse_value(text: str) -> Any:
    """Reads one value of a command line as YAML; nothing in it is evaluated.

    ``None`` means YAML's ``null``. RecBole's intervals, such as ``[5,inf)``, stay text, and so does what would be a
    mapping without braces, such as ``query: ``.

    Raises:
        ConfigError: the text is not valid YAML.
    """
    if text == "None":
        return None
    if re.fullmatch(r"[\[(][^\[\]()]*\)|\([^\[\]()]*\]", text):
        return text
    try:
        value = yaml.load(text, Loader=SafeLoader)
        return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text[:200]!r} as YAML: {_yaml_problem(error)}") from error


def parse_assignments(arguments: Iterable[str]) -> dict[str, Any]:
    """Reads the settings that a command line gives as ``--key=value``.

    Raises:
        ConfigError: an argument is not of that form, is given twice, or has a value that is not valid YAML.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and key and equals):
            raise ConfigError(
                f"cannot read the argument {argument!r}: it is no option of this command, "
                "and settings are given as --key=value"
            )
        if key in settings:
            raise ConfigError(f"--{key} is given twice")
        settings[key] = parse_value(value)
    return settings


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` for the known name that is most like ``name``, or an empty text."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]!r}?" if match else ""


def tuned_file(model: str, dataset: str) -> Path:
    """The file of the settings that a comparison chose for a model on a dataset; the file need not exist."""
    return properties_folder() / "tuned" / dataset / f"{model}.yaml"


def tuned_settings(model: str, dataset: str) -> dict[str, Any]:
    """Reads the settings that a comparison chose for a model on a dataset.

    Returns:
        The settings; none for a model that has nothing to search.

    Raises:
        ConfigError: nobody has chosen them yet.
    """
    path = tuned_file(model, dataset)
    if not path.is_file() and _has_nothing_to_search(model):
        return {}
    if not path.is_file():
        others = ", ".join(
            sorted(other.parent.name for other in path.parents[1].glob("*/*.yaml") if other.stem == model)
        )
        raise ConfigError(
            f"{path}: no tuned settings; {model} has {f'some on {others}' if others else 'none'}. Search them: "
            f"symcere compare --models {model} --datasets {dataset}"
        )
    return load_yaml(path)


def _has_nothing_to_search(model: str) -> bool:
    """Whether a model has a property file, says there what it is, and has no search file; a variant has its model's."""
    own, searched = (properties_folder() / kind / f"{model}.yaml" for kind in ("model", "search"))
    return own.is_file() and not searched.is_file() and "implementation" in load_yaml(own)


@dataclass(frozen=True)
class Setting:
    """What property files say of one setting: its default and the values that it can take.

    Attributes:
        default: the value where nobody gives another.
        kind: the type that a value must have; None allows any type. ``float`` allows whole numbers as well.
        optional: whether the setting can be empty.
        choices: the allowed values; empty where any value of the kind is allowed.
        above, at_least, at_most: bounds of a number; None where there is none.
    """

    default: Any
    kind: type | None = None
    optional: bool = False
    choices: tuple[Any, ...] = ()
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def read(cls, where: str, value: Any) -> "Setting":
        """Makes a setting of a value in a property file, which is its default or a mapping with the key ``default``.

        Args:
            where: names the file and the key in an error.

        Raises:
            ConfigError: the mapping has an entry that means nothing, an unknown type, or a default that it forbids.
        """
        if not is_specified(value):
            return cls(value, _kind_of(value), value is None)
        known = ("default", "type", "optional", "choices", "above", "at_least", "at_most")
        for name in value:
            if name not in known:
                raise ConfigError(
                    f"{where}: unknown entry {name!r}{nearest(str(name), known)} (known: {', '.join(known)})"
                )
        default, kind_name = value["default"], value.get("type")
        if kind_name is not None and kind_name not in TYPES:
            raise ConfigError(f"{where}: type is {kind_name!r}, but must be one of {', '.join(TYPES)}")
        choices = tuple(value.get("choices", ()))
        kind = TYPES[kind_name] if kind_name else None if default is None or choices else type(default)
        bounds = (value.get("above"), value.get("at_least"), value.get("at_most"))
        optional = default is None or None in choices or bool(value.get("optional"))
        setting = cls(default, kind, optional, choices, *bounds)
        setting.check(where, default)
        return setting

    def with_default(self, default: Any) -> "Setting":
        """The same setting where a later property file gives another default."""
        kind = self.kind if self.is_bounded or self.choices or default is None else _kind_of(default)
        return replace(self, default=default, kind=kind, optional=self.optional or default is None)

    @property
    def is_bounded(self) -> bool:
        """Whether the setting is a number with a bound."""
        return not (self.above is None and self.at_least is None and self.at_most is None)

    def check(self, key: str, value: Any) -> None:
        """Checks that the setting can have ``value``.

        Args:
            key: names the setting in an error.

        Raises:
            ConfigError: the value is no choice, is of another kind than the default, or lies outside the bounds.
        """
        if self.choices:
            if value not in self.choices:
                raise ConfigError(
                    f"{key} is {value!r}, but must be one of {', '.join(map(repr, self.choices))}"
                    f"{nearest(str(value), map(str, self.choices))}"
                )
            return
        if self.kind is None or (value is None and self.optional):
            return
        if not isinstance(value, (int, float) if self.kind in (int, float) else self.kind) or (
            self.kind is not bool and isinstance(value, bool)
        ):
            like = {int: "a whole number", float: "a number"}.get(self.kind, "text")
            must = f"like its default, {self.default!r}" if self.default is not None else like
            raise ConfigError(f"{key} is {value!r}, but must be {must}")
        if self.kind is int and not isinstance(value, int):
            raise ConfigError(f"{key} is {value!r}, but must be a whole number")
        if not self._is_within(value):
            raise ConfigError(f"{key} is {value!r}, but must be {self._bounds()}")

    def _is_within(self, value: Any) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )

    def _bounds(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least:g} and {self.at_most:g}"
        bounds = (("above", self.above), ("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{name} {bound:g}" for name, bound in bounds if bound is not None)


def is_specified(value: Any) -> bool:
    """Whether a value in a property file says more of its setting than the default."""
    return isinstance(value, dict) and "default" in value


def _kind_of(default: Any) -> type | None:
    """The kind that values must have where a property file gives only a default; a number may be of either kind."""
    kinds: tuple[tuple[type, type], ...] = ((bool, bool), (int, float), (float, float), (dict, dict), (str, str))
    return next((kind for of_default, kind in kinds if isinstance(default, of_default)), None)


def merge_settings(settings: dict[str, Setting], where: str, content: Mapping[str, Any]) -> None:
    """Adds the settings of a property file to those of the files before it; a bare default keeps earlier bounds.

    Args:
        settings: changed in place.
        where: names the file in an error.

    Raises:
        ConfigError: as for :meth:`Setting.read`.
    """
    for key, value in content.items():
        if key in settings and not is_specified(value):
            settings[key] = settings[key].with_default(value)
        else:
            settings[key] = Setting.read(f"{where}: {key}", value)
