"""Prompts: what the authors of an encoder put before every text."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_symcere.errors import EncoderError

OF_DOCUMENTS = ("document", "passage", "corpus")  # in the order in which sentence-transformers looks for one


def stored_prompt(folder: Path) -> str:
    """Reads the prompt for a document from the sentence-transformers configuration of an encoder.

    A review is a document: it is what is looked for, not what asks. The prompt is the first that is not empty of those
    named document, passage and corpus, else the default prompt. ``SentenceTransformer.encode_document`` goes by the
    same names, but stops at an empty one.

    Returns:
        An empty text if the encoder has no such prompt.

    Raises:
        EncoderError: the configuration can't be read.
    """
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        prompts = stored.get("prompts") or {}
        name = next((name for name in OF_DOCUMENTS if prompts.get(name)), stored.get("default_prompt_name"))
        return str(prompts[name]) if name is not None else ""
    except (OSError, ValueError, AttributeError, LookupError) as error:
        raise EncoderError(
            f"{path}: can't be read as a configuration of prompts ({error!r}); set text_prompt"
        ) from error
