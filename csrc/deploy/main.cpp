// rfdetr-predict: detections of an exported model in pictures, as JSON on the standard output.
//
// The picture's pixels become the network's input, and its outputs boxes, labels, scores and masks, as python -m
// rfdetr_repro.predict does it. Exit codes: 0; 1 where a picture could not be read; 2 for a bad argument or a bad model.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "contract.h"
#include "errors.h"
#include "json.h"
#include "manifest.h"
#include "masks.h"
#include "onnxruntime.h"
#include "picture.h"
#include "preprocess.h"
#if defined(RFDETR_WITH_TENSORRT)
#include "tensorrt.h"
#endif

namespace rfdetr::deploy {
namespace {

constexpr const char* kUsage =
    "usage: rfdetr-predict --model MODEL.onnx [--threshold 0.3] [--threads 2] PICTURE...\n"
    "\n"
    "Detects objects in pictures and prints the JSON that python -m rfdetr_repro.predict writes to predictions.json, with all\n"
    "digits. A picture that cannot be read is reported and left out, and the exit code is 1.\n"
    "\n"
    "  --model MODEL.onnx   exported model, with its manifest MODEL.json beside it\n"
    "  --threshold T        lowest score, in 0..1, of detections that are printed (default 0.3)\n"
    "  --threads N          number of threads of the runtime (default 2)\n"
    "  --                   only names of pictures follow\n";

struct Options {
  std::string model;
  float threshold = 0.3f;
  int threads = 2;
  std::vector<std::string> pictures;
  bool help = false;
};

// The shortest text that reads back as the same number.
template <class Number>
std::string text_of(Number value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

template <class Number>
Number number_of(const std::string& option, const std::string& text, Number low, Number high) {
  Number value{};
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ec != std::errc() || read.ptr != text.data() + text.size() || !(value >= low && value <= high)) {
    throw InputError("a number from " + text_of(low) + " to " + text_of(high) + " is needed, not " + json_text(text), option);
  }
  return value;
}

Options parse(const std::vector<std::string>& words) {
  Options options;
  bool names_only = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (names_only || word.size() < 2 || word[0] != '-') {
      options.pictures.push_back(word);
      continue;
    }
    const size_t equal = word.find('=');
    const std::string option = word.substr(0, equal);
    const auto value = [&] {
      if (equal != std::string::npos) return word.substr(equal + 1);
      if (i + 1 == words.size()) throw InputError("a value is missing", option);
      return words[++i];
    };
    if (word == "--") {
      names_only = true;
    } else if (word == "--help" || word == "-h") {
      options.help = true;
    } else if (option == "--model") {
      options.model = value();
    } else if (option == "--threshold") {
      options.threshold = float(number_of<double>(option, value(), 0, 1));
    } else if (option == "--threads") {
      options.threads = number_of<int>(option, value(), 1, 1024);
    } else {
      throw InputError("unknown argument " + json_text(word), "", "see rfdetr-predict --help");
    }
  }
  if (options.help) return options;
  if (options.model.empty()) throw InputError("no model is given", "--model", "see rfdetr-predict --help");
  if (options.pictures.empty()) throw InputError("no picture is given", "", "see rfdetr-predict --help");
  std::error_code error;
  for (const std::string& picture : options.pictures) {
    if (!std::filesystem::exists(picture, error)) throw InputError("the image does not exist", picture, "check the path");
  }
  return options;
}

std::unique_ptr<Model> open_model(const Manifest& manifest, const Options& options) {
  const std::string content = load_model(options.model, manifest);
#if defined(RFDETR_WITH_TENSORRT)
  if (manifest.format == "tensorrt") return std::make_unique<TensorRt>(content, manifest, options.model);
#endif
  return std::make_unique<OnnxRuntime>(content, manifest, options.model, options.threads);
}

void check_detections(const Detections& found, const Manifest& manifest, const std::string& model) {
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!std::all_of(found.scores.begin(), found.scores.end(), finite) ||
      !std::all_of(found.boxes.begin(), found.boxes.end(), finite)) {
    throw InputError("the model gives numbers that are not finite", model,
                     "check for an overflow in half precision, and export the model again");
  }
  const int64_t classes = int64_t(manifest.class_names.size());
  for (const int64_t label : found.labels) {
    if (label < 0 || label >= classes) {
      throw InputError("the model returns the label " + std::to_string(label) + " for " + std::to_string(classes) + " classes",
                       model, "name all classes that the model was trained on");
    }
  }
}

