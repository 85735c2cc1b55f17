"""LoRA adapters: adding one to train it, and merging a trained one into the weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, PeftType, TaskType, get_peft_model, get_peft_model_state_dict
from peft.utils import (
    CONFIG_NAME,
    SAFETENSORS_WEIGHTS_NAME,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    load_peft_weights,
)

from recbole_symcere.errors import EncoderError

# The query and value projections of each type of model: PEFT's table, and common text encoders that it lacks.
LORA_TARGETS: dict[str, list[str] | str] = {
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "mpnet": ["attn.q", "attn.v"],
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
}


def with_lora(name: str, model: Any, **settings: Any) -> Any:
    """Returns a model with an adapter to train on its query and value projections.

    Raises:
        EncoderError: the projections of this architecture are not known, or PEFT refuses the settings.
    """
    model_type = model.config.model_type
    if model_type not in LORA_TARGETS:
        raise EncoderError(
            f"text_encoder {name!r}: which projections LoRA adapts is not known for the architecture {model_type!r}; "
            "set text_train to frozen or full"
        )
    try:
        config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, target_modules=LORA_TARGETS[model_type], **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise EncoderError(f"text_encoder {name!r}: LoRA can't be added ({error})") from error
    adapted.peft_config["default"].base_model_name_or_path = name  # not this machine's folder
    return adapted


def find_adapter(folder: str | Path) -> Path:
    """Returns the folder of a LoRA adapter.

    Raises:
        EncoderError: the folder lacks a file of an adapter.
    """
    folder = Path(folder)
    for file in (folder / CONFIG_NAME, folder / SAFETENSORS_WEIGHTS_NAME):
        if not file.is_file():
            raise EncoderError(
                f"text_adapter: there is no {file}; name the folder RUN.adapter that stands beside the checkpoint "
                "RUN.pth of a SymCERE run with text_train lora"
            )
    return folder


def with_merged(name: str, model: Any, folder: str | Path) -> Any:
    """Returns a model with a LoRA adapter merged into its weights; the adapter is read from safetensors only.

    Raises:
        EncoderError: the folder holds no adapter of this model.
    """
    folder = find_adapter(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are missing: an error here
            adapted = PeftModel.from_pretrained(model, folder, torch_device="cpu")
        config = adapted.peft_config["default"]
        fits = get_peft_model_state_dict(adapted).keys() == load_peft_weights(str(folder), device="cpu").keys()
    except Exception as error:  # foreign files fail in any way
        raise EncoderError(f"text_adapter {str(folder)!r} can't be added to {name!r} ({error})") from error
    if not fits or config.peft_type != PeftType.LORA:
        raise EncoderError(f"text_adapter {str(folder)!r} is no LoRA adapter of {name!r}; set text_encoder to its own")
    if config.base_model_name_or_path != name:
        warnings.warn(f"{folder} was trained on {config.base_model_name_or_path}, not {name}", stacklevel=2)
    return adapted.merge_and_unload()
