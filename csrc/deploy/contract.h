// What a model file takes and gives (rfdetr_repro/export/contract.py): one image input, and the outputs scores, labels, boxes and
// perhaps masks of ranked detections. Types are widened without loss or refused.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "manifest.h"

namespace rfdetr::deploy {

// Detections of one picture, as the file gives them.
struct Detections {
  std::vector<float> scores;                // (k)
  std::vector<int64_t> labels;              // (k)
  std::vector<float> boxes;                 // (k, 4) xyxy, parts of the input
  std::vector<float> masks;                 // (k, mask_height, mask_width) logits
  int64_t mask_height = 0, mask_width = 0;  // 0: the file gives no masks
};

// A model in a runtime.
class Model {
 public:
  virtual ~Model() = default;
  // `images`: float32, all images of a run, RGB in 0..1. Returns the detections in the first image.
  virtual Detections run(const std::vector<float>& images) = 0;
};

inline const char* const kOutputs[] = {"scores", "labels", "boxes", "masks"};

// Raises InputError unless the file's inputs and outputs, as the runtime describes them, are those that the manifest states.
inline void check_tensors(std::vector<Tensor> inputs, const std::vector<Tensor>& outputs, const Manifest& manifest,
                          const std::string& path) {
  const std::string again = "export the model again";
  for (Tensor& input : inputs) {
    if (manifest.open_batch && !input.shape.empty()) input.shape[0] = input.shape[0] < 1 ? 1 : 0;
  }
  if (inputs != std::vector<Tensor>{manifest.input}) {
    const std::string found = inputs.empty() ? "none" : described(inputs[0]) + (inputs.size() > 1 ? " and others" : "");
    throw InputError("the file's inputs are " + found + ", and its manifest states " + described(manifest.input), path, again);
  }
  std::set<std::string> names, stated;
  for (const Tensor& output : manifest.outputs) stated.insert(output.name);
  bool ranked = outputs.size() == 3 || outputs.size() == 4;
  for (size_t i = 0; i < outputs.size(); ++i) {
    names.insert(outputs[i].name);
    ranked = ranked && outputs[i].name == kOutputs[i];
  }
  if (!ranked) throw InputError("the file's outputs are not scores, labels, boxes and perhaps masks", path, again);
  if (names != stated) throw InputError("the manifest states other outputs than the file has", path, again);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& output = outputs[i];
    const bool counted = output.dtype.find("int") != std::string::npos && output.dtype != "uint32" && output.dtype != "uint64";
    const bool known = i == 1 ? counted : output.dtype == "float32" || output.dtype == "float16";
    const auto fits = [&](size_t side, int64_t size) { return output.shape[side] < 1 || output.shape[side] == size; };
    const size_t sides = i < 2 ? 2 : i + 1;
    const bool shaped = output.shape.size() == sides && fits(0, manifest.input.shape[0]) && (i != 2 || fits(2, 4));
    if (!known || !shaped) throw InputError("the output is " + described(output) + ", not that of detections", path, again);
  }
}

inline float float_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent     ? std::ldexp(float(fraction | 1024), exponent - 25)
                                    : std::ldexp(float(fraction), -24);
  return half >> 15 ? -size : size;
}

// `value` in 0..1; rounded to the nearest number of 16 bits, at a half to the even one.
inline uint16_t half_of_float(float value) {
  if (value < 6.103515625e-05f) return uint16_t(std::nearbyint(value * 16777216.0f));
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return uint16_t((bits - (112u << 23) + 0xFFFu + (bits >> 13 & 1)) >> 13);
}

template <class To, class From>
std::vector<To> copied(const void* data, int64_t count) {
  const From* from = static_cast<const From*>(data);
  return std::vector<To>(from, from + count);
}

inline std::vector<float> floats_of(const void* data, const std::string& dtype, int64_t count) {
  if (dtype == "float32") return copied<float, float>(data, count);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(float_of_half(static_cast<const uint16_t*>(data)[i]));
  return values;
}

inline std::vector<int64_t> labels_of(const void* data, const std::string& dtype, int64_t count) {
  if (dtype == "int32") return copied<int64_t, int32_t>(data, count);
  if (dtype == "int16") return copied<int64_t, int16_t>(data, count);
  if (dtype == "int8") return copied<int64_t, int8_t>(data, count);
  if (dtype == "uint16") return copied<int64_t, uint16_t>(data, count);
  if (dtype == "uint8") return copied<int64_t, uint8_t>(data, count);
  return copied<int64_t, int64_t>(data, count);
}

// The detections in the first image of a run, from outputs whose shapes are now known.
inline Detections detections_of(const std::vector<Tensor>& outputs, const std::vector<const void*>& data,
                                const std::string& path) {
  const int64_t images = outputs[0].shape[0], count = outputs[0].shape[1];
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::vector<int64_t>& shape = outputs[i].shape;
    const bool fits = shape.size() == (i < 2 ? 2 : i + 1) && images >= 1 && shape[0] == images && shape[1] == count &&
                      (i != 2 || shape[2] == 4) && (i != 3 || (shape[2] >= 1 && shape[3] >= 1));
    if (!fits) throw InputError("the model returned " + described(outputs[i]), path, "export the model again");
  }
  Detections found;
  found.scores = floats_of(data[0], outputs[0].dtype, count);
  found.labels = labels_of(data[1], outputs[1].dtype, count);
  found.boxes = floats_of(data[2], outputs[2].dtype, 4 * count);
  if (outputs.size() == 4) {
    found.mask_height = outputs[3].shape[2];
    found.mask_width = outputs[3].shape[3];
    found.masks = floats_of(data[3], outputs[3].dtype, count * found.mask_height * found.mask_width);
  }
  return found;
}

// The images in the type of the file's input.
inline std::vector<uint16_t> halves_of(const std::vector<float>& images) {
  std::vector<uint16_t> halves;
  halves.reserve(images.size());
  for (const float value : images) halves.push_back(half_of_float(value));
  return halves;
}

}  // namespace rfdetr::deploy
