// Decode attention on GPUs with bf16 tensor cores: a warp, or a few, for each row and key-value head. Both products are
// computed transposed, keys and then the heads' dimensions as the instruction's 16 rows and the group's queries as its 8
// columns: the other way round 16 queries would be computed for the few that there are.
//
// Turns query and key (RoPE), writes the new key and value, attends to the slot's cache up to the row's position.
// SPLITS programs of WARPS warps share a head's keys, block after block in turns; the programs are a cluster, and put
// together what all warps have found from each other's shared memory.
//
// Compiled for one GROUP, KV, SPLITS, WARPS and STAGES; those stand before this text. Heads have 128 dimensions.

constexpr int DIM = 128, HALF = 64, BLOCK = 32;
constexpr int TILE_BYTES = BLOCK * DIM * 2, STAGE_BYTES = 2 * TILE_BYTES;   // keys, then values
constexpr int HALF_BYTES = TILE_BYTES / 2;                                  // of a tile: 64 dimensions of its rows
constexpr float SLACK = 8.0f;                                               // weights stay below 2^8
constexpr float LOWEST = -3.4e38f;
constexpr int PARTS = SPLITS * WARPS;

// Constants where there is but one warp: the compiler does not see that its number is 0.
__device__ __forceinline__ int warp_of() { return WARPS == 1 ? 0 : threadIdx.x / 32; }
__device__ __forceinline__ int lane_of() { return WARPS == 1 ? threadIdx.x : threadIdx.x % 32; }
__device__ __forceinline__ int split_of() { return SPLITS == 1 ? 0 : blockIdx.y; }

// Asks for a block's keys and values, row after row; of the last block those up to the row `newest`, and zeros behind.
template <bool last>
__device__ __forceinline__ void load_block(const char* keys, const char* values, u32 to, int newest) {
    const int lane = lane_of(), chunk = lane % 8, half = lane / 8 % 2, first = lane / 16;
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    keys += lane * 16, values += lane * 16;
    to += half * HALF_BYTES + first * 128;
#pragma unroll
    for (int i = 0; i < BLOCK / 2; i++) {
        const int row = 2 * i + first, size = last && row > newest ? 0 : 16;
        const u32 at = to + 256 * i + ((chunk ^ (row & 7)) << 4);
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
                     ::"r"(at), "l"(keys + 512 * i), "r"(size), "l"(policy) : "memory");
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
                     ::"r"(at + TILE_BYTES), "l"(values + 512 * i), "r"(size), "l"(policy) : "memory");
    }
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void load_rows(u32 (&a)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ void load_columns(u32 (&a)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ void mma(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 transposed(u32 fragment) {
    u32 other;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(fragment));
    return other;
}

// Two neighbouring numbers and the two 64 further on, turned by the angles of the first two, times `norm`.
__device__ __forceinline__ void turn(u32& a, u32& b, float2 c, float2 s, float norm) {
    const float a0 = low(a), a1 = high(a), b0 = low(b), b1 = high(b);
    a = pair(norm * (a0 * c.x - b0 * s.x), norm * (a1 * c.y - b1 * s.y));
    b = pair(norm * (b0 * c.x + a0 * s.x), norm * (b1 * c.y + a1 * s.y));
}

// The group's queries as the columns of the first product: [k-step of 16 dimensions][register].
__device__ __forceinline__ void load_queries(
    u32 (&query)[8][2], const bf16* token, int head, const float* cos, const float* sin, float norm) {
    const int lane = lane_of(), d = lane % 4 * 2;
    const u32* from = (const u32*)(token + (head * GROUP + min(lane / 4, GROUP - 1)) * DIM);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = 16 * k + 8 * i + d;
            u32 a = from[at / 2], b = from[(at + HALF) / 2];
            turn(a, b, *(const float2*)(cos + at), *(const float2*)(sin + at), norm);
            query[k][i] = lane / 4 < GROUP ? a : 0;
            query[k + 4][i] = lane / 4 < GROUP ? b : 0;
        }
}

// A thread's four dimensions of a row of a tile: 2 lane and 2 lane + 64, two from each.
__device__ __forceinline__ char* in_tile(char* tile, int row) {
    const int lane = lane_of(), chunk = lane / 4, within = lane % 4 * 4;
    return tile + row * 128 + ((chunk ^ (row & 7)) << 4) + within;
}

__device__ __forceinline__ void put(char* at, u32 a, u32 b) {
    *(u32*)at = a;
    *(u32*)(at + HALF_BYTES) = b;
}

// What one warp alone has found, into the output by way of shared memory: a thread holds numbers from eight places of it.
__device__ __forceinline__ void store_alone(
    const float (&mixed)[8][4], const float (&mass)[2], char* shared, bf16* out) {
    const int lane = lane_of();
    bf16* result = (bf16*)shared;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const int head = lane % 4 * 2 + j;
        const float share = 1.0f / mass[j];
        if (head < GROUP)
#pragma unroll
            for (int d = 0; d < 8; d++) {
                const u32 both = pair(mixed[d][j] * share, mixed[d][j + 2] * share);
                bf16* to = result + head * DIM + 16 * d + lane / 4;
                to[0] = (bf16)both, to[8] = (bf16)(both >> 16);
            }
    }
    __syncwarp();
    for (int i = lane; i < GROUP * DIM / 8; i += 32) ((uint4*)out)[i] = ((const uint4*)result)[i];
}

