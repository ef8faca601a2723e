#!/usr/bin/env python
"""Compile every Triton kernel ahead of time, without a GPU, and report registers, spills and shared memory.

    python kernels/compile.py            all kernels for all targets; writes figures/kernels_compiled.csv and .md
    python kernels/compile.py --check    the same, exit status 1 if a kernel spills registers or does not compile
    python kernels/compile.py --quick    a few of them, for continuous integration; writes nothing
    python kernels/compile.py --force    all of them anew; otherwise what has not changed is read from .cache/kernels/

Each kernel is compiled in a process of its own, as many at a time as there are cores; it is ended after --timeout seconds. Registers and
spills of the NVIDIA targets are what the assembler that comes with Triton reports (`ptxas -v`), those of the AMD target stand in the
object's metadata.
"""
import argparse
import csv
import hashlib
import json
import multiprocessing
from multiprocessing import connection
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter's kernels can't be compiled; Triton reads this when it is imported

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "kernels"  # reports of kernels that have been compiled, a file each
sys.path.insert(0, str(ROOT))

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
COLUMNS = ["kernel", "variant", "target", "warps", "block", "registers", "accumulator_registers", "spilled_registers", "scalars_in_vectors", "stack_bytes", "shared_bytes", "seconds", "error"]
QUICK = ["maxplus", "real, discount", "real, bfloat16, discount per step"]


def tree_variant(semiring="real", n=3, ndim=2, plane=(1, 32, 32), dtype="fp32", discounted=False, activation=None, strict=False, forest=False):
    "Constants and argument types of the two tree kernels for planes of this size; what is not in the types is a constant"
    import torch
    from fastsums.kernels import triton_tree as m
    state = "fp64" if dtype == "fp64" else "fp32"
    D, H, W = plane
    constants = dict(N=n, NDIM=ndim, SEMIRING=m.SEMIRING_CODES[semiring].value, ACTIVATION=getattr(m.ACTIVATION_CODES[activation], "value", 0),
                     DISCOUNTED=discounted, STRICT=strict, INDEX=m.tl.int32)
    numbers = dict(planes=2048, O=64, size=D*H*W, D=D, H=H, W=W, sb=n*64*D*H*W, sn=64*D*H*W, so=D*H*W, sd=H*W if ndim == 3 else 0,
                   sh=W if ndim > 1 else 0, sw=1, discount_sb=0, tree_size=8*(n - 1)*forest, scratch_size=2*D*H*W + W)
    if forest: numbers["tree_size"] = 24  # not a multiple of 16, as for an even number of vertices
    pointers = dict(values=dtype, y=dtype, record="u8", scratch=state, discounts=state, table="i32", dy=dtype, dvalues=dtype, ddiscounts=state)
    recompute = not m._needs_record(semiring, activation)
    limit = dict(maxnreg=m.max_registers(ndim, semiring, strict))
    own = {"forward": (m._fwd_kernel, dict(FLAGS=not recompute), {} if semiring == "real" else limit),
           "backward": (m._bwd_kernel, dict(NEEDS_DISCOUNT=discounted, RECOMPUTE=recompute), limit)}
    result = {}
    for which, (kernel, more, options) in own.items():
        BH, BW, warps = m.block_shape(plane, dtype == "fp64", which == "backward")
        result[which] = kernel, pointers, numbers, dict(constants, BH=BH, BW=BW, ONE_W=W <= BW, **more), dict(options, num_warps=warps)
    return result


TREE_VARIANTS = {
    "real": dict(),
    "real, discount": dict(discounted=True),
    "real, bfloat16": dict(dtype="bf16"),
    "real, bfloat16, discount": dict(dtype="bf16", discounted=True),
    "real, float64": dict(dtype="fp64"),
    "real, forest": dict(forest=True),
    "real, strict, discount, gelu": dict(strict=True, discounted=True, activation="gelu"),
    "real, 224 x 224": dict(plane=(1, 224, 224)),
    "real, 224 x 224, discount": dict(plane=(1, 224, 224), discounted=True),
    "real, sequence": dict(ndim=1, plane=(1, 1, 4096)),
    "real, volume, discount": dict(ndim=3, plane=(16, 32, 32), discounted=True),
    "real, 5 vertices": dict(n=5),
    "maxplus": dict(semiring="maxplus"),
    "maxplus, discount": dict(semiring="maxplus", discounted=True),
    "maxplus, bfloat16": dict(semiring="maxplus", dtype="bf16"),
    "maxplus, bfloat16, discount": dict(semiring="maxplus", dtype="bf16", discounted=True),
    "maxplus, forest": dict(semiring="maxplus", forest=True),
    "maxplus, relu, strict, discount": dict(semiring="maxplus", strict=True, discounted=True, activation="relu"),
    "maxplus, 224 x 224, discount": dict(semiring="maxplus", plane=(1, 224, 224), discounted=True),
    "maxplus, sequence": dict(semiring="maxplus", ndim=1, plane=(1, 1, 4096)),
    "maxplus, volume, discount": dict(semiring="maxplus", ndim=3, plane=(16, 32, 32), discounted=True),
    "maxtimes, discount": dict(semiring="maxtimes", discounted=True),
    "maxtimes_multiplicative, discount": dict(semiring="maxtimes_multiplicative", discounted=True),
}


