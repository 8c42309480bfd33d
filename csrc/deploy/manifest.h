// The manifest beside a model file (rfdetr_repro/export/artifact.py): what it states is checked before anything is run.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "errors.h"
#include "json.h"
#include "sha256.h"

namespace rfdetr::deploy {

// The fields of rfdetr_repro.export.artifact.Manifest; another field may mean work that this program does not do.
inline constexpr std::array<std::string_view, 25> kFields = {
    "sha256",      "size_bytes", "model",   "class_names", "category_ids",  "inputs",   "outputs",  "params", "flops",
    "precision",   "format",     "opset",   "input_range", "normalisation", "contract", "resize",   "schema", "packages",
    "onnx_sha256", "build",      "islands", "census",      "adoption",      "batch",    "quantised"};

// How a picture becomes the size of the input (rfdetr_repro/spec/resize_rules.py).
struct ResizeRule {
  std::string_view name;
  bool antialias, letterbox;
};
inline constexpr std::array<ResizeRule, 4> kResizeRules = {{
    {"pillow bilinear, antialiased, aspect ratio not kept", true, false},
    {"pillow bilinear, antialiased, aspect ratio kept, centred on grey 114", true, true},
    {"bilinear of the four nearest pixels, not antialiased, aspect ratio not kept", false, false},
    {"bilinear of the four nearest pixels, not antialiased, aspect ratio kept, centred on grey 114", false, true},
}};

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;  // below 1: unknown before a run
  std::string dtype;           // as NumPy names it

  bool operator==(const Tensor&) const = default;
};

// "images float32 (1, 3, 384, 384)".
inline std::string described(const Tensor& tensor) {
  std::string sides;
  for (const int64_t side : tensor.shape) sides += (sides.empty() ? "" : ", ") + std::to_string(side);
  return tensor.name + " " + tensor.dtype + " (" + sides + ")";
}

struct Manifest {
  std::string sha256, format;
  int64_t size_bytes = 0;
  std::vector<std::string> class_names;
  std::vector<int64_t> category_ids;
  Tensor input;  // (images, 3, height, width)
  std::vector<Tensor> outputs;
  ResizeRule rule = kResizeRules[0];
  bool open_batch = false;  // the file takes any number of images

  int64_t height() const { return input.shape[2]; }
  int64_t width() const { return input.shape[3]; }
};

// The bytes of a regular file; raises InputError with `what` in front of the reason.
inline std::string read_file(const std::filesystem::path& path, const std::string& what) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw InputError(what + ": this is a folder", path.string());
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    throw InputError(what + ": this is not a regular file", path.string());
  }
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  std::string content;
  if (stream) content.resize(size_t(std::filesystem::file_size(path)));
  if (!stream.read(content.data(), std::streamsize(content.size())))
    throw InputError(what + ": " + std::strerror(errno ? errno : EIO), path.string(), "check the path");
  return content;
}

class ManifestReader {
 public:
  // Raises std::invalid_argument for text that is not the manifest of a file that this program can run.
  static Manifest read(std::string_view text) {
    const Json json = JsonReader::read(text);
    need(json.kind == Json::Kind::kObject && json.find("schema") && json.find("schema")->whole == 1, "its schema is not 1");
    for (const std::string& key : json.keys) {
      need(std::find(kFields.begin(), kFields.end(), key) != kFields.end(), "unknown field " + json_text(key.substr(0, 60)));
    }
    return ManifestReader(json).manifest();
  }

 private:
  explicit ManifestReader(const Json& json) : json_(json) {}

  static void need(bool fulfilled, const std::string& what) {
    if (!fulfilled) throw std::invalid_argument(what);
  }

  static const Json& at(const Json& object, const std::string& key, Json::Kind kind) {
    const Json* found = object.find(key);
    need(found, key + " is missing");
    need(found->kind == kind, key + " has another type");
    return *found;
  }

  const Json& list(const std::string& key) const { return at(json_, key, Json::Kind::kArray); }

  // The text at `key`, or `absent` where the manifest leaves the key out.
  std::string text(const std::string& key, const std::string& absent) const {
    return json_.find(key) ? at(json_, key, Json::Kind::kString).text : absent;
  }

  static Tensor tensor(const Json& json) {
    need(json.kind == Json::Kind::kObject, "an input or output is not an object");
    Tensor found{at(json, "name", Json::Kind::kString).text, {}, at(json, "dtype", Json::Kind::kString).text};
    for (const Json& side : at(json, "shape", Json::Kind::kArray).items) {
      need(side.whole && *side.whole > 0 && *side.whole < int64_t(1) << 31, "a side of " + found.name + " is out of range");
      found.shape.push_back(*side.whole);
    }
    return found;
  }

