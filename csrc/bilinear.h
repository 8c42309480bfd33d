// Sizes of a call and the arithmetic of one bilinear sample (zero padding, align_corners=false), shared by all kernels.
//
// A map of height x width pixels has pixel (r, c) centred at ((c + 0.5) / width, (r + 0.5) / height). A sample reads the four
// pixels around it; pixels outside the map count as zero. A sample whose four pixels are all outside, or whose coordinates are
// NaN or infinite, contributes exactly nothing: no value and no gradient. The code has no branches, so that the CPU runs it on
// vectors of samples.
#pragma once

#include <stdint.h>

#include <type_traits>

#if defined(__CUDACC__)
#define RFDETR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RFDETR_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace rfdetr {

constexpr int kMaxLevels = 8;

enum class Storage : int { kFloat32, kFloat64, kFloat16, kBFloat16 };  // type of value and output; the rest is float or double

struct Level {
  int height, width;  // pixels, at most 2^24 each: float32 holds every index
  int start;          // index of the level's first pixel in the concatenated maps
};

// Sizes of one call. value (batch, pixels, heads, channels), locations (batch, queries, heads, num_levels, points, 2).
struct Problem {
  int64_t batch, pixels, heads, channels, queries;  // pixels < 2^31
  int num_levels, points;
  Level levels[kMaxLevels];
};

// The type in which values are weighted and summed.
template <class T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};

// Corners in the order (top, left), (top, right), (bottom, left), (bottom, right). A corner outside the map has weight and
// derivatives 0 and an index clamped to the row or column of its neighbour, so reading that pixel is always safe. F and I are a
// floating-point and an integer type, or vectors of them.
template <class F, class I = int>
struct Sample {
  I pixel[4];                // index in the concatenated maps
  F weight[4];               // bilinear weight
  F along_x[4], along_y[4];  // d weight / d normalised x and y
  F visible[4];              // 1, or 0: outside the map
};

template <class To, class From>
RFDETR_HOST_DEVICE To convert(From x) {
#if !defined(__CUDACC__)
  if constexpr (!std::is_arithmetic_v<From>) {
    return __builtin_convertvector(x, To);
  } else {
    return To(x);
  }
#else
  return To(x);
#endif
}

// Fills `sample` for the normalised location (x, y) on a map of height x width pixels from `start` on. Returns 1 if the sample
// contributes; otherwise the result, weights and derivatives are 0. T is F or the type of its lanes.
template <class T, class F, class I>
RFDETR_HOST_DEVICE F bilinear_sample(F x, F y, I height, I width, I start, Sample<F, I>& sample) {
  const F zero = {}, one = zero + T(1);
  const I none = {}, single = none + 1;
  const F sx = convert<F>(width), sy = convert<F>(height), column = x * sx - T(0.5), row = y * sy - T(0.5);
  const F in = (column > T(-1)) & (row > T(-1)) & (column < sx) & (row < sy) ? one : zero;  // 0 for NaN
  F c = column > T(-1) ? column : zero - T(1), r = row > T(-1) ? row : zero - T(1);         // also for NaN
  c = c < sx ? c : sx, r = r < sy ? r : sy;
  I left = convert<I>(c), top = convert<I>(r);  // truncates towards zero: floor for all but (-1, 0)
  left -= c < convert<F>(left) ? single : none;
  top -= r < convert<F>(top) ? single : none;
  const F dx = c - convert<F>(left), dy = r - convert<F>(top);
  const F has_left = left >= 0 ? in : zero, has_right = left + 1 < width ? in : zero;
  const F has_top = top >= 0 ? in : zero, has_bottom = top + 1 < height ? in : zero;
  const F wl = has_left * (T(1) - dx), wr = has_right * dx, wt = has_top * (T(1) - dy), wb = has_bottom * dy;
  const I last_column = width - 1, last_row = height - 1;
  I west = left > 0 ? left : none, north = top > 0 ? top : none;
  west = west < last_column ? west : last_column, north = north < last_row ? north : last_row;
  const I east = left + 1 < last_column ? left + 1 : last_column, south = top + 1 < last_row ? top + 1 : last_row;
  const I up = start + north * width, down = start + south * width;
  sample.pixel[0] = up + west, sample.pixel[1] = up + east, sample.pixel[2] = down + west, sample.pixel[3] = down + east;
  sample.visible[0] = has_top * has_left, sample.visible[1] = has_top * has_right;
  sample.visible[2] = has_bottom * has_left, sample.visible[3] = has_bottom * has_right;
  sample.weight[0] = wt * wl, sample.weight[1] = wt * wr, sample.weight[2] = wb * wl, sample.weight[3] = wb * wr;
  sample.along_x[0] = -sx * has_left * wt, sample.along_x[1] = sx * has_right * wt;
  sample.along_x[2] = -sx * has_left * wb, sample.along_x[3] = sx * has_right * wb;
  sample.along_y[0] = -sy * has_top * wl, sample.along_y[1] = -sy * has_top * wr;
  sample.along_y[2] = sy * has_bottom * wl, sample.along_y[3] = sy * has_bottom * wr;
  return in;
}

// A sample's location is centre + offset * extent * offset_unit (architecture facts section 6): (cx, w) or (cy, h) of its box.
template <class T>
RFDETR_HOST_DEVICE T offset_unit(int points) {
  return T(0.5) / T(points);
}

// One query: turns the gradients of its `count` locations into gradients of their offsets, in place, and sums the gradient of the
// box in order.
template <class T>
RFDETR_HOST_DEVICE void box_gradient(T* grad, const T* offsets, const T* box, int64_t count, int points, T* grad_box) {
  const T unit = offset_unit<T>(points);
  T x = 0, y = 0, w = 0, h = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T dx = grad[2 * i], dy = grad[2 * i + 1];
    x += dx, y += dy;
    w += dx == T(0) ? T(0) : dx * offsets[2 * i] * unit;  // a sample without a location has gradient 0, not 0 * NaN
    h += dy == T(0) ? T(0) : dy * offsets[2 * i + 1] * unit;
    grad[2 * i] = dx == T(0) ? T(0) : dx * (box[2] * unit);
    grad[2 * i + 1] = dy == T(0) ? T(0) : dy * (box[3] * unit);
  }
  grad_box[0] = x, grad_box[1] = y, grad_box[2] = w, grad_box[3] = h;
}

}  // namespace rfdetr