def scan_variant(which, semiring="real", discount=None, dtype="fp32", shape=(64, 1024, 64), reverse=False):
    "Constants and argument types of a one-axis scan kernel; discount is None, 'constant' or 'per step'"
    from fastsums.kernels import triton_scan as m
    outer, T, inner = shape
    state = "fp64" if dtype == "fp64" else "fp32"
    BT, BI, warps = m.scan_block_shape(T, inner, dtype == "fp64")
    constants = dict(SEMIRING=m.SEMIRING_CODES[semiring].value, DISCOUNTED=discount is not None, PER_STEP=discount == "per step", REVERSE=reverse,
                     INDEX=m.tl.int32, STATE=m.tl.float64 if state == "fp64" else m.tl.float32, BT=BT, BI=BI)
    if which == "backward": constants["NEEDS_A"] = discount is not None
    a = dtype if discount == "per step" else state
    pointers = dict(x=dtype, y=dtype, dx=dtype, dy=dtype, a=a, da=a)
    options = dict(maxnreg=m.MAX_REGISTERS) if which == "backward" else {}
    kernel = m._scan_fwd_kernel if which == "forward" else m._scan_bwd_kernel
    return kernel, pointers, dict(T=T, inner=inner, inner_blocks=-(-inner//BI)), constants, dict(num_warps=warps, **options)


SCAN_VARIANTS = {
    "real": dict(),
    "real, discount": dict(discount="constant"),
    "real, discount per step": dict(discount="per step"),
    "real, bfloat16, discount per step": dict(discount="per step", dtype="bf16"),
    "real, float64, discount": dict(discount="constant", dtype="fp64"),
    "real, last axis": dict(shape=(4096, 131072, 1)),
    "real, last axis, discount": dict(shape=(4096, 131072, 1), discount="constant", reverse=True),
    "maxplus": dict(semiring="maxplus"),
    "maxplus, discount": dict(semiring="maxplus", discount="constant"),
    "maxplus, bfloat16": dict(semiring="maxplus", dtype="bf16"),
    "maxplus, last axis, discount": dict(semiring="maxplus", shape=(4096, 131072, 1), discount="constant"),
}


def cases(quick):
    "(kernel, variant, target) of everything to compile"
    trees = [(f"tree {which}", variant, target) for variant in TREE_VARIANTS for which in ("forward", "backward") for target in TARGETS]
    scans = [(f"scan {which}", variant, target) for variant in SCAN_VARIANTS for which in ("forward", "backward") for target in TARGETS]
    return [case for case in trees + scans if not quick or case[1] in QUICK]


def specialised(kernel, pointers, numbers, constants):
    "Triton's view of a launch: ints that are 1 become constants, multiples of 16 are marked, all else is known by its type"
    signature, constexprs, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in pointers: signature[name], aligned = f"*{pointers[name]}", True
        elif name in constants: signature[name], constexprs[name], aligned = "constexpr", constants[name], False
        elif numbers[name] == 1: signature[name], constexprs[name], aligned = "constexpr", 1, False
        else: signature[name], aligned = "i32", numbers[name] % 16 == 0
        if aligned: attributes[i,] = [["tt.divisibility", 16]]
    return signature, constexprs, attributes


def ptxas_report(ptx, processor):
    "Registers, spills and stack of a kernel in NVIDIA's assembly language"
    import triton
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder) / "kernel.ptx").write_text(ptx)
        text = subprocess.run([program, "-v", f"--gpu-name=sm_{processor}{'a' if processor >= 90 else ''}", source, "-o", Path(folder) / "out"],
                              check=True, capture_output=True, text=True).stderr
    def number(pattern): return int(re.search(pattern, text)[1])
    return dict(registers=number(r"Used (\d+) registers"), accumulator_registers="", scalars_in_vectors="", stack_bytes=number(r"(\d+) bytes stack frame"),
                spilled_registers=(number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads") + 3)//4)


def amd_report(assembly):
    "Registers, spills and scratch memory of a kernel in AMD's assembly language"
    def number(name): return int(re.search(rf"^[\s-]*\.{name}:\s+(\d+)", assembly, re.M)[1])
    scalars = number("sgpr_spill_count")  # kept in lanes of vector registers, which costs no memory as long as there is no stack
    spilled = number("vgpr_spill_count")
    return dict(registers=number("vgpr_count"), accumulator_registers=number("agpr_count"), stack_bytes=number("private_segment_fixed_size"),
                spilled_registers=spilled, scalars_in_vectors=scalars)


def launch(case):
    "(kernel, signature, constants, attributes, options) of a case: all that the compiler is told beside the target"
    kernel_name, variant, target = case
    if kernel_name.startswith("tree"): parts = tree_variant(**TREE_VARIANTS[variant])[kernel_name.split()[1]]
    else: parts = scan_variant(kernel_name.split()[1], **SCAN_VARIANTS[variant])
    kernel, pointers, numbers, constants, options = parts
    if target == "gfx942": options = {name: value for name, value in options.items() if name != "maxnreg"}  # an option of NVIDIA's compiler
    return kernel, *specialised(kernel, pointers, numbers, constants), dict(options, enable_fp_fusion=True)


def compile_one(case):
    "One row of the report"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kernel_name, variant, target = case
    start = time.perf_counter()
    kernel, signature, constants, attributes, options = launch(case)
    compiled = triton.compile(ASTSource(kernel, signature, constants, attributes), target=GPUTarget(*TARGETS[target]), options=options)
    report = ptxas_report(compiled.asm["ptx"], TARGETS[target][1]) if "ptx" in compiled.asm else amd_report(compiled.asm["amdgcn"])
    block = " x ".join(str(constants[b]) for b in ("BH", "BW", "BT", "BI") if b in constants)
    return dict(kernel=kernel_name, variant=variant, target=target, warps=options["num_warps"], block=block, shared_bytes=compiled.metadata.shared,
                seconds=round(time.perf_counter() - start, 1), error="", **report)


def child(case, pipe):
    "What runs in the process of a kernel: sends the report, or the error's text without any path"
    os.environ["TRITON_CACHE_DIR"] = folder = tempfile.mkdtemp()  # compile afresh, leave nothing behind
    try: pipe.send(compile_one(case))
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200].replace(str(ROOT) + os.sep, ""))
    finally:
        import shutil
        shutil.rmtree(folder, ignore_errors=True)


