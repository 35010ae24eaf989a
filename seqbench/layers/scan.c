/* Recurrent scans for CPUs: the loop over time in one call, everything element by element in one pass.
 *
 * Arrays are float32, contiguous and time-major: T steps, B sequences, H hidden units. Gates of a GRU are stacked as
 * torch stacks them: reset, update, candidate.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 8 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 4 };
#else
enum { LANES = 4, ROWS = 8 };
#endif
enum { PANEL = 2 * LANES };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* A matrix product of our own, since the same small matrix is multiplied at every step: it is laid out once, and
 * the accumulators stay in registers. C (rows x N) = A (rows x K) B + keep C for one panel of PANEL columns of B. */
static inline __attribute__((always_inline)) void block(int rows, int K, const float *A, const float *panel, int columns,
                                                        int N, float keep, float *C) {
    lanes left[ROWS], right[ROWS];
    for (int r = 0; r < rows; r++) left[r] = right[r] = (lanes){0};
    for (int k = 0; k < K; k++, panel += PANEL) {
        const lanes b0 = *(const lanes *)panel, b1 = *(const lanes *)(panel + LANES);
        for (int r = 0; r < rows; r++) {
            const float a = A[(long)r * K + k];
            left[r] += a * b0;
            right[r] += a * b1;
        }
    }
    for (int r = 0; r < rows; r++) {
        float found[PANEL], *out = C + (long)r * N;
        memcpy(found, &left[r], sizeof left[r]);
        memcpy(found + LANES, &right[r], sizeof right[r]);
        if (keep != 0.0f)
            for (int c = 0; c < columns; c++) out[c] = found[c] + keep * out[c];
        else
            memcpy(out, found, columns * sizeof(float));
    }
}

/* B (K x N) in panels, one after another, the last one filled up with zeros: room for panel_size(K, N) numbers. */
static void pack(int K, int N, const float *B, float *packed) {
    for (int n = 0; n < N; n += PANEL)
        for (int k = 0; k < K; k++, packed += PANEL)
            for (int c = 0; c < PANEL; c++) packed[c] = n + c < N ? B[(long)k * N + n + c] : 0.0f;
}

/* The same of B's transpose, which is given: B (N x K). */
static void pack_transposed(int K, int N, const float *B, float *packed) {
    for (int n = 0; n < N; n += PANEL)
        for (int k = 0; k < K; k++, packed += PANEL)
            for (int c = 0; c < PANEL; c++) packed[c] = n + c < N ? B[(long)(n + c) * K + k] : 0.0f;
}

long panel_size(int K, int N) { return (long)((N + PANEL - 1) / PANEL) * PANEL * K; }

/* C (M x N) = A (M x K) B + keep C with B in panels. */
static void multiply(int M, int N, int K, const float *A, const float *packed, float keep, float *C) {
    for (int n = 0; n < N; n += PANEL, packed += (long)K * PANEL) {
        const int columns = N - n < PANEL ? N - n : PANEL;
        int m = 0;
        for (; m + ROWS <= M; m += ROWS) block(ROWS, K, A + (long)m * K, packed, columns, N, keep, C + (long)m * N + n);
        for (; m < M; m++) block(1, K, A + (long)m * K, packed, columns, N, keep, C + (long)m * N + n);
    }
}

static inline float two_to(float n) { /* 2^n of a whole number -126 <= n <= 127 */
    union { uint32_t bits; float value; } u;
    u.bits = (uint32_t)((int32_t)n + 127) << 23;
    return u.value;
}

/* exp(y) = scale (1 + result) for y <= 0: y = n ln 2 + r, |r| <= ln(2)/2, scale = 2^n, and exp(r) - 1 by its series
 * up to r^8/8!. */
static inline float exp_of_negative(float y, float *scale) {
    y = y < -87.0f ? -87.0f : y;
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    float n = (y * 1.44269504088896341f + shift) - shift;
    float r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 40320;
    p = p * r + 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    *scale = two_to(n);
    return p * (r * r) + r;
}

static inline float tanh_of(float x) {
    float scale, size = x < 0 ? -x : x;
    float p = exp_of_negative(-2.0f * size, &scale);
    float e = p * scale + (scale - 1.0f); /* exp(-2 |x|) - 1, accurate near 0 */
    float value = -e / (2.0f + e);
    return x < 0 ? -value : value;
}

static inline float sigmoid_of(float x) {
    float scale, size = x < 0 ? -x : x;
    float p = exp_of_negative(-size, &scale);
    float e = p * scale + scale;
    float value = 1.0f / (1.0f + e);
    return x < 0 ? e * value : value;
}

