// A sweep as a TOML file: inputs x formats x blocks x methods, and formats of one's own. app/default_sweep.toml shows
// every key.
#pragma once

#include <string>
#include <vector>

#include "analysis/distributions.hpp"
#include "analysis/format_table.hpp"

namespace fp4scope::analysis {

/// One [[input]]: a file with globs, or a distribution, once for every sigma and seed.
struct InputSpec {
  std::string name;                          ///< default: the file's name or the distribution's
  std::string file;                          ///< "" for a distribution; ${NAME} is read from the environment
  std::vector<std::string> tensors = {"*"};  ///< globs over tensor names
  std::vector<std::string> exclude;
  Distribution distribution;  ///< its sigma and seed are the first of these lists
  std::vector<double> sigmas;
  std::vector<std::uint64_t> seeds;
};

/// [activations]: none, synthetic for every column count, or a tensor of a file for the inputs it fits.
struct ActivationsSpec {
  enum class Kind { none, synthetic, file } kind = Kind::none;
  SyntheticActivations synthetic;
  std::string file;
  std::string tensor;
};

/// One [[quantize]]: a Cartesian product. Empty lists and words mean the defaults of the format and the method.
struct GridSpec {
  std::vector<std::string> inputs;  ///< names; empty: all
  std::vector<std::string> formats;
  std::vector<int> blocks;
  std::vector<std::string> methods;
  std::vector<std::string> selects;
  std::vector<std::string> tensor_scales;
  int scale_max = 0;
  std::vector<std::string> recipes = {"exact"};
  std::vector<std::string> roundings;  ///< empty: the recipe's own
  std::vector<int> hadamards = {0};    ///< points of the rotation along the rows, 0 for none
  std::vector<bool> tiles = {false};   ///< square blocks
};

struct SweepConfig {
  std::uint64_t seed = 1;
  bool per_block = false;  ///< write scale codes and squared errors of every block
  bool decompose = false;  ///< write where the errors come from: terms, causes, places
  std::string nonfinite = "refuse";
  std::vector<InputSpec> inputs;
  ActivationsSpec activations;
  Formats formats = std::make_shared<const FormatTable>();  ///< the built-in ones and [format.NAME]
  std::vector<GridSpec> grids;
  std::string folder;  ///< relative file names start here: the folder of the TOML file; not part of the configuration
};

/// `where` names the file in errors. Throws UsageError with the line: bad TOML, an unknown key, name, kind or type
/// (with the nearest right one), an empty product.
SweepConfig parse_sweep(const std::string& toml, const std::string& where);

/// The same configuration with every default written out, keys sorted: parse_sweep of it gives it again.
std::string canonical_toml(const SweepConfig& config);

/// `file` relative to the configuration's folder, with ${NAME} expanded. Throws Error for an unset variable.
std::string resolve_path(const SweepConfig& config, const std::string& file);

}  // namespace fp4scope::analysis
