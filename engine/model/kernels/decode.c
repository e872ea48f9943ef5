/* Whole-frame decode of a Llama on one CPU core: seven steps with sampling, no Python in between.
 *
 * Contract: the same function as engine/model/llama.py + engine/model/sampler.py (the torch reference), row by row.
 * A row's result does not depend on the other rows: each dot product adds its terms in one fixed order.
 * Weights are bf16 or fp32, arithmetic and the KV cache are fp32. Matrices are packed by
 * engine/model/native.py, which also checks that their rows come in multiples of 32 and head_dim in multiples of 8.
 */
#define LYRE_BF16
#include "simd.h"

enum { FRAME = 7, CODES = 4096, HEAD_ROWS = 4128, END = 4096, CHUNK = 32 };

typedef struct {
    int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, context, slots, bf16, first_audio;
    float eps;
    const void *embed;            /* [vocab, hidden] */
    const float *norms;           /* [2 * layers + 1, hidden]: input, post-attention of each layer; final */
    /* Packed matrices, here with their shapes before packing. */
    const void *const *qkv;       /* per layer [(heads + 2 kv_heads) * head_dim, hidden] */
    const void *const *attn_out;  /* per layer [hidden, heads * head_dim] */
    const void *const *gate_up;   /* per layer [2 * intermediate, hidden] */
    const void *const *down;      /* per layer [hidden, intermediate] */
    const void *head;             /* [FRAME, HEAD_ROWS, hidden]: a slot's codes, end of speech, padding */
    const float *cos, *sin;       /* [context, head_dim / 2] */
    float *keys, *values;         /* [layers, slots, kv_heads, context, head_dim] */
} Model;

/* Per-slot state, one entry a slot; last_seen is [slots, FRAME, CODES]. */
typedef struct {
    int64_t *token, *position, *frame, *seed;
    float *temperature, *top_p, *penalty;
    int32_t *top_k, *window, *last_seen;
} State;

static void matmul(const Model *m, const void *w, const float *x, float *y, int rows, int n, int k) {
    if (m->bf16) matmul_bf16(w, NULL, x, k, y, rows, n, k);
    else matmul_f32(w, NULL, x, k, y, rows, n, k);
}

static void embed(const Model *m, int64_t token, float *x) {
    const int h = m->hidden;
    for (int i = 0; i < h; i += 8)
        *(f8 *)(x + i) = m->bf16 ? load_bf16((const uint16_t *)m->embed + token * h + i)
                                 : load_f32((const float *)m->embed + token * h + i);
}

static void rms_norm(const float *x, const float *weight, float *y, int h, float eps) {
    f8 acc = {0};
    for (int i = 0; i < h; i += 8) { f8 v = load_f32(x + i); acc += v * v; }
    f8 scale = splat(1.0f / sqrtf(sum8(acc) / (float)h + eps));
    for (int i = 0; i < h; i += 8) *(f8 *)(y + i) = load_f32(x + i) * scale * load_f32(weight + i);
}

static void rotate(float *x, const float *cos, const float *sin, int heads, int dim) {
    const int half = dim / 2;
    for (int head = 0; head < heads; head++, x += dim)
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * cos[i] - b * sin[i];
            x[i + half] = b * cos[i] + a * sin[i];
        }
}

/* One query head over `length` cached positions; scores is scratch of at least length + 8 floats. */
static void attend(const float *q, const float *keys, const float *values, int length, int dim, float *scores, float *out) {
    const float scale = 1.0f / sqrtf((float)dim);
    float top = -INFINITY;
    for (int t = 0; t < length; t++) {
        f8 acc = {0};
        const float *key = keys + (int64_t)t * dim;
        for (int i = 0; i < dim; i += 8) acc += load_f32(q + i) * load_f32(key + i);
        scores[t] = sum8(acc) * scale;
        if (scores[t] > top) top = scores[t];
    }
    for (int t = length; t < length + 8; t++) scores[t] = -INFINITY;
    float total = 0;
    for (int t = 0; t < length; t += 8) *(f8 *)(scores + t) = exp8(load_f32(scores + t) - splat(top));
    for (int t = 0; t < length; t++) total += scores[t];
    for (int i = 0; i < dim; i += 8) {
        f8 acc = {0};
        for (int t = 0; t < length; t++) acc += splat(scores[t]) * load_f32(values + (int64_t)t * dim + i);
        *(f8 *)(out + i) = acc / splat(total);
    }
}

static int64_t scratch_floats(const Model *m, int64_t rows) {
    return rows * (2 * m->hidden + 2 * (m->heads + m->kv_heads) * m->head_dim + 2 * m->intermediate) + m->context + 8;
}

/* Runs the layers on `rows` tokens, writes their keys and values, leaves the normed hidden states in `hidden`.
 * scratch: scratch_floats(m, rows). */
