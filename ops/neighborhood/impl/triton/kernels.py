"""The Triton kernels: one launch runs all head groups of a call. launch.py starts them.

Legend: M pixels of a tile, N pixels of its halo swept at once, D head_dim, k kernel_size,
P = 2k - 1. A program belongs to one image, head and sub-map (see plan.py), on which its dilated
neighborhoods are plain ones; `y` and `x` are positions on that sub-map.

Names are FlashAttention's (arXiv 2205.14135). For each query, `m_i` is the largest logit, `l_i` the
sum of 2**(logit - m_i), `inv_l_i` is 1 / l_i, `alpha` scales what was summed before m_i rose, and
`delta_i` is dout . out. `acc` is the output `[M, D]` before the division by l_i. `qk` are the
logits `[M, N]`, `p` the weights, `dp` and `ds` the gradients of weights and logits. In the kernel
of the keys M counts keys and N queries, and these are qkT, pT, dpT and dsT.

Logits are in base 2, multiplied by log2(e) with scale and bias. `m` and `inv_l` are kept for the
gradient. Kept apart they have float32's precision. The one number that FlashAttention keeps, the
logarithm of the sum, would not have it.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
COLUMNS = tl.constexpr(9)  # plan.COLUMNS


@triton.jit
def _find_program(height, width, programs, layout, GROUPS: tl.constexpr):
    """What this program works on, from the rows of plan.Plan.layout.

    The image; the head, counted in all and in the bias's tables; the group's kernel_size, dilation
    and rows of tiles; its columns: their sub-map, tile and length; the row, or chunk of rows; and
    whether the group's halos are narrow.
    """
    image = (tl.program_id(0) // programs).to(tl.int64)
    r = tl.program_id(0) % programs
    first, first_head, heads = layout[0], layout[1], layout[2]
    kernel_size, dilation, tiles_y = layout[3], layout[4], layout[5]
    tiles_x, first_bias, is_narrow = layout[6], layout[7], layout[8]
    for g in tl.static_range(1, GROUPS):
        here = r >= layout[g * COLUMNS]
        first = tl.where(here, layout[g * COLUMNS], first)
        first_head = tl.where(here, layout[g * COLUMNS + 1], first_head)
        heads = tl.where(here, layout[g * COLUMNS + 2], heads)
        kernel_size = tl.where(here, layout[g * COLUMNS + 3], kernel_size)
        dilation = tl.where(here, layout[g * COLUMNS + 4], dilation)
        tiles_y = tl.where(here, layout[g * COLUMNS + 5], tiles_y)
        tiles_x = tl.where(here, layout[g * COLUMNS + 6], tiles_x)
        first_bias = tl.where(here, layout[g * COLUMNS + 7], first_bias)
        is_narrow = tl.where(here, layout[g * COLUMNS + 8], is_narrow)
    r -= first
    # Heads of one tile run side by side, then neighboring sub-maps, since they share cache lines.
    head, r = r % heads, r // heads
    shift_x, r = r % dilation, r // dilation
    tile_x, row = r % tiles_x, r // tiles_x
    side = 2 * kernel_size - 1
    length_x = (width - shift_x + dilation - 1) // dilation
    return (
        image, first_head + head, first_bias + head * side * side, kernel_size, dilation, tiles_y,
        shift_x, tile_x, length_x, row, is_narrow,
    )  # fmt: skip


@triton.jit
def _find_row(row, height, dilation):
    """Sub-map, tile and length of a row of tiles."""
    shift_y = row % dilation
    return shift_y, row // dilation, (height - shift_y + dilation - 1) // dilation


@triton.jit
def _window_start(position, length, kernel_size):
    """First key of a query's window: centred, and shifted inside at the edges."""
    return tl.minimum(tl.maximum(position - kernel_size // 2, 0), length - kernel_size)


@triton.jit
def _reached_keys(first, last, length, kernel_size):
    """plan.reached_keys."""
    low = _window_start(first, length, kernel_size)
    return low, _window_start(last, length, kernel_size) + kernel_size


@triton.jit
def _reaching_queries(first, last, length, kernel_size):
    """plan.reaching_queries."""
    low = tl.where(first < kernel_size, 0, first - kernel_size // 2)
    high = tl.where(last >= length - kernel_size, length, last + kernel_size // 2 + 1)
    return low, high


@triton.jit
def _clamp(y, x, end_y, end_x):
    """The nearest pixels before the ends, and which of them these are already.

    The bias's table has no entry for the windows of queries beyond a map's end.
    """
    valid = (y < end_y) & (x < end_x)
    return tl.minimum(y, end_y - 1), tl.minimum(x, end_x - 1), valid


@triton.jit
def _load(pointer, y, x, stride_y, stride_x, valid, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Features of the pixels (y, x), or zeros if these are not valid: [pixels, BLOCK_D]."""
    offs_d = tl.arange(0, BLOCK_D)
    offsets = (y * stride_y + x * stride_x)[:, None] + offs_d[None, :]
    mask = valid[:, None]
    if BLOCK_D != HEAD_DIM:
        mask = mask & (offs_d < HEAD_DIM)[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def _store(
    pointer, values, y, x, stride_y, stride_x, valid, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    offs_d = tl.arange(0, BLOCK_D)
    offsets = (y * stride_y + x * stride_x)[:, None] + offs_d[None, :]
    mask = valid[:, None]
    if BLOCK_D != HEAD_DIM:
        mask = mask & (offs_d < HEAD_DIM)[None, :]
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _bias_table(bias, kernel_size, TABLE: tl.constexpr):
    """A head's bias `[P * P]`, filled up with -inf to TABLE entries; there is one -inf at least."""
    i = tl.arange(0, max(TABLE, 1))  # without a bias TABLE is 0, and this is not used
    side = 2 * kernel_size - 1
    return tl.load(bias + i, mask=i < side * side, other=float("-inf")) * LOG2_E


@triton.jit
def _logits(
    qk, scale, table, query_y, query_x, key_y, key_x, length_y, length_x, kernel_size,
    TABLE: tl.constexpr,
):  # fmt: skip
    """`scale * qk + bias` in base 2 within the queries' windows, -inf outside.

    The positions broadcast to the shape of `qk`.
    """
    scale = scale * LOG2_E
    above = key_y - _window_start(query_y, length_y, kernel_size)
    left = key_x - _window_start(query_x, length_x, kernel_size)
    # As unsigned numbers, those below 0 are large: one comparison does for both ends.
    seen = (above.to(tl.uint32, bitcast=True) < kernel_size) & (
        left.to(tl.uint32, bitcast=True) < kernel_size
    )
    if TABLE == 0:
        return tl.where(seen, qk * scale, float("-inf"))
    else:
        row = (key_y - query_y + kernel_size - 1) * (2 * kernel_size - 1)
        index = tl.where(seen, row + (key_x - query_x + kernel_size - 1), TABLE - 1)
        # A gather keeps the layout of the product, and looks up in shared memory.
        bias = tl.gather(table, tl.reshape(index, [index.shape[0] * index.shape[1]]), 0)
        return qk * scale + tl.reshape(bias, index.shape)


# Forward


@triton.jit
def _attend(
    q, k, v, out, m, inv_l, bias,
    q_y, q_x, k_y, k_x, v_y, v_x, out_y, out_x, sum_y, sum_x,
    first_y, first_x, length_y, length_x, kernel_size, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, HALO_WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, TABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output and sums of one tile of queries, by an online softmax over the rows of its halo."""
    BLOCK_M: tl.constexpr = TILE * TILE
    offs_m = tl.arange(0, BLOCK_M)
    query_y, query_x, valid = _clamp(
        first_y + offs_m // TILE, first_x + offs_m % TILE, length_y, length_x
    )
    q_MD = _load(q, query_y, query_x, q_y, q_x, valid, HEAD_DIM, BLOCK_D)
    table = _bias_table(bias, kernel_size, TABLE)

    last_y = tl.minimum(first_y + TILE, length_y) - 1
    last_x = tl.minimum(first_x + TILE, length_x) - 1
    low_y, high_y = _reached_keys(first_y, last_y, length_y, kernel_size)
    low_x, high_x = _reached_keys(first_x, last_x, length_x, kernel_size)
    offs_n = tl.arange(0, BLOCK_N)
    key_x = low_x + offs_n % HALO_WIDTH

    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for row in range(low_y, high_y, BLOCK_N // HALO_WIDTH):
        key_y = row + offs_n // HALO_WIDTH
        in_halo = (key_y < high_y) & (key_x < high_x)
        k_ND = _load(k, key_y, key_x, k_y, k_x, in_halo, HEAD_DIM, BLOCK_D)
        v_ND = _load(v, key_y, key_x, v_y, v_x, in_halo, HEAD_DIM, BLOCK_D)
        qk = _logits(
            tl.dot(q_MD, tl.trans(k_ND), input_precision=PRECISION), scale, table,
            query_y[:, None], query_x[:, None], key_y[None, :], key_x[None, :],
            length_y, length_x, kernel_size, TABLE,
        )  # fmt: skip
        m_ij = tl.maximum(m_i, tl.max(qk, 1))
        # A query may see none of these rows, and -inf - -inf is not a number.
        m_finite = tl.where(m_ij == float("-inf"), 0.0, m_ij)
        p = tl.exp2(qk - m_finite[:, None])
        alpha = tl.exp2(m_i - m_finite)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        acc = tl.dot(p.to(v_ND.dtype), v_ND, acc, input_precision=PRECISION)
        m_i = m_ij

    inv_l_i = 1.0 / l_i
    _store(out, acc * inv_l_i[:, None], query_y, query_x, out_y, out_x, valid, HEAD_DIM, BLOCK_D)
    offsets = query_y * sum_y + query_x * sum_x
    tl.store(m + offsets, m_i, mask=valid)
    tl.store(inv_l + offsets, inv_l_i, mask=valid)


@triton.jit
def forward(
    q, k, v, out, m, inv_l, bias,
    q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n, v_b, v_h, v_w, v_n,
    height, width, heads_in_all, programs, layout, scale,
    GROUPS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_N: tl.constexpr, TABLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out `[B, H, W, heads, D]`, and m and inv_l `[B, H, W, heads]`, all dense."""
    (
        image, head, bias_offset, kernel_size, dilation, _, shift_x, tile_x, length_x, row,
        is_narrow,
    ) = _find_program(height, width, programs, layout, GROUPS)  # fmt: skip
    shift_y, tile_y, length_y = _find_row(row, height, dilation)
    bias += bias_offset
    q += image * q_b + shift_y * q_h + shift_x * q_w + head * q_n
    k += image * k_b + shift_y * k_h + shift_x * k_w + head * k_n
    v += image * v_b + shift_y * v_h + shift_x * v_w + head * v_n
    sum_w, sum_h = heads_in_all, width * heads_in_all
    sum_offset = image * height * sum_h + shift_y * sum_h + shift_x * sum_w + head
    out += sum_offset * HEAD_DIM
    m += sum_offset
    inv_l += sum_offset
    for narrow in tl.static_range(1 if WIDE == NARROW else 2):
        if is_narrow == narrow:
            _attend(
                q, k, v, out, m, inv_l, bias,
                q_h * dilation, q_w * dilation, k_h * dilation, k_w * dilation,
                v_h * dilation, v_w * dilation,
                sum_h * dilation * HEAD_DIM, sum_w * dilation * HEAD_DIM,
                sum_h * dilation, sum_w * dilation,
                tile_y * TILE, tile_x * TILE, length_y, length_x, kernel_size, scale,
                HEAD_DIM, BLOCK_D, TILE, NARROW if narrow else WIDE, BLOCK_N, TABLE, PRECISION,
            )  # fmt: skip


# Backward: queries, and with them the bias


@triton.jit
def _p_and_dp(
    q_MD, dout_MD, m_i, inv_l_i, k, v, table,
    k_y, k_x, v_y, v_x, query_y, query_x, key_y, key_x, high_y, high_x,
    length_y, length_x, kernel_size, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of some rows of keys: k_ND, and p and dp of a tile's queries."""
    in_halo = (key_y < high_y) & (key_x < high_x)
    k_ND = _load(k, key_y, key_x, k_y, k_x, in_halo, HEAD_DIM, BLOCK_D)
    v_ND = _load(v, key_y, key_x, v_y, v_x, in_halo, HEAD_DIM, BLOCK_D)
    qk = _logits(
        tl.dot(q_MD, tl.trans(k_ND), input_precision=PRECISION), scale, table,
        query_y[:, None], query_x[:, None], key_y[None, :], key_x[None, :],
        length_y, length_x, kernel_size, TABLE,
    )  # fmt: skip
    p = tl.exp2(qk - m_i[:, None]) * inv_l_i[:, None]
    return k_ND, p, tl.dot(dout_MD, tl.trans(v_ND), input_precision=PRECISION)


@triton.jit
def _differentiate_queries(
    q, k, v, out, dout, m, inv_l, delta, bias, dq, dbias,
    q_y, q_x, k_y, k_x, v_y, v_x, out_y, out_x, dout_y, dout_x, sum_y, sum_x,
    q_h, k_h, v_h, out_h, dout_h, sum_h,
    first_row, last_row, first_x, height, length_x, kernel_size, dilation, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, HALO_WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, BIAS_SIDE: tl.constexpr, TABLE: tl.constexpr, HAS_DBIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and delta = dout . out, of the tiles first_row..last_row of a column, and their dbias.

    dbias[dy, dx] sums dlogits over all pairs of that offset. A product with a table of zeros and
    ones sums those of equal dy within a tile, for each column of queries and of keys; that sum
    stays in registers for the whole column of tiles, in which dx depends only on the columns.

    In float32, delta is the sum of p * dp, so that dp - delta loses nothing.
    """
    IS_DELTA_SUMMED: tl.constexpr = q.dtype.element_ty == tl.float32
    ROWS: tl.constexpr = BLOCK_N // HALO_WIDTH
    BLOCK_M: tl.constexpr = TILE * TILE
    offs_m = tl.arange(0, BLOCK_M)
    last_x = tl.minimum(first_x + TILE, length_x) - 1
    low_x, high_x = _reached_keys(first_x, last_x, length_x, kernel_size)
    offs_n = tl.arange(0, BLOCK_N)
    key_x = low_x + offs_n % HALO_WIDTH
    table = _bias_table(bias, kernel_size, TABLE)
    dy = tl.arange(0, BIAS_SIDE)
    pair = tl.arange(0, TILE * ROWS)  # of a row of queries and a row of keys
    by_columns = tl.zeros([BIAS_SIDE, TILE * HALO_WIDTH], tl.float32)

    for tile_row in range(first_row, last_row):
        shift_y, tile_y, length_y = _find_row(tile_row, height, dilation)
        first_y = tile_y * TILE
        query_y, query_x, valid = _clamp(
            first_y + offs_m // TILE, first_x + offs_m % TILE, length_y, length_x
        )
        q_MD = _load(q + shift_y * q_h, query_y, query_x, q_y, q_x, valid, HEAD_DIM, BLOCK_D)
        dout_MD = _load(
            dout + shift_y * dout_h, query_y, query_x, dout_y, dout_x, valid, HEAD_DIM, BLOCK_D
        )
        sum_offsets = shift_y * sum_h + query_y * sum_y + query_x * sum_x
        # Infinity gives queries that are not there a weight of 0.
        m_i = tl.load(m + sum_offsets, mask=valid, other=float("inf"))
        inv_l_i = tl.load(inv_l + sum_offsets, mask=valid, other=0.0)

        last_y = tl.minimum(first_y + TILE, length_y) - 1
        low_y, high_y = _reached_keys(first_y, last_y, length_y, kernel_size)
        if IS_DELTA_SUMMED:
            delta_i = tl.zeros([BLOCK_M], tl.float32)
            for row in range(low_y, high_y, ROWS):
                _, p, dp = _p_and_dp(
                    q_MD, dout_MD, m_i, inv_l_i, k + shift_y * k_h, v + shift_y * v_h, table,
                    k_y, k_x, v_y, v_x, query_y, query_x, row + offs_n // HALO_WIDTH, key_x,
                    high_y, high_x, length_y, length_x, kernel_size, scale,
                    HEAD_DIM, BLOCK_D, TABLE, PRECISION,
                )  # fmt: skip
                delta_i += tl.sum(p * dp, 1)
        else:
            out_MD = _load(
                out + shift_y * out_h, query_y, query_x, out_y, out_x, valid, HEAD_DIM, BLOCK_D
            )
            delta_i = tl.sum(out_MD.to(tl.float32) * dout_MD.to(tl.float32), 1)
        tl.store(delta + sum_offsets, delta_i, mask=valid)

        dq_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for row in range(low_y, high_y, ROWS):
            k_ND, p, dp = _p_and_dp(
                q_MD, dout_MD, m_i, inv_l_i, k + shift_y * k_h, v + shift_y * v_h, table,
                k_y, k_x, v_y, v_x, query_y, query_x, row + offs_n // HALO_WIDTH, key_x,
                high_y, high_x, length_y, length_x, kernel_size, scale,
                HEAD_DIM, BLOCK_D, TABLE, PRECISION,
            )  # fmt: skip
            ds = (p * (dp - delta_i[:, None])).to(k_ND.dtype)
            dq_MD = tl.dot(ds, k_ND, dq_MD, input_precision=PRECISION)
            if HAS_DBIAS:
                # [query y, query x, key y, key x] -> [query y and key y, query x and key x]
                split = tl.reshape(ds, [TILE, TILE, ROWS, HALO_WIDTH])
                pairs = tl.reshape(
                    tl.permute(split, [0, 2, 1, 3]), [TILE * ROWS, TILE * HALO_WIDTH]
                )
                offset = (row + pair % ROWS) - (first_y + pair // ROWS) + kernel_size - 1
                is_dy = (dy[:, None] == offset[None, :]).to(pairs.dtype)
                by_columns = tl.dot(is_dy, pairs, by_columns, input_precision=PRECISION)
        dq_MD = dq_MD * scale
        _store(
            dq + shift_y * out_h, dq_MD, query_y, query_x, out_y, out_x, valid, HEAD_DIM, BLOCK_D
        )

    if HAS_DBIAS:
        columns = tl.arange(0, TILE * HALO_WIDTH)
        offset = (low_x + columns % HALO_WIDTH) - (first_x + columns // HALO_WIDTH)
        dx = tl.arange(0, BIAS_SIDE)
        is_dx = (offset[:, None] + kernel_size - 1 == dx[None, :]).to(tl.float32)
        # Never in TensorFloat-32, because these are sums already.
        sums = tl.dot(by_columns, is_dx, input_precision="ieee")
        tl.store(dbias + dy[:, None] * BIAS_SIDE + dx[None, :], sums)


@triton.jit
def backward_queries(
    q, k, v, out, dout, m, inv_l, delta, bias, dq, dbias,
    q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n, v_b, v_h, v_w, v_n, dout_b, dout_h, dout_w, dout_n,
    height, width, heads_in_all, programs, tiles_a_program, layout, scale,
    GROUPS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_N: tl.constexpr, BIAS_SIDE: tl.constexpr,
    TABLE: tl.constexpr, HAS_DBIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, delta for backward_keys, and a program's share of the bias's gradient.

    out, dq and delta are dense; dbias is `[B * programs, BIAS_SIDE, BIAS_SIDE]` in float32, to be
    summed over a head's programs in their order: the same bits in every run.
    """
    (
        image, head, bias_offset, kernel_size, dilation, tiles_y, shift_x, tile_x, length_x, chunk,
        is_narrow,
    ) = _find_program(height, width, programs, layout, GROUPS)  # fmt: skip
    first_row = chunk * tiles_a_program
    last_row = tl.minimum(first_row + tiles_a_program, tiles_y * dilation)
    bias += bias_offset
    q += image * q_b + shift_x * q_w + head * q_n
    k += image * k_b + shift_x * k_w + head * k_n
    v += image * v_b + shift_x * v_w + head * v_n
    dout += image * dout_b + shift_x * dout_w + head * dout_n
    sum_w, sum_h = heads_in_all, width * heads_in_all
    sum_offset = image * height * sum_h + shift_x * sum_w + head
    out += sum_offset * HEAD_DIM
    dq += sum_offset * HEAD_DIM
    m += sum_offset
    inv_l += sum_offset
    delta += sum_offset
    dbias += tl.program_id(0).to(tl.int64) * BIAS_SIDE * BIAS_SIDE
    for narrow in tl.static_range(1 if WIDE == NARROW else 2):
        if is_narrow == narrow:
            _differentiate_queries(
                q, k, v, out, dout, m, inv_l, delta, bias, dq, dbias,
                q_h * dilation, q_w * dilation, k_h * dilation, k_w * dilation,
                v_h * dilation, v_w * dilation,
                sum_h * dilation * HEAD_DIM, sum_w * dilation * HEAD_DIM,
                dout_h * dilation, dout_w * dilation, sum_h * dilation, sum_w * dilation,
                q_h, k_h, v_h, sum_h * HEAD_DIM, dout_h, sum_h,
                first_row, last_row, tile_x * TILE, height, length_x, kernel_size, dilation, scale,
                HEAD_DIM, BLOCK_D, TILE, NARROW if narrow else WIDE, BLOCK_N, BIAS_SIDE, TABLE,
                HAS_DBIAS, PRECISION,
            )  # fmt: skip


# Backward: keys and values


@triton.jit
def _differentiate_keys(
    q, k, v, dout, m, inv_l, delta, bias, dk, dv,
    q_y, q_x, k_y, k_x, v_y, v_x, out_y, out_x, dout_y, dout_x, sum_y, sum_x,
    first_y, first_x, length_y, length_x, kernel_size, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, HALO_WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, TABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of keys, over the rows of queries whose windows hold one of them."""
    BLOCK_M: tl.constexpr = TILE * TILE
    offs_m = tl.arange(0, BLOCK_M)
    key_y, key_x = first_y + offs_m // TILE, first_x + offs_m % TILE
    valid = (key_y < length_y) & (key_x < length_x)
    k_MD = _load(k, key_y, key_x, k_y, k_x, valid, HEAD_DIM, BLOCK_D)
    v_MD = _load(v, key_y, key_x, v_y, v_x, valid, HEAD_DIM, BLOCK_D)
    table = _bias_table(bias, kernel_size, TABLE)

    last_y = tl.minimum(first_y + TILE, length_y) - 1
    last_x = tl.minimum(first_x + TILE, length_x) - 1
    low_y, high_y = _reaching_queries(first_y, last_y, length_y, kernel_size)
    low_x, high_x = _reaching_queries(first_x, last_x, length_x, kernel_size)
    offs_n = tl.arange(0, BLOCK_N)

    dk_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    dv_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for row in range(low_y, high_y, BLOCK_N // HALO_WIDTH):
        query_y, query_x, in_halo = _clamp(
            row + offs_n // HALO_WIDTH, low_x + offs_n % HALO_WIDTH, high_y, high_x
        )
        q_ND = _load(q, query_y, query_x, q_y, q_x, in_halo, HEAD_DIM, BLOCK_D)
        dout_ND = _load(dout, query_y, query_x, dout_y, dout_x, in_halo, HEAD_DIM, BLOCK_D)
        offsets = query_y * sum_y + query_x * sum_x
        # Infinity gives queries that are not there a weight of 0.
        m_i = tl.load(m + offsets, mask=in_halo, other=float("inf"))
        inv_l_i = tl.load(inv_l + offsets, mask=in_halo, other=0.0)
        delta_i = tl.load(delta + offsets, mask=in_halo, other=0.0)
        qkT = _logits(
            tl.dot(k_MD, tl.trans(q_ND), input_precision=PRECISION), scale, table,
            query_y[None, :], query_x[None, :], key_y[:, None], key_x[:, None],
            length_y, length_x, kernel_size, TABLE,
        )  # fmt: skip
        pT = tl.exp2(qkT - m_i[None, :]) * inv_l_i[None, :]
        dv_MD = tl.dot(pT.to(dout_ND.dtype), dout_ND, dv_MD, input_precision=PRECISION)
        dpT = tl.dot(v_MD, tl.trans(dout_ND), input_precision=PRECISION)
        dsT = (pT * (dpT - delta_i[None, :])).to(q_ND.dtype)
        dk_MD = tl.dot(dsT, q_ND, dk_MD, input_precision=PRECISION)

    _store(dk, dk_MD * scale, key_y, key_x, out_y, out_x, valid, HEAD_DIM, BLOCK_D)
    _store(dv, dv_MD, key_y, key_x, out_y, out_x, valid, HEAD_DIM, BLOCK_D)


@triton.jit
def backward_keys(
    q, k, v, dout, m, inv_l, delta, bias, dk, dv,
    q_b, q_h, q_w, q_n, k_b, k_h, k_w, k_n, v_b, v_h, v_w, v_n, dout_b, dout_h, dout_w, dout_n,
    height, width, heads_in_all, programs, layout, scale,
    GROUPS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_N: tl.constexpr, TABLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv, dense. delta comes from backward_queries."""
    (
        image, head, bias_offset, kernel_size, dilation, _, shift_x, tile_x, length_x, row,
        is_narrow,
    ) = _find_program(height, width, programs, layout, GROUPS)  # fmt: skip
    shift_y, tile_y, length_y = _find_row(row, height, dilation)
    bias += bias_offset
    q += image * q_b + shift_y * q_h + shift_x * q_w + head * q_n
    k += image * k_b + shift_y * k_h + shift_x * k_w + head * k_n
    v += image * v_b + shift_y * v_h + shift_x * v_w + head * v_n
    dout += image * dout_b + shift_y * dout_h + shift_x * dout_w + head * dout_n
    sum_w, sum_h = heads_in_all, width * heads_in_all
    sum_offset = image * height * sum_h + shift_y * sum_h + shift_x * sum_w + head
    dk += sum_offset * HEAD_DIM
    dv += sum_offset * HEAD_DIM
    m += sum_offset
    inv_l += sum_offset
    delta += sum_offset
    for narrow in tl.static_range(1 if WIDE == NARROW else 2):
        if is_narrow == narrow:
            _differentiate_keys(
                q, k, v, dout, m, inv_l, delta, bias, dk, dv,
                q_h * dilation, q_w * dilation, k_h * dilation, k_w * dilation,
                v_h * dilation, v_w * dilation,
                sum_h * dilation * HEAD_DIM, sum_w * dilation * HEAD_DIM,
                dout_h * dilation, dout_w * dilation, sum_h * dilation, sum_w * dilation,
                tile_y * TILE, tile_x * TILE, length_y, length_x, kernel_size, scale,
                HEAD_DIM, BLOCK_D, TILE, NARROW if narrow else WIDE, BLOCK_N, TABLE, PRECISION,
            )  # fmt: skip
