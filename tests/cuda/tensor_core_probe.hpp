// A device's outputs against the rows of sim/instructions.hpp and, where those fail, against every variant of
// tensor_core_variants.hpp: how many outputs differ, by kind of operands; which variant has none; which other variants
// the data doesn't tell apart; the smallest operands that do tell two apart.
#pragma once

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "sim/instructions.hpp"
#include "tests/cuda/tensor_core_sets.hpp"
#include "tests/cuda/tensor_core_variants.hpp"

namespace fp4scope::probe {

/// Fills batch.d. A warpgroup instruction's A comes from registers or from shared memory.
using RunSets = std::function<void(const sim::Instruction&, Batch&, bool a_in_registers)>;

using Rows = std::vector<const sim::Instruction*>;

/// The models of each instruction of an architecture: rows whose names differ after '@' alone, in the table's order.
inline std::vector<Rows> instructions_of(sim::Architecture architecture) {
  std::vector<Rows> out;
  const auto base = [](const std::string& name) { return name.substr(0, name.find('@')); };
  for (const sim::Instruction& r : sim::all_instructions) {
    if (r.architecture != architecture) continue;
    const auto found = std::find_if(out.begin(), out.end(),
                                    [&](const Rows& rows) { return base(rows[0]->name) == base(r.name); });
    if (found == out.end()) out.push_back({&r});
    else found->push_back(&r);
  }
  return out;
}

// ---- one set by a row ----

/// Operands of a set in a row's order of summation.
class Operands {
 public:
  Operands(const sim::Instruction& r, const Batch& batch, std::int64_t s) : r_(r), batch_(batch), s_(s) {
    decode(r.a, batch.a, std::int64_t{s} * r.m * r.k, r.m, r.k, 1, a_);
    decode(r.b, batch.b, std::int64_t{s} * r.k * r.n, r.n, 1, r.n, b_);
    if (!r.scaled) return;
    const int blocks = r.k / r.block;
    for (int i = 0; i < r.m * blocks; ++i)
      scale_a_.push_back(sim::decode_scale(r, batch.scale_a[static_cast<std::size_t>(s * r.m * blocks + i)]));
    for (int j = 0; j < r.n; ++j) {
      for (int i = 0; i < blocks; ++i)
        scale_b_.push_back(sim::decode_scale(r, batch.scale_b[static_cast<std::size_t>((s * blocks + i) * r.n + j)]));
    }
  }

  std::uint32_t expected(int i, int j) const {
    const std::uint32_t c = stored(batch_.c, (s_ * r_.m + i) * r_.n + j, width_of_c(r_));
    const int blocks = r_.scaled ? r_.k / r_.block : 0;
    return sim::accumulate(r_, at(a_, i), at(b_, j), c, r_.scaled ? scale_a_.data() + i * blocks : nullptr,
                           r_.scaled ? scale_b_.data() + j * blocks : nullptr);
  }

 private:
  struct Decoded {
    std::vector<std::int32_t> significand, exponent;
  };
  const sim::Instruction& r_;
  const Batch& batch_;
  std::int64_t s_;
  Decoded a_, b_;
  std::vector<sim::Operand> scale_a_, scale_b_;

  void decode(const formats::Format& f, const std::vector<std::uint8_t>& codes, std::int64_t first, int count, int step,
              int stride, Decoded& out) const {
    out.significand.resize(static_cast<std::size_t>(count * r_.k));
    out.exponent.resize(static_cast<std::size_t>(count * r_.k));
    std::uint32_t line[64];
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < r_.k; ++k) line[k] = stored(codes, first + i * step + k * stride, width_of(f)) >> place_of(f);
      sim::decode_elements(r_, f, line, 1, out.significand.data() + i * r_.k, out.exponent.data() + i * r_.k);
    }
  }
  sim::Operands at(const Decoded& x, int i) const {
    return {x.significand.data() + i * r_.k, x.exponent.data() + i * r_.k};
  }
};

/// Fills batch.d by a row.
inline void run_model(const sim::Instruction& r, Batch& batch) {
#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t s = 0; s < batch.count; ++s) {
    const Operands operands(r, batch, s);
    for (int i = 0; i < r.m; ++i) {
      for (int j = 0; j < r.n; ++j) store(batch.d, (s * r.m + i) * r.n + j, width_of_d(r), operands.expected(i, j));
    }
  }
}

