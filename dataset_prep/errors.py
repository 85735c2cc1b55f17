"""The errors of preparation. :class:`UserError` stands here because this package must not import PyTorch."""


class UserError(ValueError):
    """The base of every error that a user can mend.

    The message is complete: it names the file, the line or the key, and it says how to mend the fault. Every command
    prints the message as one line on standard error and exits with the status 2.
    """


class PreparationError(UserError):
    """Raw files can't be converted to a dataset."""