static void forward(const Model *m, int rows, const int64_t *tokens, const int64_t *slots, const int64_t *positions,
                    float *hidden, float *scratch) {
    const int h = m->hidden, d = m->head_dim, nq = m->heads, nkv = m->kv_heads, inter = m->intermediate;
    const int qkv_dim = (nq + 2 * nkv) * d, attn_dim = nq * d, group = nq / nkv;
    const int64_t head_stride = (int64_t)m->context * d, slot_stride = head_stride * nkv;
    float *x = scratch, *qkv = x + rows * h, *attn = qkv + rows * qkv_dim, *delta = attn + rows * attn_dim;
    float *gate_up = delta + rows * h, *scores = gate_up + rows * 2 * inter;

    for (int r = 0; r < rows; r++) embed(m, tokens[r], x + r * h);
    for (int layer = 0; layer < m->layers; layer++) {
        float *layer_keys = m->keys + layer * slot_stride * m->slots, *layer_values = m->values + layer * slot_stride * m->slots;
        for (int r = 0; r < rows; r++) rms_norm(x + r * h, m->norms + 2 * layer * h, hidden + r * h, h, m->eps);
        matmul(m, m->qkv[layer], hidden, qkv, rows, qkv_dim, h);
        for (int r = 0; r < rows; r++) {
            float *row = qkv + r * qkv_dim;
            rotate(row, m->cos + positions[r] * (d / 2), m->sin + positions[r] * (d / 2), nq + nkv, d);
            for (int head = 0; head < nkv; head++) {
                int64_t at = slots[r] * slot_stride + head * head_stride + positions[r] * d;
                memcpy(layer_keys + at, row + (nq + head) * d, sizeof(float) * d);
                memcpy(layer_values + at, row + (nq + nkv + head) * d, sizeof(float) * d);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int head = 0; head < nq; head++) {
                int64_t at = slots[r] * slot_stride + head / group * head_stride;
                attend(qkv + r * qkv_dim + head * d, layer_keys + at, layer_values + at, (int)positions[r] + 1, d, scores,
                       attn + r * attn_dim + head * d);
            }
        matmul(m, m->attn_out[layer], attn, delta, rows, h, attn_dim);
        for (int i = 0; i < rows * h; i++) x[i] += delta[i];
        for (int r = 0; r < rows; r++) rms_norm(x + r * h, m->norms + (2 * layer + 1) * h, hidden + r * h, h, m->eps);
        matmul(m, m->gate_up[layer], hidden, gate_up, rows, 2 * inter, h);
        for (int r = 0; r < rows; r++) {
            float *gate = gate_up + r * 2 * inter, *act = gate_up + r * inter;
            /* act is packed in place: row r's output ends before row r's input begins to be needed again. */
            for (int i = 0; i < inter; i += 8) {
                f8 g = load_f32(gate + i), up = load_f32(gate + inter + i);
                *(f8 *)(act + i) = g / (splat(1.0f) + exp8(-g)) * up;
            }
        }
        matmul(m, m->down[layer], gate_up, delta, rows, h, inter);
        for (int i = 0; i < rows * h; i++) x[i] += delta[i];
    }
    for (int r = 0; r < rows; r++) rms_norm(x + r * h, m->norms + 2 * m->layers * h, hidden + r * h, h, m->eps);
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Both thresholds bisect the bits of floats in (0, 1]: the order of positive floats is the order of their bits. */

/* The k-th largest of n weights. */
static float top_k_threshold(const float *weights, int n, int k) {
    uint32_t low = 0, high = 0x3F800001;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        const float cut = from_bits(middle);
        int count = 0;
        for (int i = 0; i < n; i++) count += weights[i] >= cut;
        if (count >= k) low = middle;
        else high = middle;
    }
    return from_bits(low);
}

/* The largest threshold whose survivors still sum to at least `mass`. */
static float top_p_threshold(const float *weights, int n, double mass) {
    uint32_t low = 0, high = 0x3F800001;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        const float cut = from_bits(middle);
        double sum = 0;
        for (int i = 0; i < n; i++) sum += weights[i] >= cut ? weights[i] : 0;
        if (sum >= mass) low = middle;
        else high = middle;
    }
    return from_bits(low);
}

static double total_of(const float *weights, int n) {
    double total = 0;
    for (int i = 0; i < n; i++) total += weights[i];
    return total;
}

/* Drops the entries below `cut`, in place; returns how many stay. */
static int keep_from(float cut, float *weights, int32_t *index, int n) {
    int left = 0;
    for (int i = 0; i < n; i++)
        if (weights[i] >= cut) { weights[left] = weights[i]; index[left++] = index[i]; }
    return left;
}

/* Index drawn from logits[0..CODES] (END included where `may_end`): penalty, temperature, top-k, top-p, inverse CDF.
 * logits has room for 8 floats past its end; weights and index are scratch of HEAD_ROWS + 8 entries. */
