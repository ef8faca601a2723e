"""What holds of the repository as a whole: package and notebooks in step, notebooks clean and whole, README up to date, import light, imports one way, extras."""
import ast
import difflib
import importlib.metadata
import json
import os
import re
import shutil
import symtable
import sys
import sysconfig
import venv
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from notebooks import NBS, code_cells, flags, has_slow_cells, name_of, notebooks, read, settings, source
from processes import ROOT, run, script

pytestmark = pytest.mark.core

PACKAGE = ROOT / "fastsums"
GOLDEN = NBS / "data" / "golden"
PUBLIC_NAMES = "Semiring, Direction, CornerTree, scan, iterated_sum, FISLayer, FISLayerFixedTree, FISLayerRandomTrees"
HEAVY = ["fastai", "triton", "torchvision", "numba"]  # what `import fastsums` must not load
EXTRAS = {"training": "train", "tasks": "train", "reproduce": "reproduce", "conformance.recorded_training": "train"}  # what needs an extra; all else needs none
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|var/tmp)/[\w.]")


def wrong(what: str) -> None:
    "Fail with what a check found, in words"
    pytest.fail(what, pytrace=False)


def working_copy(folder: Path) -> Path:
    "The notebooks and settings, without the package and the rest"
    copy = folder / "copy"
    ignore = shutil.ignore_patterns(".*", "_*", "__pycache__", "data", "*.nbi", "*.nbc")
    shutil.copytree(NBS, copy / "nbs", ignore=ignore)
    shutil.copy(ROOT / "settings.ini", copy)
    return copy


def modules(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}


def test_in_step(tmp_path):
    "nbdev_export, run on a copy from nothing, makes exactly the package that is here"
    copy = working_copy(tmp_path)
    status, output = script("from nbdev import nbdev_export; nbdev_export.__wrapped__()", copy)
    if status:
        wrong(f"nbdev_export fails:\n{output}")
    fresh, here = modules(copy / "fastsums"), modules(PACKAGE)
    problems = [f"fastsums/{name}: no notebook makes it" for name in here.keys() - fresh.keys()]
    problems += [f"fastsums/{name}: missing, though a notebook makes it" for name in fresh.keys() - here.keys()]
    for name in sorted(fresh.keys() & here.keys()):
        if fresh[name] != here[name]:
            lines = difflib.unified_diff(here[name].splitlines(), fresh[name].splitlines(), "in the package", "in the notebook", "", "", 1, "")
            problems.append(f"fastsums/{name}: differs from its notebook\n" + "\n".join(f"    {line}" for line in list(lines)[:20]))
    if problems:
        wrong("\n".join(sorted(problems)) + "\n`make export` brings them in step (edit the notebooks, not the package).")


def test_lowered():
    "The CPU kernels that the package ships are those of its sources, and whole"
    status, output = run([sys.executable, ROOT / "kernels" / "lower.py", "--check"])
    if status:
        wrong(output)


def test_clean(tmp_path):
    "nbdev_clean, run on a copy, changes nothing"
    copy = working_copy(tmp_path)
    status, output = script("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", copy)
    if status:
        wrong(f"nbdev_clean fails:\n{output}")
    if changed := [name_of(p) for p in notebooks() if (copy / "nbs" / name_of(p)).read_bytes() != p.read_bytes()]:
        wrong("nbdev_clean changes these (run `make export`):\n" + "\n".join(f"    nbs/{name}" for name in changed))


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


def test_whole():
    "Every notebook is stored as a whole run left it: outputs, no errors, no paths of one machine"
    assert notebooks(), "no notebook found in nbs/"
    if problems := [f"nbs/{name_of(path)}: {fault}" for path in notebooks() for fault in faults(path)]:
        wrong("\n".join(problems))


def names(code: str) -> tuple[set[str], set[str]]:
    "What a cell defines for later ones, and what it reads of earlier ones, functions included"
    table = symtable.symtable(code, "cell", "exec")
    symbols = [symbol for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()]
    read, tables = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}, table.get_children()
    while tables:
        inner = tables.pop()
        read |= {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global()}
        tables += inner.get_children()
    return {symbol.get_name() for symbol in symbols}, read


