"""`make bench`: time and memory of the layers and scans on this machine, against PyTorch's operators and the floor below them all.

Writes bench_<device>.csv (every number), .md (tables and the bars that the kernels have to clear) and .png (pictures); the part `start` (first calls, seconds of
the suite) writes first_calls.csv and suite_seconds.csv.
"""
import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("start", "layers", "memory", "scans", "pixels")
FIGURES = Path(__file__).resolve().parent.parent/"figures"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    "The command line"
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default cpu)")
    parser.add_argument("--only", choices=PARTS, help="one part only; its files are named bench_<device>_<part>.*")
    parser.add_argument("--runs", type=int, default=9, help="timed rounds per case, at least (default 9; slow contenders get fewer)")
    parser.add_argument("--quick", action="store_true", help="toy sizes: a smoke test; writes to a temporary folder unless --out is given")
    parser.add_argument("--out", type=Path, help="folder for the results (default figures/)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what PyTorch and numba choose)")
    parser.add_argument("--compile", choices=("none", "first", "all"), default="first", dest="compiled",
                        help="sizes at which the composition is also measured under torch.compile (default first)")
    parser.add_argument("--allocator", choices=("keep", "system"), default="system",
                        help="CPU: whether memory is returned as the C library likes (default system), or kept for the next call, for all contenders alike")
    parser.add_argument("--tuned", type=Path, metavar="FILE",
                        help="CUDA: blocks measured by tune.py, a file of kernels/tuned/ (default: the kernels' fixed ones)")
    options = parser.parse_args(arguments)
    if options.tuned and options.device != "cuda": parser.error("--tuned: needs --device cuda, there are no blocks to tune on the CPU")
    if options.tuned and not options.tuned.is_file(): parser.error(f"--tuned: there is no file {options.tuned}")
    if options.runs < 1: parser.error("--runs: at least 1")
    if options.threads is not None and options.threads < 1: parser.error("--threads: at least 1")
    if options.quick: options.runs, options.compiled = min(options.runs, 2), "none"
    options.out = options.out or (Path(tempfile.mkdtemp(prefix="fastsums_bench_")) if options.quick else FIGURES)
    return options


def set_threads(threads: int | None) -> None:
    "Before torch and numba are imported, and inherited by the processes that measure memory"
    if threads is None: return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"): os.environ[name] = str(threads)


