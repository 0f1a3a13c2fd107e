// closest_vector against every code and every level vector in 128-bit integers, and its promises where that is too
// much.
#include "search/closest_vector.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "search/decoupled.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using search::BlockProblem;
using search::BlockSolution;
using search::SearchSpace;

__extension__ using Wide = __int128;

std::mt19937_64 words(71);

int below(int n) { return static_cast<int>(words() % static_cast<unsigned>(n)); }
double normal() {
  const auto uniform = [] { return (static_cast<double>(words() >> 11) + 0.5) * 0x1p-53; };
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * M_PI * uniform());
}

/// A format's space with only some of its codes.
SearchSpace space_of(const char* format, int first, int last) {
  SearchSpace s = search::make_space(*formats::find_block_format(format), 1, sim::six_rule);
  s.first_code = first;
  s.last_code = last;
  return s;
}

struct Problem {
  std::string name;
  int n;
  std::vector<double> t, h, g;

  BlockProblem view() const { return {n, t.data(), h.data(), g.empty() ? nullptr : g.data()}; }
};

std::string describe(const Problem& p, const SearchSpace& space) {
  char number[40];
  std::string text = p.name + ", codes " + std::to_string(space.first_code) + " .. " + std::to_string(space.last_code);
  for (const auto& [name, values] : {std::pair("t", p.t), std::pair("H", p.h), std::pair("g", p.g)}) {
    text += std::string("\n  ") + name + " = {";
    for (const double v : values) {
      std::snprintf(number, sizeof number, " %a", v);
      text += number;
    }
    text += " }";
  }
  return text;
}

std::string describe(const BlockSolution& s, int n) {
  std::string text = "code " + std::to_string(s.code) + ", levels";
  for (int i = 0; i < n; ++i) text += ' ' + std::to_string(s.level[i]);
  char number[60];
  std::snprintf(number, sizeof number, ", loss %a, nodes %lld%s", s.loss, static_cast<long long>(s.nodes),
                s.proved ? ", proved" : "");
  return text + number;
}

BlockSolution solve(const SearchSpace& space, const Problem& p, std::int64_t limit = 1000000000) {
  static const auto room = std::make_unique<search::ClosestVectorRoom>();
  return search::closest_vector(space, p.view(), {limit}, *room);
}

// Targets are multiples of 2^-10, values of 2^-12, entries of H of 2^-24, of g of 2^-36: r has at most 20 bits, H 28,
// a loss 20 + 20 + 28 + 4.
std::int64_t scaled(double x, int bits) { return static_cast<std::int64_t>(std::ldexp(x, bits)); }

/// The problem at one code in whole numbers.
struct WholeNumbers {
  WholeNumbers(const SearchSpace& space, const Problem& p, int code) : n(p.n), top(space.grid.levels - 1) {
    for (const double x : p.h) h.push_back(scaled(x, 24));
    for (int i = 0; i < n; ++i) {
      twice_g.push_back(p.g.empty() ? 0 : 2 * scaled(p.g[i], 36));
      for (int l = -top; l <= top; ++l)
        r.push_back(scaled(p.t[i] - (l < 0 ? -1 : 1) * space.grid.level[std::abs(l)] * space.scale_value[code], 12));
    }
  }

  Wide loss(const int* level) const {
    std::int64_t at[16];
    for (int i = 0; i < n; ++i) at[i] = r[i * (2 * top + 1) + level[i] + top];
    Wide sum = 0;
    for (int i = 0; i < n; ++i) {
      Wide dot = twice_g[i];
      for (int j = 0; j < n; ++j) dot += static_cast<Wide>(at[j]) * h[i * n + j];
      sum += dot * at[i];
    }
    return sum;
  }

  int n, top;
  std::vector<std::int64_t> h, twice_g, r;
};

bool advance(std::vector<int>& level, int top) {
  for (std::size_t i = level.size(); i-- > 0;) {
    if (++level[i] <= top) return true;
    level[i] = -top;
  }
  return false;
}

