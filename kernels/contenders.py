"""What is compared: the cases, their sizes, and for each a table of contenders that compute the same thing (or the floor below it)."""
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from compositions import composition, generic_associative_scan, loop_over_steps
from fastsums import CornerTree, FISLayer, scan
from measure import Contender, explain, warm_up

FLOOR, FLOOR_LAST, PRODUCT = "1×1 convolution", "1×1 convolution, channels-last", "matrix product"
LAYER, LAYER_LAST, LAYER_SHARED = "layer", "layer, channels-last", "layer, one shared tree"
COMPOSITION, LOOP, TRIANGULAR, COMPILED = "composition", "composition, loop over rows", "composition, triangular matrices", "composition, compiled"
FLOORS, LAYERS, EAGER = (FLOOR, FLOOR_LAST), (LAYER, LAYER_LAST), (COMPOSITION, LOOP)
WAYS = {COMPOSITION: "cumulative", LOOP: "loop", TRIANGULAR: "triangular"}
TREES = {"chain": "NW(NE)", "cherry": "NW NE", "chain up and down": "NW(SE)"}
FOREST = "64 different"


@dataclass(frozen=True)
class Size:
    "B samples, C channels in, O channels out, H×W sites"
    batch: int
    channels: int
    outputs: int
    height: int
    width: int

    def __str__(self) -> str: return f"{self.batch}×({self.channels}→{self.outputs})×{self.height}×{self.width}"

    @property
    def sites(self) -> int: return self.batch*self.height*self.width


@dataclass(frozen=True)
class Case:
    "A kind of layer"
    name: str
    options: tuple[tuple[str, object], ...] = field(default=())  # of FISLayer

    @property
    def semiring(self) -> str: return dict(self.options).get("semiring", "real")
    @property
    def discounted(self) -> bool: return "discount" in dict(self.options) or "complex" in dict(self.options)


MAXPLUS = ("semiring", "maxplus")
CASES = {case.name: case for case in [
    Case("real"), Case("maxplus", (MAXPLUS,)),
    Case("real, discount 0.9", (("discount", 0.9),)), Case("maxplus, discount -0.1", (MAXPLUS, ("discount", -0.1))),
    Case("complex", (("complex", True), ("complex_init_r_min", 0.5), ("complex_init_r_max", 0.99))),
    Case("maxplus, semiring-linear", (MAXPLUS, ("linear", "semiring")))]}
MAIN_CASES = ("real", "maxplus", "real, discount 0.9", "maxplus, discount -0.1")
SIZES = (Size(32, 64, 64, 32, 32), Size(8, 96, 96, 56, 56), Size(2, 64, 64, 256, 256))
QUICK_SIZES = (Size(2, 8, 8, 16, 16),)


def layer_plan(quick: bool) -> list[tuple[Case, str, Size]]:
    "(case, tree, size) in the order of the run: what the bars speak of comes first"
    sizes = QUICK_SIZES if quick else SIZES
    plan = [(CASES[name], "chain", size) for size in sizes for name in MAIN_CASES]
    plan += [(CASES[name], "cherry", sizes[0]) for name in MAIN_CASES]
    plan += [(CASES[name], "chain up and down", size) for size in sizes for name in ("real", "maxplus")]
    plan += [(CASES[name], FOREST, sizes[0]) for name in ("real", "maxplus")]
    return plan + [(CASES[name], "chain", sizes[0]) for name in ("complex", "maxplus, semiring-linear")]


