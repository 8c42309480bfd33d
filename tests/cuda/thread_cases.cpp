// Runs the launchers of the CUDA kernels, compiled with threads.h, on small cases of every path, and compares what they compute
// with plain sums in double. Arguments: names of cases, or none for all. Prints a line for each; exit code 1 where a value is
// wrong, and ThreadSanitizer's own code where threads race.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/masks.cuh"
#include "../../csrc/cuda/ms_deform_attn.cuh"

namespace {

using namespace rfdetr;

std::mt19937 generator(1);
double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

struct Shape {
  const char* name;
  const char* path;  // of RFDETR_CUDA_PATH, which the launchers read; empty: as they choose
  Storage storage;
  bool fused;
  int heads, channels, queries, points;
  std::vector<Level> levels;
  int shared;  // bytes that a block may have
  int deterministic;
  int processors;  // many: several chunks of queries
  int odd;         // bytes that the arrays are off the alignment of 16
};

// Numbers of one array as the kernels store them.
struct Array {
  Storage storage;
  int64_t count;
  std::vector<char> bytes;
  int odd;

  Array(Storage storage, int64_t count, int odd = 0)
      : storage(storage), count(count), bytes(size_t(count * size() + 32)), odd(odd) {}
  int size() const { return storage == Storage::kFloat64 ? 8 : (storage == Storage::kFloat32 ? 4 : 2); }
  char* data() { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(bytes.data()) + 15) / 16 * 16) + odd; }
  void set(int64_t i, double x) {
    char* const to = data() + i * size();
    if (storage == Storage::kFloat64) memcpy(to, &x, 8);
    const float single = float(x);
    if (storage == Storage::kFloat32) memcpy(to, &single, 4);
    if (storage == Storage::kBFloat16) {
      uint32_t word;
      memcpy(&word, &single, 4);
      const uint16_t half = uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
      memcpy(to, &half, 2);
    }
  }
  double get(int64_t i) {
    const char* const from = data() + i * size();
    double x = 0;
    float single = 0;
    if (storage == Storage::kFloat64) return memcpy(&x, from, 8), x;
    if (storage == Storage::kFloat32) return memcpy(&single, from, 4), double(single);
    uint16_t half;
    memcpy(&half, from, 2);
    const uint32_t word = uint32_t(half) << 16;
    return memcpy(&single, &word, 4), double(single);
  }
  void fill(double low, double high) {
    for (int64_t i = 0; i < count; ++i) set(i, uniform(low, high));
  }
};

bool near(const char* shape, const char* what, Array& found, const std::vector<double>& wanted, double tolerance) {
  double most = 1;
  for (const double x : wanted) most = fabs(x) > most ? fabs(x) : most;
  for (int64_t i = 0; i < found.count; ++i) {
    if (fabs(found.get(i) - wanted[size_t(i)]) <= tolerance * most) continue;
    printf("%s: %s[%lld] is %.9g, not %.9g\n", shape, what, static_cast<long long>(i), found.get(i), wanted[size_t(i)]);
    return false;
  }
  return true;
}

