"""The `systolith` command.

Every command exits 0 on success and 1 with one line on the user's error; `--json FILE` writes the
machine-readable result. Work is done in the modules named here; this file only parses and prints.
"""

import importlib
import importlib.util
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import Error, InputError, ModelError
from .summary import terminal

__all__ = ["app", "main"]

app = typer.Typer(
    name="systolith", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Run PyTorch-quantized models bit for bit on an open int8 FPGA accelerator.")
console = terminal()

Json = Annotated[Path | None, typer.Option("--json", help="write the result as JSON to this file")]
ConfigOption = Annotated[str, typer.Option("--config", help="preset name or TOML file")]
DeviceOption = Annotated[str, typer.Option(
    "--device", help="golden, rtl, pty:PATH, serial:PATH, tcp:HOST:PORT or dask://HOST:PORT")]
ModelArgument = Annotated[str, typer.Argument(
    help=".pt2 file, or module:function returning (model, example input)")]


def write_json(path: Path | None, result: Any) -> None:
    """Write a result where the user asked for it."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def load_array(path: Path) -> Any:
    """A `.npy` file without pickled objects. Raises `InputError` for anything else."""
    import numpy as np

    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise InputError(f"{path} is not a .npy file of numbers: save the array with "
                         "numpy.save") from None


def load_model(source: str) -> tuple[Any, Any]:
    """A model and its example input from the command line's MODEL argument.

    Raises `ModelError` saying what could not be found.
    """
    if source.endswith(".pt2"):
        return source, None
    module_name, colon, function_name = source.partition(":")
    if not colon:
        raise ModelError(f"'{source}' is neither a .pt2 file nor module:function: name a function "
                         "that returns (model, example input)")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        result = function()
    except Error:
        raise
    except Exception as error:  # the user's own code may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelError(f"cannot load '{source}': {type(error).__name__} ({error}) at "
                         f"{place.filename}, line {place.lineno}") from None
    finally:
        sys.path.pop(0)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ModelError(f"'{source}' must return (model, example input), not "
                         f"{type(result).__name__}")
    return result


@app.command()
def demo(config: ConfigOption = "default", device: DeviceOption = "rtl",
         report: Annotated[Path, typer.Option(help="where the HTML report goes")] = Path(
             "build/demo.html"),
         json_file: Json = None) -> None:
    """Train a digits classifier, quantize it, and run it on the simulated hardware."""
    from .demo import run_demo

    write_json(json_file, run_demo(config=config, device=device, report=report, console=console))


@app.command("compile")
def compile_command(
        model: ModelArgument,
        output: Annotated[Path, typer.Option("-o", "--output", help="program file to write")],
        config: ConfigOption = "default",
        bias: Annotated[str | None, typer.Option(help="exact or int32")] = None,
        json_file: Json = None) -> None:
    """Compile a quantized model into a program file and print the fit."""
    from . import api
    from .summary import compile_summary, print_summary

    source, example = load_model(model)
    with console.status(f"compiling {model}"):
        program = api.compile(source, example, config=config, bias=bias)
        program.save(output)
    summary = compile_summary(program)
    print_summary(console, program, summary)
    console.print(f"wrote {output}")
    write_json(json_file, summary)


@app.command()
def run(program: Annotated[Path, typer.Argument(help="program file")],
        input_file: Annotated[Path, typer.Option("--input", help=".npy, batch first")],
        output_file: Annotated[Path, typer.Option("--output", help=".npy to write")],
        device: DeviceOption = "golden",
        levels: Annotated[bool, typer.Option("--levels", help="integers, not floats")] = False,
        trace: Annotated[Path | None, typer.Option(help="Perfetto timeline to write")] = None,
        json_file: Json = None) -> None:
    """Run a program on a device."""
    import numpy as np

    from .driver import Device
    from .driver import open as open_device
    from .program import load
    from .summary import print_run, run_summary, write_trace

    loaded = load(program)
    images = load_array(input_file)
    with (console.status(f"opening {device}") as status,
          open_device(device, config=loaded.config) as opened):
        if isinstance(opened, Device):
            opened.load(loaded, progress=lambda done, total: status.update(
                f"sending {program}: {done:,} of {total:,} bytes"))
        results = opened.run(loaded, images, dequantize=not levels,
                             progress=lambda done, total: status.update(
                                 f"running {program}: {done} of {total} images"))
        last = opened.last_run
    assert last is not None
    try:
        np.save(output_file, results)
    except OSError as error:
        raise InputError(f"cannot write {output_file}: {error.strerror}") from None
    summary = run_summary(loaded, last)
    print_run(console, summary)
    if trace is not None:
        write_trace(trace, summary)
    write_json(json_file, summary)


@app.command()
def verify(model: ModelArgument,
           input_file: Annotated[Path, typer.Option("--input", help=".npy, batch first")],
           config: ConfigOption = "default",
           program: Annotated[Path | None, typer.Option(
               help="check this program file instead of compiling the model")] = None,
           rtl: Annotated[bool, typer.Option(help="include the simulated RTL")] = True,
           json_file: Json = None) -> None:
    """Compare framework, integer reference, golden model and RTL layer by layer."""
    from .agreement import print_agreement, verify_model
    from .program import load

    source, example = load_model(model)
    images = load_array(input_file)
    with console.status(f"verifying {model}"):
        result = verify_model(source, example, images, config=config, rtl=rtl,
                              program=None if program is None else load(program))
    print_agreement(console, result)
    write_json(json_file, result)
    if result["first_difference"] is not None:
        raise typer.Exit(1)


@app.command()
def bench(models: Annotated[list[str], typer.Argument(help="named models or MODEL sources")],
          config: ConfigOption = "default",
          memory_bytes_per_cycle: Annotated[int | None, typer.Option(
              help="main memory throughput; by default the port's width")] = None,
          memory_latency: Annotated[int | None, typer.Option(
              help="cycles; by default 50, or the configuration's SDRAM")] = None,
          layers: Annotated[str | None, typer.Option(help="only layers A:B")] = None,
          batch: Annotated[int, typer.Option(help="images side by side (linear layers)")] = 1,
          json_file: Json = None) -> None:
    """Cycles, utilization and stalls a layer on RTL, checked against the golden model."""
    from .bench import bench_model, print_bench
    from .nngen_layers import bench_layers, print_layers

    results: list[dict[str, Any]] = []
    for name in models:
        if name == "nngen-layers":
            with console.status(name) as status:
                layer_results = bench_layers(progress=status.update)
            print_layers(console, layer_results)
            results += layer_results
            continue
        with console.status(f"{name}: preparing") as status:
            result = bench_model(
                name, config=config, memory_bytes_per_cycle=memory_bytes_per_cycle,
                memory_latency=memory_latency, layers=layers, batch=batch, load=load_model,
                progress=status.update)
        print_bench(console, result)
        results.append(result)
    write_json(json_file, results[0] if len(results) == 1 else results)
    if not all(result["bit_exact"] for result in results):
        raise typer.Exit(1)


@app.command()
def device(name: Annotated[str, typer.Argument(help="the device")],
           action: Annotated[str, typer.Argument(help="info, selftest or bench")],
           config: ConfigOption = "default", json_file: Json = None) -> None:
    """Identify a device, run its known-answer test, or measure its link."""
    from .driver.tools import device_action

    with console.status(f"{name}: {action}"):
        result = device_action(name, action, config=config)
    console.print_json(json.dumps(result))
    write_json(json_file, result)


@app.command()
def simulate(config: ConfigOption = "default",
             pty: Annotated[bool, typer.Option("--pty", help="serve on a new pty")] = False,
             tcp: Annotated[str | None, typer.Option(help="serve on HOST:PORT")] = None,
             memory_latency: Annotated[int | None, typer.Option(
                 help="cycles; by default 50, or the configuration's SDRAM")] = None,
             netlist: Annotated[Path | None, typer.Option(
                 help="simulate the netlist of a board's build in this folder, its pins included"
             )] = None) -> None:
    """Serve the whole SoC as verilated RTL behind a real port, until interrupted."""
    from .driver.simulate import serve

    if pty == (tcp is not None):
        raise InputError("name exactly one port to serve on: --pty or --tcp HOST:PORT")
    serve(config, pty=pty, tcp=tcp, memory_latency=memory_latency, netlist=netlist,
          announce=lambda port: console.print(port, soft_wrap=True))


@app.command()
def build(board: Annotated[str, typer.Argument(help="a board's name, or all")],
          config: Annotated[str | None, typer.Option(
              "--config", help="preset or TOML file; by default the board's preset")] = None,
          output: Annotated[Path, typer.Option("-o", "--output", help="folder")] = Path(
              "build/boards"),
          program: Annotated[bool, typer.Option(
              "--program", help="load the bitstream into the board")] = False,
          fit: Annotated[bool, typer.Option(
              "--fit", help="only estimate whether the configuration fits, in an instant")] = False,
          table: Annotated[Path | None, typer.Option(
              "--table", help="Markdown file whose table of builds is renewed")] = None,
          json_file: Json = None) -> None:
    """Make a board's bitstream, with its resources and timing."""
    from .bitstreams import build_boards, fit_boards

    if fit:
        write_json(json_file, fit_boards(board, config, console=console))
        return
    write_json(json_file, build_boards(board, config, output, program=program,
                                       console=console, table=table))


@app.command()
def ops(markdown_file: Annotated[Path | None, typer.Option(
            "--markdown", help="write the tables as Markdown to this file")] = None,
        json_file: Json = None) -> None:
    """Print the table of supported operators, made from the compiler's rules."""
    from .operators import markdown, operator_table, print_operators

    table = operator_table()
    print_operators(console, table)
    if markdown_file is not None:
        try:
            markdown_file.write_text(markdown(table))
        except OSError as error:
            raise InputError(f"cannot write {markdown_file}: {error.strerror}") from None
    write_json(json_file, table)


@app.command()
def report(source: Annotated[Path, typer.Argument(help="program file, or JSON of a run")],
           output: Annotated[Path, typer.Option("-o", "--output")] = Path("report.html"),
           json_file: Json = None) -> None:
    """Write one self-contained HTML page about a program or a run."""
    from .report import report_file

    result = report_file(source, output)
    console.print(f"wrote {output}")
    write_json(json_file, result)


def main() -> None:
    """Entry point: the user's errors become one line on standard error and exit code 1."""
    # Both warn on import about CUDA libraries and enumerations that nothing here uses.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
    except Error as error:
        print(f"systolith: {error}", file=sys.stderr)
        code = 1
    except typer.Abort:
        code = 130
    except Exception as error:
        # Usage errors are click's, of which typer brings its own copy in some versions.
        if not hasattr(error, "format_message"):
            raise
        print(f"systolith: {error.format_message()} Try systolith --help.", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("systolith: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
