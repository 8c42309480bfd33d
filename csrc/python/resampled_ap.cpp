// Python module _resampled_ap: average precision of many resamples on NumPy arrays. Arguments are checked in
// rfdetr_repro/evaluation/matches.py; the work is csrc/cpu/resampled_ap.h, without Python's lock.
#include "../cpu/resampled_ap.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

// Sum over `thresholds` of each class's AP x 101, float64 (classes, resamples). Rows are ordered by class, then falling score;
// those of class c are starts[c] to starts[c + 1].
py::array_t<double> level_sums(const Dense<int32_t>& image, const Dense<uint16_t>& accepted, const Dense<uint16_t>& ignored,
                               const Dense<int64_t>& starts, const Dense<float>& weights, const Dense<float>& objects,
                               const std::vector<int>& thresholds) {
  const int64_t classes = objects.shape(0), resamples = weights.shape(1);
  py::array_t<double> out({classes, resamples});
  double* sums = out.mutable_data();
  std::fill(sums, sums + classes * resamples, 0.0);
  const int64_t* start = starts.data();
  const rfdetr::RankedDetections all{image.data(), accepted.data(), ignored.data(), image.shape(0)};
  const rfdetr::ResampleWeights drawn{weights.data(), resamples};
  const float* there = objects.data();
  const py::gil_scoped_release unlocked;
  rfdetr::ResampledAp kernel(drawn, thresholds);
  for (int64_t c = 0; c < classes; ++c) {
    const int64_t first = start[c];
    const rfdetr::RankedDetections own{all.image + first, all.accepted + first, all.ignored + first, start[c + 1] - first};
    kernel.add(own, there + c * resamples, sums + c * resamples);
  }
  return out;
}

}  // namespace

PYBIND11_MODULE(_resampled_ap, module) {
  module.doc() = "See rfdetr_repro.evaluation.matches.";
  module.def("level_sums", &level_sums);
}
