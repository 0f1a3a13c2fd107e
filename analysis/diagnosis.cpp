#include "analysis/diagnosis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fp4scope::analysis {

namespace {

// When a sentence is worth saying.
constexpr double notable = 0.01;       // of the squared error, or of the blocks
constexpr double concentrated = 0.05;  // more of the squared error than of the elements
constexpr double outlying = 4;         // times the mean of columns or of rows
constexpr double uneven = 1.5;         // times the mean of positions
constexpr std::int64_t enough = 32;    // elements in a column or row, for its sum to say something
constexpr double bent = 0.0005;        // of magnitudes
constexpr double inflated = 0.02;      // octaves of scales
constexpr double coupled = 0.05;       // of output error over weight error

/// A share as "41.2 %", "0.13 %".
std::string percent(double share) {
  return std::fabs(share) >= 0.01 ? fmt::format("{:.1f} %", 100 * share) : fmt::format("{:.2g} %", 100 * share);
}
std::string cell(double share) {
  const std::string text = fmt::format("{:.2f}", 100 * share);
  return text == "-0.00" ? "0.00" : text;
}
double decibels(double mse) { return 0.0 - 10 * std::log10(mse); }  // no -0 for 1

std::string settings(const Decomposition& d) {
  const QuantizeConfig& c = d.config;
  std::string text = fmt::format("{} block {}{}, {}, tensor scale {}", c.format->name, c.block,
                                 c.tiles ? fmt::format("x{}", c.block) : "", c.method->name, c.scaling_text());
  if (c.recipe) text += ", recipe " + c.recipe_name();
  if (c.rounding != formats::Rounding::nearest_even) text += ", " + c.rounding_name();
  if (!d.transform.text().empty()) text += ", " + d.transform.text();
  return text;
}

std::string errors(const Decomposition& d) {
  const double mse = d.metrics.relative_mse();
  if (d.metrics.sse == 0) return "no error";
  return fmt::format("weight error {:.3f} %, SQNR {:.2f} dB", 100 * std::sqrt(mse), decibels(mse));
}

/// What each remedy leaves, those that help most first.
std::vector<std::string> remedy_words(const Decomposition& d) {
  std::vector<Remedy> remedies = d.remedies;
  std::stable_sort(remedies.begin(), remedies.end(), [](const Remedy& a, const Remedy& b) { return a.sse < b.sse; });
  std::vector<std::string> out;
  for (const Remedy& r : remedies) {
    const double gain = 1 - r.sse / d.metrics.sse;
    if (gain >= notable) out.push_back(fmt::format("with {}: {} less squared error", r.words, percent(gain)));
    else if (gain <= -notable) out.push_back(fmt::format("with {}: {} more squared error", r.words, percent(-gain)));
    else out.push_back(fmt::format("with {}: the same squared error within 1 %", r.words));
  }
  return out;
}

/// Block scales at an end of their format.
std::vector<std::string> scale_words(const Decomposition& d) {
  std::vector<std::string> out;
  const ScaleShares& s = d.scales;
  const char* const scale = d.config.format->scale.name;
  const double blocks = static_cast<double>(s.blocks), sse = d.metrics.sse;
  const auto share = [&](std::int64_t n) { return percent(static_cast<double>(n) / blocks); };
  const double underflow = d.causes.alone(Cause::underflow) / sse, overflow = d.causes.alone(Cause::overflow) / sse;
  const double low = s.blocks > 0 ? static_cast<double>(s.subnormal + s.zero) / blocks : 0;
  if (low >= notable || (s.subnormal + s.zero > 0 && underflow >= notable)) {
    std::string text;
    if (s.subnormal > 0) text = fmt::format("{} of block scales are subnormal in {}", share(s.subnormal), scale);
    if (s.zero > 0) text += fmt::format("{}{} of block scales are zero", text.empty() ? "" : ", ", share(s.zero));
    if (d.causes.chain && underflow >= notable)
      text += fmt::format(": {} of the squared error would vanish if the scale had no lower end", percent(underflow));
    else if (d.causes.chain) text += ", which costs less than 1 % of the squared error";
    out.push_back(text);
  } else if (d.causes.chain && underflow >= notable) {  // scales without subnormal codes
    out.push_back(
        fmt::format("{} of the squared error would vanish if {} had no lower end", percent(underflow), scale));
  }
  if (d.causes.chain && overflow >= notable) {
    out.push_back(
        fmt::format("{} of block scales are {}'s largest: {} of the squared error would vanish if it had no "
                    "upper end",
                    share(s.largest), scale, percent(overflow)));
  }
  return out;
}

/// What a step does, to stand before "costs".
std::string step_words(const Decomposition& d, Cause cause) {
  const char* const scale = d.config.format->scale.name;
  switch (cause) {
    case Cause::tensor_scale: return "rounding the tensor scale to binary32";
    case Cause::block_scale: return fmt::format("rounding block scales to {}", scale);
    case Cause::underflow: return fmt::format("the lower end of {}", scale);
    case Cause::overflow: return fmt::format("the upper end of {}", scale);
    case Cause::saturation: return "clipping elements at the largest level";
    case Cause::zero: return "rounding elements to 0";
    case Cause::grid: return "rounding elements from level to level";
  }
  return "";
}

Cause costliest(const Causes& causes) {
  const auto average = causes.shapley();
  return static_cast<Cause>(std::max_element(average.begin(), average.end()) - average.begin());
}

std::vector<std::string> step_sentences(const Decomposition& d) {
  const Causes& c = d.causes;
  const Cause most = costliest(c);
  std::vector<std::string> out = {
      fmt::format("averaged over all orders of ideal steps, {} costs most: {} of the squared error",
                  step_words(d, most), percent(c.shapley()[static_cast<std::size_t>(most)] / c.error()))};
  if (!c.chain) {
    out.push_back(
        "scales are taken as they are: this configuration has no chain of steps from maximum to scale that "
        "could be made ideal");
    return out;
  }
  const double block = c.alone(Cause::block_scale) / c.error();
  if (block >= notable) {
    out.push_back(fmt::format("with block scales as real numbers in {}'s range, {} of the squared error would vanish",
                              d.config.format->scale.name, percent(block)));
  } else if (block <= -notable) {
    out.push_back(
        fmt::format("with block scales as real numbers the squared error would grow by {}: rounding them "
                    "happens to help",
                    percent(-block)));
  }
  const auto cheap = [&c](Cause cause) { return std::fabs(c.alone(cause)) < notable * c.error(); };
  if (cheap(Cause::tensor_scale) && cheap(Cause::block_scale) && cheap(Cause::underflow) && cheap(Cause::overflow)) {
    out.push_back("none of the steps that make the scales costs 1 % of the squared error on its own");
  }
  return out;
}

WordTable step_table(const Decomposition& d) {
  const Causes& c = d.causes;
  const auto average = c.shapley(), ordered = c.in_order();
  WordTable t = {{"step made ideal", "alone %", "average %", "in order %"}, {}};
  for (std::size_t i = 0; i < average.size(); ++i) {
    const double alone = c.alone(static_cast<Cause>(i));
    const double largest = std::max({std::fabs(alone), std::fabs(average[i]), std::fabs(ordered[i])});
    if (largest / c.error() < 5e-5) continue;  // 0.00 in every column
    t.rows.push_back(
        {cause_names[i], cell(alone / c.error()), cell(average[i] / c.error()), cell(ordered[i] / c.error())});
  }
  return t;
}

WordTable term_table(const Decomposition& d) {
  const Terms& t = d.terms;
  WordTable out = {{"term", "of squared error %", "of elements %"}, {}};
  const double n = static_cast<double>(t.elements);
  const auto dead = static_cast<double>(t.dead), clipped = static_cast<double>(t.clipped);
  const std::string elements[term_count] = {"", cell(dead / n), "", cell(clipped / n)};
  for (int i = 0; i < term_count; ++i) {
    const auto term = static_cast<Term>(i);
    out.rows.push_back({term_names[i], cell(t.of(term, term) / t.error), elements[i]});
  }
  for (const Term other : {Term::dead_zone, Term::grid_noise}) {
    out.rows.push_back({fmt::format("2 <scale bias, {}>", term_names[static_cast<int>(other)]),
                        cell(2 * t.of(Term::scale_bias, other) / t.error), ""});
  }
  return out;
}

/// The run of magnitudes that holds most more of the error than of the elements.
std::string ratio_words(const Decomposition& d) {
  const Profile& p = d.places.by_ratio;
  const auto elements = static_cast<double>(d.metrics.elements);
  double best = 0, sum = 0, of_elements = 0, of_error = 0;
  std::size_t begin = 0, best_begin = 0, best_end = 0;
  for (std::size_t i = 0; i < p.count.size(); ++i) {
    if (sum <= 0) sum = 0, begin = i;
    sum += p.sse[i] / d.metrics.sse - static_cast<double>(p.count[i]) / elements;
    if (sum > best) best = sum, best_begin = begin, best_end = i + 1;
  }
  if (best < concentrated) return "the error is spread over magnitudes as the elements are";
  for (std::size_t i = best_begin; i < best_end; ++i) {
    of_elements += static_cast<double>(p.count[i]) / elements;
    of_error += p.sse[i] / d.metrics.sse;
  }
  return fmt::format("|x| / amax in {:.2f}..{:.2f} holds {} of the elements and {} of the squared error",
                     static_cast<double>(best_begin) / ratio_bins, static_cast<double>(best_end) / ratio_bins,
                     percent(of_elements), percent(of_error));
}

/// Columns or rows far above the mean. "" where their sums are of too few elements.
std::string outlier_words(const Decomposition& d, const Profile& p, const std::string& what, std::int64_t elements) {
  const std::size_t n = p.sse.size();
  if (elements < enough || n < 2) return "";
  const double mean = d.metrics.sse / static_cast<double>(n);
  double of_error = 0, of_energy = 0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (p.sse[i] <= outlying * mean) continue;
    ++count;
    of_error += p.sse[i] / d.metrics.sse;
    of_energy += p.energy[i] / d.metrics.energy;
  }
  if (count == 0) {
    const double most = *std::max_element(p.sse.begin(), p.sse.end()) / mean;
    return fmt::format("{}s: none has more than {:.1f} times the mean squared error", what, std::ceil(10 * most) / 10);
  }
  if (of_error < concentrated) return "";
  return fmt::format(
      "{} of {} {}s {} {} of the squared error (and {} of the energy), more than {:.0f} times the mean "
      "{}'s each",
      count, n, what, count == 1 ? "holds" : "hold", percent(of_error), percent(of_energy), outlying, what);
}