// What a warp has found: the weighted values, their weights' sum and the exponent that those are relative to.
struct Part {
    float mixed[GROUP][DIM + 4];  // 4: so that no two threads meet in a bank
    float best[GROUP], mass[GROUP];
};

__device__ __forceinline__ void leave(
    const float (&mixed)[8][4], const float (&best)[2], const float (&mass)[2], Part* part) {
    const int lane = lane_of();
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const int head = lane % 4 * 2 + j;
        if (head >= GROUP) continue;
        if (lane < 4) part->best[head] = best[j], part->mass[head] = mass[j];
#pragma unroll
        for (int d = 0; d < 8; d++) {
            float* to = &part->mixed[head][16 * d + lane / 4];
            to[0] = mixed[d][j], to[8] = mixed[d][j + 2];
        }
    }
}

// A number, or two, of another program's shared memory that lies where `at` is in this one's.
__device__ __forceinline__ float read(const float* at, int split) {
    if (SPLITS == 1) return *at;
    float x;
    asm volatile("{ .reg .b32 at; mapa.shared::cluster.u32 at, %1, %2; ld.shared::cluster.f32 %0, [at]; }"
                 : "=f"(x) : "r"(address(at)), "r"(split) : "memory");
    return x;
}

__device__ __forceinline__ float2 read_two(const float* at, int split) {
    if (SPLITS == 1) return *(const float2*)at;
    float2 x;
    asm volatile("{ .reg .b32 at; mapa.shared::cluster.u32 at, %2, %3; ld.shared::cluster.v2.f32 {%0, %1}, [at]; }"
                 : "=f"(x.x), "=f"(x.y) : "r"(address(at)), "r"(split) : "memory");
    return x;
}

// Two neighbouring numbers of a head's result, from all parts in one order; each lies where a warp's stages were.
__device__ __forceinline__ u32 merged(const char* parts, int head, int dimension) {
    float best[PARTS], mass[PARTS], top = LOWEST, total = 0.0f;
    float2 mixed[PARTS], sum = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const Part* part = (const Part*)(parts + p % WARPS * STAGES * STAGE_BYTES);
        best[p] = read(&part->best[head], p / WARPS), mass[p] = read(&part->mass[head], p / WARPS);
        mixed[p] = read_two(&part->mixed[head][dimension], p / WARPS);
    }
