#!/usr/bin/env python
"""The whole test suite: `make test`, or `TRITON_INTERPRET=1 .venv/bin/python .ci/suite.py`.

Single checks first (package and notebooks in step, notebooks clean, README up to date, import light, imports one way), then every notebook in a process
of its own, then those with `#| slow` cells once more with these cells, then conformance with the golden files. One line a check as it
ends, the failures' output again at the end, and a closing line 'N passed, N failed'. Exit status 1 if anything failed or nothing ran.
"""
import argparse
import ast
import configparser
import difflib
import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import venv
from concurrent.futures import ThreadPoolExecutor, as_completed
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NBS, PACKAGE = ROOT / "nbs", ROOT / "fastsums"
GOLDEN = NBS / "data" / "golden"  # a folder of golden files for each system
BACKENDS = {"fis": ("torch", "cpu", "triton")}  # system -> backends that its files are checked with; the others: with "auto"
PUBLIC_NAMES = "Semiring, Direction, CornerTree, scan, iterated_sum, FISLayer, FISLayerFixedTree, FISLayerRandomTrees"
HEAVY = ["fastai", "triton", "torchvision", "numba"]  # what `import fastsums` must not load
EXTRAS = {"training": "train", "tasks": "train", "reproduce": "reproduce", "conformance.recorded_training": "train"}  # what needs an extra; all else needs none
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|var/tmp)/[\w.]")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Result(NamedTuple):
    "How one check ended; conformance counts several in one"
    name: str
    passed: int
    failed: int
    seconds: float
    note: str = ""  # a few words for the line
    output: str = ""  # what explains a failure


# ---- Running things ---------------------------------------------------------------------------------------------------------------------

RUNNING: set[subprocess.Popen] = set()


def end(process: subprocess.Popen) -> None:
    "Kill a command and what it has started (a notebook may have started kernels of its own)"
    try:
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    except ProcessLookupError:
        pass


def child_environment() -> dict:
    "The environment of every process started here: one thread each, no windows, this environment's kernels, nothing inherited from nbdev"
    env = dict(os.environ, OMP_NUM_THREADS="1", MPLBACKEND="agg", JUPYTER_PREFER_ENV_PATH="1", PYTHONIOENCODING="utf-8")
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    env.pop("IN_TEST", None)  # nbdev sets it in a test and then refuses to export
    env.pop("PYTHONPATH", None)
    return env


def run(command: list, cwd: Path, timeout: float = 900, **env) -> tuple[int, str]:
    "Exit status and output (standard error included) of a command; a command that takes too long counts as failed"
    process = subprocess.Popen(
        [str(c) for c in command], cwd=cwd, env={**child_environment(), **env}, text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=os.name == "posix",
    )
    RUNNING.add(process)
    try:
        output, _ = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        end(process)
        output, status = process.communicate()[0] + f"\nstopped: it ran longer than {timeout:.0f} s", -1
    finally:
        RUNNING.discard(process)
    if status < -1:
        output += f"\nended by signal {-status}"
    return status, ANSI.sub("", output).strip()


def script(code: str, cwd: Path, **env) -> tuple[int, str]:
    "Run Python code in a fresh interpreter of this environment"
    return run([sys.executable, "-c", code], cwd, **env)


# ---- The notebooks ----------------------------------------------------------------------------------------------------------------------


def notebooks() -> list[Path]:
    "Every notebook under nbs/, hidden and private files apart (nbdev's own rule)"
    def hidden(path):
        return any(part[0] in "._" for part in path.relative_to(NBS).parts)
    return sorted(path for path in NBS.rglob("*.ipynb") if not hidden(path))


def name_of(path: Path) -> str:
    return path.relative_to(NBS).as_posix()


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def flags(cell: dict) -> set[str]:
    "The words of a code cell's leading `#|` lines"
    if cell["cell_type"] != "code":
        return set()
    found = set()
    for line in source(cell).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        match = re.match(r"\s*#\s*\|\s*(\w+)", line)
        found |= {match[1]} if match else set()
    return found


def test_flags() -> set[str]:
    "The flags whose cells a plain run leaves out (`tst_flags` of settings.ini)"
    import configparser
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return set(settings["DEFAULT"]["tst_flags"].split())


def has_code(text: str) -> bool:
    "Not only `#|` lines, and not the cell that exports the notebook, which a test leaves out"
    return "nbdev_export(" not in text and any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def cells_run(path: Path, forced: set[str]) -> tuple[int, int]:
    "How many code cells a run executes, and how many their flags leave out"
    skipped = test_flags() - forced
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code" and has_code(source(cell))]
    left_out = sum(bool(flags(cell) & skipped) for cell in code)
    return len(code) - left_out, left_out


