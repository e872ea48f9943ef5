// What kernels of CUDA C++ share; it stands before their text.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short bf16;

// As engine.model.kernels.chain: until all before this kernel has been written; and let the next kernel start.
__device__ __forceinline__ void wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// All programs of a cluster have come this far, and what they wrote to shared memory can be read.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

__device__ __forceinline__ u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Two numbers of 16 bits, and what they are as float32.
__device__ __forceinline__ u32 pair(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ float low(u32 both) { return __uint_as_float(both << 16); }
__device__ __forceinline__ float high(u32 both) { return __uint_as_float(both & 0xffff0000u); }
