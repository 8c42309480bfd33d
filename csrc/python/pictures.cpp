// Python module _pictures: a network's input from a picture on NumPy arrays, for machines without PyTorch. Arguments are checked
// in rfdetr_repro/data/network_input.py; the work is csrc/cpu/pictures.h, without Python's lock, on one thread.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../cpu/pictures.h"

namespace py = pybind11;

namespace {

// picture uint8 (H, W, 3) with any strides -> to float32 (3, h, w), whose rows are contiguous, in place.
void network_input(const py::array_t<uint8_t>& picture, py::array_t<float>& to, const py::tuple& window, bool flip,
                   bool antialias, const py::tuple& mean, const py::tuple& deviation) {
  if (picture.ndim() != 3 || picture.shape(2) != 3) throw py::value_error("a picture must be uint8 (H, W, 3)");
  if (to.ndim() != 3 || to.shape(0) != 3 || to.strides(2) != sizeof(float))
    throw py::value_error("the result must be float32 (3, h, w) with contiguous rows");
  constexpr int64_t number = sizeof(float);
  rfdetr::pictures::Call call{
      picture.data(),
      picture.strides(0),
      picture.strides(1),
      picture.strides(2),
      picture.shape(0),
      picture.shape(1),
      window[0].cast<int64_t>(),
      window[1].cast<int64_t>(),
      window[2].cast<int64_t>(),
      window[3].cast<int64_t>(),
      flip,
      to.mutable_data(),
      to.strides(0) / number,
      to.strides(1) / number,
      to.shape(1),
      to.shape(2),
      {mean[0].cast<float>(), mean[1].cast<float>(), mean[2].cast<float>()},
      {deviation[0].cast<float>(), deviation[1].cast<float>(), deviation[2].cast<float>()},
  };
  const py::gil_scoped_release unlocked;
  rfdetr::pictures::network_input(call, antialias);
}

}  // namespace

PYBIND11_MODULE(_pictures, module) {
  module.doc() = "See rfdetr_repro.data.network_input.";
  module.def("network_input", &network_input, py::arg("picture").noconvert(), py::arg("to").noconvert(), py::arg("window"),
             py::arg("flip"), py::arg("antialias"), py::arg("mean"), py::arg("deviation"));
  module.def("isa", [] { return std::string(rfdetr::pictures::isa_kernels().name); });
  module.def("compiler", [] { return std::string(__VERSION__); });
}
