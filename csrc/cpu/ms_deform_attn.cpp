// CPU kernels of rfdetr::ms_deform_attn.
//
// Forward: parallel over (batch, query); a head's channels are contiguous, so the inner loops vectorise over them.
// Backward: parallel over (batch, head); each task owns one head's grad_value and walks the queries in order, so there are no
// atomics and the result does not depend on the number of threads. Values of float16/bfloat16 are converted as they are read.
#include "../ms_deform_attn.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <type_traits>

namespace rfdetr {
namespace {

constexpr int64_t kGrainSamples = 4096;  // below about this many samples a second thread costs more than it saves

int64_t grain(int64_t samples_per_task) { return std::max<int64_t>(1, kGrainSamples / std::max<int64_t>(1, samples_per_task)); }

// kChannels is the channel count when known at compile time, 0 otherwise.
template <class T, class A, int kChannels>
struct Kernels {
  const Problem& problem;
  const T* value;
  const A* locations;
  const A* weights;

  int64_t channels() const { return kChannels ? kChannels : problem.channels; }
  int64_t samples() const { return int64_t(problem.num_levels) * problem.points; }
  int64_t row() const { return problem.heads * channels(); }  // values per pixel

  // Adds the head's weighted samples into total (channels()), for the samples that start at index `first`.
  void gather(const T* head, int64_t first, A* __restrict__ total) const {
    const int64_t stride = row();
    Sample<A> at;
    for (int level = 0; level < problem.num_levels; ++level) {
      for (int64_t i = first + level * problem.points, end = i + problem.points; i < end; ++i) {
        if (!bilinear_sample(locations[2 * i], locations[2 * i + 1], problem.levels[level], at)) continue;
        const T *p0 = head + at.pixel[0] * stride, *p1 = head + at.pixel[1] * stride;
        const T *p2 = head + at.pixel[2] * stride, *p3 = head + at.pixel[3] * stride;
        const A w0 = at.weight[0] * weights[i], w1 = at.weight[1] * weights[i];
        const A w2 = at.weight[2] * weights[i], w3 = at.weight[3] * weights[i];
#pragma omp simd
        for (int64_t c = 0; c < channels(); ++c) total[c] += w0 * A(p0[c]) + w1 * A(p1[c]) + w2 * A(p2[c]) + w3 * A(p3[c]);
      }
    }
  }

  void forward(T* output, int64_t begin, int64_t end) const {
    std::conditional_t<kChannels != 0, std::array<A, kChannels>, std::vector<A>> total{};
    if constexpr (kChannels == 0) total.resize(channels());
    for (int64_t query = begin; query < end; ++query) {
      const T* image = value + query / problem.queries * problem.pixels * row();
      for (int64_t m = 0; m < problem.heads; ++m) {
        for (int64_t c = 0; c < channels(); ++c) total[c] = 0;
        gather(image + m * channels(), (query * problem.heads + m) * samples(), total.data());
        T* out = output + query * row() + m * channels();
        for (int64_t c = 0; c < channels(); ++c) out[c] = T(total[c]);
      }
    }
  }

  // Gradients of one sample: into grad (the head's private grad_value, (pixels, channels)), *grad_xy and *grad_weight.
  void scatter(const T* head, const A* __restrict__ upstream, const Level& level, int64_t i, A* grad, A* grad_xy,
               A* grad_weight) const {
    Sample<A> at;
    A along_x = 0, along_y = 0, sampled = 0;
    if (bilinear_sample(locations[2 * i], locations[2 * i + 1], level, at)) {
      for (int k = 0; k < 4; ++k) {
        const T* __restrict__ pixel = head + at.pixel[k] * row();
        A* __restrict__ target = grad + at.pixel[k] * channels();
        const A weight = at.weight[k] * weights[i];
        A dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < channels(); ++c) {
          dot += upstream[c] * A(pixel[c]);
          target[c] += weight * upstream[c];
        }
        sampled += at.weight[k] * dot, along_x += at.along_x[k] * dot, along_y += at.along_y[k] * dot;
      }
    }
    grad_xy[0] = along_x * weights[i], grad_xy[1] = along_y * weights[i], *grad_weight = sampled;
  }

