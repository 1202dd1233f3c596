"""Every error a user can meet.

Each message is one sentence that says what is wrong, where, and what to do about it.
"""

__all__ = [
    "BuildError",
    "ConfigError",
    "DeviceError",
    "Error",
    "InputError",
    "LinkError",
    "MissingExtraError",
    "ModelError",
    "MultipleRefusals",
    "ProgramError",
    "refuse_all",
]


class Error(Exception):
    """Base of all errors raised on purpose by systolith."""


class ConfigError(Error):
    """A configuration that makes no sense, or cannot be read."""


class ModelError(Error):
    """A model that cannot be imported or compiled: names the layer or operator."""


class MultipleRefusals(ModelError):
    """Several reasons at once: every one is named, so that a model is judged whole."""

    def __init__(self, refusals: list[ModelError]):
        self.refusals = refusals
        messages = list(dict.fromkeys(str(refusal) for refusal in refusals))
        super().__init__(f"{len(messages)} reasons to refuse the model: " + "; ".join(
            f"({number}) {message}" for number, message in enumerate(messages, 1)))


def refuse_all(refusals: list[ModelError]) -> None:
    """Raise the only refusal, or all of them together; nothing where there is none."""
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise MultipleRefusals(refusals)


class ProgramError(Error):
    """A program file or image that is damaged, unsafe or made for something else."""


class InputError(Error):
    """An input tensor of the wrong shape, type or value range."""


class DeviceError(Error):
    """The accelerator stopped with an error code, or is not the expected one."""


class LinkError(Error):
    """The connection to a device could not be made, or was lost."""


class BuildError(Error):
    """A bitstream or simulator build that could not be completed."""


class MissingExtraError(Error):
    """An optional dependency is not installed: names the pip command that brings it."""
