// Formats of one's own: what a TOML document says is what quantizes, and what can't be exact is refused by its line.
#include "analysis/format_table.hpp"

#include <gtest/gtest.h>

#include "analysis/curvature.hpp"
#include "analysis/distributions.hpp"
#include "analysis/metrics.hpp"
#include "analysis/sweep_config.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

std::string message(const std::string& toml) {
  try {
    parse_formats(toml, "f.toml");
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code, 2);
    return e.what();
  }
  return "accepted";
}

const std::string e2m1_levels = "levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]\n";

TEST(FormatTable, knows_the_built_in_formats_and_their_methods) {
  const FormatTable table;
  EXPECT_EQ(table.names().size(), std::size(formats::all_block_formats));
  for (const formats::BlockFormat& f : formats::all_block_formats) {
    EXPECT_EQ(table.find(f.name), formats::find_block_format(f.name));
    EXPECT_EQ(table.find_method(f.name, "naive"), search::find_method(f.name, "naive"));
    EXPECT_EQ(table.definition(f.name), nullptr);
  }
  EXPECT_EQ(table.find("mine"), nullptr);
  EXPECT_TRUE(table.methods("mine").empty());
  EXPECT_EQ(table.find_method("nvfp4", "floor"), nullptr);
}

TEST(FormatTable, a_definition_becomes_a_format_with_every_default) {
  const Formats table = parse_formats("[format.mine]\nlevels = [0, 1, 2.5]\nscale = \"ue5m3\"\n", "f.toml");
  const formats::BlockFormat& f = *table->find("mine");
  EXPECT_STREQ(f.name, "mine");
  EXPECT_EQ(f.levels.count, 3);
  EXPECT_EQ(f.element_max(), 2.5);
  EXPECT_EQ(f.block, 16);
  EXPECT_TRUE(f.tensor_scaled);
  EXPECT_EQ(f.scale_max, 114688);
  EXPECT_STREQ(f.scale.name, "ue5m3");
  EXPECT_EQ(formats::element_value(f, 2), 2.5);
  EXPECT_EQ(formats::element_value(f, 9), -1);
  EXPECT_EQ(table->names().back(), "mine");
}

TEST(FormatTable, words_are_taken_as_they_are_written) {
  const Formats table = parse_formats(
      "[format.a]\nelement = \"e1m2\"\nscale = \"ue8m0\"\nblock = 32\n[format.b]\nelement = \"int4\"\nscale = "
      "\"ue4m4\"\n"
      "tensor_scale = \"none\"\nscale_max = 7\n",
      "f.toml");
  const formats::BlockFormat& a = *table->find("a");
  EXPECT_EQ(a.levels.count, 0);
  EXPECT_EQ(a.element_max(), 3.5);
  EXPECT_EQ(a.block, 32);
  EXPECT_FALSE(a.tensor_scaled);
  EXPECT_EQ(a.scale_max, 0);
  const formats::BlockFormat& b = *table->find("b");
  EXPECT_FALSE(b.tensor_scaled);
  EXPECT_EQ(b.scale_max, 7);
  EXPECT_EQ(formats::element_value(b, 15), -1);
}

