"""The equations of the matrix-state layers, one step at a time in numpy, shared with no code of seqbench.

Each reads one sequence from a state, which it changes, and yields its output at every step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

H, K = 8, 2  # width and heads
E = H // K
Array = npt.NDArray[np.float64]
Weights = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def normed(x: Array, eps: float) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + eps)


def rms(x: Array, weight: Array, eps: float) -> Array:
    return weight * x / np.sqrt((x * x).mean() + eps)


def convolved(w: Weights, recent: Array, x: Array) -> Array:
    """What the convolution gives at this step; ``recent`` forgets its oldest row and takes this one in."""
    window = np.vstack([recent, x])
    recent[:] = window[1:]
    return w["convolution.bias"] + (window * w["convolution.weight"].T).sum(0)


def linear_attention(w: Weights, xs: Array, state: list[Array]) -> Any:
    memory, total = state
    for x in xs:
        q, k, v = (w["qkv.weight"] @ x + w["qkv.bias"]).reshape(3, K, E)
        heads = []
        for h in range(K):
            fq, fk = (np.where(a[h] > 0, a[h] + 1, np.exp(a[h])) for a in (q, k))
            memory[h] += np.outer(fk, v[h])
            total[h] += fk
            heads.append(fq @ memory[h] / (fq @ total[h] + 1e-6))
        yield w["out.weight"] @ np.concatenate(heads) + w["out.bias"]


def retnet(w: Weights, xs: Array, state: list[Array], *, rotary: bool, offset: float) -> Any:
    """Everything is turned by its own position, and the state back by T at the end."""
    (memory,) = state
    frequency = 10_000.0 ** (-np.arange(0, E, 2) / E)

    def turn(a: Array, position: int) -> Array:
        pairs = (a[0::2] + 1j * a[1::2]) * np.exp(1j * position * frequency * rotary)
        return np.stack([pairs.real, pairs.imag], axis=1).reshape(E)

    for t, x in enumerate(xs):
        q, k, v, gate = (w["qkvg.weight"] @ x).reshape(4, K, E)
        heads = []
        for h in range(K):
            memory[h] = (1 - 2.0 ** (-offset - h)) * memory[h] + np.outer(turn(k[h], t) / math.sqrt(E), v[h])
            heads.append(normed(turn(q[h], t) @ memory[h], 1e-5))
        yield w["out.weight"] @ (np.concatenate(heads) * silu(gate.reshape(H)))
    for h in range(K):
        memory[h] = np.stack([turn(column, -len(xs)) for column in memory[h].T], axis=1)


def mlstm(w: Weights, xs: Array, state: list[Array], *, exponential: bool) -> Any:
    """Without a stabiliser: C and n themselves, as in the paper's first equations."""
    memory, total, m = state
    memory *= np.exp(m)[:, None, None]
    total *= np.exp(m)[:, None]
    for x in xs:
        q, k, v, o = (w["qkvo.weight"] @ x + w["qkvo.bias"]).reshape(4, K, E)
        enter, forget = (w["gates.weight"] @ x + w["gates.bias"]).reshape(2, K)
        heads = []
        for h in range(K):
            f = np.exp(forget[h]) if exponential else sigmoid(forget[h])
            memory[h] = f * memory[h] + np.exp(enter[h]) * np.outer(k[h], v[h]) / math.sqrt(E)
            total[h] = f * total[h] + np.exp(enter[h]) * k[h] / math.sqrt(E)
            m[h] = max(np.log(f) + m[h], enter[h], 0.0)
            heads.append(normed(q[h] @ memory[h] / max(abs(q[h] @ total[h]), 1.0), 1e-6))
        yield w["out.weight"] @ (sigmoid(o.reshape(H)) * np.concatenate(heads)) + w["out.bias"]
    memory /= np.exp(m)[:, None, None]
    total /= np.exp(m)[:, None]


