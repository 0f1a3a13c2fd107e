// Why two orders of operation give a block another scale, or an element another code: the numbers that each computes,
// the real one, and the rounding that decides.
#pragma once

#include "analysis/crosscheck.hpp"

namespace fp4scope::analysis {

/// "-0.6484375 (0xbf260000)"
std::string hex(float x);

/// The scale's boundary next to a value: "halfway between 0x76 (224) and 0x77 (240)" where it is one.
std::string place_of_scale(const formats::Format& scale, double v);

/// What a run computes for a block's scale; `right`: the code that real numbers give, -1 where that is no question.
std::string scale_line(const RecipeRun& run, float a, float b, int code, int right);
/// The same for an element at the scale's value s.
std::string code_line(const RecipeRun& run, float a, float s, float x, int code, int right);

/// Two runs side by side, in lines: a and b the amax of tensor and block, x an element, s its scale's value.
std::string explain_scale(const RecipeRun& one, const RecipeRun& other, float a, float b, int code, int other_code);
std::string explain_code(const RecipeRun& one, const RecipeRun& other, float a, float s, float x, int code,
                         int other_code);

}  // namespace fp4scope::analysis
