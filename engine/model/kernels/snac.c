/* Streaming SNAC decode on one CPU core: one call pushes a few frames of one stream through all layers.
 *
 * Contract: the same function as engine/model/snac.py (the torch reference). Activations are [time, channels]; channels
 * come in multiples of 32 from the first pointwise layer on. fp32 throughout.
 */
#include "simd.h"

enum { DEPTHWISE, POINTWISE, UPSAMPLE, NOISE, RESIDUAL, SNAKE, OUTPUT };
enum { TAPS = 7, CODES = 4096, FRAME = 7, LATENTS = 4 };

/* One layer. The pointers a kind does not use are NULL; matrices are packed as simd.h says. */
typedef struct {
    int32_t kind, in, out, factor; /* factor: dilation (DEPTHWISE, RESIDUAL), stride (UPSAMPLE), block number (NOISE) */
    const float *alpha, *alpha_inverse;           /* [in]: the snake before the convolution */
    const float *taps, *taps_bias;                /* [TAPS, in], [in] */
    const float *mid_alpha, *mid_alpha_inverse;   /* [in]: the snake before a residual unit's matrix */
    const float *matrix, *bias;                   /* [out, in] (UPSAMPLE: [stride * out, 2 in]), bias of the output (UPSAMPLE: repeated) */
    int64_t state;                                /* first float of this layer's state in a slot */
} Layer;

typedef struct {
    int32_t layers, latent, widest, slots; /* widest: most floats that any layer puts out for one latent */
    int64_t slot_floats;
    const float *tables[3]; /* [CODES, latent]: a codebook's entries after its output projection */
    const Layer *layer;
    float *state;           /* [slots, slot_floats] */
} Decoder;

static void snake(const float *x, float *y, int64_t rows, int channels, const float *alpha, const float *inverse) {
    for (int64_t t = 0; t < rows; t++)
        for (int c = 0; c < channels; c += 8) {
            f8 v = load_f32(x + t * channels + c);
            store(y + t * channels + c, v + load_f32(inverse + c) * sin_squared8(load_f32(alpha + c) * v));
        }
}

/* x holds TAPS - 1 dilated rows of history before its `rows` rows. */
static void depthwise(const float *x, float *y, int64_t rows, int channels, int dilation, const float *taps, const float *bias) {
    for (int64_t t = 0; t < rows; t++)
        for (int c = 0; c < channels; c += 8) {
            f8 acc = load_f32(bias + c);
            for (int j = 0; j < TAPS; j++)
                acc += load_f32(taps + j * channels + c) * load_f32(x + (t + (int64_t)j * dilation) * channels + c);
            store(y + t * channels + c, acc);
        }
}

/* Puts `rows` of history (state) and the new rows behind one another in y, and the latest `rows` back into state. */
static void with_history(float *state, int64_t history, const float *x, int64_t rows, int channels, float *y) {
    memcpy(y, state, sizeof(float) * history * channels);
    if (x != y + history * channels) memcpy(y + history * channels, x, sizeof(float) * rows * channels);
    memcpy(state, y + rows * channels, sizeof(float) * history * channels);
}

/* Rows whose absolute position lies outside of [0, end) become zero: each layer's own zero padding. */
static void mask(float *x, int64_t rows, int channels, int64_t position, int64_t end) {
    for (int64_t t = 0; t < rows; t++)
        if (position + t < 0 || position + t >= end) memset(x + t * channels, 0, sizeof(float) * channels);
}

static void add_noise(const Layer *l, float *x, int64_t rows, int64_t position, uint64_t seed, float *work) {
    const uint64_t key = mix64(seed, (uint64_t)l->factor);
    matmul_f32(l->matrix, NULL, x, l->in, work, (int)rows, l->out, l->in);
    for (int64_t t = 0; t < rows; t++) {
        const uint64_t bits = mix64(key, (uint64_t)(position + t));
        const float radius = ((float)(bits >> 41) + 0.5f) * 0x1p-23f;
        const float angle = (float)(bits & 0xFFFFFF) * (6.283185307179586f * 0x1p-24f);
        const f8 normal = splat(sqrtf(-2.0f * logf(radius)) * cosf(angle));
        for (int c = 0; c < l->in; c += 8)
            store(x + t * l->in + c, load_f32(x + t * l->in + c) + normal * load_f32(work + t * l->in + c));
    }
}

