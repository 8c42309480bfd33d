// A user's mistake: one line "what (where); hint", as in Python (rfdetr_repro/spec/errors.py).
#pragma once

#include <stdexcept>
#include <string>

namespace rfdetr::deploy {

struct InputError : std::runtime_error {
  std::string fault, hint;

  explicit InputError(const std::string& fault, const std::string& where = "", const std::string& hint = "")
      : std::runtime_error(one_line(fault + (where.empty() ? "" : " (" + where + ")") + (hint.empty() ? "" : "; " + hint))),
        fault(fault),
        hint(hint) {}

  // The same error in `where`, which only the caller knows.
  InputError at(const std::string& where) const { return InputError(fault, where, hint); }

 private:
  static std::string one_line(std::string text) {
    for (char& letter : text) letter = letter >= 0 && letter < ' ' ? ' ' : letter;
    return text;
  }
};

}  // namespace rfdetr::deploy
