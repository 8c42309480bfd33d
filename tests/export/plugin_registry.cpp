// What TensorRT does with a plugin library, as far as it needs no GPU and no libnvinfer: opens it, makes plugins from fields,
// stores and restores them, asks for shapes and formats, and runs them. Called by test_tensorrt_plugin.py.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

std::string told;

struct Logger : ILogger {
  void log(Severity, const char* text) noexcept override { told = text; }
} logger;

struct Finder : ILoggerFinder {
  ILogger* findLogger() override { return &logger; }
} finder;

IPluginCreatorV3One* creator = nullptr;

// A size that is a number or, in a network with open shapes, a name; a product's name is "a*b".
struct Side : IDimensionExpr, apiv::VDimensionExpr {
  explicit Side(std::string name) : name(std::move(name)) { mImpl = this; }
  bool isConstant() const override { return name.find_first_not_of("0123456789") == std::string::npos; }
  int64_t getConstantValue() const override { return std::stoll(name); }
  bool isSizeTensor() const override { return false; }
  std::string name;
};

struct Builder : IExprBuilder, apiv::VExprBuilder {
  Builder() { mImpl = this; }
  const IDimensionExpr* constant(int64_t value) override { return &sides.emplace_back(std::to_string(value)); }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a, const IDimensionExpr& b) override {
    const char* const sign = op == DimensionOperation::kPROD ? "*" : "?";
    return &sides.emplace_back(static_cast<const Side&>(a).name + sign + static_cast<const Side&>(b).name);
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override { return nullptr; }
  std::deque<Side> sides;
};

template <class T>
T* capability(void* plugin, PluginCapabilityType type) {
  return static_cast<T*>(static_cast<IPluginV3*>(plugin)->getCapabilityInterface(type));
}
IPluginV3OneBuild* build_of(void* plugin) { return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }
IPluginV3OneRuntime* runtime_of(void* plugin) { return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME); }

// `numbers`: for each of 5 tensors the number of axes, then 8 sides.
Dims dims_of(const int64_t* numbers, int tensor) {
  Dims dims{};
  dims.nbDims = int32_t(numbers[9 * tensor]);
  std::memcpy(dims.d, numbers + 9 * tensor + 1, sizeof dims.d);
  return dims;
}

}  // namespace

extern "C" {

const char* last_message() { return told.c_str(); }

// "name version namespace field" of the only creator.
const char* open_library(const char* path) {
  static std::string names;
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return dlerror();
  using Creators = IPluginCreatorInterface* const* (*)(int32_t&);
  const auto creators = reinterpret_cast<Creators>(dlsym(library, "getCreators"));
  const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  if (!creators || !set_finder) return "a function is missing";
  set_finder(&finder);
  int32_t count = 0;
  IPluginCreatorInterface* const* const all = creators(count);
  if (count != 1 || std::strcmp(all[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE")) return "not one creator of V3";
  creator = static_cast<IPluginCreatorV3One*>(all[0]);
  names = std::string(creator->getPluginName()) + ' ' + creator->getPluginVersion() + ' ' + creator->getPluginNamespace();
  const PluginFieldCollection* const fields = creator->getFieldNames();
  for (int32_t i = 0; i < fields->nbFields; ++i) names += ' ' + std::string(fields->fields[i].name);
  return names.c_str();
}

void* make(const char* field, const void* sizes, int type, int count) {
  const PluginField one(field, sizes, PluginFieldType(type), count);
  const PluginFieldCollection fields{1, &one};
  return creator->createPlugin("layer", &fields, TensorRTPhase::kBUILD);
}

void destroy(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

// Stores the fields in memory of its own, as an engine does, ends the plugin, and returns one that was made from what was stored.
void* restored(void* plugin) {
  struct Kept {
    std::string name;
    std::vector<char> bytes;
    PluginFieldType type;
    int32_t length;
  };
  std::vector<Kept> kept;
  const PluginFieldCollection* const given = runtime_of(plugin)->getFieldsToSerialize();
  for (int32_t i = 0; i < given->nbFields; ++i) {
    const PluginField& field = given->fields[i];
    const size_t size = field.type == PluginFieldType::kINT32 ? 4 : 8;
    const char* const bytes = static_cast<const char*>(field.data);
    kept.push_back({field.name, {bytes, bytes + size * size_t(field.length)}, field.type, field.length});
  }
  destroy(plugin);
  std::vector<PluginField> fields;
  for (const Kept& field : kept) fields.emplace_back(field.name.c_str(), field.bytes.data(), field.type, field.length);
  const PluginFieldCollection collection{int32_t(fields.size()), fields.data()};
  const std::unique_ptr<IPluginV3> stored(creator->createPlugin("layer", &collection, TensorRTPhase::kRUNTIME));
  kept.clear();
  return stored ? runtime_of(stored.get())->attachToContext(nullptr) : nullptr;
}

void* cloned(void* plugin) { return static_cast<IPluginV3*>(plugin)->clone(); }

// The sides of the output, separated by spaces, from those of value and logits; empty for a refusal.
const char* output_shape(void* plugin, const char* const* value, const char* const* logits) {
  static std::string shape;
  Builder builder;
  DimsExprs inputs[4] = {};
  const auto fill = [&](DimsExprs& to, const char* const* names) {
    for (; *names; ++names) to.d[to.nbDims++] = &builder.sides.emplace_back(*names);
  };
  fill(inputs[0], value), fill(inputs[3], logits);
  DimsExprs output{};
  shape.clear();
  if (build_of(plugin)->getOutputShapes(inputs, 4, nullptr, 0, &output, 1, builder)) return "";
  for (int32_t i = 0; i < output.nbDims; ++i) shape += (i ? " " : "") + static_cast<const Side*>(output.d[i])->name;
  return shape.c_str();
}

int output_type(void* plugin, const int* types) {
  DataType inputs[4], output;
  for (int i = 0; i < 4; ++i) inputs[i] = DataType(types[i]);
  return build_of(plugin)->getOutputDataTypes(&output, 1, inputs, 4) ? -1 : int(output);
}

int supports(void* plugin, int position, const int* types, const int* formats) {
  DynamicPluginTensorDesc tensors[5] = {};
  for (int i = 0; i < 5; ++i) tensors[i].desc.type = DataType(types[i]), tensors[i].desc.format = TensorFormat(formats[i]);
  return build_of(plugin)->supportsFormatCombination(position, tensors, 4, 1);
}

// Configures for the shapes, announces them and runs; 1, 2 or 3 names the call that refused.
int run(void* plugin, const int64_t* numbers, const int* types, const void* const* inputs, void* output) {
  DynamicPluginTensorDesc wide[5] = {};
  PluginTensorDesc tensors[5] = {};
  for (int i = 0; i < 5; ++i) {
    tensors[i].dims = dims_of(numbers, i), tensors[i].type = DataType(types[i]), tensors[i].format = TensorFormat::kLINEAR;
    wide[i].desc = tensors[i], wide[i].min = wide[i].max = wide[i].opt = tensors[i].dims;
  }
  if (build_of(plugin)->configurePlugin(wide, 4, wide + 4, 1)) return 1;
  IPluginV3OneRuntime* const runtime = runtime_of(plugin);
  if (runtime->onShapeChange(tensors, 4, tensors + 4, 1)) return 2;
  return runtime->enqueue(tensors, tensors + 4, inputs, &output, nullptr, nullptr) ? 3 : 0;
}
}
