#include "analysis/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "analysis/names.hpp"
#include "cuda/cuda.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

/// The numbers of "0,2"; empty if that is no such list.
std::vector<int> parse_numbers(const std::string& list) {
  std::vector<int> numbers;
  const char* at = list.data();
  const char* const end = at + list.size();
  for (;;) {
    int number = -1;
    const auto [stop, error] = std::from_chars(at, end, number);
    if (error != std::errc() || number < 0 || (stop != end && *stop != ',')) return {};
    numbers.push_back(number);
    if (stop == end) return numbers;
    at = stop + 1;
  }
}

}  // namespace

std::vector<int> parse_device(const std::string& word) {
  if (word == "cpu") return {};
  const std::string prefix = "cuda:";
  const bool listed = word.compare(0, prefix.size(), prefix) == 0;
  std::vector<int> numbers = listed ? parse_numbers(word.substr(prefix.size())) : std::vector<int>{};
  if (word != "cuda" && numbers.empty()) {
    throw UsageError("--device", "unknown device '" + word + "'",
                     suggestion(word, {"cpu", "cuda"}) + ", and cuda:0 or cuda:0,1 for some GPUs");
  }
  const auto count = static_cast<int>(cuda::devices().size());
  if (count == 0) throw Error("--device " + word, cuda::why_none(), "--device cpu");
  if (!listed) {
    numbers.resize(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
  }
  std::sort(numbers.begin(), numbers.end());
  if (std::adjacent_find(numbers.begin(), numbers.end()) != numbers.end()) {
    throw UsageError("--device", "'" + word + "' names a GPU twice");
  }
  if (numbers.back() >= count) {
    throw Error("--device " + word, fmt::format("no GPU {}", numbers.back()),
                count == 1 ? "there is GPU 0 alone" : fmt::format("there are GPUs 0 to {}", count - 1));
  }
  return numbers;
}

std::string device_text(const std::vector<int>& devices) {
  if (devices.empty()) return "cpu";
  std::vector<std::string> names;
  for (const int device : devices) names.push_back(cuda::devices().at(static_cast<std::size_t>(device)).name);
  const bool alike = std::count(names.begin(), names.end(), names[0]) == static_cast<std::ptrdiff_t>(names.size());
  if (!alike || names.size() == 1) return join(names);
  return fmt::format("{} x {}", names.size(), names[0]);
}

}  // namespace fp4scope::analysis
