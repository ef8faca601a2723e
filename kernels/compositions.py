"""What one writes for an iterated sum with PyTorch's own operators: the opponents of the fused kernels, and their float64 reference.

Everybody's way: contract the channels with einsum, then for each edge of the tree flip, cumsum or cummax along the rows and columns,
flip back, and multiply into the parent. Nothing is slowed down on purpose; where there are several natural ways, all are here.
"""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastsums import CornerTree, FISLayer

Prefix = Callable[[Tensor, int, int], Tensor]  # (values, axis counted from the end, step of the direction) -> prefix sums along it


def flipped(prefix: Callable[[Tensor, int], Tensor]) -> Prefix:
    "The prefix sum from the other end where the direction looks towards larger indices"
    def along(x: Tensor, dim: int, step: int) -> Tensor:
        return prefix(x.flip(dim), dim).flip(dim) if step > 0 else prefix(x, dim)
    return along


def distances(x: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    "0, 1, 2, ... along one axis, of size 1 along the others"
    return torch.arange(x.shape[dim], dtype=dtype, device=x.device).view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])


def cumsum(x: Tensor, dim: int) -> Tensor:
    "Σ x_s"
    return x.cumsum(dim)


def cummax(x: Tensor, dim: int) -> Tensor:
    "max x_s"
    return x.cummax(dim).values


def rescaled_cumsum(x: Tensor, dim: int, discount: Tensor) -> Tensor:
    "Σ λ^(t-s) x_s = λ^t Σ λ^-s x_s: needs double precision for the range of λ^-s, and breaks where that is not enough"
    double = torch.complex128 if discount.is_complex() else torch.float64
    power = discount.to(double)**distances(x, dim, torch.float64)
    return ((x.to(double)/power).cumsum(dim)*power).to(x.dtype)


def looped_cumsum(x: Tensor, dim: int, discount: Tensor) -> Tensor:
    "y_t = x_t + λ y_(t-1), one row or column after the other"
    discount = discount.select(dim, 0)
    rows = list(x.unbind(dim))
    for t in range(1, len(rows)): rows[t] = rows[t] + discount*rows[t-1]
    return torch.stack(rows, dim)


def shifted_cummax(x: Tensor, dim: int, discount: Tensor) -> Tensor:
    "max x_s + λ(t-s) = λt + max (x_s - λs)"
    ramp = discount*distances(x, dim, x.dtype)
    return (x - ramp).cummax(dim).values + ramp


def triangular_product(x: Tensor, dim: int, step: int, discount: Tensor | None = None) -> Tensor:
    "Σ λ^(t-s) x_s as a matrix product with λ^(t-s): quadratic in the length of the axis, but in the fastest routine of all"
    t = torch.arange(x.shape[dim], device=x.device)
    gap = t[:, None] - t if step < 0 else t - t[:, None]
    if discount is None: matrix = (gap >= 0).to(x.dtype)
    else: matrix = torch.where(gap >= 0, discount**gap.clamp(min=0), 0)
    return matrix @ x if dim == -2 else x @ matrix.mT


def prefix_of(semiring: str, discount: Tensor | None, way: str) -> Prefix:
    "The prefix sum in one of the ways that the table of contenders names"
    if way == "triangular": return partial(triangular_product, discount=discount)
    if discount is None: return flipped({"real": cumsum, "maxplus": cummax}[semiring])
    function = shifted_cummax if semiring == "maxplus" else looped_cumsum if way == "loop" else rescaled_cumsum
    return flipped(partial(function, discount=discount))


def compose(values: Tensor, tree: CornerTree, semiring: str, prefix: Prefix) -> Tensor:
    "The corner-tree sum of values (n, B, O, H, W)"
    def subtree(vertex: int) -> Tensor:
        t = values[vertex]
        for child in tree.children(vertex):
            s = subtree(child)
            for axis, step in enumerate(tree.directions[child - 1]):
                if step: s = prefix(s, axis - 2, step)
            t = t + s if semiring == "maxplus" else t*s
        return t
    return subtree(0)