// The objects of at least `threshold`, best first, as JSON.
std::string objects_of(Detections found, const Placement& place, const Manifest& manifest, float threshold) {
  place.cut_masks(found.masks, found.mask_height, found.mask_width);
  std::vector<size_t> order(found.scores.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return found.scores[a] > found.scores[b]; });
  std::erase_if(order, [&](size_t i) { return !(found.scores[i] >= threshold); });
  std::vector<std::string> counts;
  if (found.mask_height) {
    std::vector<const float*> maps;
    for (const size_t i : order) maps.push_back(found.masks.data() + int64_t(i) * found.mask_height * found.mask_width);
    counts = mask_counts(maps, found.mask_height, found.mask_width, place.image_h, place.image_w);
  }
  std::string json = "[";
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const size_t i = order[rank];
    const size_t label = size_t(found.labels[i]);
    float* box = found.boxes.data() + 4 * i;
    place.box_in_pixels(box);
    json += std::string(json.size() > 1 ? "," : "") + "\n   {\"category_id\": " + std::to_string(manifest.category_ids[label]) +
            ", \"class\": " + json_text(manifest.class_names[label]) + ", \"score\": " + text_of(found.scores[i]) +
            ", \"box_xyxy\": [";
    for (int side = 0; side < 4; ++side) json += (side ? ", " : "") + text_of(box[side]);
    json += "]";
    if (found.mask_height) {
      json += ", \"mask_rle\": {\"size\": [" + std::to_string(place.image_h) + ", " + std::to_string(place.image_w) +
              "], \"counts\": " + json_text(counts[rank]) + "}";
    }
    json += "}";
  }
  return json + "]";
}

// What the program prints; the list is closed also where an error of the model ends the work.
class Printed {
 public:
  ~Printed() { std::fputs(first_ ? "[]\n" : "\n]\n", stdout); }

  void entry(const std::string& path, const std::string& rest) {
    const std::string name = std::filesystem::path(path).filename().string();
    const std::string text = std::string(first_ ? "[\n" : ",\n") + " {\"image\": " + json_text(name) +
                             ", \"path\": " + json_text(path) + ", " + rest + "}";
    std::fwrite(text.data(), 1, text.size(), stdout);
    first_ = false;
  }

 private:
  bool first_ = true;
};

Picture read_picture(const std::string& path, bool reduce) {
  const std::string content = read_file(path, "the image cannot be read");
  try {
    return decode(content, reduce);
  } catch (const InputError& error) {
    throw error.at(path);
  } catch (const std::bad_alloc&) {
    throw InputError("cannot decode the image: it does not fit into memory", path, "cut the picture into tiles");
  }
}

// The entry of one picture, without its name.
std::string entry_of(const Picture& picture, Model& model, const Manifest& manifest, const Options& options) {
  Placement place(picture.height, picture.width, manifest);
  const Detections found = model.run(network_input(picture, place, manifest));
  check_detections(found, manifest, options.model);
  place.image_h = picture.whole_height;
  place.image_w = picture.whole_width;
  return "\"width\": " + std::to_string(place.image_w) + ", \"height\": " + std::to_string(place.image_h) +
         ", \"objects\": " + objects_of(found, place, manifest, options.threshold);
}

// RFDETR_ISA is an argument too: a wrong value is refused before anything is read.
void check_instruction_set() {
  try {
    pictures::isa_kernels();
  } catch (const std::runtime_error& error) {
    throw InputError(error.what());
  }
}

int work(const std::vector<std::string>& words) {
  const Options options = parse(words);
  if (options.help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  check_instruction_set();
  const Manifest manifest = load_manifest(options.model);
  const std::unique_ptr<Model> model = open_model(manifest, options);
  int code = 0;
  {
    Printed printed;
    for (const std::string& path : options.pictures) {
      Picture picture;
      try {
        picture = read_picture(path, manifest.rule.antialias && !manifest.rule.letterbox);
      } catch (const InputError& error) {  // the other pictures go on
        std::fprintf(stderr, "error: %s\n", error.what());
        printed.entry(path, "\"error\": " + json_text(error.what()));
        code = 1;
        continue;
      }
      printed.entry(path, entry_of(picture, *model, manifest, options));
    }
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw std::runtime_error("the standard output cannot be written");
  return code;
}

}  // namespace
}  // namespace rfdetr::deploy

int main(int count, char** words) {
  try {
    return rfdetr::deploy::work({words + 1, words + count});
  } catch (const rfdetr::deploy::InputError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
