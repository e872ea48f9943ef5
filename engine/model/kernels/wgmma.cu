// y = x W^T for one to hundreds of rows x on Hopper. A program's tile is 128 weight rows by all N rows of the batch, so
// each weight is read once; the product is computed transposed, with the weights as the instruction's 64 rows.
//
// Warps 0 to 7 multiply (two warpgroups, 64 weight rows each), a thread of warp 8 asks for the tiles (TMA), warp 9
// completes the norms. SPLITS programs share the inputs of a tile: they are a cluster and add up each other's sums from
// shared memory, each for some of the rows.
//
// Compiled for one N, MODE, SPLITS, STAGES and LATE; those and `mma` stand before this text.

struct alignas(64) TensorMap { char opaque[128]; };

enum { STORE, GATED, ADD };
constexpr int THREADS = 320, CONSUMERS = 256;
constexpr int WEIGHT_ROWS = 128, DEPTH = 64;                 // of a stage; 64 inputs are 128 bytes, the swizzle's width
constexpr int OUTPUTS = MODE == GATED ? 64 : 128;            // of a tile
constexpr int WEIGHT_BYTES = WEIGHT_ROWS * DEPTH * 2, ROW_BYTES = N * DEPTH * 2, STAGE_BYTES = WEIGHT_BYTES + ROW_BYTES;
constexpr int BLOCKS = N / 8;                                // of 8 rows: what an instruction's results come in
constexpr int MOST = (BLOCKS + SPLITS - 1) / SPLITS;         // of them that one of the splits completes
constexpr int HEADER = 2048, WIDTH = OUTPUTS + 4;            // 4: so that no two threads of a warp meet in a bank
constexpr int LANES = OUTPUTS / 4, AT_ONCE = 8 * 32 / LANES; // threads that store a row, rows that are stored at once
constexpr int TIMES = (8 * MOST + AT_ONCE - 1) / AT_ONCE;

__device__ __forceinline__ void barrier_init(u64* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_wait(u64* barrier, int parity) {
    u32 done;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(address(barrier)), "r"(parity) : "memory");
    } while (!done);
}

__device__ __forceinline__ void consumers() { asm volatile("bar.sync 1, 256;" ::: "memory"); }
__device__ __forceinline__ void scales_ready() { asm volatile("bar.sync 2, 288;" ::: "memory"); }

// A tile of 128-byte rows with the 128-byte swizzle, its inputs side by side.
__device__ __forceinline__ u64 descriptor(u32 at) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

struct Place {
    int tile, batch;         // which weight rows, and the first row of the batch
    int from, turns;         // the first input, and how many stages of them
    int low, high;           // the blocks of rows that this split completes
};

// With gates: eight gate rows, then the eight up rows that belong to them, so that a thread holds the sums of both.
__device__ __forceinline__ void load_weights(const TensorMap* map, char* to, u64* barrier, int input, int tile) {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    if (MODE == GATED)
        asm volatile(
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
            " [%0], [%1, {%3, %4, %4, %5}], [%2], %6;"
            ::"r"(address(to)), "l"(map), "r"(address(barrier)), "r"(input), "r"(0), "r"(tile * 8), "l"(policy)
            : "memory");
    else
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
            " [%0], [%1, {%3, %4}], [%2], %5;"
            ::"r"(address(to)), "l"(map), "r"(address(barrier)), "r"(input), "r"(tile * WEIGHT_ROWS), "l"(policy)
            : "memory");
}

__device__ __forceinline__ void load_rows(const TensorMap* map, char* to, u64* barrier, int input, int first) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        ::"r"(address(to)), "l"(map), "r"(address(barrier)), "r"(input), "r"(first) : "memory");
}

__device__ __forceinline__ void produce(
    const TensorMap* weights, const TensorMap* rows, const Place& at, u64* full, u64* empty, char* stages) {
    for (int i = 0; i < at.turns; i++) {
        const int stage = i % STAGES, input = at.from + i * DEPTH;
        char* to = stages + stage * STAGE_BYTES;
        if (i >= STAGES) {
            barrier_wait(empty + stage, (i / STAGES - 1) & 1);
            barrier_expect(full + stage, STAGE_BYTES);
            load_weights(weights, to, full + stage, input, at.tile);
        }
        load_rows(rows, to + WEIGHT_BYTES, full + stage, input, at.batch);
    }
}

// What each row is taken times: `norms` [M, parts] are the parts that its writer left of the sum of its squares, or with
// no parts the number itself.
__device__ __forceinline__ void complete_norms(
    const float* norms, int parts, int inputs, float eps, const Place& at, int count, float* scale) {
    for (int n = threadIdx.x % 32; n < N; n += 32) {
        const int row = at.batch + n;
        float one = 1.0f;
        if (norms && row < count) {
            float sum = 0.0f;
#pragma unroll 8
            for (int p = 0; p < parts; p++) sum += __ldcg(norms + row * parts + p);
            one = parts ? rsqrtf(sum / inputs + eps) : __ldcg(norms + row);
        }
        scale[n] = one;
    }
}