def has_slow_cells(path: Path) -> bool:
    try:
        return any("slow" in flags(cell) for cell in read(path)["cells"])
    except ValueError:  # not JSON: its run has failed already
        return False


# nbdev's own test of one notebook, in its own process: nothing leaks from one notebook into the next.
TEST_ONE = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
path, forced = Path(sys.argv[1]), sys.argv[2].split()
config = get_config()
passed, _ = test_nb(path, skip_flags=config.tst_flags.split(), force_flags=forced, basepath=config.config_path)
sys.exit(not passed)
"""


def test_notebook(path: Path, forced: set[str], timeout: float) -> Result:
    start = time.time()
    label = name_of(path) + (" (slow)" if "slow" in forced else "")
    try:
        count, left_out = cells_run(path, forced)
        status, output = run([sys.executable, "-c", TEST_ONE, path, " ".join(sorted(forced))], ROOT, timeout)
    except Exception:
        return Result(label, 0, 1, time.time() - start, "cannot be read", traceback.format_exc())
    note = f"{count} cells" + (f", {left_out} left out" if left_out else "")
    return Result(label, int(status == 0), int(status != 0), time.time() - start, note, output)


# ---- Single checks: each returns a note, or raises with what is wrong -------------------------------------------------------------------


class Wrong(Exception):
    "What a check found, in words"


def working_copy(folder: Path) -> Path:
    "The notebooks and settings, without the package and the rest"
    copy = folder / "copy"
    ignore = shutil.ignore_patterns(".*", "_*", "__pycache__", "data", "*.nbi", "*.nbc")
    shutil.copytree(NBS, copy / "nbs", ignore=ignore)
    shutil.copy(ROOT / "settings.ini", copy)
    return copy


def modules(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}


def check_in_step() -> str:
    "nbdev_export, run on a copy from nothing, makes exactly the package that is here"
    with tempfile.TemporaryDirectory() as folder:
        copy = working_copy(Path(folder))
        status, output = script("from nbdev import nbdev_export; nbdev_export.__wrapped__()", copy)
        if status:
            raise Wrong(f"nbdev_export fails:\n{output}")
        fresh, here = modules(copy / "fastsums"), modules(PACKAGE)
    problems = [f"fastsums/{name}: no notebook makes it" for name in here.keys() - fresh.keys()]
    problems += [f"fastsums/{name}: missing, though a notebook makes it" for name in fresh.keys() - here.keys()]
    for name in sorted(fresh.keys() & here.keys()):
        if fresh[name] != here[name]:
            lines = difflib.unified_diff(here[name].splitlines(), fresh[name].splitlines(), "in the package", "in the notebook", "", "", 1, "")
            problems.append(f"fastsums/{name}: differs from its notebook\n" + "\n".join(f"    {line}" for line in list(lines)[:20]))
    if problems:
        raise Wrong("\n".join(sorted(problems)) + "\n`make export` brings them in step (edit the notebooks, not the package).")
    return f"{len(here)} modules"


def check_clean() -> str:
    "nbdev_clean, run on a copy, changes nothing"
    with tempfile.TemporaryDirectory() as folder:
        copy = working_copy(Path(folder))
        status, output = script("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", copy)
        if status:
            raise Wrong(f"nbdev_clean fails:\n{output}")
        changed = [name_of(p) for p in notebooks() if (copy / "nbs" / name_of(p)).read_bytes() != p.read_bytes()]
    if changed:
        raise Wrong("nbdev_clean changes these (run `make export`):\n" + "\n".join(f"    nbs/{name}" for name in changed))
    return f"{len(notebooks())} notebooks"


def faults(path: Path) -> list[str]:
    "What is wrong with a notebook's stored state"
    import nbformat
    try:
        found, nb = [], read(path)
    except ValueError as error:
        return [f"is not JSON: {error}"]
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        found.append(f"is not a valid notebook: {str(error).splitlines()[0]}")
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    if code and not any(cell["outputs"] for cell in code):
        found.append("holds no output at all: run it from top to bottom and save")
    counts = [cell["execution_count"] for cell in code if cell.get("execution_count")]
    if counts != sorted(counts):
        found.append("its cells were run out of order")
    for cell in code:
        for output in cell["outputs"]:
            text = json.dumps([output.get("text", ""), {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/png")}])
            if output["output_type"] == "error":
                found.append(f"cell {cell.get('id')} ended with {output.get('ename')}: {output.get('evalue')}")
            elif match := MACHINE_PATH.search(text):
                found.append(f"cell {cell.get('id')} shows a path of some machine: ...{text[max(0, match.start() - 20):match.end() + 40]}...")
    ids = [cell.get("id") for cell in nb["cells"]]
    found += [f"two cells have the id {i}" for i in sorted({i for i in ids if ids.count(i) > 1})]
    return found


def check_outputs() -> str:
    "Every notebook is stored as a whole run left it: outputs, no errors, no paths of one machine"
    problems = [f"nbs/{name_of(path)}: {fault}" for path in notebooks() for fault in faults(path)]
    if problems:
        raise Wrong("\n".join(problems))
    return f"{sum(bool(cell.get('outputs')) for path in notebooks() for cell in read(path)['cells'])} cells with outputs"


def check_readme() -> str:
    "README.md is what .ci/book.py makes of nbs/index.ipynb"
    status, output = run([sys.executable, ROOT / ".ci" / "book.py", "--check-readme"], ROOT)
    if status:
        raise Wrong(output)
    return ""


def check_import() -> str:
    "The public names import in a fresh interpreter, without the heavy libraries"
    with tempfile.TemporaryDirectory() as elsewhere:
        status, output = script(
            f"import sys, time; start = time.time(); from fastsums import {PUBLIC_NAMES}\n"
            f"seconds = time.time() - start; found = [name for name in {HEAVY} if name in sys.modules]\n"
            "if found: sys.exit(f'import fastsums loads {found}')\n"
            "print(f'{seconds:.1f} s')", Path(elsewhere))
    if status:
        raise Wrong(output)
    return f"import takes {output.splitlines()[-1]}"


def module_name(path: str) -> str:
    "The module that a file of the package holds, by its path in the package"
    return ".".join(["fastsums", *path.removesuffix(".py").split("/")]).removesuffix(".__init__")


def imported(name: str, is_package: bool, code: str, known: set[str]) -> set[str]:
    "The package's modules that a module imports, wherever in its code; a package's module does not count as an import of the package"
    package, found = name.split(".") if is_package else name.split(".")[:-1], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join([*package[:len(package) + 1 - node.level], *([node.module] if node.module else [])]) if node.level else node.module
            found |= {f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin for alias in node.names}
    return found & known


def import_graph(files: dict[str, str]) -> dict[str, set[str]]:
    "Module -> the modules of the package that it imports, from paths in the package and their code"
    known = {module_name(path) for path in files}
    return {module_name(path): imported(module_name(path), path.endswith("__init__.py"), code, known) for path, code in files.items()}


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    "Circles of imports, until cutting one import of each leaves none"
    graph, circles = {name: set(others) for name, others in graph.items()}, []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return circles
        except CycleError as error:
            circle = error.args[1][::-1]  # each imports the next; the first is also the last
            circles.append(circle)
            graph[circle[0]].discard(circle[1])


def check_one_way() -> str:
    "No module of the package imports itself by way of others, imports inside functions included"
    made_up = {"__init__.py": "from .a import f", "a.py": "def f():\n    from fastsums.kernels import b", "kernels/__init__.py": "", "kernels/b.py": "from ..a import f"}
    if import_circles(import_graph(made_up)) == [] or import_circles(import_graph({**made_up, "kernels/b.py": "import torch"})):
        raise Wrong("the check itself is wrong about a package made up for it")
    graph = import_graph(modules(PACKAGE))
    if circles := import_circles(graph):
        raise Wrong("Imports go round in a circle:\n" + "\n".join("    " + " → ".join(circle) for circle in circles))
    return f"{sum(map(len, graph.values()))} imports among {len(graph)} modules"


def check_compiled() -> str:
    "GPU kernels compile ahead of time for their targets, without register spills"
    status, output = run([sys.executable, ROOT / "kernels" / "compile.py", "--quick", "--check"], ROOT, 600)
    if status:
        raise Wrong(output)
    return output.splitlines()[-1][:80] if output else ""


def needed(distribution: str, extras: set[str], found: dict[str, importlib.metadata.Distribution]) -> dict[str, importlib.metadata.Distribution]:
    "What a distribution of this environment requires, itself included, by name"
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    found[canonicalize_name(distribution)] = here = importlib.metadata.distribution(distribution)
    for requirement in map(Requirement, here.requires or ()):
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras})
        if wanted and (requirement.extras or canonicalize_name(requirement.name) not in found):
            needed(requirement.name, requirement.extras, found)
    return found


def bare_environment(folder: Path) -> Path:
    "The built package in an environment that holds its requirements, linked from this one, and nothing else; the path of its python"
    from packaging.requirements import Requirement
    copy, environment, pip = folder / "source", folder / "environment", [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    shutil.copytree(PACKAGE, copy / "fastsums", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    venv.create(environment)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    found: dict[str, importlib.metadata.Distribution] = {}
    for requirement in map(Requirement, settings["DEFAULT"]["requirements"].split()):
        needed(requirement.name, requirement.extras, found)
    for distribution in found.values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name))
    for command in (["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy],
                    ["--python", python, "install", "--no-index", "--find-links", folder, "fastsums"]):  # refuses if a requirement is missing or too old
        status, output = run([*pip, *command], folder)
        if status:
            raise Wrong(f"pip {' '.join(map(str, command))} fails:\n{output}")
    return python


WITHOUT_EXTRAS = """
import importlib, sys, warnings
from pathlib import Path
import fastsums, torch
from fastsums import CornerTree, FISLayer
from fastsums.models.networks import build_network
x = torch.rand(2, 3, 8, 8, requires_grad=True)
FISLayer(3, 4, CornerTree.parse("NW(NE)"), semiring="maxplus", backend="torch")(x).sum().backward()
assert x.grad.abs().sum() > 0, "no gradient reaches the input of a layer"
assert build_network("fis_resnet", mode="l23", depth=8, backend="torch")(x).shape == (2, 10)