// ---- single outputs ----

/// One output with all that it depends on.
struct Case {
  Kind kind;
  std::int64_t set;
  int i, j;
  std::vector<std::uint32_t> a, b;
  std::uint32_t c, d;
  std::vector<Term> a_terms, b_terms;

  Dot dot() const { return {a_terms.data(), b_terms.data(), c}; }
};

inline void decode_terms(const sim::Instruction& r, Case& x) {
  x.a_terms.clear(), x.b_terms.clear();
  for (const std::uint32_t code : x.a) x.a_terms.push_back(element(r.a, code));
  for (const std::uint32_t code : x.b) x.b_terms.push_back(element(r.b, code));
}

inline Case case_of(const sim::Instruction& r, const Batch& batch, std::int64_t s, int i, int j) {
  Case x = {kind_of(batch.first + s), batch.first + s, i, j, {}, {}, 0, 0, {}, {}};
  for (int k = 0; k < r.k; ++k) {
    x.a.push_back(stored(batch.a, (s * r.m + i) * r.k + k, width_of(r.a)) >> place_of(r.a));
    x.b.push_back(stored(batch.b, (s * r.k + k) * r.n + j, width_of(r.b)) >> place_of(r.b));
  }
  x.c = stored(batch.c, (s * r.m + i) * r.n + j, width_of_c(r));
  x.d = stored(batch.d, (s * r.m + i) * r.n + j, width_of_d(r));
  decode_terms(r, x);
  return x;
}

/// Terms of a set's rows of A and columns of B.
inline void set_terms(const sim::Instruction& r, const Batch& batch, std::int64_t s, std::vector<Term>& a,
                      std::vector<Term>& b) {
  a.clear(), b.clear();
  for (int i = 0; i < r.m * r.k; ++i)
    a.push_back(element(r.a, stored(batch.a, s * r.m * r.k + i, width_of(r.a)) >> place_of(r.a)));
  for (int j = 0; j < r.n; ++j) {
    for (int k = 0; k < r.k; ++k)
      b.push_back(element(r.b, stored(batch.b, (s * r.k + k) * r.n + j, width_of(r.b)) >> place_of(r.b)));
  }
}

/// Fills batch.d by a variant.
inline void run_variant(const sim::Instruction& r, const Variant& v, Batch& batch) {
  const auto steps = steps_of(r.k, v);
#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t s = 0; s < batch.count; ++s) {
    std::vector<Term> a, b;
    set_terms(r, batch, s, a, b);
    for (int i = 0; i < r.m; ++i) {
      for (int j = 0; j < r.n; ++j) {
        const Dot dot = {a.data() + i * r.k, b.data() + j * r.k,
            stored(batch.c, (s * r.m + i) * r.n + j, width_of_c(r))};
        store(batch.d, (s * r.m + i) * r.n + j, width_of_d(r), evaluate(r, v, steps, dot));
      }
    }
  }
}

// ---- counting ----

/// How an output differs from a model's. NaNs of other bits and zeros of the other sign say nothing about sums: they
/// are counted apart, and the search doesn't look at them.
enum class Difference : std::uint8_t { none, nan_bits, zero_sign, value };

inline Difference difference(const sim::Instruction& r, std::uint32_t x, std::uint32_t y) {
  if (x == y) return Difference::none;
  const std::uint32_t magnitude = r.f16_result() ? 0x7FFF : 0x7FFFFFFF, infinity = r.f16_result() ? 0x7C00 : 0x7F800000;
  if ((x & magnitude) > infinity && (y & magnitude) > infinity) return Difference::nan_bits;
  return ((x | y) & magnitude) == 0 ? Difference::zero_sign : Difference::value;
}

struct Tally {
  std::int64_t outputs = 0, mismatches = 0, nan_bits = 0, zero_signs = 0;
  std::uint32_t nan_seen = 0;  ///< the device's NaN where it isn't the model's

  bool clean() const { return mismatches == 0 && nan_bits == 0 && zero_signs == 0; }
  std::int64_t of_kind[kind_count] = {}, mismatches_of_kind[kind_count] = {};
};