  Manifest manifest() const {
    Manifest found;
    found.sha256 = at(json_, "sha256", Json::Kind::kString).text;
    need(found.sha256.size() == 64 && found.sha256.find_first_not_of("0123456789abcdef") == std::string::npos,
         "sha256 is not a SHA-256 hash");
    const Json& size = at(json_, "size_bytes", Json::Kind::kNumber);
    need(size.whole && *size.whole >= 0, "size_bytes is out of range");
    found.size_bytes = *size.whole;
    found.format = text("format", "onnx");
    classes(found);
    tensors(found);
    preprocessing(found);
    return found;
  }

  void classes(Manifest& found) const {
    for (const Json& name : list("class_names").items) {
      need(name.kind == Json::Kind::kString, "a class name is not text");
      found.class_names.push_back(name.text);
    }
    std::set<int64_t> known;  // an id below 0 is a class that the data set lacks
    for (const Json& id : list("category_ids").items) {
      need(id.whole.has_value(), "a category id is not a whole number");
      need(*id.whole < 0 || known.insert(*id.whole).second, "two classes have one category id");
      found.category_ids.push_back(*id.whole);
    }
    need(found.class_names.size() == found.category_ids.size(), "class names and category ids differ in number");
  }

  void tensors(Manifest& found) const {
    for (const Json& json : list("outputs").items) found.outputs.push_back(tensor(json));
    need(!found.outputs.empty() && list("inputs").items.size() == 1, "the model has no outputs, or not one input");
    found.input = tensor(list("inputs").items[0]);
    const Tensor& input = found.input;
    need(input.shape.size() == 4 && input.shape[1] == 3, "the input is not a batch of RGB images");
    need(input.dtype == "float32" || input.dtype == "float16", "images of the type " + input.dtype + " are not supported");
    const Json* batch = json_.find("batch");
    found.open_batch = batch && batch->kind == Json::Kind::kString && batch->text == "dynamic";
    const std::optional<int64_t> images = batch && !found.open_batch ? batch->whole : 1;
    need(images == input.shape[0], "the batch does not fit the shape of the input");
    need(input.shape[0] * 3 < (int64_t(1) << 31) / input.shape[2] / input.shape[3], "the input is too large");
  }

  // What the model file leaves to the program that runs it.
  void preprocessing(Manifest& found) const {
    const std::string rule = text("resize", std::string(kResizeRules[0].name));
    const auto known = std::find_if(kResizeRules.begin(), kResizeRules.end(), [&](const auto& one) { return one.name == rule; });
    need(known != kResizeRules.end(), "unknown resize rule " + json_text(rule.substr(0, 100)));
    found.rule = *known;
    const Json* range = json_.find("input_range");
    const bool unit = !range || (range->items.size() == 2 && range->items[0].kind == Json::Kind::kNumber &&
                                 range->items[0].number == 0 && range->items[1].number == 1);
    need(unit, "the input's range is not 0 to 1");
    const std::string contract = text("contract", "decoded"), normalisation = text("normalisation", "inside the graph");
    need(contract == "decoded",
         "the contract " + json_text(contract.substr(0, 60)) + " is not decoded: export with that contract");
    const bool inside = normalisation.find("inside the graph") != std::string::npos ||
                        normalisation.find("added to the graph") != std::string::npos;
    need(inside, "unknown normalisation " + json_text(normalisation.substr(0, 100)));
  }

  const Json& json_;
};

// NAME.json for NAME.onnx, NAME.EXT.json for any other file.
inline std::filesystem::path manifest_path(const std::filesystem::path& model) {
  std::filesystem::path path = model;
  const bool replaced = model.extension() == ".onnx" || model.extension() == ".json" || model.extension().empty();
  return replaced ? path.replace_extension(".json") : path += ".json";
}

inline Manifest load_manifest(const std::filesystem::path& model) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(model, error)) {
    throw InputError("the model does not exist, or is not a file", model.string(),
                     "make the file with python -m rfdetr_repro.export");
  }
  const std::filesystem::path path = manifest_path(model);
  if (!std::filesystem::exists(path, error)) {
    const std::string hint = "keep " + path.filename().string() + " next to " + model.filename().string();
    throw InputError("the model has no manifest", path.string(), hint + ", or export the model again");
  }
  try {
    return ManifestReader::read(read_file(path, "the manifest cannot be read"));
  } catch (const std::invalid_argument& reason) {
    throw InputError("not a manifest that this program can run: " + std::string(reason.what()), path.string(),
                     "export the model again");
  }
}

// The bytes of the model, which are those that the manifest describes.
inline std::string load_model(const std::filesystem::path& model, const Manifest& manifest) {
  std::string content = read_file(model, "the model cannot be read");
  const std::string found = sha256(content);
  if (found != manifest.sha256 || int64_t(content.size()) != manifest.size_bytes) {
    const std::string what = "the file's hash (" + found.substr(0, 12) + ", " + std::to_string(content.size()) + " bytes)";
    throw InputError(what + " differs from the hash in its manifest (" + manifest.sha256.substr(0, 12) + ")", model.string(),
                     "export the model again");
  }
  return content;
}

}  // namespace rfdetr::deploy