/// Every code upward, every level vector in lexicographic order, the first of the least loss.
BlockSolution brute_force(const SearchSpace& space, const Problem& p, Wide& least) {
  BlockSolution best;
  best.code = -1;
  const int top = space.grid.levels - 1;
  for (int code = space.first_code; code <= space.last_code; ++code) {
    std::vector<int> level(static_cast<std::size_t>(p.n), -top);
    const WholeNumbers numbers(space, p, code);
    do {
      const Wide loss = numbers.loss(level.data());
      if (best.code >= 0 && loss >= least) continue;
      least = loss;
      best.code = code;
      for (int i = 0; i < p.n; ++i) best.level[i] = static_cast<std::int8_t>(level[static_cast<std::size_t>(i)]);
    } while (advance(level, top));
  }
  return best;
}

void expect_brute_force(const SearchSpace& space, const Problem& p) {
  Wide least = 0;
  const BlockSolution want = brute_force(space, p, least), got = solve(space, p);
  bool same = got.code == want.code && got.proved;
  for (int i = 0; i < p.n; ++i) same = same && got.level[i] == want.level[i];
  ASSERT_TRUE(same) << describe(p, space) << "\n  got  " << describe(got, p.n) << "\n  want " << describe(want, p.n);
  EXPECT_NEAR(got.loss, std::ldexp(static_cast<double>(least), -48), 1e-9) << describe(p, space);
}

/// B^T B with small whole numbers and `rank` rows: singular below n, exactly.
std::vector<double> gram(int n, int rank, int largest) {
  std::vector<double> b, h;
  for (int i = 0; i < rank * n; ++i) b.push_back(below(2 * largest + 1) - largest);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int k = 0; k < rank; ++k) sum += b[k * n + i] * b[k * n + j];
      h.push_back(sum);
    }
  }
  for (int i = 0; i < n; ++i) {
    if (h[i * n + i] == 0) return gram(n, rank, largest);  // zero rows have a rule and a test of their own
  }
  return h;
}

std::vector<double> rounded(std::vector<double> h) {
  for (double& v : h) v = std::ldexp(std::nearbyint(std::ldexp(v, 24)), -24);
  return h;
}

std::vector<double> diagonal(int n) {
  std::vector<double> h(static_cast<std::size_t>(n * n), 0);
  for (int i = 0; i < n; ++i) h[i * n + i] = 1 + below(100) / 8.0;
  return h;
}

struct HessianRow {
  const char* name;
  std::vector<double> (*make)(int n);
};

const HessianRow hessian_rows[] = {
    {"diagonal", diagonal},
    {"gram", [](int n) { return gram(n, n + 1, 5); }},
    {"rank 1", [](int n) { return gram(n, 1, 4); }},
    {"rank n - 1", [](int n) { return gram(n, n - 1, 3); }},
    {"autoregressive .9", [](int n) { return rounded(blocks::autoregressive(n, 0.9).h); }},
    {"equal correlation", [](int n) { return rounded(blocks::equal_correlation(n, 1.1, 1.0).h); }},
    {"outlier",
     [](int n) {
       std::vector<double> h = rounded(blocks::autoregressive(n, 0.5).h);
       for (int i = 0; i < n; ++i) h[i] *= 8, h[i * n] *= 8;
       return h;
     }},
};

struct TargetRow {
  const char* name;
  double (*make)();
};

const TargetRow target_rows[] = {
    {"normal", [] { return std::ldexp(std::nearbyint(std::ldexp(2 * normal(), 10)), -10); }},
    {"lattice", [] { return (below(33) - 16) / 4.0; }},  // levels, midpoints and what lies between: ties are dense
    {"midpoints", [] { return (below(2) ? 1 : -1) * (below(7) + 0.5) / 2; }},
    {"clipped", [] { return std::ldexp(std::nearbyint(std::ldexp(12 * normal(), 6)), -6); }},
};