/* h_t = f(pre_t + W h_{t-1}); h holds pre on entry and the states on return. W is H x H, room panel_size(H, H). */
void elman_forward(int T, int B, int H, int relu, const float *h0, const float *weight, float *h, float *room) {
    const long size = (long)B * H;
    const float *before = h0;
    pack_transposed(H, H, weight, room);
    for (int t = 0; t < T; t++, before = h, h += size) {
        multiply(B, H, H, before, room, 1.0f, h);
        if (relu)
            for (long i = 0; i < size; i++) h[i] = h[i] > 0 ? h[i] : 0.0f;
        else
            for (long i = 0; i < size; i++) h[i] = tanh_of(h[i]);
    }
}

/* dpre_t = (dL/dh_t) f'(pre_t); carry (B x H) holds what later steps send back, at the end dL/dh_0. */
void elman_backward(int T, int B, int H, int relu, const float *grad, const float *h, const float *weight,
                    float *dpre, float *carry, float *room) {
    const long size = (long)B * H;
    memset(carry, 0, size * sizeof(float));
    pack(H, H, weight, room);
    for (int t = T - 1; t >= 0; t--) {
        const float *g = grad + t * size, *y = h + t * size;
        float *d = dpre + t * size;
        if (relu)
            for (long i = 0; i < size; i++) d[i] = y[i] > 0 ? carry[i] + g[i] : 0.0f;
        else
            for (long i = 0; i < size; i++) d[i] = (carry[i] + g[i]) * (1.0f - y[i] * y[i]);
        multiply(B, H, H, d, room, 0.0f, carry);
    }
}

/* pre (T x B x 3H) becomes reset, update, candidate; inner (T x B x H) is W_n h + b_n. W is 3H x H; recurrent (B x 3H)
 * and room (panel_size(H, 3H)) are places to work in. */
void gru_forward(int T, int B, int H, const float *h0, const float *weight, const float *bias, float *restrict pre,
                 float *restrict inner, float *restrict h, float *restrict recurrent, float *room) {
    const float *before = h0;
    pack_transposed(H, 3 * H, weight, room);
    for (int t = 0; t < T; t++) {
        multiply(B, 3 * H, H, before, room, 0.0f, recurrent);
        for (int b = 0; b < B; b++) {
            const float *rec = recurrent + (long)b * 3 * H, *old = before + (long)b * H;
            float *p = pre + (long)b * 3 * H, *in = inner + (long)b * H, *out = h + (long)b * H;
            for (int i = 0; i < H; i++) {
                float r = sigmoid_of(p[i] + rec[i] + bias[i]);
                float z = sigmoid_of(p[H + i] + rec[H + i] + bias[H + i]);
                float w = rec[2 * H + i] + bias[2 * H + i];
                float n = tanh_of(p[2 * H + i] + r * w);
                p[i] = r, p[H + i] = z, p[2 * H + i] = n, in[i] = w;
                out[i] = n + z * (old[i] - n);
            }
        }
        before = h, pre += (long)B * 3 * H, inner += (long)B * H, h += (long)B * H;
    }
}

/* drec: gradient of the recurrent product; dpre: of the input projection, where only the candidate's differs.
 * room: panel_size(3H, H). */
void gru_backward(int T, int B, int H, const float *grad, const float *h0, const float *h, const float *gates,
                  const float *inner, const float *weight, float *restrict drec, float *restrict dpre,
                  float *restrict carry, float *room) {
    const long size = (long)B * H;
    memset(carry, 0, size * sizeof(float));
    pack(3 * H, H, weight, room);
    for (int t = T - 1; t >= 0; t--) {
        const float *before = t ? h + (t - 1) * size : h0;
        for (int b = 0; b < B; b++) {
            const long one = t * size + (long)b * H, three = t * 3 * size + (long)b * 3 * H;
            const float *g = grad + one, *old = before + (long)b * H, *w = inner + one, *p = gates + three;
            float *rec = drec + three, *in = dpre + three, *c = carry + (long)b * H;
            for (int i = 0; i < H; i++) {
                float r = p[i], z = p[H + i], n = p[2 * H + i], total = c[i] + g[i];
                float dn = total * (1.0f - z) * (1.0f - n * n);
                float dr = dn * w[i] * r * (1.0f - r);
                float dz = total * (old[i] - n) * z * (1.0f - z);
                rec[i] = dr, rec[H + i] = dz, rec[2 * H + i] = dn * r;
                in[i] = dr, in[H + i] = dz, in[2 * H + i] = dn;
                c[i] = total * z;
            }
        }
        multiply(B, H, 3 * H, drec + t * 3 * size, room, 1.0f, carry);
    }
}
