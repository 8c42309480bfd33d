// CUDA kernel of rfdetr::masks_from_logits: bilinear (align_corners=false), then > 0. A thread computes eight neighbouring pixels
// and writes them as eight bytes or as one, so that neighbouring threads write neighbouring bytes; the map comes from the cache.
//
// Layout, for K masks, G = ceil(out_width / 8) groups of a row:
//
//   logits (K, height, width) float            out (K, out_height, row) bytes, row = out_width, or G if packed
//                                                 item = (k * out_height + y) * G + group
//       low  high      <- columns of pixel x      y  | group 0          | group 1          | ... | group G-1 (maybe cut) |
//     +----+----+  row.low  (upper)                  | x = 0 1 ...    7 | x = 8 9 ...   15 |
//     | a    b  |                                      thread item        thread item + 1
//     +----+----+  row.high (lower)               packed: bit i of the group's one byte is pixel 8 * group + i
//     | c    d  |                                 else:   byte i of the group's eight
//
// Loops of a thread: items (grid stride) > the 8 pixels of its group. The two rows are found once per item, the two columns per
// pixel; neighbouring threads read the same or neighbouring logits.
#include "masks.cuh"

#include "launch.cuh"

namespace {

constexpr int kThreads = 256, kGroup = 8;
constexpr int64_t kMaxBlocks = 1 << 30;

// The position of output `index` of an axis between inputs low and high.
struct Between {
  int64_t low, high;
  float low_weight, high_weight;

  __device__ __forceinline__ Between(int64_t index, int64_t size, float scale) {
    float source = scale * (float(index) + 0.5f) - 0.5f;
    source = source > 0 ? source : 0;
    low = int64_t(source) < size - 1 ? int64_t(source) : size - 1;
    high = low < size - 1 ? low + 1 : low;
    high_weight = source - float(low) < 1 ? source - float(low) : 1;
    low_weight = 1 - high_weight;
  }
};

__global__ void __launch_bounds__(kThreads) masks_kernel(rfdetr_masks masks) {
  const int64_t groups = (masks.out_width + kGroup - 1) / kGroup, items = masks.count * masks.out_height * groups;
  const float scale_x = float(masks.width) / float(masks.out_width), scale_y = float(masks.height) / float(masks.out_height);
  const int64_t step = gridDim.x * int64_t(blockDim.x);
  for (int64_t item = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; item < items; item += step) {
    const int64_t first = item % groups * kGroup, y = item / groups % masks.out_height, k = item / groups / masks.out_height;
    const Between row(y, masks.height, scale_y);
    const float* upper = masks.logits + (k * masks.height + row.low) * masks.width;
    const float* lower = masks.logits + (k * masks.height + row.high) * masks.width;
    const float* box = masks.boxes ? masks.boxes + 4 * k : nullptr;
    const float middle = float(y) + 0.5f;
    const bool in_rows = !box || (box[1] <= middle && middle < box[3]);
    unsigned bits = 0;
    for (int i = 0; i < kGroup && in_rows; ++i) {
      const int64_t x = first + i;
      if (x >= masks.out_width || (box && !(box[0] <= float(x) + 0.5f && float(x) + 0.5f < box[2]))) continue;
      const Between column(x, masks.width, scale_x);
      const float above = column.low_weight * __ldg(upper + column.low) + column.high_weight * __ldg(upper + column.high);
      const float below = column.low_weight * __ldg(lower + column.low) + column.high_weight * __ldg(lower + column.high);
      bits |= unsigned(row.low_weight * above + row.high_weight * below > 0) << i;
    }
    if (masks.packed) {
      masks.out[item] = uint8_t(bits);
    } else {
      uint8_t* to = masks.out + (k * masks.out_height + y) * masks.out_width + first;
      for (int i = 0; i < kGroup && first + i < masks.out_width; ++i) to[i] = uint8_t(bits >> i & 1);
    }
  }
}

}  // namespace

extern "C" int rfdetr_masks_launch(const rfdetr_masks* masks, void* stream) {
  const int64_t items = masks->count * masks->out_height * ((masks->out_width + kGroup - 1) / kGroup);
  if (items == 0) return 0;
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  LAUNCH(masks_kernel, int(blocks < kMaxBlocks ? blocks : kMaxBlocks), kThreads, 0, stream, *masks);
  return int(cudaGetLastError());
}
