"""Commands, and calls of functions, in processes of their own, for the tests: what they print is caught, whatever they start ends with them."""
import atexit
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

# Imported once by the process that the others are forked from. Nothing of this repository, nor what a notebook might want to set up
# before its import (numba, triton): each notebook imports these anew.
PRELOADED = ["torch", "torchvision", "fastai.vision.all", "matplotlib.pyplot", "pandas", "nbdev.test"]
# Forking is safe where the parent has no threads, and macOS's libraries have some as soon as they are imported.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


def set_environment() -> None:
    "What every process of a test run inherits: one thread each, GPU kernels in Triton's interpreter, no windows, this environment's kernels, nothing of nbdev"
    os.environ.update(OMP_NUM_THREADS="1", TRITON_INTERPRET="1", MPLBACKEND="agg", JUPYTER_PREFER_ENV_PATH="1", PYTHONIOENCODING="utf-8")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.pop("IN_TEST", None)  # nbdev sets it in a test and then refuses to export
    os.environ.pop("PYTHONPATH", None)
    if sys.platform == "linux":
        CONTEXT.set_forkserver_preload(PRELOADED)


def end(pid: int) -> None:
    "Kill a process and what it has started (a notebook may have started kernels of its own)"
    try:
        os.killpg(pid, signal.SIGKILL) if os.name == "posix" else os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass


def run(command: list, cwd: Path = ROOT) -> tuple[int, str]:
    "Exit status and output (standard error included) of a command"
    process = subprocess.Popen(
        [str(c) for c in command], cwd=cwd, text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=os.name == "posix",
    )
    try:
        output, _ = process.communicate()
    finally:  # a timeout of the test, or an interruption, arrives as an exception
        end(process.pid)
    return process.returncode, _said(output, process.returncode)


def script(code: str, cwd: Path = ROOT) -> tuple[int, str]:
    "Run Python code in a fresh interpreter of this environment"
    return run([sys.executable, "-c", code], cwd)


def call(function: str, *arguments) -> tuple[int, str]:
    "Exit status and output of a function, 'module:name', in a process that has the usual libraries already; what it returns is the status"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        process = CONTEXT.Process(target=_child, args=(function, arguments, str(output)))
        process.start()
        try:
            process.join()
        except BaseException as problem:  # a timeout: what was printed until then says where it was
            problem.output = _said(_text(output))
            raise
        finally:
            end(process.pid)
            process.join()
        return process.exitcode, _said(_text(output), process.exitcode)


@cache
def ready() -> None:
    "Wait until the process is there that the others are forked from; it takes as long as its imports"
    process = CONTEXT.Process(target=int)
    process.start()
    process.join()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _said(output: str, status: int = 0) -> str:
    return ANSI.sub("", output + (f"\nended by signal {-status}" if status < 0 else "")).strip()


def _child(function: str, arguments: tuple, output: str) -> None:
    if os.name == "posix":
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(output, "wb") as file, open(os.devnull, "rb") as nothing:
        for standard, descriptor in ((0, nothing.fileno()), (1, file.fileno()), (2, file.fileno())):
            os.dup2(descriptor, standard)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it, and so would all that is started here
    multiprocessing.set_start_method(None, force=True)  # the system's own way for the processes that a notebook starts
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.argv[:] = [sys.argv[0]]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise all would draw the same numbers
    module, name = function.split(":")
    try:
        sys.exit(getattr(import_module(module), name)(*arguments))
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out: folders would stay, and kernels


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    end(os.getpid())


def run_notebook(path: str, forced: list[str]) -> int:
    "nbdev's own test of one notebook"
    from nbdev.config import get_config
    from nbdev.test import test_nb
    config = get_config()
    passed, _ = test_nb(Path(path), skip_flags=config.tst_flags.split(), force_flags=forced, basepath=config.config_path)
    return int(not passed)


def run_conformance(quick: bool, arguments: list[str]) -> int:
    "The command on golden files; quick: with Triton's interpreter made quicker"
    if quick:
        from fastsums.kernels.interpreter import quicken
        quicken()
    from fastsums.conformance.command import main
    return main(arguments)