/* snake, depthwise, snake, matrix; plus the input, delayed as far as the convolution looks ahead. */
static void residual(const Layer *l, float *state, float *x, int64_t rows, float *a, float *b) {
    const int64_t delay = 3 * l->factor, history = 2 * delay;
    snake(x, a + history * l->in, rows, l->in, l->alpha, l->alpha_inverse);
    with_history(state, history, a + history * l->in, rows, l->in, a);
    depthwise(a, b, rows, l->in, l->factor, l->taps, l->taps_bias);
    snake(b, b, rows, l->in, l->mid_alpha, l->mid_alpha_inverse);
    with_history(state + history * l->in, delay, x, rows, l->in, a);
    matmul_f32(l->matrix, l->bias, b, l->in, x, (int)rows, l->out, l->in);
    for (int64_t i = 0; i < rows * l->in; i += 8) store(x + i, load_f32(x + i) + load_f32(a + i));
}

static void output(const Layer *l, float *state, const float *x, int64_t rows, float *a, float *y) {
    with_history(state, TAPS - 1, x, rows, l->in, a);
    for (int64_t t = 0; t < rows; t++) {
        f8 acc = {0};
        for (int i = 0; i < TAPS * l->in; i += 8) acc += load_f32(a + t * l->in + i) * load_f32(l->matrix + i);
        y[t] = tanhf(sum8(acc) + l->bias[0]);
    }
}

/* Pushes `frames` frames of codes [frames, FRAME] that start at latent `start` of an utterance of `total` latents.
 * samples: [frames * LATENTS * 512]. Codes at or past `total` are not read. Returns 0, or -1 without memory. */
int lyre_snac(const Decoder *d, int64_t slot, const int32_t *codes, int64_t frames, int64_t start, int64_t total,
              uint64_t seed, float *samples) {
    static const int book[FRAME] = {0, 1, 2, 2, 1, 2, 2}, width[FRAME] = {4, 2, 1, 1, 2, 1, 1}, first[FRAME] = {0, 0, 0, 1, 2, 2, 3};
    const int64_t size = frames * LATENTS * d->widest;
    /* Room for the longest history (54 rows of the widest layer fit in `widest`) beside each activation. */
    float *x = calloc((size_t)(3 * (size + 2 * d->widest + 64 * d->latent)), sizeof(float));
    if (!x) return -1;
    float *a = x + size + 2 * d->widest + 64 * d->latent, *b = a + size + 2 * d->widest + 64 * d->latent;
    float *base = d->state + slot * d->slot_floats;
    int64_t rows = frames * LATENTS, rate = 1, offset = 0;

    for (int64_t f = 0; f < frames; f++)
        for (int k = 0; k < FRAME && start + f * LATENTS < total; k++) {
            const float *entry = d->tables[book[k]] + (int64_t)codes[f * FRAME + k] * d->latent;
            for (int t = first[k]; t < first[k] + width[k]; t++)
                for (int c = 0; c < d->latent; c++) x[(f * LATENTS + t) * d->latent + c] += entry[c];
        }
    for (const Layer *l = d->layer; l < d->layer + d->layers; l++) {
        float *state = base + l->state;
        switch (l->kind) {
        case DEPTHWISE:
            with_history(state, TAPS - 1, x, rows, l->in, a);
            depthwise(a, x, rows, l->in, 1, l->taps, l->taps_bias);
            offset += 3;
            break;
        case POINTWISE:
            matmul_f32(l->matrix, l->bias, x, l->in, a, (int)rows, l->out, l->in);
            memcpy(x, a, sizeof(float) * rows * l->out);
            break;
        case SNAKE: snake(x, x, rows, l->in, l->alpha, l->alpha_inverse); break;
        case UPSAMPLE:
            snake(x, a + l->in, rows, l->in, l->alpha, l->alpha_inverse);
            with_history(state, 1, a + l->in, rows, l->in, a);
            matmul_f32(l->matrix, l->bias, a, l->in, x, (int)rows, l->factor * l->out, 2 * l->in);
            offset = offset * l->factor + l->factor / 2;
            rows *= l->factor;
            rate *= l->factor;
            break;
        case NOISE: add_noise(l, x, rows, start * rate - offset, seed, a); break;
        case RESIDUAL:
            residual(l, state, x, rows, a, b);
            offset += 3 * l->factor;
            break;
        case OUTPUT:
            output(l, state, x, rows, a, samples);
            break;
        }
        if (l->kind != OUTPUT) mask(x, rows, l->out, start * rate - offset, total * rate);
    }
    free(x);
    return 0;
}