std::string position_words(const Decomposition& d) {
  const Profile& p = d.places.by_position;
  // Errors per element: the last positions of a padded block have fewer.
  double most = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < p.sse.size(); ++i) {
    if (p.count[i] < enough) continue;
    const double mean = p.sse[i] / static_cast<double>(p.count[i]);
    if (mean > most) most = mean, where = i;
  }
  const double times = most / (d.metrics.sse / static_cast<double>(d.metrics.elements));
  if (times < uneven) return "";
  return fmt::format("position {} of each block has {:.1f} times the mean squared error", where, times);
}

/// The magnitude of stored codes that holds most more of the error than of the elements. IF4's codes mean two things.
std::string code_words(const Decomposition& d) {
  const formats::BlockFormat& f = *d.config.format;
  if (f.element.bits > 4 || f.selects()) return "";
  double excess[8] = {}, of_elements[8] = {}, of_error[8] = {}, level[8] = {};
  for (std::uint32_t code = 0; code < f.element.code_count(); ++code) {
    const double value = std::fabs(formats::element_value(f, code));
    int k = 0;
    while (k < 8 && std::fabs(formats::element_value(f, static_cast<std::uint32_t>(k))) != value) ++k;
    if (k == 8) continue;  // two's complement's most negative code, which is never stored
    level[k] = value;
    of_elements[k] += static_cast<double>(d.places.by_code.count[code]) / static_cast<double>(d.metrics.elements);
    of_error[k] += d.places.by_code.sse[code] / d.metrics.sse;
  }
  for (int k = 0; k < 8; ++k) excess[k] = of_error[k] - of_elements[k];
  const auto k = std::max_element(excess, excess + 8) - excess;
  if (excess[k] < concentrated) return "";
  return fmt::format("elements stored as {}{} are {} of all and hold {} of the squared error", k == 0 ? "" : "+-",
                     level[k], percent(of_elements[k]), percent(of_error[k]));
}