enum class Linear { none, in_range, any };

Problem make_problem(const HessianRow& hessian, const TargetRow& target, Linear linear, int n) {
  Problem p = {std::string(hessian.name) + ", " + target.name, n, {}, hessian.make(n), {}};
  for (int i = 0; i < n; ++i) p.t.push_back(target.make());
  if (linear == Linear::none) return p;
  std::vector<double> e;
  for (int i = 0; i < n; ++i) e.push_back((below(17) - 8) / 8.0);
  for (int i = 0; i < n; ++i) {
    double g = linear == Linear::any ? e[i] : 0;
    for (int j = 0; linear == Linear::in_range && j < n; ++j) g += p.h[i * n + j] * e[j];
    p.g.push_back(g);
  }
  p.name += linear == Linear::any ? ", any g" : ", g in range";
  return p;
}

/// E4M3 codes 0x30 .. 0x47 are .5 .. 3.75.
void expect_brute_force_on_all(const char* format, int first, int last, int n, int repeats) {
  for (const HessianRow& hessian : hessian_rows) {
    for (const TargetRow& target : target_rows) {
      for (const Linear linear : {Linear::none, Linear::in_range, Linear::any}) {
        for (int i = 0; i < repeats; ++i) {
          const int from = first + below(std::max(1, last - first - 3));
          const SearchSpace space = space_of(format, n < 4 ? from : std::max(from, last - 1), last);
          ASSERT_NO_FATAL_FAILURE(expect_brute_force(space, make_problem(hessian, target, linear, n)));
        }
      }
    }
  }
}

TEST(ClosestVector, equals_brute_force_of_two_elements) { expect_brute_force_on_all("nvfp4", 0x30, 0x47, 2, 12); }
TEST(ClosestVector, equals_brute_force_of_three_elements) { expect_brute_force_on_all("nvfp4", 0x34, 0x40, 3, 3); }
TEST(ClosestVector, equals_brute_force_of_four_elements) { expect_brute_force_on_all("nvfp4", 0x38, 0x3c, 4, 1); }
TEST(ClosestVector, equals_brute_force_of_powers_of_two) { expect_brute_force_on_all("mxfp4", 124, 130, 3, 1); }
TEST(ClosestVector, equals_brute_force_of_integers) { expect_brute_force_on_all("nvint4", 0x28, 0x38, 2, 6); }

TEST(ClosestVector, equals_brute_force_of_one_element) {
  for (int i = 0; i < 200; ++i) {
    const SearchSpace space = space_of("nvfp4", 0x30, 0x47);
    ASSERT_NO_FATAL_FAILURE(
        expect_brute_force(space, make_problem(hessian_rows[0], target_rows[i % 4], Linear(i % 3), 1)));
  }
}

/// Four blocks of four on the diagonal of 16 x 16, shuffled: given a code the least losses of the four add up.
TEST(ClosestVector, sixteen_elements_equal_the_brute_force_of_independent_fours) {
  for (int repeat = 0; repeat < 5; ++repeat) {
    const SearchSpace space = space_of("nvfp4", 0x37, 0x39);
    Problem whole = {"fours", 16, std::vector<double>(16), std::vector<double>(256), std::vector<double>(16)};
    std::vector<Problem> part;
    int place[16];
    for (int i = 0; i < 16; ++i) place[i] = i;
    for (int i = 15; i > 0; --i) std::swap(place[i], place[below(i + 1)]);
    for (int b = 0; b < 4; ++b) {
      part.push_back(make_problem(hessian_rows[(repeat + b) % 2 ? 1 : 4], target_rows[0], Linear::in_range, 4));
      for (int i = 0; i < 4; ++i) {
        whole.t[place[4 * b + i]] = part.back().t[i];
        whole.g[place[4 * b + i]] = part.back().g[i];
        for (int j = 0; j < 4; ++j) whole.h[place[4 * b + i] * 16 + place[4 * b + j]] = part.back().h[i * 4 + j];
      }
    }
    Wide least = 0;
    int least_code = -1;
    for (int code = space.first_code; code <= space.last_code; ++code) {
      Wide sum = 0;
      for (const Problem& p : part) {
        Wide here = 0;
        brute_force(space_of("nvfp4", code, code), p, here);
        sum += here;
      }
      if (least_code < 0 || sum < least) least = sum, least_code = code;
    }
    const BlockSolution got = solve(space, whole);
    int level[16];
    for (int i = 0; i < 16; ++i) level[i] = got.level[i];
    EXPECT_TRUE(got.proved && got.code == least_code) << describe(whole, space) << describe(got, 16) << least_code;
    EXPECT_TRUE(WholeNumbers(space, whole, got.code).loss(level) == least)
        << describe(whole, space) << describe(got, 16);
  }
}

