"""Recurrences whose state is a matrix, a chunk of steps at a time instead of one.

Inside a chunk every pair of steps is compared at once, like attention; between chunks a state is handed on.
That costs T L + T E operations per channel instead of a loop over T, and equals the loop to rounding.

Decay between two steps of a chunk is the exp of a difference of cumulative logs, taken before the exp and
masked before the exp: nothing overflows, and what has vanished is zero. (A scan that works on the logarithms
of the states themselves puts a false floor under vanished gradients: in float32 it cannot tell 1e-30 from
1e-7.)

Sources: the decay form is the state-space dual form of Dao & Gu 2024 (2405.21060, section 6); the delta rule
is Yang et al. 2024 (2406.06484, section 3), with decay in Yang, Kautz & Hatamizadeh 2024 (2412.06464, section
3.3). Time that does not divide into chunks is padded with steps that change nothing.

Shape letters: B batch, K heads, T time, E width of keys, V width of values; N chunks of L steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seqbench.precision import in_float32

CHUNK = 32


@in_float32
def decay_chunks(
    q_BKTE: Tensor,
    k_BKTE: Tensor,
    v_BKTV: Tensor,
    log_g_BKT: Tensor | None,
    state_BKEV: Tensor,
    chunk: int = CHUNK,
    *,
    before_writing: bool = False,
) -> tuple[Tensor, Tensor]:
    """S_t = g_t S_{t-1} + k_t v_t^T and y_t = S_t^T q_t, for every step.

    Queries and keys may have a single head that all share, and the decays a single sequence.

    Args:
        log_g_BKT: log of the decay, at most about 0 and finite; None: nothing is forgotten.
        state_BKEV: S before the first step.
        chunk: L, at most.
        before_writing: y_t = (g_t S_{t-1})^T q_t instead: what a step reads lacks what it writes.

    Returns:
        y ``(B, K, T, V)`` and the last state.
    """
    time = v_BKTV.shape[2]
    q, k, v = (split(x, chunk) for x in (q_BKTE, k_BKTE, v_BKTV))
    scores_BKNLL = q @ k.mT
    if log_g_BKT is None:
        y_BKNLV = scores_BKNLL.tril(-before_writing) @ v
        starts_BKNEV, last_BKEV = carry(k.mT @ v, None, state_BKEV)
        y_BKNLV = y_BKNLV + q @ starts_BKNEV
    else:
        sum_BKNL = split(log_g_BKT.unsqueeze(3), chunk).squeeze(4).cumsum(3)
        y_BKNLV = (scores_BKNLL * decay_between(sum_BKNL, not before_writing)) @ v
        k_at_end = k * (sum_BKNL[..., -1:] - sum_BKNL).exp().unsqueeze(4)
        starts_BKNEV, last_BKEV = carry(k_at_end.mT @ v, sum_BKNL[..., -1].exp(), state_BKEV)
        y_BKNLV = y_BKNLV + (q * sum_BKNL.exp().unsqueeze(4)) @ starts_BKNEV
    return y_BKNLV.flatten(2, 3)[:, :, :time], last_BKEV


@in_float32
def delta_chunks(
    q_BKTE: Tensor,
    k_BKTE: Tensor,
    v_BKTV: Tensor,
    beta_BKT: Tensor,
    log_g_BKT: Tensor | None,
    state_BKEV: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) g_t S_{t-1} + beta_t k_t v_t^T and y_t = S_t^T q_t, for every step.

    With c_i = g_1 ... g_i inside a chunk that starts at S_0, the rule is S_i = c_i S_0 + sum_{j<=i}
    (c_i / c_j) k_j u_j^T, where each u_i is what step i writes after all before it:
    u_i + sum_{j<i} A_ij u_j = beta_i (v_i - c_i S_0^T k_i), A_ij = beta_i (c_i / c_j) k_i . k_j.
    With M = (I + A)^-1 diag(beta), found by one triangular solve for all chunks at once, the chunk writes
    U = M V - M diag(c) K S_0.

    Args and results as for :func:`decay_chunks`; the keys have a head each, and beta lies in (0, 2).
    """
    time = v_BKTV.shape[2]
    if log_g_BKT is None:
        log_g_BKT = torch.zeros_like(beta_BKT)
    q, k, v = (split(x, chunk) for x in (q_BKTE, k_BKTE, v_BKTV))
    beta_BKNL, log_g_BKNL = (split(x.unsqueeze(3), chunk).squeeze(4) for x in (beta_BKT, log_g_BKT))
    sum_BKNL = log_g_BKNL.cumsum(3)
    decay_BKNLL = decay_between(sum_BKNL)
    mixing_BKNLL = (k @ k.mT * decay_BKNLL * beta_BKNL.unsqueeze(4)).tril(-1)
    solved_BKNLL = torch.linalg.solve_triangular(
        mixing_BKNLL, beta_BKNL.diag_embed(), upper=False, unitriangular=True
    )
    kept_BKNL = sum_BKNL.exp()
    writes_BKNLV, reads_BKNLE = solved_BKNLL @ v, (solved_BKNLL * kept_BKNL.unsqueeze(3)) @ k
    k_at_end = k * (sum_BKNL[..., -1:] - sum_BKNL).exp().unsqueeze(4)
    starts_BKNEV, last_BKEV = carry_delta(k_at_end, writes_BKNLV, reads_BKNLE, kept_BKNL[..., -1], state_BKEV)
    writes_BKNLV = writes_BKNLV - reads_BKNLE @ starts_BKNEV
    y_BKNLV = (q @ k.mT * decay_BKNLL) @ writes_BKNLV + (q * kept_BKNL.unsqueeze(4)) @ starts_BKNEV
    return y_BKNLV.flatten(2, 3)[:, :, :time], last_BKEV