bool attention(const Shape& shape) {
  setenv("RFDETR_TEST_SHARED", std::to_string(shape.shared).c_str(), 1);
  setenv("RFDETR_CUDA_PATH", shape.path, 1);
  setenv("RFDETR_TEST_PROCESSORS", std::to_string(shape.processors).c_str(), 1);
  Attention call{};
  Problem& p = call.problem;
  p = {1, 0, shape.heads, shape.channels, shape.queries, int(shape.levels.size()), shape.points, {}};
  for (int level = 0; level < p.num_levels; ++level) {
    p.levels[level] = {shape.levels[size_t(level)].height, shape.levels[size_t(level)].width, int(p.pixels)};
    p.pixels += p.levels[level].height * p.levels[level].width;
  }
  const Storage storage = shape.storage, wide = storage == Storage::kFloat64 ? storage : Storage::kFloat32;
  const int64_t row = p.heads * p.channels, count = int64_t(p.num_levels) * p.points, slots = p.queries * p.heads;
  Array value(storage, p.pixels * row, shape.odd), points(wide, 2 * slots * count), weights(wide, slots * count),
      boxes(wide, 4 * p.queries);
  Array upstream(storage, slots * p.channels), output(storage, slots * p.channels);
  Array d_value(wide, value.count), d_points(wide, points.count), d_weights(wide, weights.count), d_boxes(wide, boxes.count);
  for (Array* const result : {&output, &d_value, &d_points, &d_weights, &d_boxes})
    memset(result->data(), 0xff, size_t(result->count * result->size()));
  value.fill(-1, 1), upstream.fill(-1, 1), weights.fill(shape.fused ? -2 : 0, 1), boxes.fill(0.3, 0.6);
  points.fill(shape.fused ? -2 : -0.1, shape.fused ? 2 : 1.1);
  call.storage = storage, call.value = value.data(), call.points = points.data(), call.weights = weights.data();
  call.boxes = shape.fused ? boxes.data() : nullptr;
  Gradients to{upstream.data(), d_value.data(), d_points.data(), d_weights.data(), shape.fused ? d_boxes.data() : nullptr};
  if (rfdetr_forward_launch(&call, output.data(), nullptr)) return printf("%s: forward fails\n", shape.name), false;
  if (rfdetr_backward_launch(&call, &to, shape.deterministic, nullptr))
    return printf("%s: backward fails\n", shape.name), false;

  std::vector<double> out(size_t(output.count)), dv(size_t(value.count)), dp(size_t(points.count)), dw(size_t(weights.count));
  std::vector<double> db(size_t(boxes.count));
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t query = slot / p.heads, m = slot % p.heads;
    double top = -INFINITY, total = 0, mean = 0;
    for (int64_t i = 0; i < count; ++i) top = fmax(top, weights.get(slot * count + i));
    for (int64_t i = 0; i < count; ++i) total += exp(weights.get(slot * count + i) - top);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = slot * count + i;
      const Level& level = p.levels[i / p.points];
      double x = points.get(2 * at), y = points.get(2 * at + 1), weight = weights.get(at);
      const double unit = 0.5 / p.points, w = boxes.get(4 * query + 2), h = boxes.get(4 * query + 3);
      if (shape.fused) {
        x = boxes.get(4 * query) + x * w * unit, y = boxes.get(4 * query + 1) + y * h * unit;
        weight = exp(weight - top) / total;
      }
      Sample<double> sample;
      if (bilinear_sample<double>(x, y, level.height, level.width, level.start, sample) == 0) continue;
      double along_x = 0, along_y = 0, sampled = 0;
      for (int corner = 0; corner < 4; ++corner) {
        for (int64_t channel = 0; channel < p.channels; ++channel) {
          const int64_t from = sample.pixel[corner] * row + m * p.channels + channel, there = slot * p.channels + channel;
          out[size_t(there)] += weight * sample.weight[corner] * value.get(from);
          dv[size_t(from)] += weight * sample.weight[corner] * upstream.get(there);
          const double product = upstream.get(there) * value.get(from);
          sampled += sample.weight[corner] * product, along_x += sample.along_x[corner] * product;
          along_y += sample.along_y[corner] * product;
        }
      }
      dw[size_t(at)] = sampled, mean += weight * sampled;
      const double gx = along_x * weight, gy = along_y * weight;
      dp[size_t(2 * at)] = shape.fused ? gx * w * unit : gx, dp[size_t(2 * at + 1)] = shape.fused ? gy * h * unit : gy;
      db[size_t(4 * query)] += gx, db[size_t(4 * query + 1)] += gy;
      db[size_t(4 * query + 2)] += gx * points.get(2 * at) * unit,
          db[size_t(4 * query + 3)] += gy * points.get(2 * at + 1) * unit;
    }
    for (int64_t i = 0; i < count && shape.fused; ++i) {
      const int64_t at = slot * count + i;
      dw[size_t(at)] = exp(weights.get(at) - top) / total * (dw[size_t(at)] - mean);
    }
  }
  const double tolerance = storage == Storage::kFloat64 ? 1e-11 : (storage == Storage::kFloat32 ? 2e-4 : 2e-2);
  return near(shape.name, "output", output, out, tolerance) && near(shape.name, "gradient of value", d_value, dv, tolerance) &&
         near(shape.name, "gradient of points", d_points, dp, tolerance) &&
         near(shape.name, "gradient of weights", d_weights, dw, tolerance) &&
         (!shape.fused || near(shape.name, "gradient of boxes", d_boxes, db, tolerance));
}