std::vector<std::string> place_words(const Decomposition& d) {
  std::vector<std::string> out = {ratio_words(d), code_words(d),
                                  outlier_words(d, d.places.by_column, "column", d.shape.rows),
                                  outlier_words(d, d.places.by_row, "row", d.shape.cols), position_words(d)};
  const double shrinkage = d.places.shrinkage() - 1;
  if (std::fabs(shrinkage) >= bent) {
    out.push_back(fmt::format("magnitudes {} by {}", shrinkage < 0 ? "shrink" : "grow", percent(std::fabs(shrinkage))));
  }
  const double inflation = d.terms.log_inflation / static_cast<double>(d.terms.blocks);
  if (d.terms.blocks > 0 && std::fabs(inflation) >= inflated) {
    out.push_back(fmt::format("scales are {:.3f} times the least that doesn't clip, amax / {}, in geometric mean",
                              std::exp2(inflation), d.config.format->element_max()));
  }
  std::erase(out, "");
  return out;
}

std::vector<std::string> layer_words(const Decomposition& d) {
  const LayerError& l = *d.layer;
  std::vector<std::string> out;
  if (!(l.energy > 0)) return {"the layer's output is 0 for these inputs"};
  if (l.error == 0) return {"the layer's output has no error for these inputs"};
  out.push_back(fmt::format("layer output error {:.3f} %, dot-product SNR {:.2f} dB, with inputs in {}, naive, too",
                            100 * std::sqrt(l.error / l.energy), l.dot_snr_db(), d.config.format->name));
  if (d.metrics.sse == 0) return out;
  const double by_weights = std::sqrt(l.inner[0][0] / l.energy),
               ratio = by_weights / std::sqrt(d.metrics.relative_mse());
  const std::string effect = ratio >= 1 + coupled   ? ": these inputs amplify the weights' errors"
                             : ratio <= 1 - coupled ? ": these inputs damp the weights' errors"
                                                    : "";
  out.push_back(fmt::format("output error by the weights alone {:.3f} %, {:.2f} times the weight error{}",
                            100 * by_weights, ratio, effect));
  return out;
}