/// Outputs of each set that differ from batch.d, added to a tally.
inline std::vector<int> count_mismatches(const sim::Instruction& r, const Batch& batch, const Batch& model,
                                         Tally& tally) {
  std::vector<int> differ(static_cast<std::size_t>(batch.count));
  const std::int64_t outputs = std::int64_t{r.m} * r.n;
  const int width = width_of_d(r);
  std::int64_t zero_signs = 0, nan_bits = 0;
  std::uint32_t nan_seen = 0;
#pragma omp parallel for reduction(+ : zero_signs, nan_bits) reduction(max : nan_seen)
  for (std::int64_t s = 0; s < batch.count; ++s) {
    int n = 0;
    for (std::int64_t i = s * outputs; i < (s + 1) * outputs; ++i) {
      const std::uint32_t got = stored(batch.d, i, width);
      const Difference what = difference(r, got, stored(model.d, i, width));
      n += what == Difference::value;
      zero_signs += what == Difference::zero_sign;
      nan_bits += what == Difference::nan_bits;
      if (what == Difference::nan_bits) nan_seen = std::max(nan_seen, got);
    }
    differ[static_cast<std::size_t>(s)] = n;
  }
  tally.zero_signs += zero_signs, tally.nan_bits += nan_bits, tally.nan_seen = std::max(tally.nan_seen, nan_seen);
  for (std::int64_t s = 0; s < batch.count; ++s) {
    const auto kind = static_cast<std::size_t>(kind_of(batch.first + s));
    const int n = differ[static_cast<std::size_t>(s)];
    tally.outputs += outputs, tally.mismatches += n;
    tally.of_kind[kind] += outputs, tally.mismatches_of_kind[kind] += n;
  }
  return differ;
}

/// Adds cases of a batch: of each kind some sets with the most and with the fewest mismatches, up to `most` outputs of
/// a set, those that differ first.
inline void collect(const sim::Instruction& r, const Batch& batch, const Batch& model, const std::vector<int>& differ,
                    int sets_a_kind, int most, std::vector<Case>& out) {
  for (int kind = 0; kind < kind_count; ++kind) {
    std::vector<std::int64_t> sets;
    for (std::int64_t s = 0; s < batch.count; ++s) {
      if (kind_of(batch.first + s) == static_cast<Kind>(kind)) sets.push_back(s);
    }
    std::stable_sort(sets.begin(), sets.end(), [&](std::int64_t x, std::int64_t y) {
      return differ[static_cast<std::size_t>(x)] > differ[static_cast<std::size_t>(y)];
    });
    const auto all = static_cast<int>(sets.size());
    for (int n = 0; n < std::min(sets_a_kind, all); ++n) {
      const std::int64_t s = sets[static_cast<std::size_t>(n % 2 == 0 ? n / 2 : all - 1 - n / 2)];
      int taken = 0;
      for (const bool want : {true, false}) {
        for (int at = 0; at < r.m * r.n && taken < most; ++at) {
          const int output = at * 37 % (r.m * r.n);
          const std::int64_t i = s * r.m * r.n + output;
          const Difference what = difference(r, stored(batch.d, i, width_of_d(r)), stored(model.d, i, width_of_d(r)));
          if ((what == Difference::value) != want) continue;
          if (!want && at >= most) break;
          out.push_back(case_of(r, batch, s, output / r.n, output % r.n));
          ++taken;
        }
      }
    }
  }
}

// ---- the search ----

struct Ranked {
  Variant variant;
  std::int64_t mismatches;
};

inline std::int64_t mismatches_of(const sim::Instruction& r, const Variant& v, const std::vector<Case>& cases) {
  const auto steps = steps_of(r.k, v);
  std::int64_t n = 0;
  for (const Case& x : cases) {
    n += difference(r, x.d, evaluate(r, v, steps, x.dot())) == Difference::value;
  }
  return n;
}

