"""Runs cocotb benches from pytest: one function, two simulators.

`tests/benches/<name>_bench.py` is the cocotb module (its building blocks are in
`systolith.sim.agents`), and `tests/test_<name>.py` runs it:

    from systolith.hw.requantize import Requantizer
    from systolith.sim.bench import run_bench

    @pytest.mark.parametrize("bits", (24, 16))
    def test_requantizer(bits):
        run_bench(Requantizer(config), "benches.requantize_bench", parameters={"bits": bits})

The component becomes Verilog (`systolith.hw.export`), the Verilog a simulator (cached by content),
and the simulator runs every `@cocotb.test()` of the module. When one fails, the bench is run again
with a waveform; log and waveform stay in the test's own folder under `build/benches/`, and the
pytest test fails with cocotb's words, the seed, and these paths. Only the top module's ports can be
reached in Verilator, so that the inside stays optimized.

The environment variable SIM chooses the simulator (`verilator` or `icarus`), SEED the seed.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from systolith.errors import BuildError

from .build import Model, build, build_folder, locked, require, verilog_of, waveform_format

__all__ = ["BenchFailure", "BenchResult", "run_bench"]


class BenchFailure(AssertionError):
    """A cocotb test failed: the message has its words, the seed, log and waveform."""


@dataclass(frozen=True)
class BenchResult:
    """Names of the cocotb tests that ran, the seed they ran with, and the Verilog's lines."""

    tests: tuple[str, ...]
    seed: int
    verilog_lines: int


def run_bench(component: Any, module: str, *, parameters: dict[str, Any] | None = None,
              simulator: str | None = None, seed: int | None = None, name: str = "top",
              testcase: str | list[str] | None = None, timeout: float = 600) -> BenchResult:
    """Run the cocotb tests of `module` on `component`.

    Parameters
    ----------
    component
        Amaranth component; it is elaborated once, so make a new one for every call.
    module
        Import path of the cocotb module, as seen from this process.
    parameters
        Handed to the bench as `Bench.parameters`; must be plain JSON values.
    simulator
        "verilator" or "icarus"; None takes SIM from the environment, else Verilator.
    seed
        Seed of all random data; None takes SEED from the environment, else 1.
    name
        Name of the top module.
    testcase
        Run only these cocotb tests.
    timeout
        Seconds after which a hanging simulation is killed.

    Raises `BenchFailure` when a cocotb test fails or none ran, `BuildError` when the simulator
    cannot be built, `MissingExtraError` without cocotb.
    """
    runners = require("cocotb_tools.runner")
    simulator = simulator or os.environ.get("SIM") or "verilator"
    if simulator not in ("verilator", "icarus"):
        raise BuildError(f"no simulator '{simulator}': SIM must be verilator or icarus")
    seed = int(os.environ.get("SEED", "1")) if seed is None else seed
    verilog = verilog_of(component, name, processes=simulator == "verilator")
    folder = build_folder() / "benches" / _test_name(module, simulator)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logging.getLogger("cocotb_tools").setLevel(logging.CRITICAL)
    settings = json.dumps({"seed": seed, "parameters": parameters or {}, "timeout": timeout})

    def run(waves: bool) -> Path:
        program = _build(simulator, verilog, name, waves)
        results = folder / "results.xml"
        runner = runners.get_runner(simulator)
        # The runner ends the process on failure; the results file says all that it knows.
        with contextlib.suppress(SystemExit):
            runner.test(
                test_module=module, hdl_toplevel=name, hdl_toplevel_lang="verilog", seed=seed,
                testcase=testcase, build_dir=program, test_dir=folder, waves=waves,
                results_xml=str(results), log_file=folder / "bench.log",
                plusargs=[f"+dumpfile_path={folder / 'dump.fst'}"] if simulator == "icarus" else
                ["+verilator+rand+reset+2", f"+verilator+seed+{seed % 2**31 + 1}"],
                extra_env={"SYSTOLITH_BENCH": settings, "COCOTB_ANSI_OUTPUT": "0"})
        return results

    passed, failures = _read_results(run(waves=False))
    if failures or not passed:
        run(waves=True)
        raise BenchFailure(_explain(module, simulator, seed, folder, failures))
    shutil.rmtree(folder, ignore_errors=True)
    return BenchResult(tuple(passed), seed, verilog.count("\n"))


