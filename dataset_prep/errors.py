"""The one error that preparation raises for what its user can mend."""


class PreparationError(ValueError):
    """Raw files that can't become a dataset; the message names the file, the line and the mend."""
