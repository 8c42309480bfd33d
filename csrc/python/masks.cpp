// Python module _masks: masks from logits on NumPy arrays, for machines without PyTorch. Arguments are checked in
// rfdetr_repro/data/mask_logits.py; the work is csrc/cpu/masks.h, without Python's lock, on `threads` threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "../cpu/masks.h"

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using rfdetr::MaskAxis;
using rfdetr::MaskUpsampler;
using rfdetr::MaskWindow;

// Calls work(upsampler, mask index, window) for every mask. Threads take masks one by one; the result does not depend on which
// thread takes which mask.
template <class Work>
void for_each_mask(const Floats& logits, int64_t height, int64_t width, const Floats& boxes, int threads, const Work& work) {
  const int64_t count = logits.shape(0);
  const float *from = logits.data(), *box = boxes.size() ? boxes.data() : nullptr;
  const py::gil_scoped_release unlocked;
  const MaskAxis across(logits.shape(2), width), down(logits.shape(1), height);
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex lock;
  const auto worker = [&] {
    try {
      MaskUpsampler upsampler(across, down);
      for (int64_t k = next++; k < count; k = next++) {
        const MaskWindow window = box ? upsampler.inside(box + 4 * k) : upsampler.whole();
        work(upsampler, k, from + k * across.size * down.size, window);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(lock);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < std::min<int64_t>(threads, count); ++i) others.emplace_back(worker);
  worker();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

py::array_t<bool> bitmaps(const Floats& logits, int64_t height, int64_t width, const Floats& boxes, int threads) {
  py::array_t<bool> out({int64_t(logits.shape(0)), height, width});
  uint8_t* to = reinterpret_cast<uint8_t*>(out.mutable_data());
  for_each_mask(logits, height, width, boxes, threads,
                [&](MaskUpsampler& upsampler, int64_t k, const float* from, const MaskWindow& window) {
                  upsampler.bitmap(from, window, to + k * height * width);
                });
  return out;
}

py::array_t<uint8_t> bits(const Floats& logits, int64_t height, int64_t width, const Floats& boxes, int threads) {
  const int64_t bytes = (width + 7) / 8;
  py::array_t<uint8_t> out({int64_t(logits.shape(0)), height, bytes});
  uint8_t* to = out.mutable_data();
  for_each_mask(logits, height, width, boxes, threads,
                [&](MaskUpsampler& upsampler, int64_t k, const float* from, const MaskWindow& window) {
                  upsampler.bits(from, window, to + k * height * bytes);
                });
  return out;
}

// COCO's compressed counts, one bytes object per mask.
py::list counts(const Floats& logits, int64_t height, int64_t width, const Floats& boxes, int threads) {
  std::vector<std::string> texts(size_t(logits.shape(0)));
  for_each_mask(logits, height, width, boxes, threads,
                [&](MaskUpsampler& upsampler, int64_t k, const float* from, const MaskWindow& window) {
                  std::vector<uint32_t> runs;
                  upsampler.runs(from, window, runs);
                  texts[size_t(k)] = rfdetr::coco_counts(runs);
                });
  py::list out;
  for (const std::string& text : texts) out.append(py::bytes(text));
  return out;
}

}  // namespace

PYBIND11_MODULE(_masks, module) {
  module.doc() = "See rfdetr_repro.data.mask_logits.";
  module.def("bitmaps", &bitmaps);
  module.def("bits", &bits);
  module.def("counts", &counts);
  module.def("compiler", [] { return std::string(__VERSION__); });
}
