#include "io/complain.hpp"

#include <cerrno>
#include <cstddef>
#include <system_error>

namespace fp4scope::io {
namespace {

const char* mend_for(int number) {
  switch (number) {
    case ENOENT: return "check the name; folders must exist";
    case ENOTDIR: return "a part of the path is not a folder";
    case EISDIR: return "name a file, not a folder";
    case EACCES:
    case EPERM:
    case EROFS: return "check the permissions";
    case ENOSPC:
    case EDQUOT: return "free some space or write elsewhere";
    case EFBIG: return "raise the file size limit (ulimit -f) or write elsewhere";
    case ENAMETOOLONG: return "choose a shorter name";
    default: return "";
  }
}

}  // namespace

std::string shown(std::string_view path) {
  constexpr std::size_t longest = 400;
  constexpr char digits[] = "0123456789abcdef";
  std::string line;
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (path.size() > longest && i == longest / 2) {
      line += "...";
      i = path.size() - longest / 2;
    }
    const auto byte = static_cast<unsigned char>(path[i]);
    if (byte >= 0x20 && byte != 0x7f) {
      line += path[i];
    } else {
      line += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return line;
}

std::string in_quotes(std::string_view name) { return "'" + shown(name) + "'"; }

std::string place(std::string_view path, std::string_view tensor) {
  return shown(path) + ", tensor " + in_quotes(tensor);
}

Error system_failure(std::string_view path, const std::string& doing, int number) {
  return Error(shown(path), "cannot " + doing + ": " + std::generic_category().message(number), mend_for(number));
}

}  // namespace fp4scope::io