/// Fewest mismatches first; among equals those nearest to `base`.
inline void rank(const sim::Instruction& r, const Variant& base, const std::vector<Case>& cases,
                 const std::vector<Variant>& variants, std::size_t keep, std::vector<Ranked>& ranked) {
  std::vector<Ranked> found(variants.size());
#pragma omp parallel for schedule(dynamic, 8)
  for (std::size_t i = 0; i < variants.size(); ++i) {
    found[i] = {variants[i], mismatches_of(r, variants[i], cases)};
  }
  for (const Ranked& x : found) {
    const auto same = std::find_if(ranked.begin(), ranked.end(),
        [&](const Ranked& y) { return x.variant == y.variant; });
    if (same == ranked.end()) ranked.push_back(x);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [&](const Ranked& x, const Ranked& y) {
    if (x.mismatches != y.mismatches) return x.mismatches < y.mismatches;
    return distance(x.variant, base) < distance(y.variant, base);
  });
  if (ranked.size() > keep) ranked.resize(keep);
}

/// Up to `most` cases where a variant fails and as many where it doesn't, of every kind alike: what tells whether
/// another is better.
inline std::vector<Case> telling(const sim::Instruction& r, const Variant& v, const std::vector<Case>& cases,
                                 std::size_t most) {
  const auto steps = steps_of(r.k, v);
  std::vector<const Case*> split[2];
  for (const Case& x : cases)
    split[difference(r, x.d, evaluate(r, v, steps, x.dot())) == Difference::value].push_back(&x);
  std::vector<Case> out;
  for (const auto& part : split) {
    const std::size_t step = std::max<std::size_t>(1, (part.size() + most - 1) / most);
    for (std::size_t i = 0; i < part.size(); i += step) out.push_back(*part[i]);
  }
  return out;
}

/// The best variants: of every start and of all that differ from the row in one choice; then from the best ones one
/// choice at a time, until nothing gets better. Each time a few telling cases leave few variants for all cases.
inline std::vector<Ranked> search(const sim::Instruction& r, const std::vector<Case>& cases, std::size_t beam = 12) {
  const Variant base = variant_of(r);
  std::vector<Ranked> some, fewer, best;
  rank(r, base, telling(r, base, cases, 60), starts(r), 300, some);
  std::vector<Variant> next;
  for (const Ranked& x : some) next.push_back(x.variant);
  rank(r, base, telling(r, base, cases, 300), next, beam, fewer);
  next = neighbours(r, base);
  next.push_back(base);
  for (const Ranked& x : fewer) next.push_back(x.variant);
  rank(r, base, cases, next, beam, best);
  for (int round = 0; round < 8 && best[0].mismatches != 0; ++round) {
    const Variant leader = best[0].variant;
    next.clear();
    for (const Ranked& x : best) {
      for (const Variant& v : neighbours(r, x.variant)) next.push_back(v);
    }
    std::vector<Ranked> screened;
    rank(r, base, telling(r, leader, cases, 100), next, 4 * beam, screened);
    next.clear();
    for (const Ranked& x : screened) next.push_back(x.variant);
    rank(r, base, cases, next, beam, best);
    if (best[0].variant == leader) break;
  }
  next = neighbours(r, best[0].variant);  // which of them the cases don't tell apart from it
  rank(r, base, cases, next, 200, best);
  return best;
}

// ---- the smallest operands that tell two variants apart ----

