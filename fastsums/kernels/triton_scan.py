# %%
#| export
import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsums.kernels.triton_tree import (INTERPRETED, MAXPLUS, MAXTIMES, MAXTIMES_MULTIPLICATIVE, MINPLUS, REAL, SEMIRING_CODES, STATE_TYPES,
                                          _accumulate, _accumulate_gated, _finite, _last, _neutral, _on, _past_won)

# %%
#| export
@triton.jit
def _scan_fwd_kernel(x, a, y, T, inner, inner_blocks, SEMIRING:tl.constexpr, DISCOUNTED:tl.constexpr, PER_STEP:tl.constexpr,
                     REVERSE:tl.constexpr, INDEX:tl.constexpr, STATE:tl.constexpr, BT:tl.constexpr, BI:tl.constexpr):
    "y_t = x_t ⊕ (a_t ⊙ y_{t-1}) for one outer index and BI inner ones"
    i_program = tl.program_id(0).to(tl.int64)
    i_outer, i_inner = i_program // inner_blocks, i_program % inner_blocks
    line = i_outer*T*inner
    o_i = i_inner*BI + tl.arange(0, BI)[None, :]
    step = tl.zeros([BT, BI] if PER_STEP else [1, 1], STATE)
    if DISCOUNTED and not PER_STEP: step = _finite(step + tl.load(a + i_outer))
    carry = _neutral([1, BI], STATE, SEMIRING)
    for i in range(tl.cdiv(T, BT)):
        o_t = (i*BT + tl.arange(0, BT)[:, None]).to(INDEX)
        mask = (o_t < T) & (o_i < inner)
        at = line + (T - 1 - o_t if REVERSE else o_t)*inner + o_i
        b_x = tl.where(mask, tl.load(x + at, mask, other=0).to(STATE), _neutral([BT, BI], STATE, SEMIRING))
        if PER_STEP: step = _finite(tl.load(a + at, mask, other=0).to(STATE))
        b_y = _accumulate(b_x, step, carry, i > 0, 0, SEMIRING, DISCOUNTED)
        carry = _last(b_y, 0, BT)
        tl.store(y + at, b_y.to(y.dtype.element_ty), mask)

# %%
#| export
@triton.jit
def _scan_bwd_kernel(dy, x, y, a, dx, da, T, inner, inner_blocks, SEMIRING:tl.constexpr, DISCOUNTED:tl.constexpr, PER_STEP:tl.constexpr,
                     REVERSE:tl.constexpr, NEEDS_A:tl.constexpr, INDEX:tl.constexpr, STATE:tl.constexpr, BT:tl.constexpr, BI:tl.constexpr):
    "D_t = dy_t + gate_{t+1} D_{t+1}, from the last step to the first; dx_t is D_t where x_t has won, da_t belongs to the step into t"
    i_program = tl.program_id(0).to(tl.int64)
    i_outer, i_inner = i_program // inner_blocks, i_program % inner_blocks
    line = i_outer*T*inner
    o_i = i_inner*BI + tl.arange(0, BI)[None, :]
    step = tl.zeros([BT, BI] if PER_STEP else [1, 1], STATE)
    if DISCOUNTED and not PER_STEP: step = _finite(step + tl.load(a + i_outer))
    carry, total = tl.zeros([1, BI], STATE), tl.zeros([BT, BI], STATE)
    sign:tl.constexpr = -1 if REVERSE else 1
    for i in range(tl.cdiv(T, BT)):
        o_t = (T - 1 - (i*BT + tl.arange(0, BT)[:, None])).to(INDEX)
        mask = (o_t >= 0) & (o_i < inner)
        after, before = mask & (o_t < T - 1), mask & (o_t > 0)
        at = line + (T - 1 - o_t if REVERSE else o_t)*inner + o_i
        g = tl.load(dy + at, mask, other=0).to(STATE)
        if PER_STEP: step = _finite(tl.load(a + at + sign*inner, after, other=0).to(STATE))
        if SEMIRING == REAL: g = _accumulate(g, step, carry, i > 0, 0, REAL, DISCOUNTED)
        else:
            won = _past_won(tl.load(x + at + sign*inner, after, other=0).to(STATE), tl.load(y + at + sign*inner, after, other=0).to(STATE))
            gate = won.to(STATE)
            if DISCOUNTED and SEMIRING == MAXTIMES_MULTIPLICATIVE: gate *= step
            g = _accumulate_gated(g, gate, carry, i > 0, 0)
        carry = _last(g, 0, BT)
        lost = mask & (o_t < 0)
        if SEMIRING != REAL:
            lost = before & (_past_won(tl.load(x + at, mask, other=0).to(STATE), tl.load(y + at, mask, other=0).to(STATE)) == 1)
        tl.store(dx + at, tl.where(lost, 0, g).to(dx.dtype.element_ty), mask)
        if NEEDS_A:
            if (SEMIRING == REAL) | (SEMIRING == MAXTIMES_MULTIPLICATIVE):
                d = tl.where(before if SEMIRING == REAL else lost, g*tl.load(y + at - sign*inner, before, other=0).to(STATE), 0)
            else: d = tl.where(lost, g, 0)
            if PER_STEP: tl.store(da + at, d.to(da.dtype.element_ty), mask)
            else: total += d
    if NEEDS_A and not PER_STEP: tl.store(da + i_program, tl.sum(tl.sum(total, 1), 0))

