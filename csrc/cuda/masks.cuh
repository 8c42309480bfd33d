// C interface between the torch-free CUDA kernel of the masks (masks.cu) and its registration (masks.cpp).
#pragma once

#include <stdint.h>

// Mask logits float (count, height, width) -> (count, out_height, row) bytes: one per pixel, or one per eight, low bit first.
struct rfdetr_masks {
  const float *logits, *boxes;  // boxes (count, 4) x0 y0 x1 y1 in pixels of the image, or null
  int64_t count, height, width, out_height, out_width;
  int packed;
  uint8_t* out;
};

// Queues on `stream` (a cudaStream_t of the current device); returns a cudaError_t.
extern "C" int rfdetr_masks_launch(const rfdetr_masks* masks, void* stream);