/// The case of the fewest products where they differ, with ever more of it set to zero or to a simpler number;
/// a.empty() if there is none.
inline Case separating(const sim::Instruction& r, const Variant& v, const Variant& w, const std::vector<Case>& cases) {
  const auto v_steps = steps_of(r.k, v), w_steps = steps_of(r.k, w);
  const auto differ = [&](const Case& x) {
    return difference(r, evaluate(r, v, v_steps, x.dot()), evaluate(r, w, w_steps, x.dot())) == Difference::value;
  };
  const Case* found = nullptr;
  std::size_t fewest = ~std::size_t{0};
  for (const Case& x : cases) {
    std::size_t products = 0;
    for (std::size_t k = 0; k < x.a.size(); ++k)
      products += x.a_terms[k].significand != 0 && x.b_terms[k].significand != 0;
    if (products < fewest && differ(x)) found = &x, fewest = products;
  }
  if (!found) return {};
  Case x = *found;
  const auto keep = [&](std::uint32_t& code, std::uint32_t simpler) {
    if (code == simpler) return;
    const std::uint32_t was = code;
    code = simpler;
    decode_terms(r, x);
    if (!differ(x)) code = was, decode_terms(r, x);
  };
  for (int round = 0; round < 2; ++round) {
    for (std::size_t k = 0; k < x.a.size(); ++k) {
      keep(x.a[k], 0);
      keep(x.b[k], 0);
    }
    keep(x.c, 0);
    const auto simplify = [&](const formats::Format& f, std::uint32_t& code) {
      const std::uint32_t mantissa = (1u << f.mantissa_bits) - 1;
      if ((code & ~f.sign_bit()) == 0) return;
      keep(code, code & ~mantissa);
      for (std::uint32_t bit = 1; bit <= mantissa >> 1; bit <<= 1) keep(code, code & ~bit);
      keep(code, static_cast<std::uint32_t>(f.bias) << f.mantissa_bits | (code & f.sign_bit()));
    };
    for (std::size_t k = 0; k < x.a.size(); ++k) simplify(r.a, x.a[k]), simplify(r.b, x.b[k]);
    simplify(r.f16_addend ? formats::fp16 : sim::binary32, x.c);
  }
  return x;
}

/// What a device gives for one case.
inline std::uint32_t run_case(const sim::Instruction& r, const Case& x, const RunSets& run) {
  Batch batch = empty_batch(r, 0, 1);
  for (int k = 0; k < r.k; ++k) {
    store(batch.a, k, width_of(r.a), x.a[static_cast<std::size_t>(k)] << place_of(r.a));
    store(batch.b, std::int64_t{k} * r.n, width_of(r.b), x.b[static_cast<std::size_t>(k)] << place_of(r.b));
  }
  store(batch.c, 0, width_of_c(r), x.c);
  run(r, batch, false);
  return stored(batch.d, 0, width_of_d(r));
}

inline double value_of(const formats::Format& f, std::uint32_t code) { return formats::decode_double(f, code); }

inline void print_case(const sim::Instruction& r, const Case& x) {
  for (std::size_t k = 0; k < x.a.size(); ++k) {
    if (x.a[k] == 0 || x.b[k] == 0) continue;
    std::printf("    k %2zu: a 0x%x (%g), b 0x%x (%g)\n", k, x.a[k], value_of(r.a, x.a[k]), x.b[k],
        value_of(r.b, x.b[k]));
  }
  const double c = r.f16_addend ? value_of(formats::fp16, x.c) : static_cast<double>(__builtin_bit_cast(float, x.c));
  std::printf("    C 0x%0*x (%g)\n", 2 * width_of_c(r), x.c, c);
}

// ---- one instruction ----

struct Limits {
  std::int64_t outputs = 100'000'000;
  double seconds = 20;
  std::uint64_t seed = 1;
  bool a_in_shared = true, a_in_registers = true;  ///< which are right; batches take turns where both are
};

struct Verdict {
  std::string name;
  std::vector<Tally> tallies;     ///< of the rows
  bool searched = false;
  std::vector<Ranked> variants;   ///< of the search, or the row's own and its neighbours: best first
  Tally verified;                 ///< of variants[0] on outputs that the search didn't see
  std::vector<Case> cases;
  int best_row = 0;

  bool row_holds() const { return tallies[static_cast<std::size_t>(best_row)].mismatches == 0; }
};

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Sets a batch: about 4 M outputs, a multiple of 16.
inline std::int64_t sets_a_batch(const sim::Instruction& r) { return (std::int64_t{1} << 22) / (r.m * r.n); }