class Bench:
    "One run of the suite: measures part by part, and keeps what is measured on disk"
    def __init__(self, options: argparse.Namespace):
        import report
        self.options, self.device, self.began, self.done = options, options.device, time.monotonic(), []
        machine = report.describe_machine(options.device)
        if options.device == "cpu": machine["allocator"] = options.allocator
        else: machine["blocks of the tree kernels"] = f"tuned ({options.tuned.name})" if options.tuned else "fixed"
        self.results = report.Results(machine, quick=options.quick, runs=options.runs)
        self.stem = options.out/("bench_" + "_".join(filter(None, (options.device, options.only))))

    def say(self, text: str) -> None:
        "A line of progress"
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)

    def run(self) -> int:
        "All parts; an interruption keeps what there is. The exit code: 1 if a contender computes something else, 130 if interrupted"
        import measure
        code = 0
        try:
            self.results.rates = measure.machine_rates(self.device, self.options.quick)
            self.say("copy {:.1f} GB/s, matrix product {:.0f} Gflop/s".format(*(self.results.rates[k]/1e9 for k in ("bandwidth", "flops"))))
            for part in PARTS:
                if self.options.only not in (None, part): continue
                getattr(self, part)()
                self.done.append(part)
                self.write(finished=False)
        except KeyboardInterrupt:
            self.say("interrupted: writing what there is")
            code = 130
        self.write(finished=code == 0, picture=True)
        wrong = [row for row in self.results.rows if row.note.startswith("WRONG")]
        for row in wrong: print(f"WRONG: {row.case}, {row.tree}, {row.size}: {row.contender}: {row.note}", file=sys.stderr)
        return code or int(bool(wrong))

    def write(self, finished: bool, picture: bool = False) -> None:
        "The results so far"
        import report
        self.results.finished, self.results.parts = finished, tuple(self.done)
        self.results.seconds = time.monotonic() - self.began
        report.write(self.results, self.stem, picture)
        if picture: self.say(f"written: {self.stem}.csv, .md, .png")

    def compare(self, part: str, case: str, tree: str, size: str, contenders: list, errors: dict, semiring: str, seconds: float = 3.) -> None:
        "Time contenders in turn and file the rows"
        import contenders as c
        import measure
        import report
        timings = measure.interleave(contenders, self.device, self.options.runs, 0.05 if self.options.quick else seconds)
        for contender in contenders:
            error = errors.get(contender.name, c.Error())
            if not c.tolerated(error, semiring): contender.note = f"WRONG: error {error.output:.1e}, of gradients {error.gradient:.1e}"
            for direction in ("fwd", "fwd+bwd"):
                timing = timings.get((contender.name, direction), measure.Timing())
                self.results.add(report.Row(part, case, tree, size, contender.name, direction, *timing.quartiles, len(timing.seconds),
                                            timing.first, error.output, error.gradient, note=contender.note))

    def start(self) -> None:
        "First calls, and the seconds of the suite, in files of their own; on the CPU, at full size"
        import report
        import start
        if self.device != "cpu" or self.options.quick: return
        machine = {"processor": report.processor()}
        start.write(start.first_calls(self.say), self.options.out/"first_calls.csv", machine)
        if rows := start.suite_seconds(): start.write(rows, self.options.out/"suite_seconds.csv", machine)
        self.say(f"written: first_calls.csv{', suite_seconds.csv' if rows else ''}")

    def layers(self) -> None:
        "Every kind of layer at every size of the plan"
        import contenders as c
        plan = c.layer_plan(self.options.quick)
        for number, (case, tree, size) in enumerate(plan, 1):
            first = size == plan[0][2] and tree == "chain" and case.name in c.MAIN_CASES
            compiled = self.options.compiled == "all" or self.options.compiled == "first" and first
            contenders = [c.build(name, case, tree, size, self.device) for name in c.contender_names(case, tree, size, compiled)]
            errors = self.check(contenders, case, tree, size)
            self.compare("layers", case.name, tree, str(size), contenders, errors, case.semiring)
            self.say(f"layers {number}/{len(plan)}  {case.name}, {tree}, {size}: " + self.results.summary("layers", case.name, tree, str(size)))

    def check(self, contenders: list, case, tree: str, size) -> dict:
        "Errors against the float64 reference of all that compute the layer's result"
        import contenders as c
        expected = c.reference(case, tree, size, self.device)
        errors = {}
        for contender in contenders:
            if contender.name in (*c.FLOORS, c.PRODUCT, c.LAYER_SHARED): continue
            errors[contender.name] = c.check(contender, lambda: c.error_of(contender, expected), self.device)
        ours = errors[c.LAYER]
        self.say(f"       {case.name}, {tree}, {size}: error of the layer {ours.output:.1e}, of its gradients {ours.gradient:.1e}; "
                 f"of the composition {errors[c.COMPOSITION].output:.1e}, {errors[c.COMPOSITION].gradient:.1e}")
        return errors

    def memory(self) -> None:
        "Peak extra memory of one forward and backward pass, a fresh process for each contender"
        import contenders as c
        import measure
        known = {}  # the floor knows no cases
        plan = [(case, tree, size) for case, tree, size in c.layer_plan(self.options.quick) if tree not in ("cherry", c.FOREST) and case.name != "complex"]
        for case, tree, size in plan[:2] if self.options.quick else plan:
            peaks = {}
            for name in c.contender_names(case, tree, size, compiled=False):
                if name in (c.TRIANGULAR, c.PRODUCT): continue
                key = (name, size) if name in c.FLOORS else (name, size, case.name, tree)
                if key not in known: known[key] = measure.peak_memory(c.build, (name, case, tree, size, self.device), self.device)
                peaks[name] = known[key]
                self.results.add_peak(case.name, tree, str(size), name, peaks[name])
            shown = ", ".join(f"{name} {peak/1e6:.0f} MB" for name, peak in peaks.items() if isinstance(peak, float | int))
            self.say(f"memory {case.name}, {tree}, {size}: {shown or 'not measured'}")

    def scans(self) -> None:
        "Scans alone"
        import contenders as c
        for case in c.scan_plan(self.options.quick):
            contenders, errors = c.scan_contenders(case, self.device), {}
            for contender in contenders:
                errors[contender.name] = c.check(contender, lambda: c.scan_error(contender, case), self.device)
            size = "×".join(map(str, case.shape))
            self.compare("scans", case.name, case.direction, size, contenders, errors, case.semiring, seconds=1.5)
            self.say(f"scans  {case.name}, {size}: " + self.results.against_first("scans", case.name, case.direction, size))

    def pixels(self) -> None:
        "Time against the number of sites; a contender that gets too slow drops out of the larger sizes"
        import contenders as c
        for name in ("real", "maxplus"):
            case, names = c.CASES[name], [*c.FLOORS, *c.LAYERS, c.COMPOSITION]
            for size in c.pixel_sizes(self.options.quick):
                contenders = [c.build(name, case, "chain", size, self.device) for name in names]
                self.compare("pixels", case.name, "chain", str(size), contenders, {}, case.semiring, seconds=1.5)
                composition = self.results.get("pixels", case.name, "chain", str(size), c.COMPOSITION, "fwd+bwd")
                if composition and composition.median_s > 0.1: names = [n for n in names if n != c.COMPOSITION]
                self.say(f"pixels {case.name}, {size}: " + self.results.summary("pixels", case.name, "chain", str(size)))


def keep_memory() -> str:
    "Keep freed memory where that is possible; how, in words for the record"
    import measure
    return "keep (freed memory is used again)" if measure.keep_freed_memory() else "system (this C library takes no orders)"


def main(arguments: list[str] | None = None) -> int:
    "Run the suite; the exit code"
    options = parse(arguments)
    set_threads(options.threads)
    import torch
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"--device cuda: PyTorch {torch.__version__} finds no CUDA device on this machine. Nothing was measured.", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # all contenders in float32
    if options.threads: torch.set_num_threads(options.threads)
    if options.device == "cpu" and options.allocator == "keep": options.allocator = keep_memory()
    if options.tuned:
        from fastsums.kernels import triton_tree
        if not triton_tree.load_tuned(options.tuned): print(f"--tuned: {options.tuned} is empty", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what has been measured is written
    with tempfile.TemporaryDirectory(prefix="fastsums_bench_inductor_") as cache:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)  # an empty cache: the first call of torch.compile is one that compiles
        return Bench(options).run()


if __name__ == "__main__": sys.exit(main())
