"""Where time goes before there is a result: first calls in fresh processes, and the tests of the suite. Part `start` of `make bench`.

Writes first_calls.csv and suite_seconds.csv to figures/; the notebook nbs/kernels/where_time_goes shows them. The suite is not run for it: its
seconds are those that pytest remembers of its last runs.
"""
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALLS = {  # what is called first, as a program's last lines
    "scan, real": 'call(lambda: scan(x, "NW", backend="cpu"))',
    "scan, log": 'call(lambda: scan(x, "NW", "log", backend="cpu"))',
    "layer, real": 'call(lambda: FISLayer(3, 16, "NW(NE)", "real", backend="cpu")(x))',
    "layer, maxplus": 'call(lambda: FISLayer(3, 16, "NW(NE)", "maxplus", backend="cpu")(x))',
    "layer, log": 'call(lambda: FISLayer(3, 16, "NW(NE)", "log", backend="cpu")(x))',
    "layer, maxplus, relu": 'call(lambda: FISLayer(3, 16, "NW(NE)", "maxplus", activation="relu", backend="cpu")(x))',
    "layer, real, float64": 'x = x.detach().double().requires_grad_(); call(lambda: FISLayer(3, 16, "NW(NE)", "real", backend="cpu").double()(x))',
}
PROGRAM = """import json, sys, time
seconds = lambda: (time.perf_counter(), time.process_time())
start = seconds(); import torch; torch_done = seconds()
from fastsums import FISLayer, scan; fastsums_done = seconds()
x, times = torch.randn(2, 3, 16, 16, requires_grad=True), []
def call(function):
    for _ in range(3):
        begin = seconds(); function().sum().backward(); end = seconds()
        times.append([b - a for a, b in zip(begin, end)])
{}
spent = lambda a, b: [q - p for p, q in zip(a, b)]
print(json.dumps(dict(torch=spent(start, torch_done), fastsums=spent(torch_done, fastsums_done), first=times[0], third=times[2], numba="numba" in sys.modules)))
"""


def first_call(what: str, folder: str, program: str = PROGRAM) -> dict:
    "Seconds (on the clock, of processor time) of the imports and calls of a fresh process with a cache folder"
    run = subprocess.run([sys.executable, "-c", program.format(CALLS[what])], cwd=ROOT, capture_output=True, text=True, timeout=1800,
                         env=os.environ | {"FASTSUMS_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)})
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


def first_calls(say=print) -> list[dict]:
    "A row for every call and state of the cache"
    rows = []
    for what in CALLS:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty", "full"):
                found = first_call(what, folder)
                rows.append({"call": what, "cache": state} | {f"{part}_{clock}": round(value, 4) for part in ("torch", "fastsums", "first", "third")
                                                             for clock, value in zip(("seconds", "cpu_seconds"), found[part])} | {"numba": "yes" if found["numba"] else "no"})
                say(f"start  {what}, {state} cache: first call {found['first'][1]:.2f} s of processor time, third {1e3*found['third'][1]:.1f} ms")
    return rows


def suite_seconds() -> list[dict]:
    "What the tests took when they last passed, the longest first; nothing if pytest remembers none"
    file = ROOT / ".pytest_cache" / "v" / "fastsums" / "durations"
    if not file.is_file():
        return []
    return [{"test": name, "seconds": seconds} for name, seconds in sorted(json.loads(file.read_text()).items(), key=lambda item: -item[1])]


def write(rows: list[dict], path: Path, machine: dict[str, str]) -> None:
    "A table, with the machine and the date in every row"
    about = {"processor": machine["processor"], "cores": str(os.cpu_count()), "date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *about], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | about for row in rows)
