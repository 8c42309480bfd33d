// ONNX Runtime on the CPU: all graph optimisations, sequential execution, as rfdetr_repro/runtime/session.py opens a file.
#pragma once

#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "ort_api.h"
#endif

#include <memory>
#include <string>
#include <vector>

#include "contract.h"

namespace rfdetr::deploy {

class OnnxRuntime : public Model {
 public:
  // `content`: the bytes of the file; ONNX Runtime keeps what it needs of them.
  OnnxRuntime(const std::string& content, const Manifest& manifest, const std::string& path, int threads)
      : manifest_(manifest), path_(path) {
    if (manifest.format != "onnx") {
      throw InputError("this runtime runs onnx files, not " + manifest.format, path, "export the model again with --to onnx");
    }
    api_ = OrtGetApiBase()->GetApi(kApiVersion);
    if (!api_)
      throw InputError("the installed ONNX Runtime is too old", OrtGetApiBase()->GetVersionString(), "install 1.16 or later");
    OrtEnv* env = nullptr;
    OrtSessionOptions* options = nullptr;
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "rfdetr", &env));
    check(api_->CreateSessionOptions(&options));
    check(api_->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL));
    check(api_->SetIntraOpNumThreads(options, threads));
    check(api_->SetInterOpNumThreads(options, 1));
    check(api_->CreateSessionFromArray(env, content.data(), content.size(), options, &session_));
    check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
    const std::vector<Tensor> inputs =
        tensors(api_->SessionGetInputCount, api_->SessionGetInputName, api_->SessionGetInputTypeInfo);
    outputs_ = tensors(api_->SessionGetOutputCount, api_->SessionGetOutputName, api_->SessionGetOutputTypeInfo);
    check_tensors(inputs, outputs_, manifest, path);
  }

  Detections run(const std::vector<float>& images) override {
    const bool half = manifest_.input.dtype == "float16";
    std::vector<uint16_t> halves = half ? halves_of(images) : std::vector<uint16_t>();
    void* data = half ? static_cast<void*>(halves.data()) : const_cast<float*>(images.data());
    const std::vector<int64_t>& shape = manifest_.input.shape;
    Value input(nullptr, api_->ReleaseValue);
    OrtValue* made = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(memory_, data, images.size() * (half ? 2 : 4), shape.data(), shape.size(),
                                               half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                               &made));
    input.reset(made);
    const char* input_name = manifest_.input.name.c_str();
    std::vector<const char*> names;
    for (const Tensor& output : outputs_) names.push_back(output.name.c_str());
    std::vector<OrtValue*> values(outputs_.size());
    check(api_->Run(session_, nullptr, &input_name, &made, 1, names.data(), names.size(), values.data()));
    std::vector<Value> owners;
    for (OrtValue* value : values) owners.emplace_back(value, api_->ReleaseValue);
    std::vector<Tensor> found;
    std::vector<const void*> contents;
    for (size_t i = 0; i < values.size(); ++i) {
      OrtTensorTypeAndShapeInfo* info = nullptr;
      void* content = nullptr;
      check(api_->GetTensorTypeAndShape(values[i], &info));
      found.push_back(tensor(outputs_[i].name, info));
      api_->ReleaseTensorTypeAndShapeInfo(info);
      check(api_->GetTensorMutableData(values[i], &content));
      contents.push_back(content);
    }
    return detections_of(found, contents, path_);
  }

 private:
  static constexpr uint32_t kApiVersion = 16;  // of ONNX Runtime 1.16, and of every later one
  using Value = std::unique_ptr<OrtValue, decltype(OrtApi::ReleaseValue)>;

  void check(OrtStatus* status) const {
    if (!status) return;
    const std::string reason = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw InputError("ONNX Runtime cannot run the model: " + reason.substr(0, 300), path_, "export the model again");
  }

  static std::string dtype(ONNXTensorElementDataType type) {
    switch (type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        return "float32";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
        return "float16";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
        return "uint8";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
        return "int8";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
        return "uint16";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
        return "int16";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
        return "int32";
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
        return "int64";
      default:
        return "type-" + std::to_string(int(type));
    }
  }

  Tensor tensor(const std::string& name, const OrtTensorTypeAndShapeInfo* info) const {
    ONNXTensorElementDataType type{};
    size_t sides = 0;
    check(api_->GetTensorElementType(info, &type));
    check(api_->GetDimensionsCount(info, &sides));
    Tensor found{name, std::vector<int64_t>(sides), dtype(type)};
    check(api_->GetDimensions(info, found.shape.data(), sides));
    return found;
  }

  // The inputs or outputs of the session.
  template <class Count, class Name, class Info>
  std::vector<Tensor> tensors(const Count& count_of, const Name& name_of, const Info& info_of) const {
    OrtAllocator* allocator = nullptr;
    size_t count = 0;
    check(api_->GetAllocatorWithDefaultOptions(&allocator));
    check(count_of(session_, &count));
    std::vector<Tensor> found;
    for (size_t i = 0; i < count; ++i) {  // names and types live as long as the program
      char* name = nullptr;
      OrtTypeInfo* type = nullptr;
      const OrtTensorTypeAndShapeInfo* info = nullptr;
      check(name_of(session_, i, allocator, &name));
      check(info_of(session_, i, &type));
      check(api_->CastTypeInfoToTensorInfo(type, &info));
      found.push_back(info ? tensor(name, info) : Tensor{name, {}, "no tensor"});
    }
    return found;
  }

  const OrtApi* api_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<Tensor> outputs_;
  const Manifest manifest_;
  const std::string path_;
};

}  // namespace rfdetr::deploy
