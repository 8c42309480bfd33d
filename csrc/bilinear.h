// Sizes of a call and the arithmetic of one bilinear sample (zero padding, align_corners=false), shared by all kernels.
//
// A map of height x width pixels has pixel (r, c) centred at ((c + 0.5) / width, (r + 0.5) / height). A sample touches the four
// pixels around it; those outside the map count as zero. A sample whose four pixels are all outside, or whose coordinates
// are NaN or infinite, contributes exactly nothing: no value and no gradient. It is written without branches, so that the
// CPU runs it on vectors of samples.
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

// Corners in the order (top, left), (top, right), (bottom, left), (bottom, right). A corner outside the map has weight and
// derivatives 0 and an index clamped to the row or column of its neighbour, so reading it is always safe. F and I are a
// floating-point and an integer type, or vectors of them.
template <class F, class I = int>
struct Sample {
  I pixel[4];                // index in the concatenated maps
  F weight[4];               // bilinear weight
  F along_x[4], along_y[4];  // d weight / d normalised x and y
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

// Fills `sample` for the normalised location (x, y) on a map of height x width pixels from `start` on. Returns 1 when it
// contributes, else 0, weights and derivatives too. T is F or the type of its lanes.
template <class T, class F, class I>
RFDETR_HOST_DEVICE F bilinear_sample(F x, F y, I height, I width, I start, Sample<F, I>& sample) {
  const F zero = {}, one = zero + T(1);
  const I none = {}, single = none + 1;
  const F sx = convert<F>(width), sy = convert<F>(height), column = x * sx - T(0.5), row = y * sy - T(0.5);
  const F in = (column > T(-1)) & (row > T(-1)) & (column < sx) & (row < sy) ? one : zero;  // 0 for NaN
  F c = column > T(-1) ? column : zero - T(1), r = row > T(-1) ? row : zero - T(1);       // also for NaN
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
  sample.weight[0] = wt * wl, sample.weight[1] = wt * wr, sample.weight[2] = wb * wl, sample.weight[3] = wb * wr;
  sample.along_x[0] = -sx * has_left * wt, sample.along_x[1] = sx * has_right * wt;
  sample.along_x[2] = -sx * has_left * wb, sample.along_x[3] = sx * has_right * wb;
  sample.along_y[0] = -sy * has_top * wl, sample.along_y[1] = -sy * has_top * wr;
  sample.along_y[2] = sy * has_bottom * wl, sample.along_y[3] = sy * has_bottom * wr;
  return in;
}

// Where a sample lies whose offset is relative to the reference box (architecture facts section 6): (cx, w) or (cy, h).
template <class T>
RFDETR_HOST_DEVICE T box_relative(T centre, T extent, T offset, int points) {
  return centre + offset * (extent * (T(0.5) / T(points)));
}

}  // namespace rfdetr
