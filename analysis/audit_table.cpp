// The results table of an audit: a column a line, with its meaning and how it is taken from a tensor.
#include <fmt/format.h>

#include <limits>

#include "analysis/audit.hpp"
#include "analysis/names.hpp"

namespace fp4scope::analysis {
namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : none;
}

const Fingerprint& fingerprint(const AuditedTensor& t) {
  static const Fingerprint absent = {"", 0, 0, {}, {}, {}};
  return t.original ? t.original->fingerprint : absent;
}

double ulps(const RecipeShare& r) {
  return r.tensor_scale_ulps ? static_cast<double>(*r.tensor_scale_ulps) : none;
}

struct AuditColumn {
  io::Column column;
  io::Cell (*cell)(const AuditedTensor&);
};

using Tensor = const AuditedTensor&;

/// Of the bytes.
const std::vector<AuditColumn>& byte_columns() {
  static const std::vector<AuditColumn> columns = {
      {{"tensor", "", "the weight that it stands for"}, [](Tensor t) -> io::Cell { return t.name; }},
      {{"layout", "", "whose layout the checkpoint has"}, [](Tensor t) -> io::Cell { return t.layout; }},
      {{"format", "", "the block format"}, [](Tensor t) -> io::Cell { return std::string(t.format->name); }},
      {{"block", "1", "elements that share a scale"}, [](Tensor t) -> io::Cell { return std::int64_t{t.block}; }},
      {{"rows", "1", "rows of the matrix"}, [](Tensor t) -> io::Cell { return t.rows; }},
      {{"padded_cols", "1", "columns as stored"}, [](Tensor t) -> io::Cell { return t.cols; }},
      {{"tensor_scale", "1", "the multiplier on decode; 1 where there is none"},
       [](Tensor t) -> io::Cell { return static_cast<double>(t.tensor_scale); }},
      {{"tensor_scale_stored", "", "as the multiplier, as its reciprocal, or not at all"},
       [](Tensor t) -> io::Cell {
         return std::string(!t.scaled ? "none" : t.reciprocal ? "reciprocal" : "multiplier");
       }},
      {{"blocks", "1", "blocks in the tensor"}, [](Tensor t) -> io::Cell { return t.counts.blocks(); }},
      {{"code_entropy", "bit", "entropy of the element codes, an element"},
       [](Tensor t) -> io::Cell { return entropy(t.counts.codes); }},
      {{"scale_entropy", "bit", "entropy of the scale bytes, a scale"},
       [](Tensor t) -> io::Cell { return entropy(t.counts.scales); }},
      {{"saturated_share", "1", "share of elements of the largest magnitude that the format has"},
       [](Tensor t) -> io::Cell { return share(t.counts.saturated(), t.counts.elements()); }},
      {{"minus_zeros", "1", "elements coded -0"}, [](Tensor t) -> io::Cell { return t.counts.minus_zeros(); }},
      {{"plus_zeros", "1", "elements coded 0"}, [](Tensor t) -> io::Cell { return t.counts.plus_zeros(); }},
      {{"zero_blocks", "1", "blocks whose elements are zeros"},
       [](Tensor t) -> io::Cell { return t.counts.zero_blocks(); }},
      {{"zero_scales", "1", "blocks whose scale is 0"},
       [](Tensor t) -> io::Cell { return t.counts.value_zero_scales(); }},
      {{"nan_scales", "1", "blocks whose scale is NaN"}, [](Tensor t) -> io::Cell { return t.counts.nan_scales(); }},
      {{"subnormal_scales", "1", "blocks whose scale is subnormal and not 0"},
       [](Tensor t) -> io::Cell { return t.counts.subnormal_scales(); }},
      {{"negative_scales", "1", "blocks whose scale has the sign bit"},
       [](Tensor t) -> io::Cell { return t.counts.negative_scales(); }},
      {{"least_scale", "1", "the least scale byte of a block that is not zeros; -1 without one"},
       [](Tensor t) -> io::Cell { return std::int64_t{t.counts.least_scale()}; }},
      {{"largest_scale", "1", "the largest scale byte of a block that is not zeros; -1 without one"},
       [](Tensor t) -> io::Cell { return std::int64_t{t.counts.largest_scale()}; }},
      {{"lossless_nvfp4", "1", "1: the same codes and values as NVFP4; 0: not; NaN: no MXFP4 in blocks of 16 or 32"},
       [](Tensor t) -> io::Cell { return t.lossless ? static_cast<double>(t.lossless->possible) : none; }},
      {{"lossless_exponent", "1", "log2 of the NVFP4 tensor scale that keeps the largest blocks"},
       [](Tensor t) -> io::Cell { return t.lossless ? static_cast<double>(t.lossless->exponent) : none; }},
      {{"lossy_blocks", "1", "blocks of 16 that have no E4M3 scale at that tensor scale"},
       [](Tensor t) -> io::Cell { return t.lossless ? static_cast<double>(t.lossless->outside) : none; }},
      {{"evidence", "", "what the bytes are consistent with"},
       [](Tensor t) -> io::Cell { return join(t.evidence, "; "); }},
  };
  return columns;
}

