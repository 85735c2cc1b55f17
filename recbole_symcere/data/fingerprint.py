"""Computes a hash of all that determines the interactions of a run."""

import hashlib
import json
from pathlib import Path

from recbole.utils.argument_list import dataset_arguments

from recbole_symcere.config import Config

FORMAT = 1  # raise this whenever a change of the code changes the interactions of the same files and settings
# Settings that also determine the interactions, besides the ``dataset_arguments`` of RecBole.
FURTHER_ARGUMENTS = ("REVIEW_ID_FIELD", "seed", "repeatable", "eval_args")


def source_fingerprint(config: Config) -> str:
    """Returns a hash of the atomic files of a dataset and of the settings that filter and split them."""
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    folder, name = Path(config["data_path"]), str(config["dataset"])
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        # statistics of the converter (.json) do not change the interactions
        if path.name.startswith(f"{name}.") and path.suffix != ".json" and path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    settings = {key: config[key] for key in (*dataset_arguments, *FURTHER_ARGUMENTS)}
    if config["tie_break"] != "file":  # with file, the hash is that of versions before this setting
        settings |= {key: config[key] for key in ("tie_break", "tie_seed")}
    if config["questions"] != "users":  # with users, the hash is that of versions before this setting
        settings |= {key: config[key] for key in ("questions", "given", "given_reviews", "goes_on")}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
