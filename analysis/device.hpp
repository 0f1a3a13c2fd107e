// Where work is done: on the CPU, or on some of this host's GPUs.
#pragma once

#include <string>
#include <vector>

namespace fp4scope::analysis {

/// "cpu": none; "cuda": all GPUs; "cuda:1", "cuda:0,2": these. Throws UsageError for another word, Error for a GPU that
/// isn't there.
std::vector<int> parse_device(const std::string& word);

/// "2 x NVIDIA H200", for logs; "cpu" for none.
std::string device_text(const std::vector<int>& devices);

}  // namespace fp4scope::analysis