def trees_of(name: str, outputs: int) -> str | list[CornerTree]:
    "The tree of that name, or as many different trees with three vertices as there are output channels, spread over the enumeration"
    if name != FOREST: return TREES[name]
    count = CornerTree.count(3)
    return [CornerTree.from_index(3, i*count//outputs) for i in range(outputs)]


def make_layer(case: Case, tree: str, size: Size, device: str) -> FISLayer:
    "The layer, the same weights every time; for many trees and for one"
    generator = torch.Generator().manual_seed(1)
    return FISLayer(size.channels, size.outputs, trees_of(tree, size.outputs), init="scaled", generator=generator, **dict(case.options)).to(device)


def random(shape: tuple[int, ...], device: str, seed: int) -> Tensor:
    "Normal random numbers, the same on every device"
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def contender_names(case: Case, tree: str, size: Size, compiled: bool) -> list[str]:
    "Who takes part in a case"
    names = [*FLOORS, PRODUCT, *LAYERS, COMPOSITION]
    if tree == FOREST: return [*names, LAYER_SHARED]
    if tree == "chain up and down": return names
    if case.name == "real, discount 0.9" or case.name == "complex": names.append(LOOP)
    if case.semiring == "real" and case.name != "complex": names.append(TRIANGULAR)
    return [*names, COMPILED] if compiled else names


def build(name: str, case: Case, tree: str, size: Size, device: str) -> Contender:
    "One contender of a case, on random input; called in fresh processes, too"
    layer = make_layer(case, "chain" if name == LAYER_SHARED else tree, size, device)
    x = random((size.batch, size.channels, size.height, size.width), device, 2)
    gradient = random((size.batch, size.outputs, size.height, size.width), device, 3)
    if name in (FLOOR_LAST, LAYER_LAST): x = x.to(memory_format=torch.channels_last)
    if name in (*FLOORS, PRODUCT): return floor(name, layer, x, gradient)
    parameters = list(layer.parameters())
    if name in (*LAYERS, LAYER_SHARED): return Contender(name, layer, x, parameters, gradient)
    function = partial(composition, layer, way=WAYS.get(name, "cumulative"))
    if name != COMPILED: return Contender(name, function, x, parameters, gradient)
    torch._dynamo.reset()
    return Contender(name, torch.compile(function, dynamic=False), x, parameters, gradient, fixed_shape=True)


def floor(name: str, layer: FISLayer, x: Tensor, gradient: Tensor) -> Contender:
    "The contraction alone: n·O output channels, with an incoming gradient for all of them"
    weight = layer.weight.detach().flatten(0, 1).requires_grad_()
    gradient = gradient.repeat(1, len(layer.weight), 1, 1)
    if name == PRODUCT: return Contender(name, lambda x: (weight @ x.flatten(2)).unflatten(2, x.shape[2:]), x, [weight], gradient)
    return Contender(name, lambda x: F.conv2d(x, weight[:, :, None, None]), x, [weight], gradient)


# ---- precision


@dataclass
class Error:
    "Distance from the float64 reference: of the output relative to its largest value, of the gradients in relative 2-norm (the worst one)"
    output: float = float("nan")
    gradient: float = float("nan")


def reference(case: Case, tree: str, size: Size, device: str) -> tuple[Tensor, list[Tensor]]:
    "Output and gradients of the composition in float64, of the first sample (samples do not see each other)"
    layer = copy.deepcopy(make_layer(case, tree, size, device)).double()
    source = build(COMPOSITION, case, tree, size, device)
    x = source.x[:1].detach().double().requires_grad_()
    y = composition(layer, x)
    return y.detach(), list(torch.autograd.grad(y, [x, *layer.parameters()], source.gradient[:1].double()))


def error_of(contender: Contender, expected: tuple[Tensor, list[Tensor]]) -> Error:
    "How far a contender is from the reference: its first sample alone; that of a layer as the first of the whole batch, too"
    y_expected, gradients_expected = expected
    whole_batch = contender.fixed_shape or contender.name in LAYERS
    first_of_batch = relative(contender.forward()[:1], y_expected) if whole_batch else 0.
    if contender.fixed_shape: return Error(first_of_batch)
    x = contender.x[:1].detach().requires_grad_()
    y = contender.function(x)
    gradients = torch.autograd.grad(y, [x, *contender.parameters], contender.gradient[:1])
    norms = [((g - e).abs().square().sum()/e.abs().square().sum().clamp(min=1e-60)).sqrt().item()
             for g, e in zip(gradients, gradients_expected, strict=True)]
    return Error(max(relative(y.detach(), y_expected), first_of_batch), max(norms))


def relative(y: Tensor, expected: Tensor) -> float:
    "max |y - expected| / max |expected|; infinite where one has a NaN"
    error = ((y - expected).abs().max()/expected.abs().max()).item()
    return error if error == error else float("inf")


def tolerated(error: Error, semiring: str) -> bool:
    "float32 accuracy; a maximum may choose another of two nearly equal sites, which moves a gradient as a whole"
    return not error.output > 1e-4 and not error.gradient > (1e-3 if semiring == "real" else 5e-2)


# ---- scans


@dataclass(frozen=True)
class ScanCase:
    "A scan along one axis, and what PyTorch has for it"
    name: str
    semiring: str
    shape: tuple[int, ...]
    direction: str  # "N": down the columns, "W": along the rows, "-": on one axis
    discount: float | None = None


TORCH_SCANS = {"real": ("torch.cumsum", lambda x, dim: x.cumsum(dim)), "maxplus": ("torch.cummax", lambda x, dim: x.cummax(dim).values),
               "log": ("torch.logcumsumexp", lambda x, dim: x.logcumsumexp(dim))}
LOOP_STEPS, ASSOCIATIVE = "Python loop", "associative_scan, generic"


def scan_plan(quick: bool) -> list[ScanCase]:
    "The scans, plain ones first"
    small, tall, long = ((2, 4, 16, 16), (4, 64, 8), (1, 1, 512)) if quick else ((32, 64, 64, 64), (64, 1024, 64), (1, 1, 131072))
    axes = [(small, "N", "column"), (small, "W", "row"), (tall, "N", "column"), (long, "-", "1-D")]
    plan = [ScanCase(f"{semiring}, {where}", semiring, shape, direction) for semiring in TORCH_SCANS for shape, direction, where in axes]
    discounts = (("real", 0.9), ("maxplus", -0.1))
    return plan + [ScanCase(f"{semiring}, discount {d}, 1-D", semiring, long, "-", d) for semiring, d in discounts]


def scan_contenders(case: ScanCase, device: str) -> list[Contender]:
    "Our scan, and PyTorch's own or what one writes without one"
    ndim, dim = (1, -1) if case.direction == "-" else (2, -2 if case.direction == "N" else -1)
    ours = partial(scan, direction=case.direction, semiring=case.semiring, discount=case.discount, ndim=ndim)
    functions: dict[str, Callable] = {"scan": ours}
    if case.discount is None:
        name, theirs = TORCH_SCANS[case.semiring]
        functions[name] = partial(theirs, dim=dim)
    else:
        functions[LOOP_STEPS] = partial(loop_over_steps, semiring=case.semiring, discount=case.discount)
        functions[ASSOCIATIVE] = partial(generic_associative_scan, semiring=case.semiring, discount=case.discount)
    return [Contender(name, function, random(case.shape, device, 2), [], random(case.shape, device, 3)) for name, function in functions.items()]


def scan_error(contender: Contender, case: ScanCase) -> Error:
    "Distance of a scan and its gradient from the reference in float64: `scan` on the CPU with the readable backend"
    ndim = 1 if case.direction == "-" else 2
    x = contender.x.detach().double().cpu().requires_grad_()
    expected = scan(x, case.direction, case.semiring, case.discount, ndim=ndim, backend="torch")
    gradient, = torch.autograd.grad(expected, x, contender.gradient.double().cpu())
    y = contender.function(contender.x)
    own, = torch.autograd.grad(y, contender.x, contender.gradient)
    norm = ((own.cpu() - gradient).norm()/gradient.norm()).item()
    return Error(relative(y.detach().cpu(), expected.detach()), norm)


def check(contender: Contender, measure: Callable[[], Error], device: str) -> Error:
    "The error of a contender after its first calls; none, and a note, where it can't be had"
    warm_up(contender, device)
    if not contender.first: return Error()
    try: return measure()
    except Exception as error:
        contender.note = f"error not measured: {explain(error)}"
        return Error()


# ---- time against pixels


def pixel_sizes(quick: bool) -> list[Size]:
    "Growing squares, sixteen channels"
    return [Size(1, 16, 16, side, side) for side in ((16, 32) if quick else (32, 64, 128, 256, 512, 1024))]