Problem normal_problem(const blocks::Matrix& m, int n, bool linear, double sigma = 20) {
  Problem p = {m.name, n, {}, m.h, {}};
  for (int i = 0; i < n; ++i) p.t.push_back(static_cast<double>(static_cast<float>(sigma * normal())));
  for (int i = 0; linear && i < n; ++i) p.g.push_back(0.1 * sigma * normal());
  return p;
}

SearchSpace nvfp4(float tensor_scale = 1) {
  return search::make_space(*formats::find_block_format("nvfp4"), tensor_scale, sim::six_rule);
}

TEST(ClosestVector, with_a_diagonal_is_the_weighted_search_of_nearest_levels) {
  const SearchSpace space = nvfp4();
  for (int repeat = 0; repeat < 60; ++repeat) {
    std::vector<double> weights;
    for (int i = 0; i < 16; ++i)
      weights.push_back(std::ldexp(1 + below(1000) / 999.0, repeat % 2 ? 0 : below(20) - 10));
    const Problem p = normal_problem(blocks::diagonal(weights), 16, false);
    const BlockSolution got = solve(space, p), nearest = search::nearest_solution(space, p.view());
    EXPECT_TRUE(got.proved);
    EXPECT_EQ(search::compare_losses(space, p.view(), got, nearest), 0) << describe(p, space);
    EXPECT_EQ(got.code, nearest.code) << describe(p, space);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(got.level[i], nearest.level[i]) << i << describe(p, space);
  }
}

TEST(ClosestVector, nothing_else_is_below_it) {
  int below_all = 0;
  for (int repeat = 0; repeat < 120; ++repeat) {
    const int n = repeat % 3 == 0 ? 5 : 16;
    const auto all = blocks::matrices(n);
    const Problem p = normal_problem(all[static_cast<std::size_t>(repeat) % all.size()], n, repeat % 4 == 3);
    const SearchSpace space = nvfp4();
    const BlockSolution got = solve(space, p, 20000);
    const BlockSolution others[] = {search::nearest_solution(space, p.view()), search::decoupled(space, p.view()),
                                    search::closed_form(space, p.view()), search::coordinate_descent(space, p.view())};
    int above = 0;
    for (const BlockSolution& other : others) {
      if (!got.proved && &other != &others[3] && &other != &others[0]) continue;
      const int sign = search::compare_losses(space, p.view(), got, other);
      EXPECT_LE(sign, 0) << describe(p, space) << "\n  " << describe(got, n) << "\n  " << describe(other, n);
      above += sign < 0;
    }
    below_all += above == 4;
  }
  EXPECT_GT(below_all, 20);
}

