// The one exception type: a boundary that refuses an input says what is wrong, where, and how to mend it.
// The arithmetic core never throws; it returns a status.
#pragma once

#include <stdexcept>
#include <string>

namespace fp4scope {

/// Thrown at boundaries (files, configuration, arguments).
/// what() is one line, "where: what (mend)", ready for a terminal.
/// `exit_code` follows the command-line contract: 1 a failed input or I/O, 2 a wrong command line or configuration.
class Error : public std::runtime_error {
 public:
  Error(const std::string& where, const std::string& what, const std::string& mend = "", int code = 1)
      : std::runtime_error(where + ": " + what + (mend.empty() ? "" : " (" + mend + ")")),
        problem(what + (mend.empty() ? "" : " (" + mend + ")")),
        exit_code(code) {}

  std::string problem;  ///< the line without its "where: ", for whoever knows the place better
  int exit_code;
};

/// An Error about how the program was called, exit code 2.
class UsageError : public Error {
 public:
  UsageError(const std::string& where, const std::string& what, const std::string& mend = "")
      : Error(where, what, mend, 2) {}
};

}  // namespace fp4scope
