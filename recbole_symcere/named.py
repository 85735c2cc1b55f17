"""Datasets by name: where their raw files come from and how these are prepared, as ``properties/dataset`` says it.

A property file has a block ``prepare`` for that, beside the settings of training::

    prepare:
      source: amazon
      address: https://example.org/Pet_Supplies.jsonl.gz
      user_core: 5

``source`` is one of ``symcere prep SOURCE``. ``address`` is where the file can be downloaded; ``agreement`` says
instead how to get a file whose terms somebody must agree to first. ``file`` is the name of the raw file, where the
address does not end in it. All other keys are options of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dataset_prep.source import Kind
from dataset_prep.sources import kinds
from recbole_symcere.errors import ConfigError
from recbole_symcere.properties import PREPARE, load_yaml, nearest, properties_folder


@dataclass(frozen=True)
class NamedDataset:
    """A dataset whose property file says how to prepare it.

    Attributes:
        path: the property file.
        source: what reads the raw file, a key of ``dataset_prep.sources.kinds()``.
        file: the name of the raw file.
        address: where the file can be downloaded; None where somebody must agree to terms first.
        agreement: how to get the file then.
        options: the options of the source.
    """

    name: str
    path: Path
    source: str
    file: str
    address: str | None
    agreement: str
    options: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that makes the dataset."""
        return f"symcere prep --dataset {self.name} {'--download' if self.address else f'--input {self.file}'}"


def named_dataset(name: str) -> NamedDataset | None:
    """Returns the dataset of this name, or None if no property file says how to prepare it.

    Raises:
        ConfigError: the property file can't be read, or its block ``prepare`` lacks something.
    """
    path = properties_folder() / "dataset" / f"{name}.yaml"
    block = load_yaml(path).get(PREPARE) if path.is_file() else None
    if block is None:
        return None
    if not isinstance(block, dict) or "source" not in block:
        raise ConfigError(f"{path}: {PREPARE} must be a block with the key source")
    options = dict(block)
    source, address, agreement, file = (options.pop(key, None) for key in ("source", "address", "agreement", "file"))
    if source not in (known := [kind.name for kind in kinds().values() if isinstance(kind, Kind)]):
        raise ConfigError(f"{path}: there is no source {source!r} of raw files{nearest(str(source), known)}")
    file = file or (PurePosixPath(urlsplit(address).path).name if address else None)
    if not file:
        raise ConfigError(f"{path}: {PREPARE} has neither an address nor the name of a file")
    return NamedDataset(name, path, source, file, address, agreement or "", options)


def dataset_names() -> list[str]:
    """Returns the names of all datasets whose property file says how to prepare them."""
    files = sorted((properties_folder() / "dataset").glob("*.yaml"))
    return [path.stem for path in files if PREPARE in load_yaml(path)]
