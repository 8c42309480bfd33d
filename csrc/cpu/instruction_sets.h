// The choice between builds of the same kernels for several instruction sets. No PyTorch here: NumPy modules use this file too.
#pragma once

#include <stdlib.h>

#include <stdexcept>
#include <string>

// The names of the builds that setup.py compiles, in ascending order.
#if defined(__x86_64__)
#define RFDETR_BUILDS kernels_sse41, kernels_avx2, kernels_avx512
#else
#define RFDETR_BUILDS kernels_plain
#endif

namespace rfdetr {

// Whether this processor runs what setup.py compiles under the name `isa`.
inline bool processor_runs(const std::string& isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return isa == "sse4.1" && __builtin_cpu_supports("sse4.1");
#else
  return isa == "plain";
#endif
}

// The last of the builds, which are in ascending order and have a `name`, that this processor runs; RFDETR_ISA in the environment
// chooses another by its name. Raises std::runtime_error where this processor runs none, or not the one named.
template <class Kernels, class... More>
const Kernels& widest(const Kernels& first, const More&... more) {
  const char* wish = getenv("RFDETR_ISA");
  const std::string name = wish ? wish : "";
  const Kernels* best = nullptr;
  for (const Kernels* build : {&first, &more...}) {
    if (processor_runs(build->name) && (name.empty() || name == build->name)) best = build;
  }
  if (!best) {
    throw std::runtime_error("this processor has no kernels for RFDETR_ISA=\"" + name +
                             "\": choose sse4.1, avx2 or avx512 as it supports them (plain on other architectures), or leave it "
                             "unset");
  }
  return *best;
}

}  // namespace rfdetr
