/* Eight-lane float vectors (GCC and Clang vector extensions) and the matrix product that the CPU kernels share. */
#ifndef LYRE_SIMD_H
#define LYRE_SIMD_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float f8 __attribute__((vector_size(32), aligned(4)));
typedef int32_t i8 __attribute__((vector_size(32), aligned(4)));
typedef uint32_t u8 __attribute__((vector_size(32), aligned(4)));
typedef uint16_t h8 __attribute__((vector_size(16), aligned(2)));

static inline f8 splat(float v) { return (f8){v, v, v, v, v, v, v, v}; }
static inline f8 load_f32(const float *p) { return *(const f8 *)p; }
static inline f8 load_bf16(const uint16_t *p) { return (f8)(__builtin_convertvector(*(const h8 *)p, u8) << 16); }
static inline f8 select8(i8 mask, f8 yes, f8 no) { return (f8)(((i8)yes & mask) | ((i8)no & ~mask)); }

static inline void store(float *p, f8 v) { *(f8 *)p = v; }
static inline float sum8(f8 v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* exp to about 2 units in the last place; arguments below -87 give about 1e-38. */
static inline f8 exp8(f8 x) {
    const f8 magic = splat(12582912.0f);
    x = select8(x < splat(-87.0f), splat(-87.0f), x);
    x = select8(x > splat(88.0f), splat(88.0f), x);
    f8 t = x * splat(1.44269504088896341f) + magic, n = t - magic;
    f8 r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
    f8 p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    f8 y = p * r * r + r + splat(1.0f);
    return (f8)((i8)y + ((i8)t << 23));
}

/* sin(x)^2, absolute error below 1e-6 for |x| < 1e4: the sign that range reduction by pi loses does not matter. */
static inline f8 sin_squared8(f8 x) {
    const f8 magic = splat(12582912.0f);
    f8 n = (x * splat(0.318309886183790671f) + magic) - magic;
    f8 r = x - n * splat(3.140625f) - n * splat(9.67502593994140625e-4f) - n * splat(1.509957990978376432e-7f);
    f8 q = r * r;
    f8 p = splat(-2.3889859e-8f);
    p = p * q + splat(2.7525562e-6f);
    p = p * q + splat(-1.9840874e-4f);
    p = p * q + splat(8.3333310e-3f);
    p = p * q + splat(-1.6666667e-1f);
    f8 s = r + r * q * p;
    return s * s;
}

/* SplitMix64, as engine/model/rng.py. */
static inline uint64_t mix64(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* y[rows, n] = x[rows, k] . w^T (+ bias). w is packed [n / 32, k, 32]: one stream to read, and a vector holds eight outputs,
 * so nothing is summed across lanes. Each output adds its terms in the order of k, whatever the other rows are.
 * Rows of x lie `stride` floats apart; they may overlap. */
#define ROWS_BY_32(COUNT, TYPE, LOAD)                                                                                \
    do {                                                                                                             \
        f8 acc[COUNT][4];                                                                                            \
        for (int q = 0; q < 4; q++)                                                                                  \
            for (int i = 0; i < COUNT; i++) acc[i][q] = bias ? load_f32(bias + j + 8 * q) : splat(0);                \
        const TYPE *u = w;                                                                                           \
        for (int i = 0; i < k; i++, u += 32) {                                                                       \
            __builtin_prefetch(u + 512);                                                                             \
            for (int q = 0; q < 4; q++) {                                                                            \
                f8 v = LOAD(u + 8 * q);                                                                              \
                for (int p = 0; p < COUNT; p++) acc[p][q] += v * splat(x[(int64_t)(r + p) * stride + i]);            \
            }                                                                                                        \
        }                                                                                                            \
        for (int p = 0; p < COUNT; p++)                                                                              \
            for (int q = 0; q < 4; q++) store(y + (int64_t)(r + p) * n + j + 8 * q, acc[p][q]);                      \
    } while (0)

#define DEFINE_MATMUL(NAME, TYPE, LOAD)                                                                              \
    static void NAME(const TYPE *w, const float *bias, const float *x, int64_t stride, float *y, int rows, int n, int k) { \
        for (int j = 0; j < n; j += 32, w += 32 * (int64_t)k) {                                                      \
            int r = 0;                                                                                               \
            for (; rows - r >= 3 && rows - r != 4; r += 3) ROWS_BY_32(3, TYPE, LOAD);                                \
            for (; rows - r >= 2; r += 2) ROWS_BY_32(2, TYPE, LOAD);                                                 \
            for (; r < rows; r++) ROWS_BY_32(1, TYPE, LOAD);                                                         \
        }                                                                                                            \
    }
DEFINE_MATMUL(matmul_f32, float, load_f32)
#ifdef LYRE_BF16
DEFINE_MATMUL(matmul_bf16, uint16_t, load_bf16)
#endif

#endif