TEST(FormatTable, methods_are_naive_sse_exhaustive_hessian_and_prevent_zero_where_a_scale_can_be_zero) {
  const Formats table = parse_formats(
      "[format.near]\nlevels = [0, 1, 11]\nscale = \"e4m3\"\n[format.low]\nlevels = "
      "[0, 1, 11]\nscale = \"ue8m0\"\n[format.small]\nlevels = [0, 0.375]\nscale = \"ue8m0\"\n",
      "f.toml");
  for (const char* format : {"near", "low", "small"}) {
    std::vector<std::string> names = {"naive", "sse", "exhaustive", "hessian"};
    if (table->find(format)->scale.has_zero) names.push_back("prevent_zero");
    EXPECT_EQ(table->method_names(format), names);
    for (const search::Method* m : table->methods(format)) EXPECT_STREQ(m->format, format);
  }
  const sim::ScaleRule near = table->find_method("near", "naive")->rule, low = table->find_method("low", "naive")->rule;
  EXPECT_EQ(near.divisor, 11);
  EXPECT_EQ(near.rounding, formats::Rounding::nearest_even);
  EXPECT_EQ(low.divisor, 8);
  EXPECT_EQ(low.rounding, formats::Rounding::toward_zero);
  EXPECT_EQ(table->find_method("small", "naive")->rule.divisor, 0.25);
  EXPECT_STREQ(table->find_method("small", "naive")->meaning, "2^(floor(log2 amax) + 2), as OCP MX v1.0");
  EXPECT_EQ(table->find_method("near", "sse")->kind, search::MethodKind::sse);
  const sim::ScaleRule least = table->find_method("near", "prevent_zero")->rule;
  EXPECT_EQ(sim::scale_code(formats::e4m3, near, 0x1p-20f, 1), 0);
  EXPECT_EQ(sim::scale_code(formats::e4m3, least, 0x1p-20f, 1), 1);
  EXPECT_EQ(sim::scale_code(formats::e4m3, least, 33, 1), sim::scale_code(formats::e4m3, near, 33, 1));
}

TEST(FormatTable, every_scale_of_up_to_five_bits_serves_and_has_a_default_where_it_can) {
  const std::vector<std::string> scales = {"e3m4", "e4m3", "e4m3_ieee", "e5m2", "ue8m0", "ue4m3", "ue5m3", "ue4m4"};
  EXPECT_EQ(definable_scales(), scales);
  EXPECT_EQ(definable_elements(), (std::vector<std::string>{"e2m1", "e1m2", "int4"}));
  const int largest[] = {0, 448, 240, 57344, 0, 448, 114688, 480};
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const Formats t =
        parse_formats("[format.f]\n" + e2m1_levels + "tensor_scale = \"none\"\nscale = \"" + scales[i] + "\"\n", "");
    EXPECT_EQ(t->find("f")->scale_max, largest[i]) << scales[i];
  }
}

