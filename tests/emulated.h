// What whisper_step.cu has in place of whisper_step.cuh where the tests run it on a CPU: each thread of the GPU is a
// coroutine, and goes on until it has to wait for others.
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#define DEVICE inline
#define UNROLL
#define ONCE
#define STAMP

struct uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
using Half = _Float16;

struct Meeting {
  int size, come = 0, number = 0;
};
struct Warp {
  Meeting meeting{32};
  unsigned passed[32][6];
};
struct Copy {
  uint4 *to, value;
};
struct Lane {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Warp* warp;
  int number;
  std::vector<Copy> begun;
  std::deque<std::vector<Copy>> copies;
  bool done = false;
};
static Lane* now;
static ucontext_t scheduler;
static void others() { swapcontext(&now->context, &scheduler); }
static void meet(Meeting& m) {
  const int number = m.number;
  if (++m.come == m.size) {
    m.come = 0;
    ++m.number;
  } else {
    while (m.number == number) others();
  }
}

template <typename A, typename B>
static A bits(B x) {
  static_assert(sizeof(A) == sizeof(B));
  A y;
  memcpy(&y, &x, sizeof y);
  return y;
}
struct Two { Half x, y; };
DEVICE float2 unpack(unsigned x, Half) { const Two v = bits<Two>(x); return {float(v.x), float(v.y)}; }
DEVICE unsigned pack(float x, float y, Half) { return bits<unsigned>(Two{Half(x), Half(y)}); }
DEVICE unsigned times(unsigned x, unsigned y, Half) {
  const Two a = bits<Two>(x), b = bits<Two>(y);
  return bits<unsigned>(Two{Half(a.x * b.x), Half(a.y * b.y)});
}
// What may be read: whoever reads elsewhere is stopped.
static std::vector<std::pair<const char*, size_t>> known;
template <typename T>
static std::pair<const char*, size_t> of(const std::vector<T>& x) {
  return {reinterpret_cast<const char*>(x.data()), x.size() * sizeof(T)};
}
DEVICE uint4 fetch(const void* from, bool wanted) {
  uint4 v{0, 0, 0, 0};
  if (!wanted) return v;
  const char* at = static_cast<const char*>(from);
  for (const auto& [start, size] : known) {
    if (at >= start && at + 16 <= start + size) {
      memcpy(&v, at, 16);
      return v;
    }
  }
  fprintf(stderr, "read outside of everything\n");
  exit(1);
}
DEVICE uint4 fetch_new(const void* from, bool wanted) { return fetch(from, wanted); }
// Copies are made as late as may be: what reads before them finds no number.
DEVICE void copy(uint4* to, const void* from, bool wanted) {
  memset(to, 0xff, 16);
  now->begun.push_back({to, fetch(from, wanted)});
}
DEVICE void end_copies() { now->copies.push_back(std::move(now->begun)); now->begun.clear(); }
template <int GROUPS>
DEVICE void wait_for_copies() {
  for (; now->copies.size() > GROUPS; now->copies.pop_front()) {
    for (const Copy& c : now->copies.front()) *c.to = c.value;
  }
}
template <typename T>
DEVICE float read_new(const T* from) { return float(*from); }
DEVICE float power_of_2(float x) { return std::exp2(x); }
DEVICE float as_float(unsigned x) { return bits<float>(x); }
DEVICE float rsqrtf(float x) { return 1 / std::sqrt(x); }

DEVICE float from_lane(float x, int distance) {
  Warp& w = *now->warp;
  w.passed[now->number][0] = bits<unsigned>(x);
  meet(w.meeting);
  const float y = bits<float>(w.passed[now->number ^ distance][0]);
  meet(w.meeting);
  return y;
}

// Where matrix units hold what, from the manual of PTX: mma.m16n8k16.
DEVICE void multiply(float* sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, Half) {
  Warp& w = *now->warp;
  const unsigned mine[] = {a0, a1, a2, a3, b0, b1};
  memcpy(w.passed[now->number], mine, sizeof mine);
  meet(w.meeting);
  auto held = [&](int lane, int which, int half) {
    const Two v = bits<Two>(w.passed[lane][which]);
    return float(half ? v.y : v.x);
  };
  const int g = now->number / 4, t = now->number % 4;
  for (int c = 0; c < 4; ++c) {
    const int row = g + 8 * (c / 2), column = 2 * t + c % 2;
    for (int k = 0; k < 16; ++k) {
      const int lane = k % 8 / 2;
      const float a = held(row % 8 * 4 + lane, row / 8 + 2 * (k / 8), k % 2);
      sum[c] += a * held(column * 4 + lane, 4 + k / 8, k % 2);
    }
  }
  meet(w.meeting);
}

struct Here {
  int thread, warp, lane, block, blocks;
  float* memory;
  int* arrived;
  int epoch;
  Meeting* all;

  void together() { meet(*all); }
  void arrive() {
    together();
    ++epoch;
    if (thread == 0) ++*arrived;
  }
  void wait() {
    while (*arrived - epoch * blocks < 0) others();
    together();
  }
};

// Run `work` as every thread of so many blocks at once, each with so many floats of memory.
static std::function<void(Here&)> work_of_all;
static void begin(int block, int thread, int blocks, int threads, float* memory, int* arrived, Meeting* all) {
  Here me{thread, thread / 32, thread % 32, block, blocks, memory, arrived, *arrived / blocks, all};
  work_of_all(me);
  now->done = true;
  others();
}
static void run_blocks(int blocks, int warps, int floats, int* arrived, std::function<void(Here&)> work) {
  work_of_all = work;
  const int threads = 32 * warps;
  std::vector<std::vector<float>> memory(blocks, std::vector<float>(floats, NAN));
  std::vector<Meeting> meetings(blocks, Meeting{threads});
  std::vector<Warp> all(blocks * warps);
  std::vector<Lane> lanes(blocks * threads);
  for (int n = 0; n < blocks * threads; ++n) {
    Lane& lane = lanes[n];
    const int block = n / threads;
    lane.warp = &all[n / 32];
    lane.number = n % 32;
    constexpr size_t STACK = 1 << 16;
    lane.stack.reset(new char[STACK]);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.get();
    lane.context.uc_stack.ss_size = STACK;
    static thread_local struct { int block, thread, blocks, threads; float* memory; int* arrived; Meeting* all; } given;
    given = {block, n % threads, blocks, threads, memory[block].data(), arrived, &meetings[block]};
    static void (*enter)() = [] {
      const auto mine = given;
      others();
      begin(mine.block, mine.thread, mine.blocks, mine.threads, mine.memory, mine.arrived, mine.all);
    };
    makecontext(&lane.context, enter, 0);
    now = &lane;
    swapcontext(&scheduler, &lane.context);  // it takes what it was given
  }
  for (bool going = true; going;) {
    going = false;
    for (Lane& lane : lanes) {
      if (lane.done) continue;
      going = true;
      now = &lane;
      swapcontext(&scheduler, &lane.context);
    }
  }
}
