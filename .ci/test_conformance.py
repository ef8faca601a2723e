"""Conformance with the golden files: for each system and backend the command's own run, each of its files and rows a subtest."""
import re
import shutil

import pytest

from notebooks import NBS
from processes import call

GOLDEN = NBS / "data" / "golden"  # a folder of golden files for each system
BACKENDS = {"fis": ("torch", "cpu", "triton")}  # system -> backends that its files are checked with; the others: with "auto"
NAMES = sorted({*BACKENDS, *(folder.parent.name for folder in GOLDEN.glob("*/*"))})
LINE = re.compile(r"(passed|failed|not built|text) +(.*)")


@pytest.mark.parametrize("system, backend", [(name, backend) for name in NAMES for backend in BACKENDS.get(name, ("auto",))])
def test_conformance(system, backend, tmp_path, subtests):
    folder = GOLDEN / system
    if backend == "triton":  # in the interpreter whole networks take too long
        for path in folder.glob("layer_*.npz"):
            shutil.copy(path, tmp_path)
        folder = tmp_path
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, f"no golden files in {folder}"
    status, output = call("processes:run_conformance", backend == "triton", [str(folder), "--system", system, "--backend", backend])
    lines = output.splitlines()
    for verdict, what in (match.groups() for match in map(LINE.fullmatch, lines) if match):
        if verdict in ("passed", "failed"):
            with subtests.test(what.split("  ")[0]):
                if verdict == "failed":
                    pytest.fail(what, pytrace=False)
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) not built", lines[-1] if lines else "")
    if not counts:
        pytest.fail(f"the closing line 'N passed, N failed, N not built' is missing:\n{output}", pytrace=False)
    passed, failed, not_built = map(int, counts.groups())
    if passed + failed + not_built < len(files):
        pytest.fail(f"{len(files)} files, but only {passed + failed + not_built} were counted:\n{output}", pytrace=False)
    if passed == 0 or (status == 0) != (failed == 0):
        pytest.fail(f"exit status {status} does not go with {lines[-1]!r}:\n{output}", pytrace=False)