TEST(ClosestVector, no_two_levels_can_be_changed_for_the_better) {
  const SearchSpace space = nvfp4();
  for (const double rho : {0.5, 0.9, -0.8}) {
    const Problem p = normal_problem(blocks::autoregressive(16, rho), 16, true);
    const BlockSolution got = solve(space, p);
    ASSERT_TRUE(got.proved);
    for (int code = got.code - 1; code <= got.code + 1; ++code) {
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < i; ++j) {
          for (int pair = 0; pair < 225; ++pair) {
            BlockSolution other = got;
            other.code = code;
            other.level[i] = static_cast<std::int8_t>(pair / 15 - 7);
            other.level[j] = static_cast<std::int8_t>(pair % 15 - 7);
            const double loss = search::loss_of(space, p.view(), code, other.level);
            ASSERT_GE(loss, got.loss - 1e-10 * std::fabs(got.loss)) << describe(p, space) << describe(other, 16);
          }
        }
      }
    }
  }
}

TEST(ClosestVector, a_struck_limit_is_not_a_proof_and_never_worse_than_where_it_began) {
  const SearchSpace space = nvfp4();
  const Problem p = normal_problem(blocks::autoregressive(16, 0.9), 16, false);
  const BlockSolution start = search::coordinate_descent(space, p.view()), full = solve(space, p);
  ASSERT_TRUE(full.proved);
  for (const std::int64_t limit : {std::int64_t{0}, full.nodes / 4, full.nodes - 1}) {
    const BlockSolution got = solve(space, p, limit);
    EXPECT_FALSE(got.proved) << limit;
    EXPECT_LE(search::compare_losses(space, p.view(), got, start), 0) << limit;
  }
  const BlockSolution enough = solve(space, p, full.nodes);
  EXPECT_TRUE(enough.proved);
  EXPECT_EQ(describe(enough, 16), describe(full, 16));
  EXPECT_EQ(full.loss, search::loss_of(space, p.view(), full.code, full.level));
}

/// A direction that costs nothing has 15^15 ways to be left alone.
TEST(ClosestVector, a_singular_block_of_sixteen_is_not_proved_by_enumeration) {
  const SearchSpace space = nvfp4();
  Problem p = normal_problem(blocks::rank_one(16, 0.5), 16, false);
  const BlockSolution got = solve(space, p, 50000);
  EXPECT_FALSE(got.proved);
  EXPECT_LT(got.loss, 1e-3 * search::nearest_solution(space, p.view()).loss);
}

TEST(ClosestVector, an_element_that_costs_nothing_takes_its_nearest_level) {
  const SearchSpace space = space_of("nvfp4", 0x30, 0x3c);
  for (int repeat = 0; repeat < 40; ++repeat) {
    const Problem three = make_problem(hessian_rows[repeat % 7], target_rows[repeat % 4], Linear::none, 3);
    const int hole = repeat % 4;
    Problem p = {three.name + ", a zero row", 4, {}, {}, {}};
    for (int i = 0; i < 4; ++i) {
      p.t.push_back(i == hole ? 2 * normal() : three.t[i - (i > hole)]);
      for (int j = 0; j < 4; ++j)
        p.h.push_back(i == hole || j == hole ? 0 : three.h[(i - (i > hole)) * 3 + j - (j > hole)]);
    }
    const BlockSolution got = solve(space, p), want = solve(space, three);
    std::int8_t nearest[4];
    search::nearest_levels(space, p.view(), got.code, nearest);
    EXPECT_TRUE(got.proved);
    EXPECT_EQ(got.code, want.code) << describe(p, space);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.level[i], i == hole ? nearest[i] : want.level[i - (i > hole)]) << i;
  }
}

TEST(ClosestVector, zero_h_gives_the_lowest_code_and_a_zero_target_code_0) {
  const SearchSpace space = nvfp4();
  const Problem no_h = {"zero H", 3, {1, -2, 3}, std::vector<double>(9, 0), {}};
  const BlockSolution got = solve(space, no_h);
  EXPECT_TRUE(got.proved);
  EXPECT_EQ(got.code, 1);
  EXPECT_EQ(got.level[0], 7);
  EXPECT_EQ(got.level[1], -7);
  const Problem zero = {"zero target", 2, {0, -0.0}, {1, 0, 0, 1}, {}};
  EXPECT_EQ(describe(solve(space, zero), 2), describe(search::zero_solution(), 2));
  const Problem pulled = {"zero target, g", 2, {0, 0}, {1, 0, 0, 1}, {1, -0.5}};  // least at v = g
  const BlockSolution at_g = solve(space, pulled);
  EXPECT_EQ(at_g.loss, -1.25) << describe(at_g, 2);
  EXPECT_TRUE(at_g.proved);
}