/// Compares, and searches where no row holds.
inline Verdict examine(const Rows& rows, const RunSets& run, const Limits& limits) {
  const sim::Instruction& r = *rows[0];
  Verdict out;
  out.name = std::string(r.name).substr(0, std::string(r.name).find('@'));
  out.tallies.resize(rows.size());
  const double start = seconds_now();
  const std::int64_t outputs = std::int64_t{r.m} * r.n;
  const std::int64_t sets =
      std::min(sets_a_batch(r), std::max<std::int64_t>(16, (limits.outputs + outputs - 1) / outputs));
  std::int64_t first = 0;
  for (int n = 0; first * outputs < limits.outputs && (n == 0 || seconds_now() - start < limits.seconds); ++n) {
    Batch batch = make_batch(r, limits.seed, first, sets);
    run(r, batch, limits.a_in_registers && (n % 2 == 1 || !limits.a_in_shared));
    Batch model = empty_batch(r, first, sets);
    model.a = batch.a, model.b = batch.b, model.c = batch.c;
    model.scale_a = batch.scale_a, model.scale_b = batch.scale_b;
    std::vector<std::vector<int>> differ(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      run_model(*rows[i], model);
      differ[i] = count_mismatches(r, batch, model, out.tallies[i]);
    }
    const bool news = std::any_of(differ.back().begin(), differ.back().end(), [](int x) { return x != 0; });
    if (n == 0) collect(r, batch, model, differ.back(), 8, 48, out.cases);
    else if (news && out.cases.size() < 8000) collect(r, batch, model, differ.back(), 2, 16, out.cases);
    first += sets;
  }
  for (std::size_t i = 1; i < rows.size(); ++i) {
    if (out.tallies[i].mismatches < out.tallies[static_cast<std::size_t>(out.best_row)].mismatches)
      out.best_row = static_cast<int>(i);
  }
  if (r.scaled) return out;  // no variants of block scales
  const sim::Instruction& best = *rows[static_cast<std::size_t>(out.best_row)];
  if (out.row_holds()) {
    rank(best, variant_of(best), out.cases, neighbours(best, variant_of(best)), 200, out.variants);
    out.variants.insert(out.variants.begin(), {variant_of(best), 0});
    return out;
  }
  out.searched = true;
  out.variants = search(best, out.cases);
  const double again = seconds_now();
  for (int n = 0; out.verified.outputs < limits.outputs && (n == 0 || seconds_now() - again < limits.seconds); ++n) {
    Batch batch = make_batch(r, limits.seed + 1, first, sets);
    run(r, batch, limits.a_in_registers && (n % 2 == 1 || !limits.a_in_shared));
    Batch model = batch;
    run_variant(r, out.variants[0].variant, model);
    count_mismatches(r, batch, model, out.verified);
    first += sets;
  }
  return out;
}

inline void print_separation(const sim::Instruction& r, const Variant& v, const Variant& w,
                             const std::vector<Case>& cases, const RunSets& run) {
  const Case x = separating(r, v, w, cases);
  if (x.a.empty()) return;
  const int digits = 2 * width_of_d(r);
  std::printf("  told apart by\n");
  print_case(r, x);
  std::printf("    D: the device 0x%0*x, the first 0x%0*x, the second 0x%0*x\n", digits, run_case(r, x, run), digits,
              evaluate(r, v, steps_of(r.k, v), x.dot()), digits, evaluate(r, w, steps_of(r.k, w), x.dot()));
}

/// Variants that fit as well as the best; those of other least exponents in one line.
inline void print_equals(const std::vector<Ranked>& variants, std::size_t count) {
  const Variant& best = variants[0].variant;
  int low = best.least_exponent, high = low, printed = 0;
  for (std::size_t i = 1; i < count; ++i) {
    Variant v = variants[i].variant;
    const int e = v.least_exponent;
    v.least_exponent = best.least_exponent;
    if (v == best) low = std::min(low, e), high = std::max(high, e);
    else if (printed++ < 8) std::printf("  not told apart: %s\n", describe(variants[i].variant).c_str());
  }
  if (printed > 8) std::printf("  not told apart: %d more\n", printed - 8);
  if (low == sim::no_exponent && high != low)
    std::printf("  not told apart: no least exponent, or one of up to %d\n", high);
  else if (low != high) std::printf("  not told apart: least exponents %d to %d\n", low, high);
}

