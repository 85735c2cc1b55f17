"""Every error that a user can mend, under the one base class :class:`UserError`.

The base class is defined in ``dataset_prep.errors``, because preparation runs without PyTorch.
"""

from dataset_prep.errors import PreparationError, UserError

__all__ = [
    "AnalysisError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "EncoderError",
    "LeakError",
    "PreparationError",
    "ReviewFileError",
    "RunsError",
    "TrainingError",
    "UserError",
]


class ConfigError(UserError):
    """A setting can't be used; the message names the key and where it stands."""


class DatasetError(UserError):
    """Atomic files can't be used; the message names the file and the line."""


class ReviewFileError(UserError):
    """A file of review texts can't be used; the message names the file and the line or the review id."""


class EncoderError(UserError):
    """A text encoder can't be found, loaded or used as the settings ask."""


class LeakError(UserError):
    """Held-out interactions reach training; the message says which check of the audit failed."""


class CheckpointError(UserError):
    """A checkpoint can't be read, written or used; the message names the file."""


class TrainingError(UserError):
    """Training can't go on, for example because the loss is not finite."""


class RunsError(UserError):
    """The runs of a comparison do not make one table; the message names the run and what it lacks."""


class AnalysisError(UserError):
    """A trained model can't be analysed as asked; the message names the checkpoint or the file."""