# %%
#| export
def supports(
    x:Tensor,             # (outer, T, inner)
    semiring:str,         # a semiring's name
    a:Tensor|None=None,   # the discount, or None
)->str:                   # "": yes; otherwise why not
    "Whether these kernels can serve"
    if semiring not in SEMIRING_CODES: return f"the Triton kernels know the semirings {', '.join(SEMIRING_CODES)}, not {semiring!r}"
    if x.dtype not in STATE_TYPES: return f"the Triton kernels need real floating-point values, got {x.dtype}"
    if a is not None and not a.is_floating_point(): return f"the Triton kernels need a real discount, got {a.dtype}"
    if x.device.type == ("cpu" if INTERPRETED else "cuda"): return ""
    return f"the Triton kernels need {'CPU tensors under the interpreter' if INTERPRETED else 'a GPU'}, got {x.device}"

# %%
#| export
def scan_block_shape(
    T:int,          # length of the axis
    inner:int,      # numbers side by side, scanned independently
    double:bool,    # whether the state is in double precision
)->tuple[int, int, int]: # steps and inner indices of a block, warps
    "The fixed configuration: as many inner indices as a cache line has, the rest of 8 (4) elements a thread along the axis"
    most = 512 if double else 1024
    BI = min(triton.next_power_of_2(inner), 32)
    BT = min(triton.next_power_of_2(T), most//BI)
    return BT, BI, max(1, min(4, BT*BI//(most//4)))

MAX_REGISTERS = 168  # a thread, backward, on NVIDIA: left to itself the assembler sometimes spills a few to fit one more program

def _prepare(x, a, semiring, reverse, per_step):
    "Grid, arguments and constants of a launch"
    outer, T, inner = x.shape
    BT, BI, warps = scan_block_shape(T, inner, x.dtype == torch.float64)
    blocks = triton.cdiv(inner, BI)
    state = tl.float64 if x.dtype == torch.float64 else tl.float32
    arguments = dict(x=x, a=x if a is None else a, T=T, inner=inner, inner_blocks=blocks)
    constants = dict(SEMIRING=SEMIRING_CODES[semiring].value, DISCOUNTED=a is not None, PER_STEP=a is not None and per_step, REVERSE=bool(reverse),
                     INDEX=tl.int32 if T*inner + 2*BT*inner < 2**31 else tl.int64, STATE=state, BT=BT, BI=BI)
    return outer*blocks, arguments, constants, dict(num_warps=warps, enable_fp_fusion=True)

def _contiguous_discount(a, x, per_step):
    "The discount as the kernels read it; one a step in its own type, one a line in the type of the state"
    if a is None: return None
    return a.contiguous() if per_step else a.to(STATE_TYPES[x.dtype]).contiguous()

# %%
#| export
def forward(
    x:Tensor,          # (outer, T, inner), float16, bfloat16, float32 or float64
    a:Tensor|None,     # discount: None, (outer,) constant along the axis, or like `x`, `a[:, t]` acting between t-1 and t
    semiring:str="real", # a semiring's name
    reverse:bool=False,  # from the last step to the first; `a[:, t]` then acts between t+1 and t
    per_step:bool=False, # whether `a` has one number for each step
)->Tensor:             # y, like `x`, contiguous
    "Prefix ⊕ along the middle axis"
    x, a = x.contiguous(), _contiguous_discount(a, x, per_step)
    y = x.new_empty(x.shape)
    if y.numel() == 0: return y
    programs, arguments, constants, options = _prepare(x, a, semiring, reverse, per_step)
    with _on(x.device): _scan_fwd_kernel[(programs,)](y=y, **arguments, **constants, **options)
    return y

def backward(
    dy:Tensor,         # gradient of y, (outer, T, inner)
    x:Tensor,          # as in `forward`
    y:Tensor,          # from `forward`
    a:Tensor|None,     # as in `forward`
    semiring:str="real", # as in `forward`
    reverse:bool=False,  # as in `forward`
    per_step:bool=False, # as in `forward`
)->tuple[Tensor, Tensor|None]: # gradients of `x` and of `a` (None if there is none)
    "Gradients of the prefix ⊕; sums are taken in a fixed order, so two runs agree bit for bit"
    x, dy, y, given, a = x.contiguous(), dy.contiguous(), y.contiguous(), a, _contiguous_discount(a, x, per_step)
    dx = x.new_empty(x.shape)
    if dx.numel() == 0: return dx, None if a is None else torch.zeros_like(given)
    programs, arguments, constants, options = _prepare(x, a, semiring, reverse, per_step)
    da = None if a is None else a.new_empty(a.shape if per_step else (programs,))
    if x.is_cuda and torch.version.hip is None: options["maxnreg"] = MAX_REGISTERS
    with _on(x.device):
        _scan_bwd_kernel[(programs,)](dy=dy, y=y, dx=dx, da=dx if a is None else da, NEEDS_A=a is not None, **arguments, **constants, **options)
    if a is None: return dx, None
    if not per_step: da = da.view(len(x), -1).sum(1)
    return dx, torch.where(given.isinf(), 0, da).to(given.dtype)  # infinite discounts count as the largest finite ones
