// Lets g++ compile the kernels of csrc/cuda for the host: a CUDA thread of a block is a fiber, blocks run one after the other.
//
// A fiber runs until a barrier or a shuffle for which others have not arrived, then the next fiber runs, always in the same
// order: results are the same every time. What a GPU leaves undefined stops the program with a message: a barrier that some
// threads never reach, a lane outside its own mask, more dynamic shared memory than the kernel was allowed, a launch that is
// too large. Shared memory is a heap buffer of exactly the size asked for and holds NaN, so that sanitizers and results show
// what is wrong. Included before the .cu with -include. RFDETR_TEST_SHARED: bytes of shared memory that a block may have.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "../cuda/host_types.h"

struct Dim3 {
  unsigned x;
};
inline Dim3 blockIdx, blockDim, threadIdx, gridDim;

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace host {

[[noreturn]] inline void stop(const char* what) {
  fprintf(stderr, "%s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  abort();
}

// Saves the callee's registers on the running stack, whose pointer goes to *from, and continues on the stack `to`.
extern "C" void rfdetr_switch_stack(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.weak rfdetr_switch_stack
.type rfdetr_switch_stack, @function
rfdetr_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr int kSaved = 6, kReturn = 6;  // words on a new stack; which of them is the return address
constexpr int kFrame = 8;               // and one that keeps the alignment of a call
#elif defined(__aarch64__)
asm(R"(
.text
.weak rfdetr_switch_stack
.type rfdetr_switch_stack, %function
rfdetr_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
constexpr int kReturn = 11, kFrame = 20;
#else
#error "no stack switch for this processor"
#endif

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;

// Threads that wait for one another; `round` counts how often all have met.
struct Meeting {
  int arrived = 0;
  unsigned round = 0;
};

struct Warp {
  Meeting meetings[kWarp];     // by the lowest lane of the mask
  uint64_t words[2][kWarp];    // what the lanes show one another; two, so that one barrier per exchange is enough
  unsigned exchanges[kWarp];   // of each lane
};

struct Fiber {
  std::unique_ptr<char[]> stack;
  void* top = nullptr;
  bool done = false;
  const Meeting* waits = nullptr;
  unsigned round = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Meeting all;
  void* scheduler = nullptr;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
};
inline Block block;
inline char* shared = nullptr;
inline cudaError_t last_error = cudaSuccess;
inline std::map<const void*, int> allowed;  // bytes of shared memory by kernel
inline std::set<const void*> launched;      // kernels

inline void fiber_main() {
  block.body(block.arguments);
  Fiber& self = block.fibers[threadIdx.x];
  self.done = true;
  rfdetr_switch_stack(&self.top, block.scheduler);  // no local variable: sanitizers would keep its surroundings marked
  stop("a finished thread ran");
}

// Waits until `count` threads have arrived.
inline void meet(Meeting& meeting, int count) {
  Fiber& self = block.fibers[threadIdx.x];
  const unsigned round = meeting.round;
  if (++meeting.arrived == count) {
    meeting.arrived = 0, ++meeting.round;
    return;
  }
  self.waits = &meeting, self.round = round;
  rfdetr_switch_stack(&self.top, block.scheduler);
}

inline void run_block(unsigned threads) {
  if (block.fibers.size() < threads) block.fibers.resize(threads);
  block.warps.assign((threads + kWarp - 1) / kWarp, Warp{});
  block.all = Meeting{};
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    uintptr_t end = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) / 16 * 16;
    void** frame = reinterpret_cast<void**>(end) - kFrame;
    std::fill(frame, frame + kFrame, nullptr);
    frame[kReturn] = reinterpret_cast<void*>(&fiber_main);
    fiber.top = frame, fiber.done = false, fiber.waits = nullptr;
  }
  for (unsigned left = threads; left > 0;) {
    bool moved = false;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = block.fibers[i];
      if (fiber.done || (fiber.waits && fiber.waits->round == fiber.round)) continue;
      moved = true, fiber.waits = nullptr, threadIdx.x = i;
      rfdetr_switch_stack(&block.scheduler, fiber.top);
      left -= fiber.done;
    }
    if (!moved) stop("some threads never reach a barrier or shuffle at which others wait");
  }
}

inline Warp& warp() { return block.warps[threadIdx.x / kWarp]; }
inline int lane() { return int(threadIdx.x % kWarp); }

// Shows `word` to the lanes of `mask` and returns what all of them showed.
inline const uint64_t* exchange(unsigned mask, uint64_t word) {
  if (!(mask >> lane() & 1)) stop("a lane is not in its own mask");
  Warp& own = warp();
  uint64_t* const words = own.words[own.exchanges[lane()]++ % 2];
  words[lane()] = word;
  meet(own.meetings[__builtin_ctz(mask)], __builtin_popcount(mask));
  return words;
}

template <class T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  const uint64_t* const words = exchange(mask, word);
  if (!(mask >> from & 1)) stop("a shuffle reads a lane that is not in the mask");
  T result;
  memcpy(&result, words + from, sizeof result);
  return result;
}

template <class Body>
void launch(const void* kernel, int64_t blocks, int64_t threads, int64_t bytes, Body body) {
  const auto found = allowed.find(kernel);
  const int64_t most = std::max(48 << 10, found == allowed.end() ? 0 : found->second);
  if (blocks < 1 || blocks > 0x7fffffff || threads < 1 || threads > 1024 || bytes < 0 || bytes > most) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  launched.insert(kernel);
  gridDim.x = unsigned(blocks), blockDim.x = unsigned(threads);
  block.body = [](void* own) { (*static_cast<Body*>(own))(); };
  block.arguments = &body;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    const std::unique_ptr<char[]> buffer(new char[size_t(bytes)]);
    memset(buffer.get(), 0xff, size_t(bytes));
    shared = buffer.get();
    run_block(unsigned(threads));
  }
}

}  // namespace host

// The number of different kernels that were launched so far, for a program that links them.
extern "C" __attribute__((weak)) size_t rfdetr_launched_kernels() { return host::launched.size(); }

#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)                                        \
  ((void)(stream), host::launch(reinterpret_cast<const void*>(&kernel), blocks, threads, shared_bytes, \
                                [&] { (kernel)(__VA_ARGS__); }))
#define SHARED_MEMORY(type, name) type* const name = reinterpret_cast<type*>(host::shared)

inline void __syncthreads() { host::meet(host::block.all, int(blockDim.x)); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { host::exchange(mask, 0); }
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = host::kWarp) {
  return host::shuffle(mask, value, host::lane() / width * width + (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = host::kWarp) {
  const int from = host::lane() ^ bits;
  return host::shuffle(mask, value, from / width == host::lane() / width ? from : host::lane());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = host::kWarp) {
  const int from = host::lane() - int(distance);
  return host::shuffle(mask, value, from >= host::lane() / width * width ? from : host::lane());
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = host::kWarp) {
  const int from = host::lane() + int(distance);
  return host::shuffle(mask, value, from / width == host::lane() / width ? from : host::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* const words = host::exchange(mask, predicate != 0);
  unsigned bits = 0;
  for (int i = 0; i < host::kWarp; ++i) bits |= unsigned(mask >> i & 1 && words[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

template <class T>
T atomicAdd(T* to, T x) {
  const T before = *to;
  *to += x;
  return before;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const char* const bytes = getenv("RFDETR_TEST_SHARED");
  *value = which == cudaDevAttrMultiProcessorCount ? 4 : atoi(bytes ? bytes : "101376");
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  host::allowed[reinterpret_cast<const void*>(kernel)] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = host::last_error;
  host::last_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "invalid value" : "no error"; }
