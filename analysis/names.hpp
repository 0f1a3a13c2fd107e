// Names that people type: find one, or say which right one was probably meant.
#pragma once

#include <string>
#include <vector>

namespace fp4scope::analysis {

/// The candidate of least edit distance (Damerau-Levenshtein, restricted; case ignored).
std::string nearest_name(const std::string& typed, const std::vector<std::string>& candidates);

/// "did you mean X? there are: A, B, C"
std::string suggestion(const std::string& typed, const std::vector<std::string>& candidates);

/// "A, B, C"
std::string join(const std::vector<std::string>& words, const std::string& separator = ", ");

/// Shell pattern against a whole name; '*' crosses '/'. As fnmatch(3).
bool matches(const std::string& pattern, const std::string& name);

}  // namespace fp4scope::analysis