/// Swapping the first two levels changes the loss by sign * 2.9 * 2^-52, both rows of H r are near 19: in binary64 the
/// difference is a multiple of 2^-49.
TEST(CompareLosses, decides_exactly_what_binary64_can_not) {
  const SearchSpace space = nvfp4();
  const int one = 0x38;  // step 1
  BlockSolution a, b;
  a.code = b.code = one;
  a.level[0] = b.level[1] = 2;  // (1, 1.5) and (1.5, 1)
  a.level[1] = b.level[0] = 3;
  a.level[2] = b.level[2] = 7;
  for (const int sign : {-1, 0, 1}) {
    const Problem p = {"swap", 3, {1.3, 1.3 + sign * 0x1p-52, 100}, {3, 0.1, 0.1, 0.1, 3, 0.1, 0.1, 0.1, 3}, {}};
    EXPECT_EQ(search::compare_losses(space, p.view(), a, b), -sign) << sign;
    EXPECT_EQ(search::compare_losses(space, p.view(), b, a), sign) << sign;
    EXPECT_EQ(search::compare_losses(space, p.view(), a, a), 0);
  }
}

TEST(ClosestVector, equals_brute_force_where_h_is_not_semidefinite) {
  for (int i = 0; i < 40; ++i) {
    Problem p = make_problem(hessian_rows[1], target_rows[i % 4], Linear(i % 3), 2);
    p.name = "indefinite";
    p.h[1] = p.h[2] = std::sqrt(p.h[0] * p.h[3]) * (i % 2 ? 1.5 : -1.01);
    p.h = rounded(p.h);
    ASSERT_NO_FATAL_FAILURE(expect_brute_force(space_of("nvfp4", 0x36, 0x3b), p));
  }
}

TEST(ClosestVector, sixteen_elements_need_few_nodes) {
  const SearchSpace space = nvfp4();
  for (const blocks::Matrix& m : {blocks::autoregressive(16, 0.9), blocks::equal_correlation(16, 2, 1)}) {
    std::int64_t nodes = 0;
    for (int i = 0; i < 40; ++i) {
      const BlockSolution got = solve(space, normal_problem(m, 16, i % 2), 100000);
      EXPECT_TRUE(got.proved) << m.name;
      nodes += got.nodes;
    }
    EXPECT_LT(nodes / 40, 2000) << m.name;
  }
}

TEST(ClosestVector, serves_every_tensor_scale) {
  for (const float t : {0x1p-149f, 0x1.234566p-60f, 0x1.fffffep100f}) {
    const SearchSpace space = nvfp4(t);
    Problem p = normal_problem(blocks::autoregressive(8, 0.9), 8, false);
    const Problem at_one = p;
    if ((__builtin_bit_cast(std::uint32_t, t) & 0x7FFFFFu) != 0 && t > 0x1p-126f) {
      for (double& x : p.t) x = static_cast<double>(t) * x;
      const BlockSolution got = solve(space, p);
      EXPECT_TRUE(got.proved);
      EXPECT_EQ(got.code, solve(nvfp4(), at_one).code);
      continue;
    }
    for (double& x : p.t) x *= static_cast<double>(t);  // a power of two: the same problem
    const BlockSolution got = solve(space, p), want = solve(nvfp4(), at_one);
    EXPECT_EQ(got.code, want.code);
    EXPECT_EQ(got.nodes, want.nodes);
    EXPECT_EQ(got.loss, want.loss * t * t);
  }
}

}  // namespace
}  // namespace fp4scope
