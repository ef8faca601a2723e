#!/usr/bin/env python
"""Measure block shapes of the Triton tree kernels on this GPU, for the sizes of the benchmark, and write the fastest ones to a file.

    python kernels/tune.py            all of them; writes kernels/tuned/<device>.json
    python kernels/tune.py --quick    one size, few candidates; writes to a temporary folder

The kernels use the file when they are told to: `triton_tree.load_tuned(file)`, or `python kernels/bench.py --device cuda --tuned file`.
Without a GPU the exit status is 2; with TRITON_INTERPRET=1, `--quick` runs under Triton's interpreter, as a test of this program.
"""
import argparse
import itertools
import re
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    "The command line"
    parser = argparse.ArgumentParser(prog="tune.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size and few candidates: a smoke test; writes to a temporary folder unless --out is given")
    parser.add_argument("--only", choices=("forward", "backward"), help="one of the two kernels")
    parser.add_argument("--vertices", type=int, nargs="+", default=[3], metavar="N", help="vertices of the trees (default 3, as in the benchmark)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write (default kernels/tuned/<device>.json); what is in it already is kept")
    options = parser.parse_args(arguments)
    if min(options.vertices) < 2: parser.error("--vertices: at least 2, a single vertex launches no kernel")
    return options


def plan(options: argparse.Namespace, interpreted: bool) -> list[dict]:
    "Arguments of `tune`, one kind of launch after the other"
    if options.quick: sizes = [((6, 5), (1, 1))] if interpreted else [((32, 32), (8, 16))]
    else:
        import contenders
        sizes = [((size.height, size.width), (size.batch, size.outputs)) for size in contenders.SIZES]
    passes = (options.only,) if options.only else ("forward", "backward")
    few = dict(candidates=[(4, 8, 1), (8, 8, 1)] if interpreted else [(16, 32, 4), (8, 64, 4), (8, 32, 2)]) if options.quick else {}
    kinds = itertools.product(sizes, options.vertices, ("real", "maxplus"), (False, True), passes)
    return [dict(spatial=spatial, batch=batch, n=n, semiring=semiring, discounted=discounted, which=which, **few)
            for (spatial, batch), n, semiring, discounted, which in kinds]


def destination(options: argparse.Namespace, device_name: str) -> Path:
    "The file to write"
    if options.out: return options.out
    folder = Path(tempfile.mkdtemp(prefix="fastsums_tuned_")) if options.quick else ROOT/"kernels"/"tuned"
    return folder/(re.sub(r"\W+", "_", device_name).strip("_") + ".json")


def main(arguments: list[str] | None = None) -> int:
    "Tune and write; the exit code"
    options = parse(arguments)
    from fastsums.kernels import triton_tree
    interpreted = triton_tree.INTERPRETED and options.quick
    if not interpreted and (triton_tree.INTERPRETED or not torch.cuda.is_available()):
        reason = "TRITON_INTERPRET is set" if triton_tree.INTERPRETED else f"PyTorch {torch.__version__} finds no CUDA device on this machine"
        print(f"tune.py: {reason}. Nothing was measured.", file=sys.stderr)
        return 2
    device = torch.device("cpu" if interpreted else "cuda")
    path = destination(options, triton_tree._device_name(device))
    if path.exists(): triton_tree.load_tuned(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    todo = plan(options, interpreted)
    for i, case in enumerate(todo, 1):
        spatial, kind = case["spatial"], f"{case['semiring']}{', discount' if case['discounted'] else ''}, {case['n']} vertices, {case['which']}"
        seconds = triton_tree.tune(device=device.type, **case)
        fixed = triton_tree.block_shape((*[1]*(3 - len(spatial)), *spatial), backward=case["which"] == "backward")
        best = next(iter(seconds))
        print(f"{i:3}/{len(todo)}  {'×'.join(map(str, spatial)):9} {kind:40} {len(seconds):3} blocks, best {best}: {seconds[best]*1e3:.3f} ms, "
              f"fixed {fixed}: {seconds[fixed]*1e3:.3f} ms", flush=True)
        triton_tree.save_tuned(path)  # an interruption keeps what has been measured
    print(f"written: {path}")
    return 0


if __name__ == "__main__": sys.exit(main())