def needed_by_others(cells: list[dict]) -> set[str]:
    "Names that only `#| slow` cells have defined where a cell without the flag reads them"
    defined, slow_only, needed = set(), set(), set()
    for cell in cells:
        here, read = names("\n".join(line for line in source(cell).splitlines() if not line.lstrip().startswith(("%", "!"))))
        if "slow" in flags(cell):
            slow_only |= here - defined
        else:
            needed |= read & slow_only - here
            defined |= here
            slow_only -= here
    return needed


def test_slow_cells_are_not_needed():
    "A run with the slow cells stands for one without them: no other cell needs what a slow one defines"
    made_up = ["a = 1", "#| slow\na = b = 2", "b + a"]
    def cells(sources):
        return [dict(source=text, cell_type="code") for text in sources]
    if needed_by_others(cells(made_up)) != {"b"} or needed_by_others(cells([*made_up[:2], "b = 3", made_up[2]])):
        wrong("the check itself is wrong about a notebook made up for it")
    problems = {name_of(path): needed for path in notebooks() if has_slow_cells(path) and (needed := needed_by_others(code_cells(path)))}
    if problems:
        wrong("\n".join(f"nbs/{name}: only a slow cell defines {', '.join(sorted(needed))}" for name, needed in problems.items()))


def test_readme():
    "README.md is what .ci/book.py makes of nbs/index.ipynb"
    status, output = run([sys.executable, ROOT / ".ci" / "book.py", "--check-readme"])
    if status:
        wrong(output)


def test_import_light(tmp_path):
    "The public names import in a fresh interpreter, without the heavy libraries"
    status, output = script(
        f"import sys; from fastsums import {PUBLIC_NAMES}\n"
        f"found = [name for name in {HEAVY} if name in sys.modules]\n"
        "if found: sys.exit(f'import fastsums loads {found}')", tmp_path)
    if status:
        wrong(output)


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


def test_imports_go_one_way():
    "No module of the package imports itself by way of others, imports inside functions included"
    made_up = {"__init__.py": "from .a import f", "a.py": "def f():\n    from fastsums.kernels import b", "kernels/__init__.py": "", "kernels/b.py": "from ..a import f"}
    if import_circles(import_graph(made_up)) == [] or import_circles(import_graph({**made_up, "kernels/b.py": "import torch"})):
        wrong("the check itself is wrong about a package made up for it")
    graph = import_graph(modules(PACKAGE))
    if circles := import_circles(graph):
        wrong("Imports go round in a circle:\n" + "\n".join("    " + " → ".join(circle) for circle in circles))


@pytest.mark.kernels
def test_gpu_kernels_compile():
    "GPU kernels compile ahead of time for their targets, without register spills"
    status, output = run([sys.executable, ROOT / "kernels" / "compile.py", "--quick", "--check"])
    if status:
        wrong(output)


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
    found: dict[str, importlib.metadata.Distribution] = {}
    for requirement in map(Requirement, settings()["requirements"].split()):
        needed(requirement.name, requirement.extras, found)
    for distribution in found.values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name))
    for command in (["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy],
                    ["--python", python, "install", "--no-index", "--find-links", folder, "fastsums"]):  # refuses if a requirement is missing or too old
        status, output = run([*pip, *command], folder)
        if status:
            wrong(f"pip {' '.join(map(str, command))} fails:\n{output}")
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


def test_without_extras(tmp_path):
    "The built package works where only its requirements are installed, and what needs an extra says which"
    python = bare_environment(tmp_path)
    status, output = run([python, "-c", f"EXTRAS = {EXTRAS}\n{WITHOUT_EXTRAS}"], tmp_path)
    if status:
        wrong(output)
    for system, patterns, not_built in (("fis", ["layer_*maxplus*.npz"], 0), ("mimoconv", ["index.json", "models.json", "net10_*.npz", "onecycle.npz"], 1)):
        (tmp_path / system).mkdir()
        for path in [path for pattern in patterns for path in (GOLDEN / system).glob(pattern)]:
            shutil.copy(path, tmp_path / system)
        if (counts := tmp_path / system / "models.json").is_file():
            counts.write_text(json.dumps(json.loads(counts.read_text())[::24]))  # some of the networks
        status, output = run([python.with_name("fastsums_conformance"), tmp_path / system, "--system", system, "--backend", "torch"], tmp_path)
        if status or not output.splitlines()[-1].endswith(f" 0 failed, {not_built} not built") or output.count('pip install "fastsums[train]"') != not_built:
            wrong(output)  # a recorded schedule, and nothing else, needs the schedules of training