/// Some cases of the fewest products where the device isn't the best variant either: what is still unexplained.
inline void print_unexplained(const sim::Instruction& r, const Variant& v, const std::vector<Case>& cases) {
  const auto steps = steps_of(r.k, v);
  std::vector<std::pair<std::int64_t, const Case*>> found;
  for (const Case& x : cases) {
    if (difference(r, x.d, evaluate(r, v, steps, x.dot())) != Difference::value) continue;
    std::int64_t products = 0;
    for (std::size_t k = 0; k < x.a.size(); ++k)
      products += x.a_terms[k].significand != 0 && x.b_terms[k].significand != 0;
    found.push_back({products, &x});
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
  for (std::size_t i = 0; i < std::min<std::size_t>(4, found.size()); ++i) {
    const Case& x = *found[i].second;
    std::printf("  unexplained (%s):\n", kind_names[static_cast<int>(x.kind)]);
    print_case(r, x);
    std::printf("    D: the device 0x%x, the best 0x%x\n", x.d, evaluate(r, v, steps, x.dot()));
  }
}

inline void report(const Rows& rows, const Verdict& x, const RunSets& run) {
  const sim::Instruction& r = *rows[static_cast<std::size_t>(x.best_row)];
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Tally& t = x.tallies[i];
    std::printf("%-46s %11lld outputs, %lld differ\n", rows[i]->name, static_cast<long long>(t.outputs),
        static_cast<long long>(t.mismatches));
    if (t.zero_signs) std::printf("    zeros of the other sign: %lld\n", static_cast<long long>(t.zero_signs));
    if (t.nan_bits) {
      std::printf("    NaNs of other bits: %lld, such as 0x%x\n", static_cast<long long>(t.nan_bits), t.nan_seen);
    }
    for (int kind = 0; kind < kind_count && t.mismatches != 0; ++kind) {
      std::printf("    %-12s %10lld of %11lld differ\n", kind_names[kind],
          static_cast<long long>(t.mismatches_of_kind[kind]),
                  static_cast<long long>(t.of_kind[kind]));
    }
  }
  if (x.variants.empty()) return;
  if (x.searched) {
    std::printf("  no row holds; of %zu outputs the best variants miss:\n", x.cases.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(4, x.variants.size()); ++i) {
      std::printf("    %6lld: %s\n", static_cast<long long>(x.variants[i].mismatches),
          describe(x.variants[i].variant).c_str());
    }
    std::printf("  the first on %lld other outputs: %lld differ\n", static_cast<long long>(x.verified.outputs),
                static_cast<long long>(x.verified.mismatches));
    print_unexplained(r, x.variants[0].variant, x.cases);
  }
  std::size_t same = 1;
  while (same < x.variants.size() && x.variants[same].mismatches == 0) ++same;
  if (x.variants[0].mismatches == 0) print_equals(x.variants, same);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    std::printf("  first %s, second %s\n", rows[0]->name, rows[i]->name);
    print_separation(r, variant_of(*rows[0]), variant_of(*rows[i]), x.cases, run);
  }
  const std::size_t second = x.variants[0].mismatches == 0 ? same : 1;
  if (second >= x.variants.size()) return;
  std::printf("  first the best; second the next best, %lld of %zu: %s\n",
      static_cast<long long>(x.variants[second].mismatches),
              x.cases.size(), describe(x.variants[second].variant).c_str());
  print_separation(r, x.variants[0].variant, x.variants[second].variant, x.cases, run);
}

// ---- layout ----

/// One set with a one in A at [i, k] and B [p, j] = value(p, j); C = 0.
template <class Value>
Batch layout_batch(const sim::Instruction& r, Value value) {
  Batch batch = empty_batch(r, 0, std::int64_t{r.m} * r.k);
  const auto code = [](const formats::Format& f, int x) {  // 1 to 8, or 0
    if (x == 0) return 0u;
    const int e = x >= 8 ? 3 : x >= 4 ? 2 : x >= 2 ? 1 : 0;
    const auto mantissa = static_cast<std::uint32_t>(x - (1 << e)) << f.mantissa_bits >> e;
    return (static_cast<std::uint32_t>(e + f.bias) << f.mantissa_bits | mantissa) << place_of(f);
  };
  for (int i = 0; i < r.m; ++i) {
    for (int k = 0; k < r.k; ++k) {
      const std::int64_t s = std::int64_t{i} * r.k + k;
      store(batch.a, (s * r.m + i) * r.k + k, width_of(r.a), code(r.a, 1));
      for (int p = 0; p < r.k; ++p) {
        for (int j = 0; j < r.n; ++j) store(batch.b, (s * r.k + p) * r.n + j, width_of(r.b), code(r.b, value(p, j)));
      }
    }
  }
  return batch;
}