struct MaskShape {
  const char* name;
  int64_t count, height, width, out_height, out_width;
  int packed;
  bool boxed;
};

bool masks(const MaskShape& shape) {
  std::vector<float> logits(size_t(shape.count * shape.height * shape.width)), boxes(size_t(4 * shape.count));
  for (float& x : logits) x = float(uniform(-1, 1.5));
  for (int64_t k = 0; k < shape.count; ++k) {
    const float box[] = {3, 2, float(shape.out_width) - 2.5f, float(shape.out_height) - 1};
    memcpy(&boxes[size_t(4 * k)], box, sizeof box);
  }
  const int64_t row = shape.packed ? (shape.out_width + 7) / 8 : shape.out_width;
  std::vector<uint8_t> out(size_t(shape.count * shape.out_height * row), 7), wanted(out.size());
  const rfdetr_masks call{logits.data(),   shape.boxed ? boxes.data() : nullptr,
                          shape.count,     shape.height,
                          shape.width,     shape.out_height,
                          shape.out_width, shape.packed,
                          out.data()};
  if (rfdetr_masks_launch(&call, nullptr)) return printf("%s: the launch fails\n", shape.name), false;
  const auto axis = [](int64_t i, int64_t size, int64_t outputs, int64_t& low, int64_t& high) {
    const float source = fmaxf(float(size) / float(outputs) * (float(i) + 0.5f) - 0.5f, 0);
    low = int64_t(source) < size - 1 ? int64_t(source) : size - 1, high = low < size - 1 ? low + 1 : low;
    return fminf(source - float(low), 1);
  };
  for (int64_t k = 0; k < shape.count; ++k) {
    for (int64_t y = 0; y < shape.out_height; ++y) {
      for (int64_t x = 0; x < shape.out_width; ++x) {
        int64_t up, down, left, right;
        const float v = axis(y, shape.height, shape.out_height, up, down),
                    u = axis(x, shape.width, shape.out_width, left, right);
        const float* const map = &logits[size_t(k * shape.height * shape.width)];
        const float above = (1 - u) * map[up * shape.width + left] + u * map[up * shape.width + right];
        const float below = (1 - u) * map[down * shape.width + left] + u * map[down * shape.width + right];
        bool set = (1 - v) * above + v * below > 0;
        if (shape.boxed) {
          const float* const box = &boxes[size_t(4 * k)];
          set = set && box[0] <= float(x) + 0.5f && float(x) + 0.5f < box[2] && box[1] <= float(y) + 0.5f &&
                float(y) + 0.5f < box[3];
        }
        uint8_t& byte = wanted[size_t((k * shape.out_height + y) * row + (shape.packed ? x / 8 : x))];
        byte = uint8_t(byte | set << (shape.packed ? x % 8 : 0));
      }
    }
  }
  return out == wanted || (printf("%s: pixels differ\n", shape.name), false);
}

const std::vector<Level> kOne{{6, 7, 0}}, kTwo{{5, 6, 0}, {3, 2, 0}}, kThree{{6, 5, 0}, {3, 3, 0}, {2, 2, 0}};
const int kLots = 101376, kTiles = 5000, kSome = 1200, kNone = 16;