TEST(FormatTable, every_refusal_names_its_line_and_the_mend) {
  const std::string scale = "scale = \"e4m3\"\n";
  const struct {
    std::string toml, line, words;
  } mistakes[] = {
      {"[format.nvfp4]\n" + e2m1_levels + scale, "f.toml:1", "'nvfp4' is a built-in format (choose another name)"},
      {"[format.e2m1]\n" + e2m1_levels + scale, "f.toml:1", "'e2m1' is a built-in format"},
      {"[format.Mine]\n" + e2m1_levels + scale, "f.toml:1", "lower-case letters, digits and _"},
      {"[format.\"\"]\n" + e2m1_levels + scale, "f.toml:1", "is no name"},
      {"[format.f]\nlevels = [0]\n" + scale, "f.toml:2", "1 levels (2 to 8"},
      {"[format.f]\nlevels = [0, 1, 2, 3, 4, 5, 6, 7, 8]\n" + scale, "f.toml:2", "9 levels (2 to 8"},
      {"[format.f]\nlevels = []\n" + scale, "f.toml:2", "'levels' is not a list"},
      {"[format.f]\nlevels = 3\n" + scale, "f.toml:2", "'levels' is not a list"},
      {"[format.f]\nlevels = [0, \"1\"]\n" + scale, "f.toml:2", "a level is not a number"},
      {"[format.f]\nlevels = [0, nan]\n" + scale, "f.toml:2", "not finite"},
      {"[format.f]\nlevels = [0, 1, inf]\n" + scale, "f.toml:2", "not finite"},
      {"[format.f]\nlevels = [-1, 0, 1]\n" + scale, "f.toml:2", "levels are magnitudes, the sign is mirrored"},
      {"[format.f]\nlevels = [0.5, 1]\n" + scale, "f.toml:2", "the first level is 0.5 (start at 0)"},
      {"[format.f]\n\nlevels = [0, 2, 1]\n" + scale, "f.toml:3", "level 1 follows 2 (write them in ascending order)"},
      {"[format.f]\nlevels = [0, 1, 1]\n" + scale, "f.toml:2", "level 1 follows 1"},
      {"[format.f]\nlevels = [0, 257]\n" + scale, "f.toml:2", "level 257 is not from 1/256 to 256"},
      {"[format.f]\nlevels = [0, 0.001, 1]\n" + scale, "f.toml:2", "level 0.001 is not from 1/256 to 256"},
      {"[format.f]\nlevels = [0, 0.1, 0.7]\n" + scale, "f.toml:2", "the nearest: [0, 0.1015625, 0.69921875]"},
      {"[format.f]\nlevels = [0, 0.5, 128]\n" + scale, "f.toml:2", "not whole multiples of one power of two"},
      {"[format.f]\n" + scale, "f.toml:1", "it needs levels"},
      {"[format.f]\nelement = \"e1m2\"\n" + e2m1_levels + scale, "f.toml:2", "it has levels already"},
      {"[format.f]\nelement = \"e1m3\"\n" + scale, "f.toml:2", "unknown element 'e1m3' (did you mean 'e1m2'"},
      {"[format.f]\nelement = \"e4m3\"\n" + scale, "f.toml:2",
       "'e4m3' can't be the element (there are: e2m1, e1m2, int4)"},
      {"[format.f]\n" + e2m1_levels, "f.toml:1", "it needs a scale (there are: e3m4, e4m3"},
      {"[format.f]\n" + e2m1_levels + "scale = \"ue5m4\"\n", "f.toml:3", "did you mean 'ue5m3'"},
      {"[format.f]\n" + e2m1_levels + "scale = \"int8\"\n", "f.toml:3", "'int8' can't be the scale"},
      {"[format.f]\n" + e2m1_levels + "scale = \"bf16\"\n", "f.toml:3", "'bf16' can't be the scale"},
      {"[format.f]\n" + e2m1_levels + "scale = 3\n", "f.toml:3", "'scale' is not a word"},
      {"[format.f]\n" + e2m1_levels + scale + "block = 15\n", "f.toml:4", "a block of 15 is not an even number"},
      {"[format.f]\n" + e2m1_levels + scale + "block = 0\n", "f.toml:4", "a block of 0 is not"},
      {"[format.f]\n" + e2m1_levels + scale + "block = 1026\n", "f.toml:4", "from 2 to 1024"},
      {"[format.f]\n" + e2m1_levels + scale + "block = \"16\"\n", "f.toml:4", "'block' is not a whole number"},
      {"[format.f]\n" + e2m1_levels + scale + "tensor_scale = \"amx\"\n", "f.toml:4", "did you mean 'amax'"},
      {"[format.f]\n" + e2m1_levels + scale + "scale_max = 0\n", "f.toml:4",
       "'scale_max' = 0 is not from 1 to 1048576"},
      {"[format.f]\n" + e2m1_levels + scale + "scale_max = 1048577\n", "f.toml:4", "is not from 1 to 1048576"},
      {"[format.f]\nlevels = [0, 0.25]\n" + scale + "scale_max = 3\n", "f.toml:4", "is below 1 (a larger scale_max)"},
      {"[format.f]\n" + e2m1_levels + "scale = \"e3m4\"\n", "f.toml:1",
       "e3m4 has no default for the scale max (give scale_max"},
      {"[format.f]\n" + e2m1_levels + "scale = \"ue8m0\"\ntensor_scale = \"amax\"\n", "f.toml:4",
       "ue8m0 has no default"},
      {"[format.f]\n" + e2m1_levels + scale + "blokc = 16\n", "f.toml:4", "unknown key 'blokc' (did you mean 'block'"},
      {"format = 3\n", "f.toml:1", "'format' is not a table of formats (write [format.NAME])"},
      {"[[format]]\n" + scale, "f.toml:1", "write [format.NAME]"},
      {"[format]\n" + scale, "f.toml:2", "'scale' in [format] is no format (write [format.NAME])"},
      {"[format.f]\nlevels = [0, 1\n", "f.toml:", "TOML 1.0"},
  };
  for (const auto& m : mistakes) {
    const std::string said = message(m.toml);
    EXPECT_EQ(said.rfind(m.line, 0), 0u) << m.toml << said;
    EXPECT_NE(said.find(m.words), std::string::npos) << m.toml << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
}

TEST(FormatTable, levels_of_exactly_eight_bits_are_taken) {
  for (const char* levels :
       {"[0, 1, 255]", "[0, 0.00390625, 0.99609375]", "[0, 256]", "[0, 3, 253]", "[-0.0, 0.125, 31.875]"}) {
    EXPECT_EQ(message("[format.f]\nlevels = " + std::string(levels) + "\nscale = \"ue4m4\"\n"), "accepted") << levels;
  }
  EXPECT_NE(message("[format.f]\nlevels = [0, 1, 255.5]\nscale = \"ue4m4\"\n"), "accepted");
}

TEST(FormatTable, a_configuration_keeps_its_format_alive) {
  QuantizeConfig c;
  {
    const Formats table = parse_formats("[format.f]\nlevels = [0, 1, 3]\nscale = \"e4m3\"\nblock = 8\n", "");
    c = parse_config({"f", "sse", "", "", "", 0, 0}, table);
  }
  EXPECT_STREQ(c.format->name, "f");
  EXPECT_EQ(c.block, 8);
  EXPECT_EQ(c.scale_max, 448);
  EXPECT_STREQ(c.naive().meaning, "amax to 3, to nearest");
}

TEST(FormatTable, a_scale_max_on_the_command_line_keeps_the_tensor_scale_finite) {
  const Formats table = parse_formats("[format.f]\nlevels = [0, 0.125]\nscale = \"e4m3\"\n", "");
  EXPECT_THROW(parse_config({"f", "", "", "", "", 0, 7}, table), UsageError);
  EXPECT_EQ(parse_config({"f", "", "", "", "", 0, 8}, table).scale_max, 8);
}

Matrix sampled(const char* kind) {
  Distribution d;
  d.kind = kind;
  d.rows = 40;
  d.cols = 100;
  return sample(d);
}

TEST(FormatTable, e2m1s_levels_quantize_as_nvfp4_and_mxfp4_do) {
  const Formats table = parse_formats("[format.nv]\n" + e2m1_levels + "scale = \"e4m3\"\n[format.mx]\n" + e2m1_levels +
                                          "scale = \"ue8m0\"\nblock = 32\n[format.i4]\nlevels = [0, 1, 2, 3, 4, 5, 6, "
                                          "7]\nscale = \"e4m3\"\n",
                                      "");
  const Matrix x = sampled("normal");
  for (const char* pair : {"nv nvfp4", "mx mxfp4", "i4 nvint4"}) {
    const std::string text = pair, own = text.substr(0, 2), built_in = text.substr(3);
    for (const char* method : {"naive", "sse", "exhaustive", "hessian"}) {
      for (const char* kind : {"normal", "student_t"}) {
        const Matrix m = sampled(kind);
        const QuantizeConfig a = parse_config({own, method, "", "", "", 0, 0}, table);
        const QuantizeConfig b = parse_config({built_in, method, "", "", "", 0, 0});
        const Curvature h = curvature_of(x, a.block, false);
        const Quantized p = quantize(a, m, "m", &h), q = quantize(b, m, "m", &h);
        EXPECT_EQ(p.scales, q.scales) << pair << method;
        EXPECT_EQ(p.tensor_scale, q.tensor_scale);
        EXPECT_EQ(dequantize(p), dequantize(q)) << pair << method;
        if (own != "i4") {  // two's complement otherwise
          EXPECT_EQ(p.codes, q.codes) << pair << method;
        }
        EXPECT_EQ(measure(m, p).moves, measure(m, q).moves);
      }
    }
  }
}

TEST(FormatTable, non_finite_blocks_are_nan_in_every_scale_format) {
  Matrix m = {2, 16, std::vector<float>(32, 1.0f)};
  m.data[3] = __builtin_inff();
  for (const std::string& scale : definable_scales()) {
    const Formats table =
        parse_formats("[format.f]\nlevels = [0, 1, 3]\ntensor_scale = \"none\"\nscale = \"" + scale + "\"\n", "");
    const Quantized q = quantize(parse_config({"f", "sse", "", "", "propagate", 0, 0}, table), m, "m");
    EXPECT_TRUE(q.step(0, 0) != q.step(0, 0)) << scale;
    EXPECT_EQ(q.step(1, 0), 1) << scale;
  }
}

TEST(FormatTable, a_sweep_echoes_its_formats_and_reads_them_again) {
  const std::string toml =
      "[format.b]\nelement = \"e1m2\"\nscale = \"ue8m0\"\n[format.a]\nlevels = [0, 0.3125, 1, 2]\n"
      "scale = \"ue5m3\"\nblock = 64\n[[input]]\ndistribution = \"normal\"\n[[quantize]]\n"
      "formats = [\"a\", \"nvfp4\", \"b\"]\nmethods = [\"naive\", \"hessian\"]\n";
  const SweepConfig c = parse_sweep(toml, "s.toml");
  const std::string once = canonical_toml(c);
  EXPECT_EQ(canonical_toml(parse_sweep(once, "s.toml")), once);
  for (const char* word : {"[format.a]", "levels = [ 0.0, 0.3125, 1.0, 2.0 ]", "scale_max = 114688",
                           "tensor_scale = 'none'", "element = 'e1m2'"}) {
    EXPECT_NE(once.find(word), std::string::npos) << word << " is missing in\n" << once;
  }
}

TEST(FormatTable, a_sweep_without_formats_is_echoed_as_ever) {
  const SweepConfig c =
      parse_sweep("[[input]]\ndistribution = \"normal\"\n[[quantize]]\nformats = \"nvfp4\"\n", "s.toml");
  EXPECT_EQ(canonical_toml(c).find("[format"), std::string::npos);
}

TEST(FormatTable, a_sweeps_mistakes_are_named_with_the_formats_of_its_own) {
  const std::string head = "[format.mine]\n" + e2m1_levels + "scale = \"e4m3\"\n[[input]]\ndistribution = \"normal\"\n";
  const auto said = [&](const std::string& toml) {
    try {
      parse_sweep(toml, "s.toml");
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(said(head + "[[quantize]]\nformats = \"mine\"\n"), "accepted");
  EXPECT_NE(
      said(head + "[[quantize]]\nformats = \"mien\"\n").find("s.toml:7: unknown format 'mien' (did you mean 'mine'"),
      std::string::npos);
  EXPECT_NE(
      said(head + "[[quantize]]\nformats = \"mine\"\nmethods = \"4over6\"\n").find("s.toml:8: unknown method '4over6'"),
      std::string::npos);
  EXPECT_NE(said(head + "blokc = 2\n[[quantize]]\nformats = \"mine\"\n").find("s.toml:6"), std::string::npos);
  EXPECT_NE(said("[format.f]\nlevels = [1]\n" + head + "[[quantize]]\nformats = \"mine\"\n")
                .find("s.toml:2: [format.f]: 1 levels"),
            std::string::npos);
}

}  // namespace
}  // namespace fp4scope::analysis
