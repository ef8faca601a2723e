#!/usr/bin/env python
"""Lower the usual CPU kernels into the package: `make export` runs it. numba's part of their compilation is done here, LLVM finishes it on each machine; see nbs/kernels/00_machine_code.

Only what was made from other sources than those of the package is made anew, as many functions at a time as there are cores.
"""
import argparse
import hashlib
import importlib
import json
import lzma
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

LEVEL = "x86-64-v3"  # what LLVM optimises the code for before it is finished; any processor with AVX2 will do, and every export gives the same
os.environ |= {"NUMBA_CPU_NAME": LEVEL, "NUMBA_CPU_FEATURES": "", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastsums.kernels.machine_code import SHIPPED, function_name, sources_checksum  # noqa: E402

MODULES = ("cpu_strips", "cpu_scan_steps", "cpu_blocks")  # those that have work functions


def lower(module: str, constants: dict) -> tuple[bytes, float]:
    "The compressed IR of one function, and the seconds of processor time that numba took for it"
    importlib.import_module(f"fastsums.kernels.{module}")
    start = time.process_time()
    bitcode = importlib.import_module(f"fastsums.kernels.{module}").lower(**constants)
    return lzma.compress(bitcode, preset=9 | lzma.PRESET_EXTREME), time.process_time() - start


def usual(module: str) -> dict[str, dict]:
    "The constants of a module's functions that are shipped, by the functions' names"
    return {function_name(module, **constants): constants for constants in importlib.import_module(f"fastsums.kernels.{module}").USUAL}


def code(module: str) -> str:
    "A checksum of the compiled code that a module's work function reaches, which edits of anything else leave as it is"
    from fastsums.kernels.vectors import checksum
    return f"{checksum(importlib.import_module(f'fastsums.kernels.{module}').work)}, Python {sys.version_info.major}.{sys.version_info.minor}"


def read_index() -> dict:
    try:
        return json.loads((SHIPPED / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_index(index: dict) -> None:
    text = json.dumps({module: {**entry, "functions": dict(sorted(entry["functions"].items()))} for module, entry in sorted(index.items())}, indent=1)
    (SHIPPED / "index.json").write_text(text + "\n", encoding="utf-8")


def whole(entry: dict) -> bool:
    "Whether a function's file is there, as it was written"
    file = SHIPPED / entry["file"]
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]


def missing(index: dict) -> list[tuple[str, str, dict]]:
    "What has to be made (module, name, constants); what is outdated leaves the index"
    for gone in set(index) - set(MODULES):
        del index[gone]
    for module in MODULES:
        wanted, entry = usual(module), index.setdefault(module, {"sources": "", "functions": {}})
        if entry["sources"] != sources_checksum(module):
            same = entry.get("code") == code(module)  # what was edited is not in the functions
            entry |= {"sources": sources_checksum(module), "code": code(module), "functions": entry["functions"] if same else {}}
        entry["functions"] = {name: found for name, found in entry["functions"].items() if name in wanted and whole(found)}
    return [(module, name, constants) for module in MODULES for name, constants in usual(module).items() if name not in index[module]["functions"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether everything is there and made from these sources; exit status 1 if not")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="functions at a time (default %(default)s)")
    options = parser.parse_args()
    index = read_index()
    outdated = [module for module in MODULES if index.get(module, {}).get("sources") != sources_checksum(module)]
    waiting = missing(index)
    if options.check:
        for module in outdated:
            print(f"the index is of other sources: {module}")
        for _, name, _ in waiting:
            print(f"not lowered from these sources: {name}")
        count = sum(len(entry["functions"]) for entry in index.values())
        print("make export brings them in step" if waiting or outdated else f"{count} functions are up to date")
        return int(bool(waiting or outdated))
    SHIPPED.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.workers) as pool:
        futures = {pool.submit(lower, module, constants): (module, name) for module, name, constants in waiting}
        for count, future in enumerate(as_completed(futures), 1):
            (module, name), (packed, seconds) = futures[future], future.result()
            file = re.sub("[^A-Za-z0-9]+", "-", name) + ".bc.xz"
            (SHIPPED / file).write_bytes(packed)
            index[module]["functions"][name] = {"file": file, "sha256": hashlib.sha256(packed).hexdigest(), "seconds": round(seconds, 1)}
            write_index(index)
            print(f"{count}/{len(waiting)}  {name}  {seconds:.0f} s, {len(packed) >> 10} KB", flush=True)
    kept = {found["file"] for entry in index.values() for found in entry["functions"].values()}
    for file in SHIPPED.glob("*.bc.xz"):
        if file.name not in kept:
            file.unlink()
    write_index(index)
    return 0


if __name__ == "__main__":
    sys.exit(main())