# ---- what has not changed since it was compiled


def digest(value):
    "A name for a value that can be written as text"
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def key_of(case):
    "Changes with the source of the kernel or of a function that it inlines, with what the compiler is told, with Triton, and with this file"
    import triton
    kernel, signature, constants, attributes, options = launch(case)
    told = [case, kernel.cache_key, signature, constants, sorted(map(str, attributes.items())), options, TARGETS[case[2]]]
    return digest([told, triton.__version__, Path(__file__).read_text()])


def recall(key):
    "The row that was filed under this key; None if there is none, or what is there is not what was written"
    try:
        entry = json.loads((CACHE / f"{key}.json").read_text())
        return entry["row"] if entry["digest"] == digest([key, entry["row"]]) else None
    except (OSError, ValueError, KeyError, TypeError): return None


def keep(key, row):
    "File a row; renamed into place, so that no other process sees half of it"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=CACHE, suffix=".part", delete=False) as file: json.dump(dict(row=row, digest=digest([key, row])), file)
    os.replace(file.name, CACHE / f"{key}.json")


# ---- all cases


class Compilation:
    "A kernel that is being compiled in a process of its own"
    def __init__(self, context, case, timeout):
        self.case, self.timeout, self.end = case, timeout, time.monotonic() + timeout
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=child, args=(case, theirs))
        self.process.start()
        theirs.close()

    def row(self):
        "The row, or the reason why there is none"
        try: row = self.pipe.recv() if self.pipe.poll() else f"not done after {self.timeout:.0f} s"
        except EOFError: row = "the compiler crashed"
        self.process.kill()
        self.process.join()
        self.pipe.close()
        if not isinstance(row, str): return row
        return dict(dict.fromkeys(COLUMNS, ""), kernel=self.case[0], variant=self.case[1], target=self.case[2], error=row)


