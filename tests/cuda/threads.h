// Runs the kernels' text with a thread of the operating system for each CUDA thread of all blocks of a launch, for
// ThreadSanitizer: it sees exactly the order that CUDA promises. __syncthreads and __syncwarp order memory; shuffles, ballots
// and atomics do not. Two threads that touch one address without such an order, of one block or of two, are reported as a race.
//
// Shared memory is a heap buffer of exactly the size asked for and holds NaN. A thread that ends leaves the barriers of its
// block, as on a GPU. RFDETR_TEST_SHARED: bytes of shared memory that a block may have; RFDETR_TEST_PROCESSORS:
// multiprocessors.
#pragma once

#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "host_cuda.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#else
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#endif

namespace threads {

constexpr unsigned kWarp = 32;
constexpr int64_t kMostThreads = 6000;  // ThreadSanitizer takes about 8,000

[[noreturn]] inline void stop(const char* what) {
  fprintf(stderr, "%s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  _exit(3);
}

#define RFDETR_UNSEEN __attribute__((no_sanitize("thread"), noinline))

// Threads that wait for one another. ThreadSanitizer does not look inside: it would take the counters for an order of memory.
struct Meeting {
  unsigned arrived = 0, round = 0, wanted = 0;
  char order[2] = {};  // the order of memory, where there is one: an address for each of two successive rounds

  RFDETR_UNSEEN unsigned arrive(unsigned count, unsigned& before) {
    before = __atomic_load_n(&round, __ATOMIC_SEQ_CST);
    return __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count;
  }
  RFDETR_UNSEEN void open() {
    __atomic_store_n(&arrived, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&round, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &round, FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
  }
  RFDETR_UNSEEN void wait(unsigned before) {
    while (__atomic_load_n(&round, __ATOMIC_SEQ_CST) == before) {
      syscall(SYS_futex, &round, FUTEX_WAIT_PRIVATE, before, nullptr, nullptr, 0);
    }
  }
  RFDETR_UNSEEN unsigned present() { return __atomic_load_n(&round, __ATOMIC_SEQ_CST); }

  void meet(unsigned count, bool orders) {
    const unsigned now = present();
    if (orders) __tsan_release(&order[now % 2]);
    unsigned before = 0;
    if (arrive(count, before)) {
      open();
    } else {
      wait(before);
    }
    if (orders) __tsan_acquire(&order[now % 2]);
  }
};

struct Warp {
  Meeting meetings[kWarp];  // by the lowest lane of the mask
  uint64_t words[2][kWarp];
};

struct Block {
  std::unique_ptr<char[]> shared;
  std::vector<Warp> warps;
  uint64_t present =
      0;  // of the barrier of all threads: in the low half those that have not ended, in the high half those at it
  unsigned round = 0;
  char order[2] = {};
};

inline thread_local Block* block = nullptr;
inline thread_local unsigned exchanges = 0;
inline cudaError_t last_error = cudaSuccess;
inline std::map<const void*, int> allowed;

// The barrier of a block, or a thread's end, which the others no longer wait for.
RFDETR_UNSEEN inline void barrier_or_end(Block& own, bool ends) {
  const unsigned before = __atomic_load_n(&own.round, __ATOMIC_SEQ_CST);
  const uint64_t now = ends ? __atomic_sub_fetch(&own.present, 1, __ATOMIC_SEQ_CST)
                            : __atomic_add_fetch(&own.present, uint64_t(1) << 32, __ATOMIC_SEQ_CST);
  const uint64_t at_it = now >> 32;
  if (at_it > 0 && at_it == uint32_t(now)) {
    __atomic_sub_fetch(&own.present, at_it << 32, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&own.round, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &own.round, FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
    return;
  }
  while (!ends && __atomic_load_n(&own.round, __ATOMIC_SEQ_CST) == before) {
    syscall(SYS_futex, &own.round, FUTEX_WAIT_PRIVATE, before, nullptr, nullptr, 0);
  }
}
RFDETR_UNSEEN inline unsigned round_of(Block& own) { return __atomic_load_n(&own.round, __ATOMIC_SEQ_CST); }

inline unsigned lane() { return threadIdx.x % kWarp; }
inline Warp& warp() { return block->warps[threadIdx.x / kWarp]; }

RFDETR_UNSEEN inline void show(Warp& own, unsigned which, uint64_t word) { own.words[which][lane()] = word; }
RFDETR_UNSEEN inline uint64_t shown(const Warp& own, unsigned which, unsigned from) { return own.words[which][from]; }

// Meets the other lanes of `mask` and returns which of the two rows of words holds what they showed.
inline unsigned exchange(unsigned mask, uint64_t word, bool orders) {
  if (!(mask >> lane() & 1)) stop("a lane is not in its own mask");
  const unsigned which = exchanges++ % 2;
  show(warp(), which, word);
  warp().meetings[__builtin_ctz(mask)].meet(unsigned(__builtin_popcount(mask)), orders);
  return which;
}

template <class T>
T shuffle(unsigned mask, T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  const unsigned which = exchange(mask, word, false);
  if (!(mask >> from & 1)) stop("a shuffle reads a lane that is not in the mask");
  word = shown(warp(), which, from);
  memcpy(&value, &word, sizeof value);
  return value;
}

struct Task {
  void (*body)(void*);
  void* arguments;
  Block* block;
  Dim3 grid, threads;
  unsigned block_index, thread_index;
};

inline void* run(void* argument) {
  const Task& task = *static_cast<Task*>(argument);
  block = task.block, gridDim = task.grid, blockDim = task.threads;
  blockIdx = {task.block_index, 0, 0}, threadIdx = {task.thread_index, 0, 0};
  task.body(task.arguments);
  barrier_or_end(*block, true);
  return nullptr;
}

template <class Body>
void launch(const void* kernel, int64_t blocks, int64_t count, int64_t bytes, Body body) {
  const auto found = allowed.find(kernel);
  const int64_t most = std::max(48 << 10, found == allowed.end() ? 0 : found->second);
  if (blocks < 1 || blocks > 0x7fffffff || count < 1 || count > 1024 || bytes < 0 || bytes > most) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  if (blocks * count > kMostThreads) stop("a launch of too many threads for this test");
  std::vector<Block> all{size_t(blocks)};
  std::vector<Task> tasks;
  for (int64_t index = 0; index < blocks; ++index) {
    Block& one = all[size_t(index)];
    one.shared.reset(new char[size_t(bytes)]);
    memset(one.shared.get(), 0xff, size_t(bytes));
    one.warps = std::vector<Warp>(size_t((count + kWarp - 1) / kWarp));
    one.present = uint64_t(count);
    for (int64_t thread = 0; thread < count; ++thread) {
      tasks.push_back({[](void* own) { (*static_cast<Body*>(own))(); },
                       &body,
                       &one,
                       {unsigned(blocks), 1, 1},
                       {unsigned(count), 1, 1},
                       unsigned(index),
                       unsigned(thread)});
    }
  }
  std::vector<pthread_t> running(tasks.size());
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 256 << 10);
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (pthread_create(&running[i], &small, run, &tasks[i])) stop("no more threads");
  }
  for (const pthread_t& thread : running) pthread_join(thread, nullptr);
}

}  // namespace threads

#define LAUNCH(kernel, blocks, count, shared_bytes, stream, ...) \
  ((void)(stream),                                               \
   threads::launch(reinterpret_cast<const void*>(&kernel), blocks, count, shared_bytes, [&] { (kernel)(__VA_ARGS__); }))
#define SHARED_MEMORY(type, name) type* const name = reinterpret_cast<type*>(threads::block->shared.get())

inline void __syncthreads() {
  threads::Block& own = *threads::block;
  char* const order = &own.order[threads::round_of(own) % 2];
  __tsan_release(order);
  threads::barrier_or_end(own, false);
  __tsan_acquire(order);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { threads::exchange(mask, 0, true); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return threads::shuffle(mask, value,
                          threads::lane() / unsigned(width) * unsigned(width) + (unsigned(from) & unsigned(width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned from = threads::lane() ^ unsigned(bits), same = unsigned(width);
  return threads::shuffle(mask, value, from / same == threads::lane() / same ? from : threads::lane());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int from = int(threads::lane()) - int(distance), first = int(threads::lane()) / width * width;
  return threads::shuffle(mask, value, from >= first ? unsigned(from) : threads::lane());
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const unsigned from = threads::lane() + distance, same = unsigned(width);
  return threads::shuffle(mask, value, from / same == threads::lane() / same ? from : threads::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned which = threads::exchange(mask, predicate != 0, false);
  unsigned bits = 0;
  for (unsigned i = 0; i < threads::kWarp; ++i) {
    if (mask >> i & 1) bits |= unsigned(threads::shown(threads::warp(), which, i)) << i;
  }
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const char *const bytes = getenv("RFDETR_TEST_SHARED"), *const processors = getenv("RFDETR_TEST_PROCESSORS");
  *value = which == cudaDevAttrMultiProcessorCount            ? atoi(processors ? processors : "2")
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? atoi(bytes ? bytes : "101376")
                                                              : 8;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  threads::allowed[reinterpret_cast<const void*>(kernel)] = bytes;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = threads::last_error;
  threads::last_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "invalid value" : "no error"; }
