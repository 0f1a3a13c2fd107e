// The terms sum to the error exactly for 10^7 elements across formats and rules. Prints how many there were.
#include <gtest/gtest.h>

#include <cstdio>

#include "analysis/distributions.hpp"
#include "analysis/terms.hpp"

namespace fp4scope::analysis {
namespace {

TEST(Terms, sum_to_the_error_exactly_for_ten_million_elements) {
  const FormatTable table;
  std::int64_t elements = 0, tensors = 0;
  for (const char* kind : {"normal", "laplace", "student_t", "llm"}) {
    Distribution d;
    d.kind = kind;
    d.rows = 256;
    d.cols = 384;
    d.dof = 3;
    d.sigma = 0.02;
    const Matrix m = sample(d);
    for (const formats::BlockFormat& f : formats::all_block_formats) {
      for (const search::Method* method : table.methods(f.name)) {
        if (method->needs_hessian() || method->kind == search::MethodKind::exhaustive) continue;
        const Quantized q = quantize(parse_config({f.name, method->name, "", "", "", 0, 0}), m, "m");
        const Terms t = terms_of(m, q);
        EXPECT_TRUE(t.adds_up) << kind << " " << f.name << " " << method->name;
        EXPECT_GT(t.error, 0);
        elements += t.elements;
        ++tensors;
      }
    }
  }
  std::printf("%lld elements of %lld tensors\n", static_cast<long long>(elements), static_cast<long long>(tensors));
  EXPECT_GE(elements, 10'000'000);
}

}  // namespace
}  // namespace fp4scope::analysis
