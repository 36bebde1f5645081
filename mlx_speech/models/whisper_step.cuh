// What CUDA has for whisper_step.cu: a thread's place, memory as it is read, matrix units, the barrier of a grid.
// The tests have their own file in its place, and run the step on a CPU.

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define ONCE _Pragma("unroll 1")
#define STAMP  // where a profile takes the time

using Half = __half;
using Brain = __nv_bfloat16;

DEVICE float2 unpack(unsigned x, Half) { return __half22float2(*reinterpret_cast<const __half2*>(&x)); }
DEVICE float2 unpack(unsigned x, Brain) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&x)); }
DEVICE unsigned pack(float x, float y, Half) {
  const __half2 both = __floats2half2_rn(x, y);
  return *reinterpret_cast<const unsigned*>(&both);
}
DEVICE unsigned pack(float x, float y, Brain) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const unsigned*>(&both);
}
DEVICE unsigned times(unsigned x, unsigned y, Half) {
  const __half2 both = __hmul2(*reinterpret_cast<const __half2*>(&x), *reinterpret_cast<const __half2*>(&y));
  return *reinterpret_cast<const unsigned*>(&both);
}
DEVICE unsigned times(unsigned x, unsigned y, Brain) {
  const __nv_bfloat162 both =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&x), *reinterpret_cast<const __nv_bfloat162*>(&y));
  return *reinterpret_cast<const unsigned*>(&both);
}

// sum (16 outputs x 8 rows) += weights (16 x 16) . inputs (16 x 8)
#define MULTIPLY(TYPE)                                                                                              \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, " \
               "{%0,%1,%2,%3};"                                                                                     \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                             \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
DEVICE void multiply(float* sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, Half) {
  MULTIPLY("f16");
}
DEVICE void multiply(float* sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, Brain) {
  MULTIPLY("bf16");
}
#undef MULTIPLY

// 16 bytes, or zeros: without a branch, so that many are under way at once
#define FETCH(HOW)                                                                                  \
  uint4 v;                                                                                          \
  asm volatile("{.reg .pred p; setp.ne.s32 p, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; " \
               "mov.b32 %3, 0; @p ld.global." HOW ".v4.u32 {%0,%1,%2,%3}, [%4];}"                   \
               : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)                                     \
               : "l"(from), "r"(int(wanted)));                                                      \
  return v
DEVICE uint4 fetch(const void* from, bool wanted) { FETCH("nc.L1::no_allocate"); }  // nobody writes it meanwhile
DEVICE uint4 fetch_new(const void* from, bool wanted) { FETCH("cg"); }             // another block wrote it
#undef FETCH
// The same into the block's memory, for the thread itself: there once no more than so many groups are under way
DEVICE void copy(uint4* to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
               "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
DEVICE void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS>
DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}
DEVICE float read_new(const Half* from) {
  const unsigned short x = __ldcg(reinterpret_cast<const unsigned short*>(from));
  return __half2float(*reinterpret_cast<const Half*>(&x));
}
DEVICE float read_new(const Brain* from) {
  const unsigned short x = __ldcg(reinterpret_cast<const unsigned short*>(from));
  return __bfloat162float(*reinterpret_cast<const Brain*>(&x));
}
DEVICE float from_lane(float x, int distance) { return __shfl_xor_sync(0xffffffffu, x, distance); }
DEVICE float power_of_2(float x) { return exp2f(x); }
DEVICE float as_float(unsigned x) { return __uint_as_float(x); }

struct Here {
  int thread, warp, lane, block, blocks;
  float* memory;  // the block's own
  int* arrived;   // how many blocks have come to barriers, all in all
  int epoch;      // barriers

  DEVICE void together() { __syncthreads(); }
  // All that the block wrote may be read by those that wait from now on.
  DEVICE void arrive() {
    __syncthreads();
    ++epoch;
    if (thread == 0) asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(arrived) : "memory");
  }
  DEVICE void wait() {
    if (thread == 0) {
      int seen;
      for (unsigned tries = 1;; ++tries) {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
        if (seen - epoch * blocks >= 0) break;
        if (tries == 1u << 27) __trap();  // a minute or so: an error is better than waiting for ever
      }
    }
    __syncthreads();
  }
};