def refused(action, extra):
    try: action()
    except ImportError as error: return f'pip install "fastsums[{extra}]"' in str(error)
    return False

problems, count, root = [], 0, Path(fastsums.__file__).parent
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # newer Pythons show users what is wrong with an escape sequence
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    name, extra = ".".join(["fastsums", *parts]), EXTRAS.get(parts[0]) or EXTRAS.get(".".join(parts))
    if extra is None: importlib.import_module(name); count += 1
    elif not refused(lambda: importlib.import_module(name), extra): problems.append(f"import {name}")
if not refused(CornerTree.parse("NW").plot, "train"): problems.append("CornerTree.plot")
if not refused(lambda: build_network("fis_convnext", mode="l2"), "train"): problems.append('build_network("fis_convnext")')
if problems: sys.exit("do not say which extra they need: " + ", ".join(problems))
print(count, "modules without extras")
"""


def check_without_extras() -> str:
    "The built package works where only its requirements are installed, and what needs an extra says which"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = bare_environment(folder)
        status, output = run([python, "-c", f"EXTRAS = {EXTRAS}\n{WITHOUT_EXTRAS}"], folder)
        if status:
            raise Wrong(output)
        notes = [output.splitlines()[-1]]
        for system, patterns, not_built in (("fis", ["layer_*maxplus*.npz"], 0), ("mimoconv", ["index.json", "models.json", "net10_*.npz", "onecycle.npz"], 1)):
            (folder / system).mkdir()
            for path in [path for pattern in patterns for path in (GOLDEN / system).glob(pattern)]:
                shutil.copy(path, folder / system)
            if (counts := folder / system / "models.json").is_file():
                counts.write_text(json.dumps(json.loads(counts.read_text())[::24]))  # some of the networks
            status, output = run([python.with_name("fastsums_conformance"), folder / system, "--system", system, "--backend", "torch"], folder)
            if status or not output.splitlines()[-1].endswith(f" 0 failed, {not_built} not built") or output.count('pip install "fastsums[train]"') != not_built:
                raise Wrong(output)  # a recorded schedule, and nothing else, needs the schedules of training
            notes.append(f"{system}: {output.splitlines()[-1]}")
    return "; ".join(notes)


CHECKS = {
    "package and notebooks in step": check_in_step,
    "notebooks clean": check_clean,
    "notebooks whole": check_outputs,
    "README.md up to date": check_readme,
    "import light": check_import,
    "imports go one way": check_one_way,
    "without extras": check_without_extras,
    "GPU kernels compile": check_compiled,
}


def single_check(name: str) -> Result:
    start = time.time()
    try:
        note = CHECKS[name]()
        return Result(name, 1, 0, time.time() - start, note)
    except Wrong as problem:
        return Result(name, 0, 1, time.time() - start, "", str(problem))
    except Exception:
        return Result(name, 0, 1, time.time() - start, "", traceback.format_exc())


def conformance(system: str, folder: Path, backend: str) -> Result:
    "`fastsums_conformance` on one system's golden files with one backend, each file or row counted"
    start, name = time.time(), f"conformance: {system}, {backend}"
    if backend == "triton":  # in the interpreter whole networks take too long
        with tempfile.TemporaryDirectory() as part:
            for path in folder.glob("layer_*.npz"):
                shutil.copy(path, part)
            return _conformance(system, Path(part), backend, name, start)
    return _conformance(system, folder, backend, name, start)


def _conformance(system: str, folder: Path, backend: str, name: str, start: float) -> Result:
    files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    command = Path(sys.executable).parent / "fastsums_conformance"
    if not files or not command.exists():
        return Result(name, 0, 1, 0, "", f"no golden files in {folder}" if not files else f"{command} is not installed: make setup")
    status, output = run([command, folder, "--system", system, "--backend", backend], ROOT)
    last = output.splitlines()[-1] if output else ""
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) not built", last)
    passed, failed, not_built = map(int, counts.groups()) if counts else (0, 1, 0)
    if not counts:
        output += "\nthe closing line 'N passed, N failed, N not built' is missing"
    elif passed + failed + not_built < len(files):
        output, failed = output + f"\n{len(files)} files, but only {passed + failed + not_built} were counted", failed + 1
    elif (status == 0) != (failed == 0) or passed == 0:
        output, failed = output + f"\nexit status {status}, which does not go with the closing line", max(failed, 1)
    return Result(name, passed, failed, time.time() - start, f"{passed} passed, {failed} failed, {not_built} not built", output)


# ---- All of it --------------------------------------------------------------------------------------------------------------------------


def report(result: Result) -> Result:
    state = "FAILED" if result.failed else "ok"
    print(f"  {state:6} {result.seconds:7.1f} s  {result.name}" + (f"  ({result.note})" if result.note else ""), flush=True)
    return result


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def test_notebooks(paths: list[Path], forced: set[str], workers: int, timeout: float) -> list[Result]:
    pool = ThreadPoolExecutor(workers)  # not in a `with`, which would wait for all of them when interrupted
    futures = [pool.submit(test_notebook, path, forced, timeout) for path in paths]
    return [report(future.result()) for future in as_completed(futures)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", help="only checks and notebooks whose name contains or matches this, as in 'layers/*' or clean")
    parser.add_argument("--fast", action="store_true", help="leave out the `#| slow` cells")
    parser.add_argument("--flags", default="", help="other flags whose cells are to run too, as in 'gpu data'")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a notebook has failed (default %(default).0f)")
    options = parser.parse_args()
    # The kernels' decorators look at it when they are imported, so it cannot be set in time from inside a notebook.
    if os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("set TRITON_INTERPRET=1 in the environment (make test does), so that GPU kernels run on any machine")
    forced = set(options.flags.split())
    if forced - test_flags():
        parser.error(f"--flags knows {' '.join(sorted(test_flags()))}; got {' '.join(sorted(forced - test_flags()))}")
    if options.workers < 1:
        parser.error(f"--workers has to be at least 1; got {options.workers}")

    def wanted(name: str) -> bool:
        return not options.only or options.only in name or fnmatch.fnmatch(name, options.only)

    start, results = time.time(), []
    checks = [name for name in CHECKS if wanted(name)]
    if checks:
        heading("Checks")
    results += [report(single_check(name)) for name in checks]

    existing = notebooks()
    chosen = [path for path in existing if wanted(name_of(path))]
    if chosen or not options.only:
        heading(f"Notebooks ({len(chosen)}" + (f" of {len(existing)}" if options.only else "") + f", {options.workers} at a time)")
    tested = test_notebooks(chosen, forced, options.workers, options.timeout)
    if not existing:
        tested.append(report(Result("notebooks", 0, 1, 0, "there are none in nbs/", "no notebook found in nbs/")))
    elif len(tested) < len(chosen):
        tested.append(report(Result("notebooks", 0, 1, 0, f"only {len(tested)} of {len(chosen)} ran", "some notebooks did not run")))
    results += tested

    slow = [path for path in chosen if has_slow_cells(path)]
    if slow and not options.fast and "slow" not in forced:
        heading(f"Notebooks with their slow cells ({len(slow)})")
        results += test_notebooks(slow, forced | {"slow"}, options.workers, options.timeout)

    names = sorted({*BACKENDS, *(folder.parent.name for folder in GOLDEN.glob("*/*"))})
    systems = [(name, backend) for name in names for backend in BACKENDS.get(name, ("auto",)) if wanted(f"conformance: {name}, {backend}")]
    if systems:
        heading("Conformance")
        results += [report(conformance(name, GOLDEN / name, backend)) for name, backend in systems]

    for result in results:
        if result.failed:
            heading(f"---- FAILED: {result.name} " + "-" * max(4, 80 - len(result.name)))
            print(result.output or "(it printed nothing)")
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
    heading(f"{time.time() - start:.0f} s" + ("" if results else f"; nothing is called {options.only!r}"))
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0 or passed == 0)


def interrupted(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        for process in list(RUNNING):
            end(process)
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for what was still to come
