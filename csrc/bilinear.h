// The arithmetic of one bilinear sample (zero padding, align_corners=false), shared by the CPU and the CUDA kernels.
//
// A map of height x width pixels has pixel (r, c) centred at ((c + 0.5) / width, (r + 0.5) / height). A sample touches the four
// pixels around it; those outside the map count as zero. A sample whose four pixels are all outside, or whose coordinates
// are NaN or infinite, contributes exactly nothing: no value and no gradient. The comparison comes before the integer
// conversion, so no coordinate, however large, overflows an int.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define RFDETR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RFDETR_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace rfdetr {

constexpr int kMaxLevels = 8;

struct Level {
  int height, width;  // pixels
  int64_t start;      // index of the level's first pixel in the concatenated maps
};

// Sizes of one call. value (batch, pixels, heads, channels), locations (batch, queries, heads, num_levels, points, 2).
struct Problem {
  int64_t batch, pixels, heads, channels, queries;
  int num_levels, points;
  Level levels[kMaxLevels];
};

// Corners in the order (top, left), (top, right), (bottom, left), (bottom, right). A corner outside the map has weight and
// derivatives 0 and an index clamped to the row or column of its neighbour, so reading it is always safe.
template <class T>
struct Sample {
  int64_t pixel[4];          // index in the concatenated maps
  T weight[4];               // bilinear weight
  T along_x[4], along_y[4];  // d weight / d normalised x and y
};

// Fills `sample` for the normalised location (x, y); false when it contributes nothing.
template <class T>
RFDETR_HOST_DEVICE bool bilinear_sample(T x, T y, const Level& level, Sample<T>& sample) {
  const int height = level.height, width = level.width;
  const T column = x * T(width) - T(0.5), row = y * T(height) - T(0.5);
  if (!(column > T(-1) && row > T(-1) && column < T(width) && row < T(height))) return false;
  int left = int(column), top = int(row);  // truncates towards zero: floor for all but (-1, 0)
  left -= column < T(left);
  top -= row < T(top);
  const int right = left + 1, bottom = top + 1;
  const T dx = column - T(left), dy = row - T(top);
  const T has_left = T(left >= 0), has_right = T(right < width), has_top = T(top >= 0), has_bottom = T(bottom < height);
  const T wl = has_left * (T(1) - dx), wr = has_right * dx, wt = has_top * (T(1) - dy), wb = has_bottom * dy;
  const int64_t up = level.start + int64_t(top >= 0 ? top : 0) * width;
  const int64_t down = level.start + int64_t(bottom < height ? bottom : height - 1) * width;
  const int west = left >= 0 ? left : 0, east = right < width ? right : width - 1;
  sample.pixel[0] = up + west, sample.pixel[1] = up + east, sample.pixel[2] = down + west, sample.pixel[3] = down + east;
  sample.weight[0] = wt * wl, sample.weight[1] = wt * wr, sample.weight[2] = wb * wl, sample.weight[3] = wb * wr;
  const T sx = T(width), sy = T(height);
  sample.along_x[0] = -sx * has_left * wt, sample.along_x[1] = sx * has_right * wt;
  sample.along_x[2] = -sx * has_left * wb, sample.along_x[3] = sx * has_right * wb;
  sample.along_y[0] = -sy * has_top * wl, sample.along_y[1] = -sy * has_top * wr;
  sample.along_y[2] = sy * has_bottom * wl, sample.along_y[3] = sy * has_bottom * wr;
  return true;
}

}  // namespace rfdetr
