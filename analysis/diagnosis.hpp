// A decomposition in words: what a reader should learn first, first. Every sentence has a condition under which it is
// said, and says no more than was measured.
#pragma once

#include <string>
#include <vector>

#include "analysis/decompose.hpp"

namespace fp4scope::analysis {

struct WordTable {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  ///< empty: nothing to show
};

struct Diagnosis {
  std::string headline;             ///< name, shape, configuration, weight error, SQNR
  std::vector<std::string> causes;  ///< what would help, what the scales do, what costs most
  WordTable steps;                  ///< of causes.hpp, those that matter, in percent of the squared error
  WordTable terms;                  ///< of terms.hpp, likewise
  std::vector<std::string> places;  ///< where the error sits
  std::vector<std::string> layer;   ///< output errors; empty without inputs
  WordTable outputs;                ///< of layer_error.hpp, in percent of the squared output error
};

Diagnosis diagnose(const Decomposition& d);

/// One line a tensor: how wrong it is, what costs most, what helps most.
WordTable overview(const std::vector<Decomposition>& tensors);

/// Indices of the `count` tensors of largest relative error, in the order of the file.
std::vector<std::size_t> worst(const std::vector<Decomposition>& tensors, std::size_t count);

}  // namespace fp4scope::analysis
