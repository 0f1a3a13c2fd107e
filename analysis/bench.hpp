// How fast the searches are: bf16 weights in memory to block scales and packed codes in memory, at a given tensor
// scale.
//
// The data are random and rounded to bf16; the tensor scale, and H for a Hessian method, are made before the clock
// starts. A copy of the input is timed beside them: what memory alone asks for.
//
// On a GPU memory is the GPU's, time is between two events of its stream, and each repeat goes once through so many
// copies of the input and the output that none of them is still in the cache.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fp4scope::analysis {

struct BenchWords {
  std::string format, scale;  ///< both empty: the standard table; else that method of that format beside naive
  int block = 0;              ///< 0: each format's
  std::int64_t rows = 2560, cols = 9728;
  int repeats = 7;
  std::string data = "normal";  ///< a name of distribution_names
  std::optional<int> device;    ///< a GPU; without: the CPU
};

/// One method's times. NaN is what a GPU doesn't tell: seconds and rates of threads, candidates.
struct BenchRow {
  std::string format, method;
  int block = 0;
  std::int64_t rows = 0;         ///< of those there are, as many as a second a repeat allows
  std::int64_t elements = 0;     ///< of these rows
  double median_seconds = 0;     ///< of wall-clock time
  double least_cpu_seconds = 0;  ///< of all threads together, which other programs disturb less
  double elements_per_second = 0;
  double elements_per_second_per_thread = 0;
  double candidates_per_block = 0;  ///< scales that the search evaluated
  double to_naive = 0;              ///< median time an element, in units of this format's naive
  double to_memcpy = 0;             ///< and of the copy
};

struct Bench {
  BenchWords words;
  int threads = 1;
  std::vector<BenchRow> table;  ///< memcpy first; the rest is left out after a stop
};

/// Where it stands: a share done, and what is timed.
using BenchProgress = std::function<void(double, const std::string&)>;

/// Throws UsageError for what the GPU can't do, for unknown words, columns that a block doesn't divide, elements of
/// more than 4 bits, and methods that don't leave the elements to the nearest.
Bench bench_search(const BenchWords& words, const BenchProgress& progress, const std::atomic<bool>* stop = nullptr);

}  // namespace fp4scope::analysis