inline double result_of(const sim::Instruction& r, const Batch& batch, std::int64_t at) {
  const std::uint32_t bits = stored(batch.d, at, width_of_d(r));
  return r.f16_result() ? value_of(formats::fp16, bits) : static_cast<double>(__builtin_bit_cast(float, bits));
}

/// "" where every element of A, B, C and D is where mma() says; else the first that isn't, and where it came out. Of
/// the device it needs nothing but exact small integers: digits of k, or j + 1, in B beside a single 1 in A; m n integers
/// in C. Formats of fewer than eight bits need not hold 5 to 8: digits to the base 3. A device's D begins as bytes 0xFF.
inline std::string layout_fault(const sim::Instruction& r, const RunSets& run, bool a_in_registers) {
  const int base = r.b.bits < 8 ? 3 : 8;
  const auto name = [](const char* what, int i, int j) {
    return std::string(what) + " [" + std::to_string(i) + ", " + std::to_string(j) + "]";
  };
  Batch c_only = empty_batch(r, 0, 1);
  for (int i = 0; i < r.m * r.n; ++i) {
    const float x = static_cast<float>(i + 1);
    std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
    if (r.f16_addend) bits = (bits >> 13 & 0x3FF) | ((bits >> 23) - 127 + 15) << 10;
    store(c_only.c, i, width_of_c(r), bits);
  }
  run(r, c_only, a_in_registers);
  if (std::all_of(c_only.d.begin(), c_only.d.end(), [](std::uint8_t byte) { return byte == 0xFF; })) {
    return "D was not written: the program has no code of it for this device (CMAKE_CUDA_ARCHITECTURES 90a-real ...)";
  }
  for (int i = 0; i < r.m * r.n; ++i) {
    const double d = result_of(r, c_only, i);
    if (d != i + 1) return name("D", i / r.n, i % r.n) + " is not C there: it has C number " + std::to_string(d);
  }
  int most = 1;  // digits: of k, then of j
  for (int n = base; n < r.k; n *= base) ++most;
  for (int digit = 0; digit < 2 * most; ++digit) {
    int divisor = 1;
    for (int n = 0; n < digit % most; ++n) divisor *= base;
    const auto value = [&](int p, int j) { return (digit < most ? p : j) / divisor % base + 1; };
    Batch batch = layout_batch(r, value);
    run(r, batch, a_in_registers);
    for (std::int64_t s = 0; s < batch.count; ++s) {
      const int i = static_cast<int>(s / r.k), k = static_cast<int>(s % r.k);
      for (int at = 0; at < r.m * r.n; ++at) {
        const int row = at / r.n, j = at % r.n;
        const double want = row == i ? value(k, j) : 0, got = result_of(r, batch, s * r.m * r.n + at);
        if (got == want) continue;
        const std::string where = name("A", i, k) + " = 1: " + name("D", row, j) + " is " + std::to_string(got) +
                                  ", not " + std::to_string(want);
        if (row != i) return where + ": that element of A counts for row " + std::to_string(row);
        return where + ": it meets another element of B, or none (B has digit " + std::to_string(digit % most) +
               " of its " + (digit < most ? "k" : "column") + ", plus 1)";
      }
    }
  }
  return "";
}

/// Whether the lowest 13 of a tf32's 32 bits change nothing.
inline bool low_bits_are_ignored(const sim::Instruction& r, const RunSets& run) {
  Batch plain = make_batch(r, 99, 0, 256), dirty = plain;
  run(r, plain, false);
  Words words(5);
  const auto dirt = [&](std::vector<std::uint8_t>& codes) {  // an Inf would become a NaN
    for (std::size_t i = 0; i < codes.size(); i += 4) {
      const std::uint32_t x = stored(codes, static_cast<std::int64_t>(i / 4), 4);
      if ((x & 0x7F800000u) != 0x7F800000u)
        store(codes, static_cast<std::int64_t>(i / 4), 4, x | (static_cast<std::uint32_t>(words()) & 0x1FFF));
    }
  };
  dirt(dirty.a), dirt(dirty.b);
  run(r, dirty, false);
  return plain.d == dirty.d;
}

}  // namespace fp4scope::probe