  // Tasks begin..end of batch * heads.
  void backward(const T* grad_output, T* grad_value, A* grad_locations, A* grad_weights, int64_t begin, int64_t end) const {
    std::vector<A> grad(problem.pixels * channels()), upstream(channels());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / problem.heads, m = task % problem.heads, corner = b * problem.pixels * row() + m * channels();
      std::fill(grad.begin(), grad.end(), A(0));
      for (int64_t query = b * problem.queries; query < (b + 1) * problem.queries; ++query) {
        std::copy_n(grad_output + query * row() + m * channels(), channels(), upstream.begin());
        const int64_t first = (query * problem.heads + m) * samples();
        for (int64_t i = first; i < first + samples(); ++i) {
          const Level& level = problem.levels[(i - first) / problem.points];
          scatter(value + corner, upstream.data(), level, i, grad.data(), grad_locations + 2 * i, grad_weights + i);
        }
      }
      for (int64_t s = 0; s < problem.pixels; ++s) {
        for (int64_t c = 0; c < channels(); ++c) grad_value[corner + s * row() + c] = T(grad[s * channels() + c]);
      }
    }
  }
};

// Calls action(Kernels<...>) for the value's type and channel count.
template <class T, class A, class Action>
void with_channels(const Problem& problem, const Tensor& value, const Tensor& locations, const Tensor& weights,
                   const Action& action) {
  const T* v = static_cast<const T*>(value.const_data_ptr());
  const A* xy = static_cast<const A*>(locations.const_data_ptr());
  const A* w = static_cast<const A*>(weights.const_data_ptr());
  if (problem.channels == 16) return action(Kernels<T, A, 16>{problem, v, xy, w}, T(), A());  // every size of the paper
  return action(Kernels<T, A, 0>{problem, v, xy, w}, T(), A());
}

template <class Action>
void dispatch(const Problem& problem, const Tensor& value, const Tensor& locations, const Tensor& weights, const Action& action) {
  using torch::headeronly::BFloat16;
  using torch::headeronly::Half;
  switch (value.scalar_type()) {
    case ScalarType::Float:
      return with_channels<float, float>(problem, value, locations, weights, action);
    case ScalarType::Double:
      return with_channels<double, double>(problem, value, locations, weights, action);
    case ScalarType::Half:
      return with_channels<Half, float>(problem, value, locations, weights, action);
    case ScalarType::BFloat16:
      return with_channels<BFloat16, float>(problem, value, locations, weights, action);
    default:
      STD_TORCH_CHECK(false, "value must be float32, float64, float16 or bfloat16");
  }
}

Tensor forward_cpu(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& locations, const Tensor& weights) {
  const Problem problem = check_arguments(value, level_sizes, locations, weights);
  const Tensor v = torch::stable::contiguous(value), xy = torch::stable::contiguous(locations),
               w = torch::stable::contiguous(weights);
  Tensor output = torch::stable::new_empty(v, {problem.batch, problem.queries, problem.heads * problem.channels});
  void* out = output.mutable_data_ptr();
  dispatch(problem, v, xy, w, [&](const auto& kernels, auto type, auto) {
    using T = decltype(type);
    torch::stable::parallel_for(0, problem.batch * problem.queries, grain(problem.heads * kernels.samples()),
                                [&](int64_t begin, int64_t end) { kernels.forward(static_cast<T*>(out), begin, end); });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad_output, const Tensor& value, std::vector<int64_t> level_sizes,
                                                const Tensor& locations, const Tensor& weights) {
  const Problem problem = check_arguments(value, level_sizes, locations, weights);
  check_grad_output(grad_output, value, problem);
  const Tensor v = torch::stable::contiguous(value), xy = torch::stable::contiguous(locations),
               w = torch::stable::contiguous(weights);
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Tensor grad_value = torch::stable::new_empty(v, v.sizes());
  Tensor grad_locations = torch::stable::new_empty(xy, xy.sizes()), grad_weights = torch::stable::new_empty(w, w.sizes());
  const void* up = upstream.const_data_ptr();
  void *gv = grad_value.mutable_data_ptr(), *gxy = grad_locations.mutable_data_ptr(), *gw = grad_weights.mutable_data_ptr();
  dispatch(problem, v, xy, w, [&](const auto& kernels, auto type, auto accumulate) {
    using T = decltype(type);
    using A = decltype(accumulate);
    torch::stable::parallel_for(
        0, problem.batch * problem.heads, grain(problem.queries * kernels.samples()), [&](int64_t begin, int64_t end) {
          kernels.backward(static_cast<const T*>(up), static_cast<T*>(gv), static_cast<A*>(gxy), static_cast<A*>(gw), begin, end);
        });
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&rfdetr::forward_cpu));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&rfdetr::backward_cpu));
}
