// A recipe's operations one by one, so that a difference between two recipes has a reason: which rounding decides.
//
// The operations of one block's scale, or of one element, are a list of binary32 steps. Evaluating the list gives what
// sim::block_value and sim::data_value compute (a test holds it to that), except for tensors that are zero or tiny, for
// which recipes have rules that are no operations. Evaluating it again with one step left
// unrounded tells whether that rounding alone moved the result across a boundary.
#pragma once

#include <string>
#include <vector>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

/// One operation on earlier results or on inputs.
struct TraceStep {
  std::string text;  ///< "S * fl(1/6)"
  std::string name;  ///< "S", "" without
  char operation;    ///< '*', '/', and with Hopper's bits 'r' for rcp(right), '~' for /~
  int left, right;   ///< step numbers, or ~k for operand k
  bool to_bf16 = false;
};

/// Steps over operands: the tensor's amax, the block's amax, an element, the scale's value, constants.
struct Trace {
  std::vector<double> operands;
  std::vector<TraceStep> steps;

  /// Every step's result. `unrounded`: the step that stays in binary64, -1 for none.
  std::vector<double> evaluate(int unrounded = -1) const;
};

/// From a and b to v; recipe `exact` has one rounding, of its tensor scale. Empty for recipe `rational`.
Trace scale_trace(const QuantizeConfig& config, float a, float b);

/// From a, the scale's value s and x to y. Empty for recipes without a y, whose decision is a comparison.
Trace data_trace(const QuantizeConfig& config, float a, float s, float x);

/// "S = 2688 / a = 614.4, S * fl(1/6) = 102.4, v = 232.00002": the steps with their values.
std::string describe(const Trace& trace);

}  // namespace fp4scope::analysis