WordTable output_table(const LayerError& l) {
  WordTable t = {{"output error by", "of squared error %"}, {}};
  if (!(l.error > 0)) return {};
  for (int i = 0; i < layer_term_count; ++i) t.rows.push_back({layer_term_names[i], cell(l.inner[i][i] / l.error)});
  for (int i = 0; i < layer_term_count; ++i) {
    for (int j = i + 1; j < layer_term_count; ++j) {
      t.rows.push_back(
          {fmt::format("2 <{}, {}>", layer_term_names[i], layer_term_names[j]), cell(2 * l.inner[i][j] / l.error)});
    }
  }
  return t;
}

void append(std::vector<std::string>& to, const std::vector<std::string>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

}  // namespace

Diagnosis diagnose(const Decomposition& d) {
  Diagnosis out;
  out.headline = fmt::format("{}: {}x{}, {}: {}", d.name, d.shape.rows, d.shape.cols, settings(d), errors(d));
  if (d.metrics.sse > 0) {
    out.causes = remedy_words(d);
    append(out.causes, scale_words(d));
    append(out.causes, step_sentences(d));
    out.steps = step_table(d);
    out.terms = term_table(d);
    out.places = place_words(d);
  }
  if (!d.layer) return out;
  out.layer = layer_words(d);
  out.outputs = output_table(*d.layer);
  return out;
}

WordTable overview(const std::vector<Decomposition>& tensors) {
  WordTable t = {
      {"tensor", "shape", "weight error %", "SQNR dB", "costs most", "average %", "helps most", "less error %"}, {}};
  for (const Decomposition& d : tensors) {
    const double mse = d.metrics.relative_mse();
    std::vector<std::string> row = {d.name, fmt::format("{}x{}", d.shape.rows, d.shape.cols),
                                    fmt::format("{:.3f}", 100 * std::sqrt(mse)),
                                    mse > 0 ? fmt::format("{:.2f}", decibels(mse)) : "-"};
    if (d.metrics.sse > 0) {
      const Cause most = costliest(d.causes);
      append(row, {cause_names[static_cast<int>(most)],
                   cell(d.causes.shapley()[static_cast<std::size_t>(most)] / d.causes.error())});
    } else {
      append(row, {"-", "-"});
    }
    const auto best = std::min_element(d.remedies.begin(), d.remedies.end(),
                                       [](const Remedy& a, const Remedy& b) { return a.sse < b.sse; });
    const double gain = best != d.remedies.end() ? 1 - best->sse / d.metrics.sse : 0;
    if (gain >= notable) append(row, {best->words, cell(gain)});
    else append(row, {"-", "-"});
    t.rows.push_back(row);
  }
  return t;
}

std::vector<std::size_t> worst(const std::vector<Decomposition>& tensors, std::size_t count) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return tensors[a].metrics.relative_mse() > tensors[b].metrics.relative_mse();
  });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace fp4scope::analysis
