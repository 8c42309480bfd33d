// The readers of csrc/deploy on spoiled copies of files: sanitized_readers SEED COUNT FILE...
//
// Every copy has bytes replaced, removed or repeated, or its end cut off. Each is read as what the file is, a manifest (.json) or
// a picture; the program ends with 0 unless a reader does something else than return or raise its own exceptions.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/deploy/manifest.h"
#include "../../csrc/deploy/picture.h"

namespace {

using rfdetr::deploy::InputError;

std::string spoiled(std::string text, std::mt19937_64& random) {
  const auto below = [&](size_t count) { return size_t(random() % (count ? count : 1)); };
  for (size_t changes = 1 + below(4); changes > 0 && !text.empty(); --changes) {
    const size_t at = below(text.size()), length = std::min(1 + below(16), text.size() - at);
    switch (below(5)) {
      case 0:
        text[at] = char(below(256));
        break;
      case 1:
        text.resize(at);
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), length));
        break;
      default:
        text[at] = std::string("{}[]\",:\\u0e-")[below(12)];
    }
  }
  return text;
}

bool reads(const std::string& text, bool manifest) {
  try {
    if (manifest) {
      rfdetr::deploy::ManifestReader::read(text);
    } else {
      const auto picture = rfdetr::deploy::decode(text, true);
      if (picture.pixels.size() != size_t(3 * picture.height * picture.width)) std::abort();
    }
    return true;
  } catch (const std::invalid_argument&) {
  } catch (const InputError&) {
  }
  return false;
}

}  // namespace

int main(int count, char** words) {
  std::mt19937_64 random(std::strtoull(words[1], nullptr, 10));
  const int copies = std::atoi(words[2]);
  for (int i = 3; i < count; ++i) {
    const std::filesystem::path path = words[i];
    const std::string text = rfdetr::deploy::read_file(path, "unreadable");
    const bool manifest = path.extension() == ".json";
    if (!reads(text, manifest)) return 1;
    int good = 0;
    for (int copy = 0; copy < copies; ++copy) good += reads(spoiled(text, random), manifest);
    std::printf("%s %d of %d\n", path.filename().c_str(), good, copies);
  }
  return 0;
}