def _build(simulator: str, verilog: str, name: str, waves: bool) -> Path:
    """The folder with the simulator of `verilog`."""
    import cocotb_tools.config as cocotb
    import cocotb_tools.runner

    if simulator == "verilator":
        main = cocotb.share_dir / "lib" / "verilator" / "verilator.cpp"
        libraries = str(cocotb.libs_dir)
        return build(Model(
            verilog=verilog, top=name, sources=(main,), shared=False, trace=waves,
            verilator_flags=("--vpi", "--public-depth", "1", "--timescale", "1ns/1ps", "-O3",
                             "--x-assign", "unique", "--x-initial", "unique"),
            link_flags=(f"-Wl,-rpath,{libraries}", f"-L{libraries}", "-lcocotbvpi_verilator"),
            slow_flags=("-O1",))).parent
    if shutil.which("iverilog") is None:
        raise BuildError("SIM=icarus needs Icarus Verilog: install the package iverilog")
    import hashlib

    key = hashlib.sha256(verilog.encode()).hexdigest()[:24] + ("-waves" if waves else "")
    folder = build_folder() / "icarus" / key
    with locked(build_folder() / "locks" / key):
        if not (folder / "sim.vvp").exists():
            folder.mkdir(parents=True, exist_ok=True)
            source = folder / "design.sv"
            source.write_text(verilog)
            log = folder / "build.log"
            try:
                cocotb_tools.runner.get_runner("icarus").build(
                    sources=[source], hdl_toplevel=name, build_dir=folder, waves=waves,
                    timescale=("1ns", "1ps"), log_file=log)
            except BaseException as error:
                raise BuildError(f"Icarus Verilog failed ({error}): see {log}") from None
    return folder


def _test_name(module: str, simulator: str) -> str:
    """Folder name of the running pytest test, or of the module outside of pytest."""
    current = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    return re.sub(r"[^\w.\-\[\]]+", "_", f"{current or module}-{module.split('.')[-1]}-{simulator}")


def _read_results(path: Path) -> tuple[list[str], dict[str, str]]:
    """Passed tests, and failed ones with their messages, from cocotb's results file."""
    passed: list[str] = []
    failures: dict[str, str] = {}
    if not path.exists():
        return passed, failures
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "?")
        problem = next((item for tag in ("failure", "error")
                        if (item := case.find(tag)) is not None), None)
        if problem is not None:
            failures[name] = (problem.get("message") or problem.get("error_msg")
                              or problem.text or "no message")
        elif case.find("skipped") is None:
            passed.append(name)
    return passed, failures


def _explain(module: str, simulator: str, seed: int, folder: Path,
             failures: dict[str, str]) -> str:
    log = folder / "bench.log"
    tail = log.read_text(errors="replace").splitlines()[-60:] if log.exists() else []
    waves = sorted(folder.glob("dump.*"))
    lines = [f"{module} on {simulator}, seed {seed}: "
             + (f"{len(failures)} failed" if failures else "no test ran to its end")]
    lines += [f"  {name}: {message}" for name, message in failures.items()]
    lines += [f"repeat with SEED={seed} SIM={simulator}", f"log: {log}"]
    lines += [f"waveform: {path}" for path in waves]
    if simulator == "verilator" and waveform_format() == "vcd":
        lines += ["(with the headers of zlib and lz4 installed waveforms are FST)"]
    return "\n".join([*lines, "last lines of the log:", *tail])