def compile_all(todo, timeout, jobs):
    "(case, row) of each case as it is done, so many at a time"
    context, waiting, running = multiprocessing.get_context("fork"), list(reversed(todo)), []  # children have torch and triton from here
    try:
        while waiting or running:
            while waiting and len(running) < jobs: running.append(Compilation(context, waiting.pop(), timeout))
            connection.wait([r.pipe for r in running], max(0, min(r.end for r in running) - time.monotonic()))
            for r in [r for r in running if r.pipe.poll() or time.monotonic() >= r.end]:
                running.remove(r)
                yield r.case, r.row()
    finally:
        for r in running: r.process.kill()


def report_all(todo, timeout, jobs, force):
    "The rows of the report, those that have not changed read back, with a line for each as it is known"
    keys, rows = {case: key_of(case) for case in todo}, {}
    def known():
        for case in todo:
            if not force and (row := recall(keys[case])): yield case, row, "not changed"
        for case, row in compile_all([case for case in todo if case not in rows], timeout, jobs):
            if not row["error"]: keep(keys[case], row)
            yield case, row, f"{row['seconds']:5.1f} s" if not row["error"] else ""
    for case, row, how in known():
        rows[case] = row
        result = row["error"] or (f"{row['registers']:4} registers, {row['spilled_registers']} spilled, {row['stack_bytes']} B stack, "
                                  f"{row['shared_bytes']:6} B shared, {how}")
        print(f"{len(rows):4}/{len(todo)}  {case[0]:14} {case[1]:36} {case[2]:7} {result}", flush=True)
    return [rows[case] for case in todo]


def failed(row): return bool(row["error"] or row["spilled_registers"] or row["stack_bytes"])


def write(rows, folder):
    "The report as a table of numbers and as a page"
    import torch
    import triton
    ptxas = subprocess.run([Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas", "--version"], capture_output=True, text=True).stdout
    ptxas = re.search(r"release ([\d.]+)", ptxas)[1]
    versions = f"Triton {triton.__version__}, PyTorch {torch.__version__.split('+')[0]}, ptxas {ptxas}"
    folder.mkdir(exist_ok=True)
    with open(folder / "kernels_compiled.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["# The kernels, compiled", "", f"Made by `python kernels/compile.py` with {versions}. Compiled ahead of time, not run.", "",
             f"{len(rows)} kernels, {sum(bool(r['error']) for r in rows)} failed to compile, "
             f"{sum(bool(not r['error'] and failed(r)) for r in rows)} spill registers.", "",
             "A cell: registers per thread / bytes of shared memory per program. For gfx942 the registers are vector registers with accumulators.", "",
             "| kernel | variant | block | warps | " + " | ".join(TARGETS) + " |", "|---|---|---|---|" + "---|"*len(TARGETS)]
    found = {(r["kernel"], r["variant"], r["target"]): r for r in rows}
    for kernel, variant in dict.fromkeys((r["kernel"], r["variant"]) for r in rows):
        cells = [found.get((kernel, variant, target)) for target in TARGETS]
        texts = ["" if r is None else r["error"] or f"{r['registers']} / {r['shared_bytes']}" + (f", **{r['spilled_registers']} spilled**" if failed(r) else "")
                 for r in cells]
        first = next(r for r in cells if r is not None)
        lines.append(f"| {kernel} | {variant} | {first['block']} | {first['warps']} | " + " | ".join(texts) + " |")
    (folder / "kernels_compiled.md").write_text("\n".join(lines) + "\n")


def cores():
    "The cores that this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit status 1 if a kernel spills registers or does not compile")
    parser.add_argument("--quick", action="store_true", help="a few kernels only; writes nothing")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only lines that match this regular expression; writes nothing")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one kernel (default 120)")
    parser.add_argument("--jobs", type=int, default=cores(), help="kernels compiled at a time (default: the number of cores)")
    parser.add_argument("--force", action="store_true", help="compile everything, whether it has changed or not")
    options = parser.parse_args()
    if options.jobs < 1: parser.error("--jobs: at least 1")
    todo = [case for case in cases(options.quick) if re.search(options.only, " ".join(case))]
    rows = report_all(todo, options.timeout, options.jobs, options.force)
    bad = [row for row in rows if failed(row)]
    print(f"{len(rows) - len(bad)} kernels compiled without spills, {len(bad)} with spills or errors")
    if not options.quick and not options.only: write(rows, ROOT / "figures")
    return 1 if options.check and (bad or not rows) else 0


if __name__ == "__main__":
    sys.exit(main())
