// Every kernel on random calls under AddressSanitizer: the CPU kernels of one instruction set and the CUDA kernels'
// text for the host (cuda_host_shim.h), on heap buffers of exactly the size a call may touch. Values are compared in float64.
// Prints the number of calls and of different kernels that were launched; exit code 1 and a message when two devices disagree.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/masks.h"
#include "../../csrc/cuda/masks.cuh"
#include "../../csrc/cuda/ms_deform_attn.cuh"

extern "C" size_t rfdetr_launched_kernels();

namespace {

using namespace rfdetr;

std::mt19937 generator(0);

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
double normal() { return std::normal_distribution<double>()(generator); }

// `count` numbers of `bytes` bytes on the heap.
struct Numbers {
  int64_t count;
  int bytes;
  std::unique_ptr<char[]> data;

  Numbers(int64_t count, int bytes) : count(count), bytes(bytes), data(new char[size_t(count * bytes)]()) {}
  void* at(int64_t i) const { return data.get() + i * bytes; }
  double get(int64_t i) const { return bytes == 8 ? *static_cast<double*>(at(i)) : *static_cast<float*>(at(i)); }
  void set(int64_t i, double x) const {
    if (bytes == 8) *static_cast<double*>(at(i)) = x;
    if (bytes == 4) *static_cast<float*>(at(i)) = float(x);
    if (bytes == 2) *static_cast<uint16_t*>(at(i)) = uint16_t(0x3c00 + draw(0, 255) + (x < 0 ? 0x8000 : 0));  // about +-1
  }
  Numbers filled(double middle, double spread) && {
    for (int64_t i = 0; i < count; ++i) set(i, middle + spread * normal());
    return std::move(*this);
  }
};

void compare(const char* what, const Numbers& a, const Numbers& b) {
  const double most = a.bytes == 8 ? 1e-9 : 2e-4;
  for (int64_t i = 0; i < a.count; ++i) {
    if (!(fabs(a.get(i) - b.get(i)) <= most * (1 + fabs(b.get(i))))) {
      printf("%s %lld: %.12g and %.12g\n", what, static_cast<long long>(i), a.get(i), b.get(i));
      exit(1);
    }
  }
}

struct Results {
  Numbers out, value, points, weights, boxes;
  Gradients to(const void* upstream) const {
    return {upstream, value.data.get(), points.data.get(), weights.data.get(), boxes.data.get()};
  }
};

// How the CUDA kernels' text is run: the path that RFDETR_CUDA_PATH asks for, bytes of shared memory of a block, and whether
// the gradient is deterministic.
struct Way {
  const char *path, *shared;
  int deterministic;
};

// A problem with levels of random sizes.
Problem drawn(int64_t heads, int64_t channels, int64_t queries, int levels, int points) {
  Problem p{draw(1, 2), 0, heads, channels, queries, levels, points, {}};
  for (int level = 0; level < p.num_levels; ++level) {
    p.levels[level] = {draw(1, 7), draw(1, 7), int(p.pixels)};
    p.pixels += p.levels[level].height * p.levels[level].width;
  }
  return p;
}

void attention(Storage storage, const Problem& p, bool fused, const std::vector<Way>& ways) {
  const int sizes[] = {4, 8, 2, 2}, bytes = sizes[int(storage)], wide = storage == Storage::kFloat64 ? 8 : 4;
  Attention call{};
  call.problem = p;
  const int64_t slots = p.batch * p.queries * p.heads, samples = slots * p.num_levels * p.points;
  const Numbers value = Numbers(p.batch * p.pixels * p.heads * p.channels, bytes).filled(0, 1);
  const Numbers points = Numbers(2 * samples, wide).filled(fused ? 0 : 0.5, fused ? 3 : 0.4);
  const Numbers weights = Numbers(samples, wide).filled(0, 1);
  const Numbers boxes = Numbers(4 * p.batch * p.queries, wide).filled(0.5, 0.1);
  const Numbers upstream = Numbers(slots * p.channels, bytes).filled(0, 1);
  const double odd[] = {NAN, INFINITY, -INFINITY, 1e30, -1e30, 0, 1};
  for (int64_t i = draw(0, 6); i < points.count; i += draw(1, 40)) points.set(i, odd[draw(0, 6)]);
  call.storage = storage, call.value = value.data.get(), call.points = points.data.get(), call.weights = weights.data.get();
  call.boxes = fused ? boxes.data.get() : nullptr;
  const auto results = [&](int value_bytes) {
    return Results{{upstream.count, bytes}, {value.count, value_bytes}, {points.count, wide}, {samples, wide},
                   {boxes.count, wide}};
  };
  const Results cpu = results(bytes);
  const Gradients to = cpu.to(upstream.data.get());
  const int64_t queries = p.batch * p.queries, tasks = p.batch * p.heads, middle = draw(0, int(queries));
  RFDETR_KERNELS.forward(call, cpu.out.data.get(), 0, middle);
  RFDETR_KERNELS.forward(call, cpu.out.data.get(), middle, queries);
  RFDETR_KERNELS.backward(call, to, 0, tasks);
  if (fused) RFDETR_KERNELS.backward_boxes(call, to, 0, queries);
  for (const Way& way : ways) {
    const Results host = results(wide);
    const Gradients host_to = host.to(upstream.data.get());
    setenv("RFDETR_TEST_SHARED", way.shared, 1), setenv("RFDETR_CUDA_PATH", way.path, 1);
    if (rfdetr_forward_launch(&call, host.out.data.get(), nullptr)) exit(2);
    if (rfdetr_backward_launch(&call, &host_to, way.deterministic, nullptr)) exit(2);
    if (bytes == 2) continue;
    compare("output", host.out, cpu.out), compare("d value", host.value, cpu.value);
    compare("d points", host.points, cpu.points), compare("d weights", host.weights, cpu.weights);
    if (fused) compare("d boxes", host.boxes, cpu.boxes);
  }
}

void any_attention(Storage storage) {
  const int channel_counts[] = {1, 3, 8, 16, 20, 32, 64};
  const Problem p = drawn(draw(1, 3), channel_counts[draw(0, 6)], draw(1, 20), draw(1, 4), draw(1, 4));
  // shared memory for all channels of a map, for some of them, for none; and one owner per sum
  attention(storage, p, draw(0, 1) != 0, {{"", "101376", 0}, {"", "1600", 0}, {"", "16", 0}, {"", "0", 1}});
}

// Shapes that the fast kernels take, by every path; shared memory is scarce, so that queries come in several tiles.
int every_path(Storage storage) {
  const std::vector<Way> ways = {{"general", "6000", 0}, {"direct", "6000", 0},   {"staged", "40000", 0},
                                 {"sorted", "6000", 0},  {"sorted-1", "6000", 0}, {"sorted-2", "8000", 0}};
  int calls = 0;
  for (const bool fused : {false, true}) {
    attention(storage, drawn(2, 16, 70, 1, 2), fused, ways), ++calls;
    attention(storage, drawn(1, 16, 40, draw(1, 3), 4), fused, ways), ++calls;
    attention(storage, drawn(draw(1, 3), 16, draw(30, 60), draw(1, 3), 1 + 2 * draw(0, 2)), fused, ways), ++calls;
    attention(storage, drawn(draw(1, 3), 32, draw(30, 60), draw(1, 3), draw(1, 5)), fused, ways), ++calls;
  }
  return calls;
}

void masks() {
  const int64_t h = draw(1, 9), w = draw(1, 9), height = draw(1, 60), width = draw(1, 60), bytes = (width + 7) / 8;
  const Numbers logits = Numbers(h * w, 4).filled(0, 1), box = Numbers(4, 4).filled(20, 20);
  const float* map = reinterpret_cast<const float*>(logits.data.get());
  const MaskAxis across(w, width), down(h, height);
  MaskUpsampler upsampler(across, down);
  const bool boxed = draw(0, 1) != 0;
  const float* corners = reinterpret_cast<const float*>(box.data.get());
  const MaskWindow window = boxed ? upsampler.inside(corners) : upsampler.whole();
  for (int packed = 0; packed < 2; ++packed) {
    const int64_t size = height * (packed ? bytes : width);
    std::unique_ptr<uint8_t[]> cpu(new uint8_t[size_t(size)]()), host(new uint8_t[size_t(size)]());
    packed ? upsampler.bits(map, window, cpu.get()) : upsampler.bitmap(map, window, cpu.get());
    const rfdetr_masks call{map, boxed ? corners : nullptr, 1, h, w, height, width, packed, host.get()};
    if (rfdetr_masks_launch(&call, nullptr)) exit(2);
    if (memcmp(cpu.get(), host.get(), size_t(size))) printf("masks differ\n"), exit(1);
  }
  std::vector<uint32_t> runs;
  upsampler.runs(map, window, runs);
  int64_t total = 0;
  for (const uint32_t run : runs) total += run;
  if (total != height * width || coco_counts(runs).empty()) printf("run lengths do not add up\n"), exit(1);
}

}  // namespace

int main() {
  int calls = 0;
  for (int round = 0; round < 20; ++round) {
    for (const Storage storage : {Storage::kFloat32, Storage::kFloat64, Storage::kFloat16, Storage::kBFloat16}) {
      any_attention(storage), ++calls;
    }
    masks(), ++calls;
  }
  for (const Storage storage : {Storage::kFloat32, Storage::kFloat16, Storage::kBFloat16}) calls += every_path(storage);
  printf("%d calls, %zu kernels\n", calls, rfdetr_launched_kernels());
}
