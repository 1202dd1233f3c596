"""From what a user has (module, exported program, file) to one `torch.fx` graph module."""

import io
import json
import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import fx

from systolith.importer import rules
from systolith.importer.modules import from_quantized_modules, is_quantized_module

__all__ = ["graph_module"]

_FILE_LIMIT = 4 << 30


def graph_module(model: Any, example_input: Any = None) -> fx.GraphModule:
    """The model's graph with its constants as attributes.

    `example_input` is needed for modules that FX or eager mode converted.

    Raises
    ------
    ModelError
        `ModelKind`, `UnreadableFile`, `PickledFile`, or a refusal of `from_quantized_modules`.
    """
    if isinstance(model, str | Path):
        model = load_exported(Path(model))
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module(check_guards=False)
    if isinstance(model, torch.nn.Module) and is_quantized_module(model):
        return from_quantized_modules(model, example_input)
    if not isinstance(model, fx.GraphModule):
        if isinstance(model, torch.nn.Module):
            raise rules.NotQuantized
        raise rules.ModelKind(kind=type(model).__name__)
    return model


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """Load a .pt2 file without ever unpickling more than plain tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_pickles(path, archive)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError,
            EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise rules.UnreadableFile(path=path, reason=reason) from None
    quiet = _Quiet()
    quiet.logger.addFilter(quiet)
    try:
        return torch.export.load(path)
    except Exception as error:  # the loader raises whatever a damaged file makes it raise
        reason = " ".join(str(quiet.cause or error).split())[:200] or type(error).__name__
        raise rules.UnreadableFile(path=path, reason=reason) from None
    finally:
        quiet.logger.removeFilter(quiet)


class _Quiet(logging.Filter):
    """Keeps the loader from logging the traceback of what it raises, and remembers the cause."""

    logger = logging.getLogger("torch.export")

    def __init__(self) -> None:
        super().__init__()
        self.cause: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and self.cause is None:
            self.cause = record.exc_info[1]
        return False


def _refuse_pickles(path: Path, archive: zipfile.ZipFile) -> None:
    """Check every member that torch's loader might unpickle.

    `torch.export.load` falls back from the safe to the full unpickler, so each such member must be
    readable by the safe one beforehand; the loader then has no reason to fall back.
    """
    members = archive.infolist()
    if sum(member.file_size for member in members) > _FILE_LIMIT:
        raise ValueError("it unpacks to more than 4 GiB")
    for member in members:
        name = member.filename
        if name.endswith("config.json"):
            _refuse_pickled_payloads(path, name, json.loads(archive.read(member)))
        elif "custom_obj" in name or "opaque" in name or name.endswith(".pkl"):
            raise rules.PickledFile(path=path, member=name)
        elif name.endswith(".pt"):
            data = archive.read(member)
            if not data:
                continue
            try:
                torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            except Exception:  # whatever keeps the safe loader from reading it
                raise rules.PickledFile(path=path, member=name) from None


def _refuse_pickled_payloads(path: Path, name: str, config: Any) -> None:
    entries = config.get("config", {}) if isinstance(config, dict) else {}
    if not isinstance(entries, dict):
        raise ValueError(f"{name} is not a table of tensors")
    for payload in entries.values():
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            raise rules.PickledFile(path=path, member=name)
