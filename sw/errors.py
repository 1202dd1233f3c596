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
    "ProgramError",
]


class Error(Exception):
    """Base of all errors raised on purpose by systolith."""


class ConfigError(Error):
    """A configuration that makes no sense, or cannot be read."""


class ModelError(Error):
    """A model that cannot be imported or compiled: names the layer or operator."""


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
