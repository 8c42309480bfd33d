// A TensorRT plugin (IPluginV3) for the fused attention operator: one layer of an engine that queues the forward kernel of
// csrc/cuda/ms_deform_attn.cu.
//
// Inputs, as of rfdetr::ms_deform_attn_fused: value (B, S, M, D) in float32, float16 or bfloat16; offsets (B, Q, M, L, P, 2),
// boxes (B, Q, 4) and logits (B, Q, M, L, P) in float32. Output (B, Q, M * D) in the type of value. The only field,
// `level_sizes`, holds (height, width) of each level in pixels. All arrays are linear.
//
// TensorRT finds the plugin through the two functions at the end, when IPluginRegistry::loadLibrary opens this library; nothing
// of libnvinfer is linked.
#include <NvInfer.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <new>
#include <string_view>
#include <vector>

#include "../cuda/ms_deform_attn.cuh"

namespace rfdetr {
namespace {

namespace trt = nvinfer1;

constexpr char kName[] = "ms_deform_attn_fused", kVersion[] = "1", kNamespace[] = "rfdetr", kSizes[] = "level_sizes";
constexpr int32_t kInputs = 4, kValue = 0, kOffsets = 1, kBoxes = 2, kLogits = 3;
constexpr int32_t kOk = 0, kFailed = -1;

trt::ILoggerFinder* logger_finder = nullptr;

// Tells TensorRT's logger the reason and returns what stands for a failure.
int32_t failed(const char* reason) {
  trt::ILogger* const logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger) {
    char text[256];
    std::snprintf(text, sizeof text, "%s: %s", kName, reason);
    logger->log(trt::ILogger::Severity::kERROR, text);
  }
  return kFailed;
}

bool storage_of(trt::DataType type, Storage& storage) {
  switch (type) {
    case trt::DataType::kFLOAT:
      return storage = Storage::kFloat32, true;
    case trt::DataType::kHALF:
      return storage = Storage::kFloat16, true;
    case trt::DataType::kBF16:
      return storage = Storage::kBFloat16, true;
    default:
      return false;
  }
}

// The sizes of a call with these inputs; returns what is wrong with them, or null. A side of -1 is not known yet; where
// `complete` is set, all of them are.
const char* problem_of(const std::vector<int32_t>& sizes, const trt::Dims* inputs, bool complete, Problem& problem) {
  const trt::Dims &value = inputs[kValue], &offsets = inputs[kOffsets], &boxes = inputs[kBoxes], &logits = inputs[kLogits];
  if (value.nbDims != 4 || offsets.nbDims != 6 || boxes.nbDims != 3 || logits.nbDims != 5)
    return "value, offsets, boxes and logits must have 4, 6, 3 and 5 axes";
  const auto same = [&](int64_t a, int64_t b) { return a == b || (!complete && (a == -1 || b == -1)); };
  for (int axis = 0; axis < 5; ++axis) {
    if (!same(offsets.d[axis], logits.d[axis])) return "offsets and logits have different sizes";
  }
  if (!same(offsets.d[5], 2) || !same(boxes.d[2], 4)) return "offsets must end with 2 coordinates and boxes with 4";
  if (!same(value.d[0], offsets.d[0]) || !same(value.d[2], offsets.d[2]))
    return "value and offsets have different numbers of images or heads";
  if (!same(boxes.d[0], offsets.d[0]) || !same(boxes.d[1], offsets.d[1]))
    return "boxes and offsets have different numbers of images or queries";
  problem.num_levels = int(sizes.size() / 2);
  int64_t start = 0;
  for (int level = 0; level < problem.num_levels; ++level) {
    const int height = sizes[size_t(2 * level)], width = sizes[size_t(2 * level + 1)];
    problem.levels[level] = {height, width, int(start)};
    start += int64_t(height) * width;
  }
  if (!same(value.d[1], start)) return "level_sizes do not add up to the pixels of value";
  if (!same(logits.d[3], problem.num_levels)) return "logits have another number of levels than level_sizes";
  problem.batch = value.d[0], problem.pixels = value.d[1], problem.heads = value.d[2], problem.channels = value.d[3];
  problem.queries = logits.d[1], problem.points = int(logits.d[4]);
  if (!complete) return nullptr;
  for (const int64_t side : {problem.batch, problem.heads, problem.channels, problem.queries, int64_t(problem.points)}) {
    if (side < 1) return "an axis is empty";
  }
  return nullptr;
}

// What is wrong with the field, or null: 1 to 8 pairs of sides from 1 to 2^24 with less than 2^31 pixels in all.
const char* wrong_sizes(const std::vector<int32_t>& sizes) {
  if (sizes.empty() || sizes.size() % 2 || sizes.size() / 2 > size_t(kMaxLevels))
    return "level_sizes must hold 1 to 8 pairs (height, width)";
  int64_t pixels = 0;
  for (size_t i = 0; i < sizes.size(); i += 2) {
    constexpr int32_t limit = 1 << 24;
    if (sizes[i] < 1 || sizes[i + 1] < 1 || sizes[i] > limit || sizes[i + 1] > limit) return "a level has an impossible size";
    pixels += int64_t(sizes[i]) * sizes[i + 1];
    if (pixels > std::numeric_limits<int>::max()) return "level_sizes add up to 2^31 pixels or more";
  }
  return nullptr;
}

class Plugin : public trt::IPluginV3,
               public trt::IPluginV3OneCore,
               public trt::IPluginV3OneBuild,
               public trt::IPluginV3OneRuntime {
 public:
  explicit Plugin(const std::vector<int32_t>& sizes) : sizes_(sizes) {
    field_ = trt::PluginField(kSizes, sizes_.data(), trt::PluginFieldType::kINT32, int32_t(sizes_.size()));
    fields_ = {1, &field_};
  }
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;

  trt::IPluginCapability* getCapabilityInterface(trt::PluginCapabilityType type) noexcept override {
    switch (type) {
      case trt::PluginCapabilityType::kCORE:
        return static_cast<trt::IPluginV3OneCore*>(this);
      case trt::PluginCapabilityType::kBUILD:
        return static_cast<trt::IPluginV3OneBuild*>(this);
      case trt::PluginCapabilityType::kRUNTIME:
        return static_cast<trt::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  Plugin* clone() noexcept override {
    try {
      return new Plugin(sizes_);
    } catch (const std::bad_alloc&) {
      return failed("no memory is left"), nullptr;
    }
  }

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(trt::DataType* outputs, int32_t count, const trt::DataType* inputs,
                             int32_t given) const noexcept override {
    if (count != 1 || given != kInputs) return failed("there are 4 inputs and 1 output");
    return outputs[0] = inputs[kValue], kOk;
  }
  int32_t getOutputShapes(const trt::DimsExprs* inputs, int32_t given, const trt::DimsExprs*, int32_t, trt::DimsExprs* outputs,
                          int32_t count, trt::IExprBuilder& builder) noexcept override {
    if (count != 1 || given != kInputs) return failed("there are 4 inputs and 1 output");
    if (inputs[kValue].nbDims != 4 || inputs[kLogits].nbDims != 5) return failed("value and logits must have 4 and 5 axes");
    const auto value = inputs[kValue].d;
    outputs[0].nbDims = 3;
    outputs[0].d[0] = value[0];
    outputs[0].d[1] = inputs[kLogits].d[1];
    outputs[0].d[2] = builder.operation(trt::DimensionOperation::kPROD, *value[2], *value[3]);
    return kOk;
  }
  bool supportsFormatCombination(int32_t position, const trt::DynamicPluginTensorDesc* tensors, int32_t given,
                                 int32_t count) noexcept override {
    if (given != kInputs || count != 1 || position < 0 || position > kInputs) return false;
    const trt::PluginTensorDesc& asked = tensors[position].desc;
    if (asked.format != trt::TensorFormat::kLINEAR) return false;
    Storage storage;
    if (position == kValue) return storage_of(asked.type, storage);
    return asked.type == (position == kInputs ? tensors[kValue].desc.type : trt::DataType::kFLOAT);
  }
  int32_t configurePlugin(const trt::DynamicPluginTensorDesc* in, int32_t given, const trt::DynamicPluginTensorDesc*,
                          int32_t count) noexcept override {
    if (count != 1 || given != kInputs) return failed("there are 4 inputs and 1 output");
    std::array<trt::Dims, kInputs> dims;
    for (int32_t i = 0; i < kInputs; ++i) dims[size_t(i)] = in[i].desc.dims;
    Problem problem;
    const char* const wrong = problem_of(sizes_, dims.data(), false, problem);
    return wrong ? failed(wrong) : kOk;
  }

  int32_t onShapeChange(const trt::PluginTensorDesc* in, int32_t given, const trt::PluginTensorDesc* out,
                        int32_t count) noexcept override {
    if (count != 1 || given != kInputs) return failed("there are 4 inputs and 1 output");
    Attention call;
    const char* const wrong = call_of(in, call);
    if (wrong) return failed(wrong);
    const Problem& problem = call.problem;
    const trt::Dims& output = out[0].dims;
    const bool fits = output.nbDims == 3 && output.d[0] == problem.batch && output.d[1] == problem.queries &&
                      output.d[2] == problem.heads * problem.channels && out[0].type == in[kValue].type;
    return fits ? kOk : failed("the output has another shape or type");
  }
  int32_t enqueue(const trt::PluginTensorDesc* in, const trt::PluginTensorDesc*, const void* const* inputs, void* const* outputs,
                  void*, cudaStream_t stream) noexcept override {
    Attention call;
    if (const char* const wrong = call_of(in, call)) return failed(wrong);
    call.value = inputs[kValue], call.points = inputs[kOffsets];
    call.weights = inputs[kLogits], call.boxes = inputs[kBoxes];
    const int error = rfdetr_forward_launch(&call, outputs[0], stream);
    return error ? failed(rfdetr_cuda_error(error)) : kOk;
  }
  trt::IPluginV3* attachToContext(trt::IPluginResourceContext*) noexcept override { return clone(); }
  const trt::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields_; }

 private:
  // Sizes and type of a call without its arrays; returns what is wrong, or null.
  const char* call_of(const trt::PluginTensorDesc* in, Attention& call) const {
    call = {};
    std::array<trt::Dims, kInputs> dims;
    for (int32_t i = 0; i < kInputs; ++i) dims[size_t(i)] = in[i].dims;
    if (!storage_of(in[kValue].type, call.storage)) return "value must be float32, float16 or bfloat16";
    for (const int32_t i : {kOffsets, kBoxes, kLogits}) {
      if (in[i].type != trt::DataType::kFLOAT) return "offsets, boxes and logits must be float32";
    }
    return problem_of(sizes_, dims.data(), true, call.problem);
  }

  const std::vector<int32_t> sizes_;
  trt::PluginField field_;
  trt::PluginFieldCollection fields_;
};

class Creator : public trt::IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const trt::PluginFieldCollection* getFieldNames() noexcept override {
    static const trt::PluginField field(kSizes, nullptr, trt::PluginFieldType::kINT32, 0);
    static const trt::PluginFieldCollection fields{1, &field};
    return &fields;
  }

  // The same for a node of an ONNX file and for a layer of a stored engine. Null for fields that are missing or wrong.
  trt::IPluginV3* createPlugin(const char*, const trt::PluginFieldCollection* given, trt::TensorRTPhase) noexcept override {
    try {
      std::vector<int32_t> sizes;
      const char* wrong = read_sizes(given, sizes);
      if (!wrong) wrong = wrong_sizes(sizes);
      if (wrong) return failed(wrong), nullptr;
      return new Plugin(sizes);
    } catch (const std::bad_alloc&) {
      return failed("no memory is left"), nullptr;
    }
  }

 private:
  static const char* read_sizes(const trt::PluginFieldCollection* given, std::vector<int32_t>& sizes) {
    for (int32_t i = 0; given && i < given->nbFields; ++i) {
      const trt::PluginField& field = given->fields[i];
      if (!field.name || std::string_view(field.name) != kSizes) continue;
      if (field.length < 0 || field.length > 2 * kMaxLevels || !field.data) return "level_sizes must hold 1 to 8 pairs";
      for (int32_t k = 0; k < field.length; ++k) {
        int64_t side;
        if (field.type == trt::PluginFieldType::kINT32)
          side = static_cast<const int32_t*>(field.data)[k];
        else if (field.type == trt::PluginFieldType::kINT64)
          side = static_cast<const int64_t*>(field.data)[k];
        else
          return "level_sizes must be whole numbers of 32 or 64 bits";
        if (side < 1 || side > std::numeric_limits<int32_t>::max()) return "a level has an impossible size";
        sizes.push_back(int32_t(side));
      }
      return nullptr;
    }
    return "the field level_sizes is missing";
  }
};

}  // namespace
}  // namespace rfdetr

#define RFDETR_EXPORTED extern "C" __attribute__((visibility("default")))

RFDETR_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static rfdetr::Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

RFDETR_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { rfdetr::logger_finder = finder; }
