"""Kernels of the selective scan on a GPU, in Triton, for `layers/scan_triton`.

Each program runs through one chunk of tokens for some channels of one group of one sample, token after token,
with the state in registers. Tensors that are given are (sample, token, group, channel or number of the state)
with any strides but that of the last axis, which is 1; states between chunks are (sample, group, chunk,
channel, number) without gaps.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _softplus(x, TERMS: tl.constexpr):
    """max(x, 0) + log(1 + e), e = exp(-|x|), as a series: the logarithms of GPUs lose digits near 1."""
    e = tl.exp(-tl.abs(x))
    ratio = e / (2 + e)
    square = ratio * ratio
    series = tl.full(x.shape, 1 / (2 * TERMS + 1), x.dtype)
    for term in tl.static_range(1, TERMS + 1):
        series = series * square + 1 / (2 * (TERMS - term) + 1)
    return tl.maximum(x, 0) + 2 * ratio * series


@triton.jit
@no_type_check
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1, e) / (1 + e)


@triton.jit
@no_type_check
def _place(t, group, tokens, rows, columns, MAP: tl.constexpr):
    """Where in memory the token lies that comes at `t`."""
    if MAP:
        t = tl.where(group >= 2, tokens - 1 - t, t)
        t = tl.where(group % 2 == 1, t % rows * columns + t // rows, t)
    return t


@triton.jit(do_not_specialize=["tokens", "rows", "columns", "steps"])
@no_type_check
def run(
    u,
    delta,
    A,
    B,
    C,
    D,
    bias,
    states,
    decays,
    y,
    u_sample,
    u_token,
    u_group,
    delta_sample,
    delta_token,
    delta_group,
    B_sample,
    B_token,
    B_group,
    C_sample,
    C_token,
    C_group,
    tokens,
    groups,
    width,
    rows,
    columns,
    steps,
    STATE: tl.constexpr,
    PAD: tl.constexpr,
    LANES: tl.constexpr,
    TERMS: tl.constexpr,
    MAP: tl.constexpr,
):
    """Through one chunk: without `y` from zero, to the last state and the product of decays; otherwise from
    `states`, with outputs.
    """
    row, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    sample, group = (row // groups).to(tl.int64), row % groups
    lanes, numbers = tl.program_id(2) * LANES + tl.arange(0, LANES), tl.arange(0, PAD)
    on, real = lanes < width, numbers < STATE
    cells, cell_on = lanes[:, None] * STATE + numbers[None, :], on[:, None] & real[None, :]
    between = (row.to(tl.int64) * chunks + chunk) * width * STATE + cells
    kind: tl.constexpr = A.dtype.element_ty
    u += sample * u_sample + group * u_group + lanes
    delta += sample * delta_sample + group * delta_group + lanes
    B += sample * B_sample + group * B_group + numbers
    C += sample * C_sample + group * C_group + numbers
    rates = tl.load(A + group * width * STATE + cells, mask=cell_on, other=0)
    if bias is not None:
        shift = tl.load(bias + group * width + lanes, mask=on, other=0)
    if y is None:
        h = tl.zeros((LANES, PAD), kind)
        product = tl.full((LANES, PAD), 1, kind)
    else:
        h = tl.load(states + between, mask=cell_on & (chunk > 0), other=0)
        if D is not None:
            skip = tl.load(D + group * width + lanes, mask=on, other=0)
    start = chunk * steps
    for t in range(start, tl.minimum(start + steps, tokens)):
        place = _place(t, group, tokens, rows, columns, MAP)
        x = tl.load(u + place * u_token, mask=on, other=0).to(kind)
        size = tl.load(delta + place * delta_token, mask=on, other=0).to(kind)
        if bias is not None:
            size += shift
        if TERMS > 0:
            size = _softplus(size, TERMS)
        decay = tl.exp(size[:, None] * rates)
        h = (
            decay * h
            + (size * x)[:, None] * tl.load(B + place * B_token, mask=real, other=0).to(kind)[None, :]
        )
        if y is None:
            product *= decay
        else:
            out = tl.load(C + place * C_token, mask=real, other=0).to(kind)
            result = tl.sum(h * out[None, :], 1)
            if D is not None:
                result += skip * x
            tl.store(y + ((sample * tokens + place) * groups + group) * width + lanes, result, mask=on)
    if y is None:
        tl.store(states + between, h, mask=cell_on)
        tl.store(decays + between, product, mask=cell_on)


@triton.jit(do_not_specialize=["cells"])
@no_type_check
def join(states, decays, cells, chunks, LANES: tl.constexpr, REVERSE: tl.constexpr):
    """What chunks pass on, in place, becomes what reaches them."""
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)
    on = lanes < cells
    first = tl.program_id(0).to(tl.int64) * chunks * cells + lanes
    state = tl.zeros((LANES,), states.dtype.element_ty)
    for step in range(chunks):
        chunk = first + (chunks - 1 - step if REVERSE else step) * cells
        own = tl.load(states + chunk, mask=on, other=0)
        decay = tl.load(decays + chunk, mask=on, other=0)
        tl.store(states + chunk, state, mask=on)
        state = decay * state + own


@triton.jit(do_not_specialize=["tokens", "rows", "columns", "steps"])
@no_type_check
def run_back(
    u,
    delta,
    A,
    B,
    C,
    D,
    bias,
    dy,
    states,
    decays,
    rests,
    within,
    d_u,
    d_delta,
    d_A,
    d_B,
    d_C,
    d_D,
    d_bias,
    u_sample,
    u_token,
    u_group,
    delta_sample,
    delta_token,
    delta_group,
    B_sample,
    B_token,
    B_group,
    C_sample,
    C_token,
    C_group,
    dy_sample,
    dy_token,
    dy_group,
    tokens,
    groups,
    width,
    rows,
    columns,
    steps,
    STATE: tl.constexpr,
    PAD: tl.constexpr,
    LANES: tl.constexpr,
    TERMS: tl.constexpr,
    MAP: tl.constexpr,
):
    """Back through one chunk: without `d_u` from zero, to what it passes on; otherwise from `rests`, with all
    gradients. Those that sum over channels or chunks are written for each program.

    Args:
        rests: Gradients of the last state of each chunk.
        within: Room for the state before each token.
    """
    row, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    block, blocks = tl.program_id(2), tl.num_programs(2)
    sample, group = (row // groups).to(tl.int64), row % groups
    lanes, numbers = block * LANES + tl.arange(0, LANES), tl.arange(0, PAD)
    on, real = lanes < width, numbers < STATE
    cells, cell_on = lanes[:, None] * STATE + numbers[None, :], on[:, None] & real[None, :]
    between = (row.to(tl.int64) * chunks + chunk) * width * STATE + cells
    kind: tl.constexpr = A.dtype.element_ty
    u += sample * u_sample + group * u_group + lanes
    delta += sample * delta_sample + group * delta_group + lanes
    B += sample * B_sample + group * B_group + numbers
    C += sample * C_sample + group * C_group + numbers
    dy += sample * dy_sample + group * dy_group + lanes
    rates = tl.load(A + group * width * STATE + cells, mask=cell_on, other=0)
    if bias is not None:
        shift = tl.load(bias + group * width + lanes, mask=on, other=0)
    start = chunk * steps
    stop = tl.minimum(start + steps, tokens)
    if d_u is None:
        passed = tl.zeros((LANES, PAD), kind)
        product = tl.full((LANES, PAD), 1, kind)
    else:
        passed = tl.load(rests + between, mask=cell_on & (chunk + 1 < chunks), other=0)
        within += (row.to(tl.int64) * tokens + start) * width * STATE + cells
        sum_A = tl.zeros((LANES, PAD), kind)
        sum_D = tl.zeros((LANES,), kind)
        sum_bias = tl.zeros((LANES,), kind)
        if D is not None:
            skip = tl.load(D + group * width + lanes, mask=on, other=0)
        h = tl.load(states + between, mask=cell_on & (chunk > 0), other=0)
        for t in range(start, stop):
            tl.store(within, h, mask=cell_on)
            within += width * STATE
            place = _place(t, group, tokens, rows, columns, MAP)
            x = tl.load(u + place * u_token, mask=on, other=0).to(kind)
            size = tl.load(delta + place * delta_token, mask=on, other=0).to(kind)
            if bias is not None:
                size += shift
            if TERMS > 0:
                size = _softplus(size, TERMS)
            into = tl.load(B + place * B_token, mask=real, other=0).to(kind)
            h = tl.exp(size[:, None] * rates) * h + (size * x)[:, None] * into[None, :]
        tl.debug_barrier()  # the compiler may read with other threads than it wrote with
    for step in range(stop - start):
        t = stop - 1 - step
        place = _place(t, group, tokens, rows, columns, MAP)
        raw = tl.load(delta + place * delta_token, mask=on, other=0).to(kind)
        if bias is not None:
            raw += shift
        size = raw
        if TERMS > 0:
            size = _softplus(raw, TERMS)
        decay = tl.exp(size[:, None] * rates)
        out = tl.load(C + place * C_token, mask=real, other=0).to(kind)
        slope = tl.load(dy + place * dy_token, mask=on, other=0).to(kind)
        g = slope[:, None] * out[None, :] + passed  # of the state
        passed = decay * g
        if d_u is None:
            product *= decay
        else:
            x = tl.load(u + place * u_token, mask=on, other=0).to(kind)
            into = tl.load(B + place * B_token, mask=real, other=0).to(kind)
            within -= width * STATE
            kept = decay * tl.load(within, mask=cell_on, other=0)
            drive = size * x
            token = (sample * tokens + place) * groups + group
            weight = (token * blocks + block) * STATE + numbers
            h = kept + drive[:, None] * into[None, :]
            tl.store(d_C + weight, tl.sum(slope[:, None] * h, 0), mask=real)
            tl.store(d_B + weight, tl.sum(g * drive[:, None], 0), mask=real)
            d_drive = tl.sum(g * into[None, :], 1)
            d_log = kept * g  # of the logarithm of the decay
            sum_A += d_log * size[:, None]
            d_size = tl.sum(d_log * rates, 1) + d_drive * x
            d_x = d_drive * size
            if TERMS > 0:
                d_size *= _sigmoid(raw)
            if bias is not None:
                sum_bias += d_size
            if D is not None:
                d_x += skip * slope
                sum_D += x * slope
            tl.store(d_u + token * width + lanes, d_x, mask=on)
            tl.store(d_delta + token * width + lanes, d_size, mask=on)
    if d_u is None:
        tl.store(rests + between, passed, mask=cell_on)
        tl.store(decays + between, product, mask=cell_on)
    else:
        tl.store(d_A + between, sum_A, mask=cell_on)
        one = (row.to(tl.int64) * chunks + chunk) * width + lanes
        if D is not None:
            tl.store(d_D + one, sum_D, mask=on)
        if bias is not None:
            tl.store(d_bias + one, sum_bias, mask=on)