def contract(weight: Tensor, x: Tensor) -> Tensor:
    "Ordinary contraction of the channels: (n, O, C), (B, C, H, W) -> (n, B, O, H, W)"
    return torch.einsum("noc,bchw->nbohw", weight, x)


def contract_maxplus(weight: Tensor, x: Tensor) -> Tensor:
    "Contraction max_c (weight + x) by broadcasting: materialises (n, B, O, C, H, W)"
    return (weight[:, None, :, :, None, None] + x[:, None]).max(3).values


def composition(layer: FISLayer, x: Tensor, way: str = "cumulative") -> Tensor:
    "What `layer` computes, with its parameters, by PyTorch's own operators"
    semiring = layer.semiring.name
    values = contract_maxplus(layer.weight, x) if layer.linear == "semiring" else contract(layer.weight, x)
    discount = layer.channel_discount()
    if layer.complex: values = to_complex(layer, values)
    if len(layer.trees) > 1: y = compose_forest(values, layer.trees, semiring, discount, way)
    else: y = compose(values, layer.trees[0], semiring, prefix_of(semiring, over_sites(discount), way))
    return to_real(layer, y) if layer.complex else y


def compose_forest(values: Tensor, trees: tuple[CornerTree, ...], semiring: str, discount: Tensor | None, way: str) -> Tensor:
    "Every output channel along its own tree, one after the other"
    own = [None]*len(trees) if discount is None else discount.unbind()
    sums = [compose(v, tree, semiring, prefix_of(semiring, d, way)) for v, tree, d in zip(values.unbind(2), trees, own, strict=True)]
    return torch.stack(sums, 1)


def over_sites(discount: Tensor | None) -> Tensor | None:
    "One discount per channel, made to broadcast against (B, O, H, W)"
    return None if discount is None else discount[:, None, None]


def to_complex(layer: FISLayer, values: Tensor) -> Tensor:
    "The complex case's way in: x_c -> w x_c + b before the contraction, pulled behind it, where it costs O·n and not O·n·C"
    (w_re, w_im), (b_re, b_im) = layer.to_complex.weight[:, 0], layer.to_complex.bias
    row_sums = layer.weight.sum(-1)[:, None, :, None, None]
    return torch.complex(w_re*values + b_re*row_sums, w_im*values + b_im*row_sums)


def to_real(layer: FISLayer, y: Tensor) -> Tensor:
    "The complex case's way out: one linear map of real and imaginary part"
    (u_re, u_im), bias = layer.to_real.weight[0], layer.to_real.bias
    return u_re*y.real + u_im*y.imag + bias


def loop_over_steps(x: Tensor, semiring: str, discount: float) -> Tensor:
    """Discounted prefix sum of a sequence (..., T), one step of Python at a time.

    Cut up and joined in pieces of 1024: the backward pass of one unbind or stack of 131,072 tensors takes a minute on its own, which
    would flatter whoever is compared with this loop.
    """
    y = [step for piece in x.split(1024, -1) for step in piece.unbind(-1)]
    if semiring == "real":
        for t in range(1, len(y)): y[t] = y[t] + discount*y[t-1]
    else:
        for t in range(1, len(y)): y[t] = torch.maximum(y[t], y[t-1] + discount)
    return torch.cat([torch.stack(y[t:t + 1024], -1) for t in range(0, len(y), 1024)], -1)


def generic_associative_scan(x: Tensor, semiring: str, discount: float) -> Tensor:
    "The same by PyTorch's associative scan of pairs (λ^steps, value), which is not public yet"
    from torch._higher_order_ops import associative_scan
    def real(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]: return a[0]*b[0], b[1] + b[0]*a[1]
    def maxplus(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return a[0] + b[0], torch.maximum(b[1], b[0] + a[1])
    steps = torch.full_like(x, discount)
    return associative_scan(real if semiring == "real" else maxplus, (steps, x), dim=x.ndim - 1, combine_mode="generic")[1]
