// The words of this folder's errors: names that are safe on one terminal line, places, and the system's reasons.
#pragma once

#include <string>
#include <string_view>

#include "formats/error.hpp"

namespace fp4scope::io {

/// The name in single quotes on one line: control characters as \xNN, the middle of a very long name left out.
std::string in_quotes(std::string_view name);

/// A path as it is shown in front of an error: one line, no quotes.
std::string shown(std::string_view path);

/// "PATH, tensor 'NAME'"
std::string place(std::string_view path, std::string_view tensor);

/// The Error for a failed system call: "PATH: cannot DO: reason (mend)". `number` is its errno.
Error system_failure(std::string_view path, const std::string& doing, int number);

}  // namespace fp4scope::io