#pragma unroll
    for (int p = 0; p < PARTS; p++) top = fmaxf(top, best[p]);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const float weight = exp2_of(best[p] - top);
        total += weight * mass[p];
        sum.x += weight * mixed[p].x, sum.y += weight * mixed[p].y;
    }
    return pair(sum.x / total, sum.y / total);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) attend(
    const bf16* qkv, bf16* keys, bf16* values, const int* rows, const long long* positions, const float* cos,
    const float* sin, bf16* out, const float* norms, int context, float scale) {
    extern __shared__ __align__(128) char shared[];
    const int lane = lane_of(), head = blockIdx.x, row = blockIdx.z, own = split_of() * WARPS + warp_of();
    char* base = shared + warp_of() * STAGES * STAGE_BYTES;
    const u32 stages = address(base);
    begin();
    // Whatever wrote these and the old keys has ended: who makes q, k and v lets this kernel in once all before is done.
    const int slot = rows[row];
    if (slot < 0) {
        wait();
        return;
    }
    const int position = (int)positions[slot];
    const u64 first = (u64)(slot * KV + head) * context * DIM;
    keys += first, values += first;
    // The new token is a row of the last block; it is not in the cache yet.
    const int blocks = position / BLOCK + 1, newest = position % BLOCK;
    auto load = [&](int turn) {
        const int block = own + turn * PARTS;
        const u32 to = stages + turn % STAGES * STAGE_BYTES;
        const char *k = (const char*)(keys + block * BLOCK * DIM), *v = (const char*)(values + block * BLOCK * DIM);
        if (block < blocks - 1) load_block<false>(k, v, to, newest);
        else if (block == blocks - 1) load_block<true>(k, v, to, newest - 1);
        commit();
    };
    for (int i = 0; i < STAGES - 1; i++) load(i);
    wait();
    const bf16* token = qkv + (u64)row * ((GROUP + 2) * KV * DIM);
    const float norm = norms ? __ldcg(norms + row) : 1.0f;
    const float *c = cos + position * HALF, *s = sin + position * HALF;
    u32 query[8][2];
    load_queries(query, token, head, c, s, norm);
    const u32 *at_key = (const u32*)(token + (KV * GROUP + head) * DIM) + lane, *at_value = at_key + KV * DIM / 2;
    u32 key_a = at_key[0], key_b = at_key[HALF / 2], value_a = at_value[0], value_b = at_value[HALF / 2];
    turn(key_a, key_b, *(const float2*)(c + 2 * lane), *(const float2*)(s + 2 * lane), norm);
    value_a = pair(norm * low(value_a), norm * high(value_a)), value_b = pair(norm * low(value_b), norm * high(value_b));
    if ((blocks - 1) % PARTS == own) {
        const int kept = position * (DIM / 2) + lane;
        ((u32*)keys)[kept] = key_a, ((u32*)keys)[kept + HALF / 2] = key_b;
        ((u32*)values)[kept] = value_a, ((u32*)values)[kept + HALF / 2] = value_b;
    }

    // Where a thread's rows of the instruction's operands lie: 16 keys by 8 dimensions twice, and the transposed.
    const u32 key_row = (lane % 16) * 128, value_row = (lane % 8 + lane / 16 * 8) * 128, swizzle = lane % 8;
    const int key_chunk = lane / 16, value_chunk = lane / 8 % 2;
    float best[2] = {LOWEST, LOWEST}, mass[2] = {0.0f, 0.0f}, mixed[8][4];
#pragma unroll
    for (int i = 0; i < 8; i++) mixed[i][0] = mixed[i][1] = mixed[i][2] = mixed[i][3] = 0.0f;
    for (int turn = 0; own + turn * PARTS < blocks; turn++) {
        const int stage = turn % STAGES;
        load(turn + STAGES - 1);
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
        const u32 tile = stages + stage * STAGE_BYTES;
        const bool last = own + turn * PARTS == blocks - 1;
        if (last) {
            put(in_tile(base + stage * STAGE_BYTES, newest), key_a, key_b);
            put(in_tile(base + stage * STAGE_BYTES + TILE_BYTES, newest), value_a, value_b);
            __syncwarp();
        }
        // Operands are read two steps ahead of the products that take them.
        u32 a[3][2][4];
        float score[2][4] = {};
#pragma unroll
        for (int k = 0; k < 8 + 2; k++) {
            if (k < 8)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    load_rows(a[k % 3][i], tile + k / 4 * HALF_BYTES + i * 2048 + key_row +
                                               (((k % 4 * 2 + key_chunk) ^ swizzle) << 4));
            if (k >= 2)
#pragma unroll
                for (int i = 0; i < 2; i++) mma(score[i], a[(k - 2) % 3][i], query[k - 2][0], query[k - 2][1]);
        }
        if (last)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (16 * i + 8 * (j / 2) + lane / 4 > newest) score[i][j] = LOWEST;
        float top[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            top[j] = fmaxf(fmaxf(score[0][j], score[0][j + 2]), fmaxf(score[1][j], score[1][j + 2])) * scale;
        if (__any_sync(0xffffffffu, top[0] > best[0] + SLACK || top[1] > best[1] + SLACK)) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                for (int offset = 4; offset < 32; offset *= 2)
                    top[j] = fmaxf(top[j], __shfl_xor_sync(0xffffffffu, top[j], offset));
                const float better = fmaxf(best[j], top[j]), shrink = exp2_of(best[j] - better);
                best[j] = better, mass[j] *= shrink;
#pragma unroll
                for (int i = 0; i < 8; i++) mixed[i][j] *= shrink, mixed[i][j + 2] *= shrink;
            }
        }
        u32 weight[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[i][j] = exp2_of(score[i][j] * scale - best[j % 2]);
                mass[j % 2] += score[i][j];
            }
            weight[i][0] = transposed(pair(score[i][0], score[i][1]));
            weight[i][1] = transposed(pair(score[i][2], score[i][3]));
        }
#pragma unroll
        for (int d = 0; d < 8 + 2; d++) {
            if (d < 8)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    load_columns(a[d % 3][i], tile + TILE_BYTES + d / 4 * HALF_BYTES + i * 2048 + value_row +
                                                  (((d % 4 * 2 + value_chunk) ^ swizzle) << 4));
            if (d >= 2)
#pragma unroll
                for (int i = 0; i < 2; i++) mma(mixed[d - 2], a[(d - 2) % 3][i], weight[i][0], weight[i][1]);
        }
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
        for (int offset = 4; offset < 32; offset *= 2) mass[j] += __shfl_xor_sync(0xffffffffu, mass[j], offset);
    out += (u64)(row * KV + head) * (GROUP * DIM);
    if (PARTS == 1) {
        store_alone(mixed, mass, base, out);
        return;
    }
    leave(mixed, best, mass, (Part*)base);
    if (SPLITS > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
    for (int i = own * 32 + lane; i < GROUP * DIM / 2; i += PARTS * 32)
        ((u32*)out)[i] = merged(shared, i / (DIM / 2), i % (DIM / 2) * 2);
    // What the others read must stay.
    if (SPLITS > 1) cluster_arrive(), cluster_wait();
}