/// Beside the original.
const std::vector<AuditColumn>& original_columns() {
  static const std::vector<AuditColumn> columns = {
      {{"dtype", "", "element type of the original; empty without one"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->dtype : ""; }},
      {{"weight_error", "1", "relative Frobenius norm of the weight error"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->weight_error() : none; }},
      {{"sqnr_db", "dB", "signal to quantization noise"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->sqnr_db() : none; }},
      {{"optimal_error", "1", "the least weight error with this format, block and tensor scale"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->optimal_error() : none; }},
      {{"gap", "1", "weight_error / optimal_error - 1"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->gap() : none; }},
      {{"optimal_share", "1", "share of blocks that no scale and elements could improve"},
       [](Tensor t) -> io::Cell { return t.original ? t.original->optimal_share() : none; }},
      {{"worse_blocks", "1", "blocks that another scale or other elements would improve"},
       [](Tensor t) -> io::Cell {
         return t.original && t.original->sums.searched ? static_cast<double>(t.original->worse()) : none;
       }},
      {{"verdict", "", "recipe, mixture or none; empty without an original"},
       [](Tensor t) -> io::Cell { return fingerprint(t).verdict; }},
      {{"recipe", "", "the recipe and METHOD that reproduce the most blocks"},
       [](Tensor t) -> io::Cell { return fingerprint(t).first.name; }},
      {{"recipe_share", "1", "share of blocks that the recipe reproduces, scale and codes"},
       [](Tensor t) -> io::Cell {
         return t.original ? fingerprint(t).share(fingerprint(t).first.blocks) : none;
       }},
      {{"recipe_ulps", "1", "the tensor scale less the recipe's own, in units of the last place; NaN without"},
       [](Tensor t) -> io::Cell { return ulps(fingerprint(t).first); }},
      {{"same_recipes", "", "other recipes that reproduce the same blocks of the sample"},
       [](Tensor t) -> io::Cell { return join(fingerprint(t).same, "; "); }},
      {{"second_recipe", "", "the recipe that reproduces the most of the sample's other blocks"},
       [](Tensor t) -> io::Cell { return fingerprint(t).second.name; }},
      {{"second_share", "1", "share of blocks that the second recipe reproduces and the first does not"},
       [](Tensor t) -> io::Cell {
         return t.original ? fingerprint(t).share(fingerprint(t).second.blocks) : none;
       }},
      {{"unexplained_share", "1", "share of blocks that neither recipe reproduces"},
       [](Tensor t) -> io::Cell {
         return t.original ? fingerprint(t).share(fingerprint(t).unexplained()) : none;
       }},
      {{"sample_blocks", "1", "blocks on which every recipe was tried"},
       [](Tensor t) -> io::Cell { return fingerprint(t).sample_blocks; }},
  };
  return columns;
}

io::Dataset histogram(const std::string& path, const Histogram& counts, const char* format, const char* what) {
  const std::vector<std::int64_t> data(counts.begin(), counts.end());
  return {path, {256}, data, {{"format", format}, {"description", what}}};
}

}  // namespace

AuditTable audit_table(const Audit& audit) {
  AuditTable table;
  table.columns.push_back({"run", "", "id of the row, as in /runs/<run>"});
  for (const auto* part : {&byte_columns(), &original_columns()}) {
    for (const AuditColumn& c : *part) table.columns.push_back(c.column);
  }
  for (std::size_t i = 0; i < audit.tensors.size(); ++i) {
    const AuditedTensor& t = audit.tensors[i];
    const std::string run = fmt::format("{:05}", i);
    io::Record record;
    record.row.push_back(run);
    for (const auto* part : {&byte_columns(), &original_columns()}) {
      for (const AuditColumn& c : *part) record.row.push_back(c.cell(t));
    }
    const std::string at = "/runs/" + run;
    record.datasets.push_back(
        histogram(at + "/codes", t.counts.codes, t.format->element.name, "elements by their code"));
    record.datasets.push_back(
        histogram(at + "/scale_codes", t.counts.scales, t.format->scale.name, "blocks by their scale byte"));
    table.records.push_back(std::move(record));
  }
  return table;
}

}  // namespace fp4scope::analysis
