#include "analysis/sweep_record.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "analysis/parts_record.hpp"
#include "analysis/theory.hpp"

namespace fp4scope::analysis {

namespace {

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// A part of the squared error over the energy; 0 over 0 is 0, as in relative_mse.
double relative(const Result& r, double part) { return part == 0 ? 0 : part / r.m.energy; }

double term(const Result& r, Term a, Term b) { return r.parts ? relative(r, r.parts->terms.of(a, b)) : none; }

double cause(const Result& r, Cause c) {
  return r.parts ? relative(r, r.parts->causes.shapley()[static_cast<std::size_t>(c)]) : none;
}

/// Theory speaks of the normal distribution before it was rounded to its dtype, not rotated.
double expected(const Result& r) {
  const bool normal = !r.tensor.file && r.tensor.distribution.kind == "normal" && !r.tensor.transform.rotated();
  return normal ? expected_relative_mse(r.q.config, r.q.tensor_scale, r.tensor.distribution.sigma) : none;
}

struct ColumnRow {
  const char* name;
  const char* unit;
  const char* description;
  io::Cell (*cell)(const Result&);
};

// The table's columns: notebooks-data/schema.md is held against them by a test.
// clang-format off
const ColumnRow column_rows[] = {
    {"run", "", "id of the run, the group /runs/<run>", [](const Result& r) -> io::Cell { return r.work.run; }},
    {"input", "", "name of the input", [](const Result& r) -> io::Cell { return r.tensor.input_name; }},
    {"tensor", "", "name of the tensor, or the distribution", [](const Result& r) -> io::Cell { return r.tensor.name; }},
    {"rows", "1", "rows of the matrix", [](const Result& r) -> io::Cell { return r.tensor.shape.rows; }},
    {"cols", "1", "columns of the matrix", [](const Result& r) -> io::Cell { return r.tensor.shape.cols; }},
    {"padded_cols", "1", "columns after padding to a multiple of the block", [](const Result& r) -> io::Cell { return r.q.cols; }},
    {"dtype", "", "type of the data as stored or sampled", [](const Result& r) -> io::Cell { return r.tensor.dtype; }},
    {"sigma", "1", "standard deviation that the distribution was given, NaN for a file", [](const Result& r) -> io::Cell { return r.tensor.file ? none : r.tensor.distribution.sigma; }},
    {"seed", "1", "seed of the distribution, 0 for a file", [](const Result& r) -> io::Cell { return r.tensor.file ? std::int64_t{0} : static_cast<std::int64_t>(r.tensor.distribution.seed); }},
    {"hadamard", "1", "points of the rotation along the rows, 0 without", [](const Result& r) -> io::Cell { return std::int64_t{r.tensor.transform.hadamard}; }},
    {"format", "", "block format", [](const Result& r) -> io::Cell { return r.q.config.format->name; }},
    {"block", "1", "elements that share a block scale", [](const Result& r) -> io::Cell { return std::int64_t{r.q.config.block}; }},
    {"method", "", "how block scales are chosen", [](const Result& r) -> io::Cell { return r.q.config.method->name; }},
    {"recipe", "", "whose order of operations", [](const Result& r) -> io::Cell { return r.q.config.recipe_name(); }},
    {"rounding", "", "of elements", [](const Result& r) -> io::Cell { return r.q.config.rounding_name(); }},
    {"block_2d", "1", "1 where a block is square, else 0", [](const Result& r) -> io::Cell { return std::int64_t{r.q.config.tiles}; }},
    {"select", "", "criterion between candidate scales, empty where none are", [](const Result& r) -> io::Cell { return r.q.config.method->chooses() ? select_names[static_cast<std::size_t>(r.q.config.select)] : ""; }},
    {"tensor_scale_rule", "", "amax, none, search, headroom, soar or the value given", [](const Result& r) -> io::Cell { return r.q.config.scaling_text(); }},
    {"scale_max", "1", "block scale that the tensor scale aims at, 0 without", [](const Result& r) -> io::Cell { return std::int64_t{r.q.config.scaling == TensorScaling::amax ? r.q.config.scale_max : 0}; }},
    {"amax", "1", "largest magnitude of the tensor", [](const Result& r) -> io::Cell { return static_cast<double>(r.q.amax); }},
    {"tensor_scale", "1", "multiplier on decode, 1 without", [](const Result& r) -> io::Cell { return static_cast<double>(r.q.tensor_scale); }},
    {"activations", "", "source of the activations, empty without", [](const Result& r) -> io::Cell { return r.layer.activations_name; }},
    {"tokens", "1", "rows of the activations, 0 without", [](const Result& r) -> io::Cell { return r.layer.activations ? r.layer.activations->tokens : 0; }},
    {"blocks", "1", "blocks of the tensor", [](const Result& r) -> io::Cell { return r.m.blocks; }},
    {"weight_error", "1", "|Wq - W|_F / |W|_F", [](const Result& r) -> io::Cell { return std::sqrt(r.m.relative_mse()); }},
    {"relative_mse", "1", "|Wq - W|_F^2 / |W|_F^2", [](const Result& r) -> io::Cell { return r.m.relative_mse(); }},
    {"relative_mse_error", "1", "standard error of relative_mse over blocks", [](const Result& r) -> io::Cell { return r.m.relative_mse_error(); }},
    {"relative_mse_low", "1", "lower end of its 95 % interval", [](const Result& r) -> io::Cell { return r.m.relative_mse_low(); }},
    {"relative_mse_high", "1", "upper end of its 95 % interval", [](const Result& r) -> io::Cell { return r.m.relative_mse_high(); }},
    {"naive_ratio", "1", "squared error over naive's at the same tensor scale", [](const Result& r) -> io::Cell { return r.m.naive_ratio(); }},
    {"naive_ratio_low", "1", "lower end of its 95 % interval, paired over blocks", [](const Result& r) -> io::Cell { return r.m.naive_ratio_low(); }},
    {"naive_ratio_high", "1", "upper end of its 95 % interval, paired over blocks", [](const Result& r) -> io::Cell { return r.m.naive_ratio_high(); }},
    {"expected_relative_mse", "1", "what theory expects of a normal distribution, NaN elsewhere", [](const Result& r) -> io::Cell { return expected(r); }},
    {"output_error", "1", "|X Wq^T - X W^T|_F / |X W^T|_F, NaN without activations", [](const Result& r) -> io::Cell { return r.m.output_error; }},
    {"block_output_error", "1", "output error as if blocks did not interact, NaN without activations", [](const Result& r) -> io::Cell { return r.m.block_output_error; }},
    {"mse", "1", "mean of (wq - w)^2", [](const Result& r) -> io::Cell { return r.m.sse / static_cast<double>(r.m.elements); }},
    {"sqnr_db", "dB", "-10 log10(relative_mse)", [](const Result& r) -> io::Cell { return -10 * std::log10(r.m.relative_mse()); }},
    {"max_error", "1", "max |wq - w|", [](const Result& r) -> io::Cell { return r.m.max_error; }},
    {"moved_share", "1", "share of blocks whose scale code is not naive's at the same tensor scale", [](const Result& r) -> io::Cell { return share(r.m.moved_up + r.m.moved_down, r.m.blocks); }},
    {"moved_up_share", "1", "share of blocks whose scale code is above naive's", [](const Result& r) -> io::Cell { return share(r.m.moved_up, r.m.blocks); }},
    {"moved_down_share", "1", "share of blocks whose scale code is below naive's", [](const Result& r) -> io::Cell { return share(r.m.moved_down, r.m.blocks); }},
    {"mean_move", "codes", "mean |scale code - naive's|", [](const Result& r) -> io::Cell { return share(r.m.distance, r.m.blocks); }},
    {"four_share", "1", "share of blocks that 4over6 maps to 4, or that if4 makes INT4; 0 for other methods", [](const Result& r) -> io::Cell { return share(r.q.chose_second, r.m.blocks); }},
    {"zero_share", "1", "share of elements quantized to zero", [](const Result& r) -> io::Cell { return share(r.m.zeros, r.m.elements); }},
    {"saturated_share", "1", "share of elements above their block's largest value", [](const Result& r) -> io::Cell { return share(r.m.saturated, r.m.elements); }},
    {"underflow_share", "1", "share of blocks with non-zero data and a zero scale", [](const Result& r) -> io::Cell { return share(r.m.underflowed, r.m.blocks); }},
    {"subnormal_share", "1", "share of blocks whose scale code is subnormal and not zero", [](const Result& r) -> io::Cell { return share(r.m.subnormal, r.m.blocks); }},
    {"shrinkage", "1", "sum |wq| / sum |w|", [](const Result& r) -> io::Cell { return r.m.shrinkage(); }},
    {"scale_bias_term", "1", "squared norm of the scale bias / sum w^2, NaN unless decomposed", [](const Result& r) -> io::Cell { return term(r, Term::scale_bias, Term::scale_bias); }},
    {"dead_zone_term", "1", "squared norm of the dead zone / sum w^2, NaN unless decomposed", [](const Result& r) -> io::Cell { return term(r, Term::dead_zone, Term::dead_zone); }},
    {"grid_noise_term", "1", "squared norm of the grid noise / sum w^2, NaN unless decomposed", [](const Result& r) -> io::Cell { return term(r, Term::grid_noise, Term::grid_noise); }},
    {"clipping_term", "1", "squared norm of the clipping / sum w^2, NaN unless decomposed", [](const Result& r) -> io::Cell { return term(r, Term::clipping, Term::clipping); }},
    {"scale_dead_term", "1", "twice the product of scale bias and dead zone / sum w^2", [](const Result& r) -> io::Cell { return 2 * term(r, Term::scale_bias, Term::dead_zone); }},
    {"scale_grid_term", "1", "twice the product of scale bias and grid noise / sum w^2", [](const Result& r) -> io::Cell { return 2 * term(r, Term::scale_bias, Term::grid_noise); }},
    {"log_inflation", "1", "mean log2 of the block scale over the ideal one", [](const Result& r) -> io::Cell { return r.parts ? r.parts->terms.log_inflation / static_cast<double>(r.parts->terms.blocks) : none; }},
    {"dead_share", "1", "share of elements in the dead zone", [](const Result& r) -> io::Cell { return r.parts ? share(r.parts->terms.dead, r.m.elements) : none; }},
    {"clipped_share", "1", "share of elements that are clipped", [](const Result& r) -> io::Cell { return r.parts ? share(r.parts->terms.clipped, r.m.elements) : none; }},
    {"cause_tensor_scale", "1", "squared error by rounding the tensor scale / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::tensor_scale); }},
    {"cause_block_scale", "1", "squared error by rounding the block scale's mantissa / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::block_scale); }},
    {"cause_underflow", "1", "squared error by subnormal and zero scale codes / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::underflow); }},
    {"cause_overflow", "1", "squared error by scale codes that saturate / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::overflow); }},
    {"cause_saturation", "1", "squared error by clipped elements / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::saturation); }},
    {"cause_zero", "1", "squared error by elements rounded to zero / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::zero); }},
    {"cause_grid", "1", "squared error by rounding to a level / sum w^2 (Shapley average), NaN unless decomposed", [](const Result& r) -> io::Cell { return cause(r, Cause::grid); }},
    {"chain", "1", "1 where the scale steps could be made ideal, else 0", [](const Result& r) -> io::Cell { return std::int64_t{r.parts && r.parts->causes.chain}; }},
    {"bits_per_weight", "bit", "codes, block scales and tensor scale, padding included", [](const Result& r) -> io::Cell { return bits_per_weight(r.q, r.tensor.shape.cols); }},
    {"input_hash", "", "FNV-1a of shape and binary32 bits", [](const Result& r) -> io::Cell { return r.layer.hash; }},
    {"activations_hash", "", "FNV-1a of shape and binary32 bits of the activations, empty without", [](const Result& r) -> io::Cell { return r.layer.activations_hash; }},
    {"hessian_hash", "", "FNV-1a of the diagonal blocks of H, empty where the method has no H", [](const Result& r) -> io::Cell { return r.q.hessian_hash; }},
    {"hessian_shift", "1", "largest shift that made a block of H positive semidefinite, 0 without", [](const Result& r) -> io::Cell { return r.q.hessian_shift; }},
    {"proved_share", "1", "share of blocks whose scale and elements together are proved best, 0 for other methods than joint", [](const Result& r) -> io::Cell { return share(r.q.proved, r.m.blocks); }},
};
// clang-format on

}  // namespace

std::vector<io::Column> sweep_columns() {
  std::vector<io::Column> columns;
  for (const ColumnRow& c : column_rows) columns.push_back({c.name, c.unit, c.description});
  return columns;
}

io::Record make_record(const Result& r, const std::vector<double>& block_sse, bool per_block) {
  io::Record record;
  for (const ColumnRow& column : column_rows) record.row.push_back(column.cell(r));

  const std::string group = "/runs/" + r.work.run + "/";
  std::vector<std::int32_t> offsets;
  for (int i = -move_reach; i <= move_reach; ++i) offsets.push_back(i);
  const std::int64_t bins = 2 * move_reach + 1;
  record.datasets.push_back({group + "scale_move_offsets",
                             {bins},
                             offsets,
                             {{"unit", "codes"}, {"description", "scale code - naive's; the ends hold all beyond"}}});
  record.datasets.push_back({group + "scale_moves",
                             {bins},
                             std::vector<std::int64_t>(r.m.moves.begin(), r.m.moves.end()),
                             {{"unit", "blocks"}, {"description", "blocks by scale_move_offsets"}}});
  if (r.parts) add_parts(*r.parts, *r.q.config.format, r.m.energy, group, record);
  if (!per_block) return record;
  const std::vector<std::int64_t> shape = {r.q.rows, r.q.blocks_per_row()};
  record.datasets.push_back(
      {group + "scales",
       shape,
       r.q.scales,
       {{"unit", "code"}, {"format", r.q.config.format->scale.name}, {"description", "block scale codes"}}});
  record.datasets.push_back(
      {group + "block_sse", shape, block_sse, {{"unit", "1"}, {"description", "sum of (wq - w)^2 over the block"}}});
  return record;
}

}  // namespace fp4scope::analysis