def split(x_BKTE: Tensor, chunk: int) -> Tensor:
    """Time in equal chunks ``(B, K, N, L, E)`` of at most ``chunk`` steps, with zeros after the end."""
    time = x_BKTE.shape[2]
    chunks = math.ceil(time / chunk)
    steps = math.ceil(time / chunks)
    padded_BKTE = F.pad(x_BKTE, (0, 0, 0, chunks * steps - time))
    return padded_BKTE.reshape(*x_BKTE.shape[:2], chunks, steps, x_BKTE.shape[3])


def decay_between(sum_BKNL: Tensor, itself: bool = True) -> Tensor:
    """What is left at step i of what step j wrote, ``(..., L, L)``: exp(s_i - s_j) for j <= i, else 0.

    Without ``itself`` for j < i alone.
    """
    difference = sum_BKNL.unsqueeze(-1) - sum_BKNL.unsqueeze(-2)
    steps = sum_BKNL.shape[-1]
    later = torch.ones(steps, steps, dtype=torch.bool, device=sum_BKNL.device)
    return difference.masked_fill(later.triu(int(itself)), -math.inf).exp()


def carry(added_BKNEV: Tensor, kept_BKN: Tensor | None, state_BKEV: Tensor) -> tuple[Tensor, Tensor]:
    """S_{n+1} = g_n S_n + U_n over chunks: the state before every chunk, and the last one."""
    starts = []
    kept = [None] * added_BKNEV.shape[2] if kept_BKN is None else kept_BKN[..., None, None].unbind(2)
    for added, factor in zip(added_BKNEV.unbind(2), kept, strict=True):
        starts.append(state_BKEV)
        state_BKEV = state_BKEV + added if factor is None else torch.addcmul(added, factor, state_BKEV)
    return torch.stack(starts, dim=2), state_BKEV


def carry_delta(
    k_BKNLE: Tensor, writes_BKNLV: Tensor, reads_BKNLE: Tensor, kept_BKN: Tensor, state_BKEV: Tensor
) -> tuple[Tensor, Tensor]:
    """S_{n+1} = g_n S_n + K_n^T (W_n - R_n S_n) over chunks: the state before every chunk, and the last."""
    starts = []
    parts = (x.unbind(2) for x in (k_BKNLE.mT, writes_BKNLV, reads_BKNLE, kept_BKN[..., None, None]))
    for k_BKEL, writes, reads, kept in zip(*parts, strict=True):
        starts.append(state_BKEV)
        state_BKEV = torch.addcmul(k_BKEL @ (writes - reads @ state_BKEV), kept, state_BKEV)
    return torch.stack(starts, dim=2), state_BKEV