__device__ __forceinline__ void multiply(
    float (&sum)[BLOCKS][4], const Place& at, u64* full, u64* empty, const char* stages) {
    const u32 first = address(stages), group = threadIdx.x / 128;
#pragma unroll
    for (int j = 0; j < BLOCKS; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[j][i] = 0.0f;
    for (int i = 0; i < at.turns; i++) {
        const int stage = i % STAGES;
        barrier_wait(full + stage, (i / STAGES) & 1);
        const u32 tile = first + stage * STAGE_BYTES;
        const u64 weights = descriptor(tile + group * (WEIGHT_BYTES / 2)), rows = descriptor(tile + WEIGHT_BYTES);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) mma(sum, weights + 2 * k, rows + 2 * k);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        // The stage before is free.
        if (i > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty + (i - 1) % STAGES);
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    consumers();
}

// A thread's sums of a block from all splits, in one order, whoever adds them up; `kept` is where each has left its own.
__device__ __forceinline__ float4 gathered(const float4* kept, int block) {
    const u32 own = address(kept + block * CONSUMERS + threadIdx.x);
    float4 parts[SPLITS], total;
#pragma unroll
    for (int s = 0; s < SPLITS; s++)
        asm volatile(
            "{ .reg .b32 at; mapa.shared::cluster.u32 at, %4, %5; ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [at]; }"
            : "=f"(parts[s].x), "=f"(parts[s].y), "=f"(parts[s].z), "=f"(parts[s].w) : "r"(own), "r"(s));
    total = parts[0];
#pragma unroll
    for (int s = 1; s < SPLITS; s++)
        total.x += parts[s].x, total.y += parts[s].y, total.z += parts[s].z, total.w += parts[s].w;
    return total;
}

__device__ __forceinline__ float gated(float gate, float up, float scale) {
    gate *= scale;
    return __fdividef(gate, 1.0f + __expf(-gate)) * (up * scale);
}

// Where a thread's share of a block [8, OUTPUTS] begins in shared memory.
__device__ __forceinline__ float* share_of(float* rows) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return rows + 2 * (lane % 4) * WIDTH + warp * (OUTPUTS / 8) + lane / 4;
}

__device__ __forceinline__ void lay_out(float4 sum, float* to) {
    to[0] = sum.x, to[WIDTH] = sum.y;
    to[8] = sum.z, to[WIDTH + 8] = sum.w;
}

// Gated sums as rows in shared memory: a few blocks at a time, so that nobody waits for one value after another.
__device__ __forceinline__ void lay_out_gated(const float (&sum)[BLOCKS][4], const float* scale, float* to) {
    constexpr int GROUP = 4;
    const float2* scales = (const float2*)scale + threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < BLOCKS; j += GROUP) {
        float2 value[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP && j + i < BLOCKS; i++) value[i] = scales[4 * (j + i)];
#pragma unroll
        for (int i = 0; i < GROUP && j + i < BLOCKS; i++) {
            value[i].x = gated(sum[j + i][0], sum[j + i][2], value[i].x);
            value[i].y = gated(sum[j + i][1], sum[j + i][3], value[i].y);
        }
#pragma unroll
        for (int i = 0; i < GROUP && j + i < BLOCKS; i++) {
            to[8 * (j + i) * WIDTH] = value[i].x;
            to[(8 * (j + i) + 1) * WIDTH] = value[i].y;
        }
    }
}

// All sums of this split's rows, [rows, WIDTH] in shared memory; with GATED, what becomes of them.
__device__ __forceinline__ float* complete(
    const float (&sum)[BLOCKS][4], const Place& at, const float* scale, char* stages) {
    static_assert(MODE != GATED || SPLITS == 1, "gates need whole sums");
    float4* kept = (float4*)stages;
    float* tile = (float*)(stages + (SPLITS > 1 ? BLOCKS * CONSUMERS * sizeof(float4) : 0));
    float* to = share_of(tile);
    if (MODE == GATED) {
        lay_out_gated(sum, scale, to);
        consumers();
        return tile;
    }
#pragma unroll
    for (int j = 0; j < BLOCKS; j++) {
        const float4 block = make_float4(sum[j][0], sum[j][1], sum[j][2], sum[j][3]);
        if (SPLITS > 1) kept[j * CONSUMERS + threadIdx.x] = block;
        else lay_out(block, to + 8 * j * WIDTH);
    }
    if (SPLITS > 1) {
        cluster_arrive();
        cluster_wait();
        float4 total[MOST];
        // Without branches, so that all are asked for before the first is there.
#pragma unroll
        for (int i = 0; i < MOST; i++) total[i] = gathered(kept, at.low + i);
#pragma unroll
        for (int i = 0; i < MOST; i++) lay_out(total[i], to + 8 * i * WIDTH);
        cluster_arrive();  // the others may go
    }
    consumers();
    return tile;
}