static int sample(const State *s, int64_t slot, int k, int may_end, float *logits, float *weights, int32_t *index) {
    const int n = may_end ? CODES + 1 : CODES;
    const int32_t step = (int32_t)(s->frame[slot] * FRAME + k), window = s->window[slot];
    const int32_t *seen = s->last_seen + (slot * FRAME + k) * CODES;
    const float penalty = s->penalty[slot], top_p = s->top_p[slot];
    const int32_t top_k = s->top_k[slot];
    if (penalty != 1.0f)
        for (int i = 0; i < CODES; i++)
            if (step - seen[i] <= window) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    if (top_k == 1) return best;
    const f8 top = splat(logits[best]), heat = splat(s->temperature[slot]);
    for (int i = 0; i < n; i += 8) *(f8 *)(weights + i) = exp8((load_f32(logits + i) - top) / heat);
    for (int i = 0; i < n; i++) index[i] = i;
    int kept = n;
    if (top_k > 0 && top_k < n) kept = keep_from(top_k_threshold(weights, kept, top_k), weights, index, kept);
    if (top_p < 1.0f) {
        /* Entries that together cannot reach the mass left out are dropped before the bisection. */
        double total = total_of(weights, kept), mass = total * top_p;
        kept = keep_from((float)((total - mass) / (2.0 * kept)), weights, index, kept);
        kept = keep_from(top_p_threshold(weights, kept, mass), weights, index, kept);
    }
    if (kept == 0) return best; /* logits that are no numbers */
    double goal = total_of(weights, kept), sum = 0;
    goal *= ((double)(mix64((uint64_t)s->seed[slot], (uint64_t)step) >> 41) + 0.5) / 8388608.0;
    for (int i = 0; i < kept; i++) {
        sum += weights[i];
        if (sum > goal) return index[i];
    }
    return index[kept - 1];
}

/* Keys and values of a prompt's tokens, at positions start, start + 1, ... of one slot. 0, or -1 without memory. */
int lyre_prefill(const Model *m, int64_t slot, const int64_t *ids, int64_t count, int64_t start) {
    float *hidden = malloc((CHUNK * m->hidden + scratch_floats(m, CHUNK)) * sizeof(float));
    if (!hidden) return -1;
    int64_t slots[CHUNK], positions[CHUNK];
    for (int64_t done = 0; done < count; done += CHUNK) {
        int rows = count - done < CHUNK ? (int)(count - done) : CHUNK;
        for (int r = 0; r < rows; r++) { slots[r] = slot; positions[r] = start + done + r; }
        forward(m, rows, ids + done, slots, positions, hidden, hidden + CHUNK * m->hidden);
    }
    free(hidden);
    return 0;
}

/* One frame for `rows` slots. codes: [rows, FRAME]; ended[r] = 1 when the row's slot-0 draw was end of speech (its codes
 * are then undefined). A slot whose frame is below min_frames cannot end. 0, or -1 without memory. */
int lyre_decode_frame(const Model *m, const State *s, int64_t rows, const int64_t *slots, int64_t min_frames,
                      int32_t *codes, uint8_t *ended) {
    const int64_t width = HEAD_ROWS + 8;
    float *hidden = malloc((rows * m->hidden + scratch_floats(m, rows) + rows * HEAD_ROWS + 8 + width) * sizeof(float));
    int64_t *live = malloc(sizeof(int64_t) * rows * 4 + sizeof(int32_t) * width);
    if (!hidden || !live) { free(hidden); free(live); return -1; }
    float *scratch = hidden + rows * m->hidden, *logits = scratch + scratch_floats(m, rows);
    float *weights = logits + rows * HEAD_ROWS + 8;
    int64_t *tokens = live + rows, *live_slots = tokens + rows, *positions = live_slots + rows;
    int32_t *index = (int32_t *)(positions + rows);
    int count = (int)rows;
    for (int r = 0; r < count; r++) { live[r] = r; ended[r] = 0; }
    for (int k = 0; k < FRAME && count > 0; k++) {
        for (int r = 0; r < count; r++) {
            live_slots[r] = slots[live[r]];
            tokens[r] = s->token[live_slots[r]];
            positions[r] = s->position[live_slots[r]];
        }
        forward(m, count, tokens, live_slots, positions, hidden, scratch);
        const char *head = (const char *)m->head + (int64_t)k * HEAD_ROWS * m->hidden * (m->bf16 ? 2 : 4);
        matmul(m, head, hidden, logits, count, HEAD_ROWS, m->hidden);
        int left = 0;
        for (int r = 0; r < count; r++) {
            const int64_t slot = live_slots[r];
            const int may_end = k == 0 && s->frame[slot] >= min_frames;
            const int code = sample(s, slot, k, may_end, logits + (int64_t)r * HEAD_ROWS, weights, index);
            if (code == END) { ended[live[r]] = 1; continue; }
            codes[live[r] * FRAME + k] = code;
            s->last_seen[(slot * FRAME + k) * CODES + code] = (int32_t)(s->frame[slot] * FRAME + k);
            s->token[slot] = m->first_audio + k * CODES + code;
            s->position[slot]++;
            live[left++] = live[r];
        }
        count = left;
    }
    for (int r = 0; r < count; r++) s->frame[slots[live[r]]]++;
    free(hidden);
    free(live);
    return 0;
}
