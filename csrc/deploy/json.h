// JSON, read strictly and written as Python's json.dumps writes strings: ASCII, with escapes for everything else.
//
// Refused, as rfdetr_repro/spec/files.py refuses them: text that is not UTF-8, an object with a key twice, NaN and infinite
// numbers, nesting deeper than kDeepest.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace rfdetr::deploy {

struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool truth = false;
  double number = 0;
  std::optional<int64_t> whole;   // of a number without fraction and exponent, within 64 bits
  std::string text;               // of a string, UTF-8; a lone surrogate keeps its three bytes
  std::vector<std::string> keys;  // of an object, in the order of `items`
  std::vector<Json> items;        // of an array or an object

  const Json* find(std::string_view key) const {
    for (size_t i = 0; i < keys.size(); ++i) {
      if (keys[i] == key) return &items[i];
    }
    return nullptr;
  }
};

inline void put_utf8(uint32_t code, std::string& to) {
  if (code < 0x80) {
    to.push_back(char(code));
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  to.push_back(char(kLead[more] | (code >> (6 * more))));
  for (int shift = 6 * (more - 1); shift >= 0; shift -= 6) to.push_back(char(0x80 | ((code >> shift) & 0x3F)));
}

// Takes one code point from the front of `text`; returns nothing, and takes nothing, where the bytes are not UTF-8. Surrogates
// are code points here.
inline std::optional<uint32_t> take_utf8(std::string_view& text) {
  const auto byte = [&](size_t i) { return i < text.size() ? uint32_t(uint8_t(text[i])) : 0; };
  const uint32_t first = byte(0);
  const size_t more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : first >> 3 == 30 ? 3 : 4;
  if (more == 4) return std::nullopt;
  uint32_t code = more == 0 ? first : first & (0x3Fu >> more);
  for (size_t i = 1; i <= more; ++i) {
    if (byte(i) >> 6 != 2) return std::nullopt;
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
  if (code < kLeast[more] || code > 0x10FFFF) return std::nullopt;
  text.remove_prefix(more + 1);
  return code;
}

class JsonReader {
 public:
  // The value that `text` holds; raises std::invalid_argument for anything else.
  static Json read(std::string_view text) {
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    JsonReader reader(text);
    Json value = reader.value(0);
    reader.space();
    if (reader.at_ < text.size()) reader.fail("more text after the value");
    return value;
  }

 private:
  static constexpr int kDeepest = 100;

  explicit JsonReader(std::string_view text) : text_(text) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("not usable JSON: " + what + " at byte " + std::to_string(at_));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("nested too deeply");
    space();
    Json found;
    if (take("null")) return found;
    const bool truth = take("true");
    if (truth || take("false")) {
      found.kind = Json::Kind::kBool;
      found.truth = truth;
    } else if (peek() == '"') {
      found.kind = Json::Kind::kString;
      found.text = string();
    } else if (take("[")) {
      found.kind = Json::Kind::kArray;
      members("]", [&] { found.items.push_back(value(depth + 1)); });
    } else if (take("{")) {
      found.kind = Json::Kind::kObject;
      members("}", [&] {
        space();
        std::string key = string();
        if (found.find(key)) fail("a key occurs twice");
        space();
        if (!take(":")) fail("no colon after a key");
        found.keys.push_back(std::move(key));
        found.items.push_back(value(depth + 1));
      });
    } else {
      number(found);
    }
    return found;
  }

  template <class Member>
  void members(std::string_view end, const Member& member) {
    space();
    if (take(end)) return;
    do {
      member();
      space();
    } while (take(","));
    if (!take(end)) fail("no comma and no end of a list or an object");
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("no value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  void number(Json& found) {
    const size_t start = at_;
    take("-");
    if (!take("0")) digits();
    const size_t end_of_whole = at_;
    if (take(".")) digits();
    if (take("e") || take("E")) {
      if (!take("+")) take("-");
      digits();
    }
    const char *from = text_.data() + start, *to = text_.data() + at_;
    found.kind = Json::Kind::kNumber;
    int64_t whole = 0;
    if (end_of_whole == at_ && std::from_chars(from, to, whole).ec == std::errc()) found.whole = whole;
    found.number = std::strtod(std::string(from, to).c_str(), nullptr);
    if (!std::isfinite(found.number)) fail("an infinite number");
  }

  uint32_t hex() {
    uint32_t code = 0;
    const std::string_view four = text_.substr(at_, 4);
    const auto read = std::from_chars(four.data(), four.data() + four.size(), code, 16);
    if (four.size() < 4 || read.ec != std::errc() || read.ptr != four.data() + 4) fail("not four hexadecimal digits");
    at_ += 4;
    return code;
  }

  std::string string() {
    if (!take("\"")) fail("no string");
    std::string found;
    while (!take("\"")) {
      if (uint8_t(peek()) < ' ') fail("no end of a string");
      if (take("\\")) {
        escape(found);
        continue;
      }
      std::string_view rest = text_.substr(at_);
      const std::optional<uint32_t> code = take_utf8(rest);
      if (!code || (*code >= 0xD800 && *code < 0xE000)) fail("not UTF-8");
      put_utf8(*code, found);
      at_ = text_.size() - rest.size();
    }
    return found;
  }

  void escape(std::string& to) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    if (take("u")) {
      uint32_t code = hex();
      const size_t after = at_;
      if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
        const uint32_t low = hex();
        const bool pair = low >= 0xDC00 && low < 0xE000;
        code = pair ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) : code;
        at_ = pair ? at_ : after;
      }
      put_utf8(code, to);
      return;
    }
    const size_t which = kLetters.find(peek());
    if (at_ >= text_.size() || which == std::string_view::npos) fail("an unknown escape");
    to.push_back(kMeant[which]);
    ++at_;
  }

  std::string_view text_;
  size_t at_ = 0;
};

// `text` as a JSON string. A byte that is not UTF-8, as in names of files, becomes a low surrogate, as in Python.
inline std::string json_text(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string result = "\"";
  const auto put = [&](uint32_t unit) {
    result += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) result.push_back(kHex[(unit >> shift) & 15]);
  };
  while (!text.empty()) {
    const uint8_t byte = uint8_t(text.front());
    const std::optional<uint32_t> code = take_utf8(text);
    if (!code) {
      put(0xDC00u + byte);
      text.remove_prefix(1);
    } else if (*code >= 0x10000) {
      put(0xD800 + ((*code - 0x10000) >> 10));
      put(0xDC00 + ((*code - 0x10000) & 0x3FF));
    } else if (*code < ' ' || *code > '~') {
      put(*code);
    } else {
      if (*code == '"' || *code == '\\') result.push_back('\\');
      result.push_back(char(*code));
    }
  }
  return result + "\"";
}

}  // namespace rfdetr::deploy
