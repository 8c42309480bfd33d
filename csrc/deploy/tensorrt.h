// TensorRT engines on the first GPU, as rfdetr_repro/runtime/tensorrt.py runs them: buffers bound by address, one stream.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "contract.h"

namespace rfdetr::deploy {

class TensorRt : public Model {
 public:
  TensorRt(const std::string& content, const Manifest& manifest, const std::string& path) : manifest_(manifest), path_(path) {
    check(cudaSetDevice(0));
    check(cudaStreamCreate(&stream_));
    runtime_.reset(nvinfer1::createInferRuntime(messages_));
    engine_.reset(runtime_ ? runtime_->deserializeCudaEngine(content.data(), content.size()) : nullptr);
    context_.reset(engine_ ? engine_->createExecutionContext() : nullptr);
    if (!context_)
      throw InputError("the engine cannot be loaded: " + messages_.last, path_, "build the engine again on this machine");
    std::vector<Tensor> inputs, outputs;
    for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const bool input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      (input ? inputs : outputs).push_back({name, sides(engine_->getTensorShape(name)), dtype(engine_->getTensorDataType(name))});
    }
    const auto place = [](const Tensor& tensor) { return std::find(kOutputs, kOutputs + 4, tensor.name) - kOutputs; };
    std::sort(outputs.begin(), outputs.end(), [&](const Tensor& a, const Tensor& b) { return place(a) < place(b); });
    check_tensors(inputs, outputs, manifest, path);
    bind(manifest.input, true);
    for (const Tensor& output : outputs) bind(output, false);
  }

  ~TensorRt() override {
    for (const Bound& bound : bound_) cudaFree(bound.device);
    cudaStreamDestroy(stream_);
  }

  Detections run(const std::vector<float>& images) override {
    const bool half = manifest_.input.dtype == "float16";
    const std::vector<uint16_t> halves = half ? halves_of(images) : std::vector<uint16_t>();
    const void* from = half ? static_cast<const void*>(halves.data()) : images.data();
    check(cudaMemcpyAsync(bound_[0].device, from, bound_[0].bytes, cudaMemcpyHostToDevice, stream_));
    if (!context_->enqueueV3(stream_)) throw InputError("the engine cannot be run: " + messages_.last, path_);
    std::vector<Tensor> found;
    std::vector<const void*> contents;
    for (size_t i = 1; i < bound_.size(); ++i) {
      Bound& bound = bound_[i];
      check(cudaMemcpyAsync(bound.host.data(), bound.device, bound.bytes, cudaMemcpyDeviceToHost, stream_));
      found.push_back(bound.tensor);
      contents.push_back(bound.host.data());
    }
    check(cudaStreamSynchronize(stream_));
    return detections_of(found, contents, path_);
  }

 private:
  struct Messages : nvinfer1::ILogger {
    std::string last = "no reason is given";
    void log(Severity severity, const char* text) noexcept override {
      if (severity <= Severity::kERROR) last = text;
    }
  };

  struct Bound {
    Tensor tensor;
    size_t bytes;
    void* device;
    std::vector<uint8_t> host;  // of an output
  };

  void check(cudaError_t code) const {
    if (code != cudaSuccess) throw InputError(std::string("the GPU cannot be used: ") + cudaGetErrorString(code), path_);
  }

  static std::vector<int64_t> sides(const nvinfer1::Dims& shape) {
    return {shape.d, shape.d + std::max<int32_t>(shape.nbDims, 0)};
  }

  static std::string dtype(nvinfer1::DataType type) {
    switch (type) {
      case nvinfer1::DataType::kFLOAT:
        return "float32";
      case nvinfer1::DataType::kHALF:
        return "float16";
      case nvinfer1::DataType::kINT64:
        return "int64";
      case nvinfer1::DataType::kINT32:
        return "int32";
      case nvinfer1::DataType::kINT8:
        return "int8";
      case nvinfer1::DataType::kUINT8:
        return "uint8";
      default:
        return "type-" + std::to_string(int(type));
    }
  }

  // Gives an input or output its memory on the GPU; sides that the engine leaves open are those of one image.
  void bind(Tensor tensor, bool input) {
    const char* name = tensor.name.c_str();
    if (input && manifest_.open_batch) {
      const std::vector<int64_t>& shape = tensor.shape;
      const nvinfer1::Dims4 one(shape[0], shape[1], shape[2], shape[3]);
      if (!context_->setInputShape(name, one)) throw InputError("the engine does not take one image: " + messages_.last, path_);
    }
    tensor.shape = sides(context_->getTensorShape(name));
    size_t bytes = tensor.dtype == "int64" ? 8 : tensor.dtype.ends_with("32") ? 4 : tensor.dtype.ends_with("16") ? 2 : 1;
    for (const int64_t side : tensor.shape) {
      if (side < 1)
        throw InputError("the shape of " + described(tensor) + " is not fixed", path_, "export the model with fixed shapes");
      bytes *= size_t(side);
    }
    bound_.push_back({tensor, bytes, nullptr, std::vector<uint8_t>(input ? 0 : bytes)});
    check(cudaMalloc(&bound_.back().device, bytes));
    if (!context_->setTensorAddress(name, bound_.back().device))
      throw InputError("the engine cannot be bound: " + messages_.last, path_);
  }

  const Manifest manifest_;
  const std::string path_;
  Messages messages_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<Bound> bound_;  // the input first
};

}  // namespace rfdetr::deploy