def decay(w: Weights, raw: Array) -> tuple[Array, Array]:
    dt = np.log1p(np.exp(raw + w["forgetting.bias"]))
    return dt, np.exp(-np.exp(w["forgetting.log_rate"]) * dt)


def mamba2(w: Weights, xs: Array, state: list[Array]) -> Any:
    memory, recent = state
    size, inner = memory.shape[1], 2 * H
    for x in xs:
        z, mixed, raw = np.split(w["enter.weight"] @ x, [inner, 2 * inner + 2 * size])
        v, b, c = np.split(silu(convolved(w, recent, mixed)), [inner, inner + size])
        dt, g = decay(w, raw)
        heads = []
        for h, value in enumerate(v.reshape(K, -1)):
            memory[h] = g[h] * memory[h] + np.outer(b, dt[h] * value)
            heads.append(c @ memory[h] + w["skip"][h] * value)
        yield w["out.weight"] @ rms(np.concatenate(heads) * silu(z), w["norm.weight"], 1e-5)


def mamba3(w: Weights, xs: Array, state: list[Array], *, pairs: int) -> Any:
    """Angles add up from 0; what is kept of the past is turned back by all of them at the end."""
    memory, last_key, last_value = state
    size, inner = memory.shape[1], 2 * H
    angles = np.zeros((K, pairs))

    def turn(a: Array, angle: Array) -> Array:
        turned = (a[0 : 2 * pairs : 2] + 1j * a[1 : 2 * pairs : 2]) * np.exp(1j * angle)
        return np.concatenate([np.stack([turned.real, turned.imag], axis=1).ravel(), a[2 * pairs :]])

    ends = np.cumsum([inner, inner, size, size, K, K, K])
    for x in xs:
        z, v, b, c, raw, a, late, way = np.split(w["enter.weight"] @ x, ends)
        heads = []
        for h, value in enumerate(v.reshape(K, -1)):
            dt = np.log1p(np.exp(raw[h] + w["dt_bias"][h]))
            alpha, share = np.exp(-np.log1p(np.exp(a[h])) * dt), sigmoid(late[h])
            angles[h] += dt * np.pi * np.tanh(way)
            key = turn(rms(b, w["key_norm.weight"], 1e-5) + w["key_bias"][h, 0], angles[h])
            query = turn(rms(c, w["query_norm.weight"], 1e-5) + w["query_bias"][h, 0], angles[h])
            memory[h] = alpha * memory[h] + share * dt * np.outer(key, value)
            memory[h] += alpha * (1 - share) * dt * np.outer(last_key[h], last_value[h])
            last_key[h], last_value[h] = key, value
            heads.append(query @ memory[h] + w["skip"][h] * value)
        yield w["out.weight"] @ (np.concatenate(heads) * silu(z))
    for h in range(K):
        memory[h] = np.stack([turn(column, -angles[h]) for column in memory[h].T], axis=1)
        last_key[h] = turn(last_key[h], -angles[h])


def deltanet(
    w: Weights, xs: Array, state: list[Array], *, negative: bool, gated: bool, convolution: bool
) -> Any:
    memory = state[0]
    for x in xs:
        qkv = w["qkv.weight"] @ x
        qkv = convolved(w, state[1], qkv) if convolution else qkv
        q, k, v = silu(qkv).reshape(3, K, E)
        beta = (2 if negative else 1) * sigmoid(w["beta.weight"] @ x)
        g = decay(w, w["dt.weight"] @ x)[1] if gated else np.ones(K)
        heads = []
        for h in range(K):
            key, query = (a[h] / np.sqrt(a[h] @ a[h] + 1e-6) for a in (k, q))
            memory[h] = g[h] * (np.eye(E) - beta[h] * np.outer(key, key)) @ memory[h]
            memory[h] += beta[h] * np.outer(key, v[h])
            heads.append(rms(query @ memory[h] / math.sqrt(E), w["norm.weight"], 1e-5))
        y = np.concatenate(heads) * (silu(w["gate.weight"] @ x) if gated else 1)
        yield w["out.weight"] @ y