const std::vector<Shape> kShapes{
    {"direct", "direct", Storage::kFloat32, false, 2, 16, 70, 2, kOne, kLots, 0, 8, 0},
    {"direct fused", "direct", Storage::kFloat32, true, 8, 16, 21, 2, kOne, kLots, 0, 8, 0},
    {"direct fused three levels", "direct", Storage::kFloat32, true, 3, 32, 30, 4, kThree, kLots, 0, 8, 0},
    {"direct bfloat16", "direct", Storage::kBFloat16, true, 2, 16, 33, 2, kOne, kLots, 0, 8, 0},
    {"direct fused fours", "direct", Storage::kFloat32, true, 3, 16, 30, 4, kThree, kLots, 0, 8, 0},
    {"staged", "staged", Storage::kFloat32, false, 2, 16, 40, 2, kOne, kLots, 0, 2, 0},
    {"staged fused three levels", "staged", Storage::kFloat32, true, 2, 32, 40, 4, kThree, kLots, 0, 1, 0},
    {"staged bfloat16", "staged", Storage::kBFloat16, true, 2, 16, 40, 2, kOne, kLots, 0, 2, 0},
    {"staged fours", "staged", Storage::kFloat32, true, 2, 16, 40, 4, kThree, kLots, 0, 1, 0},
    {"sorted", "sorted", Storage::kFloat32, false, 1, 16, 150, 2, kOne, kLots, 0, 1, 0},
    {"sorted fused", "sorted", Storage::kFloat32, true, 2, 16, 150, 2, kOne, kLots, 0, 2, 0},
    {"sorted fused three levels", "sorted", Storage::kFloat32, true, 2, 32, 60, 4, kThree, kLots, 0, 1, 0},
    {"sorted fused fours", "sorted", Storage::kFloat32, true, 2, 16, 60, 4, kThree, kTiles, 0, 2, 0},
    {"sorted tiles", "sorted", Storage::kFloat32, true, 1, 16, 150, 2, kOne, kTiles, 0, 1, 0},
    {"sorted chunks", "sorted", Storage::kFloat32, true, 1, 16, 150, 2, kOne, kTiles, 0, 3, 0},
    {"sorted two blocks", "sorted-2", Storage::kFloat32, false, 1, 16, 150, 2, kOne, kTiles, 0, 1, 0},
    {"sorted long units", "sorted-1", Storage::kFloat32, true, 1, 16, 300, 2, {{2, 2, 0}}, kLots, 0, 1, 0},
    {"sorted many queries", "sorted", Storage::kFloat32, true, 1, 16, 800, 2, kOne, kLots, 0, 1, 0},
    {"sorted bfloat16", "sorted", Storage::kBFloat16, true, 1, 16, 150, 2, kOne, kLots, 0, 1, 0},
    {"general", "general", Storage::kFloat32, false, 2, 16, 70, 2, kOne, kLots, 0, 8, 0},
    {"general fused", "general", Storage::kFloat32, true, 2, 16, 70, 4, kThree, kLots, 0, 8, 0},
    {"slices", "general", Storage::kFloat32, true, 1, 16, 70, 2, kOne, kSome, 0, 8, 0},
    {"no shared memory", "general", Storage::kFloat32, true, 1, 16, 70, 2, kOne, kNone, 0, 8, 0},
    {"deterministic", "", Storage::kFloat32, true, 2, 16, 70, 2, kOne, kLots, 1, 8, 0},
    {"any shape", "", Storage::kFloat32, false, 1, 3, 66, 3, kTwo, kLots, 0, 8, 0},
    {"not aligned", "", Storage::kFloat32, false, 1, 16, 66, 2, kOne, kLots, 0, 8, 4},
    {"double", "", Storage::kFloat64, true, 1, 16, 66, 2, kOne, kLots, 0, 8, 0},
    {"bfloat16 deterministic", "", Storage::kBFloat16, true, 1, 16, 66, 4, kThree, kLots, 1, 8, 0},
};
const std::vector<MaskShape> kMasks{
    {"masks", 2, 5, 6, 37, 61, 0, false},
    {"boxed masks", 2, 5, 6, 37, 64, 0, true},
    {"packed masks", 2, 5, 6, 37, 61, 1, true},
    {"masks of small cells", 2, 13, 17, 21, 23, 0, false},
};

bool asked(const char* name, int count, char** names) {
  if (count < 2) return true;
  for (int i = 1; i < count; ++i) {
    if (!strcmp(names[i], name)) return true;
  }
  return false;
}

}  // namespace

int main(int count, char** names) {
  int ran = 0;
  for (const Shape& shape : kShapes) {
    if (!asked(shape.name, count, names)) continue;
    if (!attention(shape)) return 1;
    printf("%s\n", shape.name), fflush(stdout), ++ran;
  }
  for (const MaskShape& shape : kMasks) {
    if (!asked(shape.name, count, names)) continue;
    if (!masks(shape)) return 1;
    printf("%s\n", shape.name), fflush(stdout), ++ran;
  }
  return ran ? 0 : 2;
}