// Rows of the tile into the output, a warp one or two at a time.
__device__ __forceinline__ void store(
    const float* tile, const uint2 (&own)[TIMES], const Place& at, int first, int count, int outputs, bf16* to,
    const float* scale, float* squares) {
    const int lane = threadIdx.x % 32;
    float part[TIMES];
#pragma unroll
    for (int i = 0; i < TIMES; i++) {
        const int n = first + i * AT_ONCE;
        // With gates the last rows stored at once may be eight too many.
        float4 y = *(const float4*)(tile + min(n - 8 * at.low, 8 * MOST - 1) * WIDTH + lane % LANES * 4);
        if (MODE == STORE) {
            const float one = scale[n];
            y.x *= one, y.y *= one, y.z *= one, y.w *= one;
        }
        if (MODE == ADD) y.x += low(own[i].x), y.y += high(own[i].x), y.z += low(own[i].y), y.w += high(own[i].y);
        const uint2 rounded = make_uint2(pair(y.x, y.y), pair(y.z, y.w));
        if (n < 8 * at.high && at.batch + n < count) *(uint2*)(to + (u64)i * AT_ONCE * outputs) = rounded;
        if (MODE == ADD)
            part[i] = low(rounded.x) * low(rounded.x) + high(rounded.x) * high(rounded.x) +
                      low(rounded.y) * low(rounded.y) + high(rounded.y) * high(rounded.y);
    }
    if (MODE != ADD) return;
#pragma unroll
    for (int offset = 16; offset; offset /= 2)
#pragma unroll
        for (int i = 0; i < TIMES; i++) part[i] += __shfl_xor_sync(0xffffffffu, part[i], offset);
#pragma unroll
    for (int i = 0; i < TIMES; i++) {
        const int n = first + i * AT_ONCE;
        if (lane == 0 && n < 8 * at.high && at.batch + n < count)
            squares[(u64)(at.batch + n) * gridDim.x + at.tile] = part[i];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) product(
    const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap rows,
    bf16* __restrict__ out, const float* norms, float* squares, int count, int outputs, int inputs, int parts,
    float eps) {
    extern __shared__ char dynamic[];
    char* base = dynamic + (1024 - address(dynamic) % 1024) % 1024;
    u64 *full = (u64*)base, *empty = full + STAGES;
    float* scale = (float*)(base + HEADER - N * 4);
    char* stages = base + HEADER;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, all = inputs / DEPTH, split = blockIdx.y;
    Place at;
    at.tile = blockIdx.x, at.batch = blockIdx.z * N;
    at.from = all * split / SPLITS;
    at.turns = all * (split + 1) / SPLITS - at.from;
    at.from *= DEPTH;
    at.low = BLOCKS * split / SPLITS, at.high = BLOCKS * (split + 1) / SPLITS;
    if (!LATE) begin();
    if (threadIdx.x == 32 * 8) {
        for (int i = 0; i < STAGES; i++) barrier_init(full + i, 1), barrier_init(empty + i, 2);
        asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
        // Nobody writes weights: as many as there is room for are asked for before the last kernel has finished.
        for (int i = 0; i < STAGES && i < at.turns; i++) {
            barrier_expect(full + i, STAGE_BYTES);
            load_weights(&weights, stages + i * STAGE_BYTES, full + i, at.from + i * DEPTH, at.tile);
        }
    }
    __syncthreads();
    wait();
    if (LATE) begin();
    if (warp == 8) {
        if (lane == 0) produce(&weights, &rows, at, full, empty, stages);
        return;
    }
    if (warp == 9) {
        if (MODE != ADD) {
            complete_norms(norms, parts, inputs, eps, at, count, scale);
            scales_ready();
        }
        return;
    }
    float sum[BLOCKS][4];
    multiply(sum, at, full, empty, stages);
    if (MODE != ADD) scales_ready();
    // What a thread stores: four outputs of every AT_ONCE-th row.
    const int first = 8 * at.low + warp * (32 / LANES) + lane / LANES;
    bf16* to = out + (u64)(at.batch + first) * outputs + at.tile * OUTPUTS + lane % LANES * 4;
    uint2 own[TIMES];
    if (MODE == ADD)
#pragma unroll
        for (int i = 0; i < TIMES; i++)
            if (first + i * AT_ONCE < 8 * at.high && at.batch + first + i * AT_ONCE < count)
                own[i] = *(const uint2*)(to + (u64)i * AT_ONCE * outputs);
    const float* tile = complete(sum, at, scale, stages);
    store(tile, own, at, first, count, outputs, to, scale, squares);
    if (SPLITS > 1) cluster_wait();
}
