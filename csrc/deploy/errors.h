// A user's mistake: one line "what (where); hint", as in Python (rfdetr_repro/spec/errors.py).
#pragma once

#include <stdexcept>
#include <string>

namespace rfdetr::deploy {

struct InputError : std::runtime_error {
  explicit InputError(const std::string& what, const std::string& where = "", const std::string& hint = "")
      : std::runtime_error(one_line(what + (where.empty() ? "" : " (" + where + ")") + (hint.empty() ? "" : "; " + hint))) {}

 private:
  static std::string one_line(std::string text) {
    for (char& letter : text) letter = letter >= 0 && letter < ' ' ? ' ' : letter;
    return text;
  }
};

}  // namespace rfdetr::deploy
