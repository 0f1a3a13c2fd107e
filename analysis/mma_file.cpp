#include "analysis/mma_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::analysis {
namespace {

using sim::Architecture;
using sim::Instruction;
using sim::Opcode;

std::string architecture_of(const Instruction& r) {
  return sim::architecture_names[static_cast<std::size_t>(r.architecture)];
}

/// Where --arch looks, in this order.
std::vector<Architecture> searched(const std::string& name) {
  for (std::size_t i = 0; i < std::size(sim::architecture_names); ++i) {
    if (name != sim::architecture_names[i]) continue;
    const auto found = static_cast<Architecture>(i);
    if (found == Architecture::blackwell) return {found, Architecture::rtx_blackwell};
    return {found};
  }
  throw UsageError("--arch", "unknown architecture '" + name + "'", suggestion(name, architecture_names()));
}

/// The number behind `letter` in a shape such as m64n128k32, and where it lies in `name`.
struct Dimension {
  int value = 0;
  std::size_t begin = 0, length = 0;
};

Dimension dimension(const std::string& name, char letter) {
  Dimension d;
  const std::size_t shape = name.find('.');
  if (shape == std::string::npos) return d;
  d.begin = name.find(letter, shape);
  if (d.begin == std::string::npos) return d;
  ++d.begin;
  const auto [end, failure] = std::from_chars(name.data() + d.begin, name.data() + name.size(), d.value);
  d.length = failure == std::errc() ? static_cast<std::size_t>(end - name.data()) - d.begin : 0;
  return d;
}

/// The name with the shape that the table has: N 8, and M 128 for tcgen05. "" where M or N is none of PTX's.
std::string table_name(std::string name) {
  const bool wgmma = name.starts_with("wgmma."), tcgen05 = name.starts_with("tcgen05.");
  if (!wgmma && !tcgen05) return name;
  const Dimension n = dimension(name, 'n');
  if (n.value < 8 || n.value > 256 || n.value % 8 != 0) return "";
  name.replace(n.begin, n.length, "8");
  const Dimension m = dimension(name, 'm');
  if (tcgen05 && m.value == 64 && name.find(".block") == std::string::npos) name.replace(m.begin, m.length, "128");
  return name;
}

std::string dtype_of(const formats::Format& f) {
  if (f.bits == 16) return formats::same_format(f, formats::bf16) ? "BF16" : "F16";
  return f.bits > 16 ? "F32" : "U8";
}

/// What PyTorch calls 8-bit codes; the file may have either name for them.
bool raw_codes(const std::string& dtype, const formats::Format& f) {
  return (dtype == "F8_E4M3" && formats::same_format(f, formats::e4m3)) ||
         (dtype == "F8_E5M2" && formats::same_format(f, formats::e5m2)) ||
         (dtype == "F8_E8M0" && formats::same_format(f, formats::ue8m0)) ||
         (dtype == "F8_E4M3" && formats::same_format(f, formats::ue4m3));
}

/// A matrix of `in`, its shape and dtype as the instruction wants them.
std::span<const std::byte> matrix(const io::TensorFile& file, const std::string& in, const std::string& name,
                                  const formats::Format& format, std::int64_t rows, std::int64_t columns) {
  const std::string dtype = dtype_of(format);
  const io::TensorInfo* t = file.find(name);
  const std::string wanted = fmt::format("{} [{}, {}]", dtype, rows, columns);
  if (!t) throw Error(in, "has no tensor '" + name + "'", "it should be " + wanted);
  const bool readable = t->dtype.name == dtype || raw_codes(t->dtype.name, format);
  if (!readable || t->shape != std::vector<std::int64_t>{rows, columns}) {
    throw Error(in + ": " + name, "is " + t->dtype.name + " " + t->shape_text(), "the instruction takes " + wanted);
  }
  return file.raw(*t);
}

/// Little-endian words of `size` bytes.
std::vector<std::uint32_t> words(std::span<const std::byte> raw, std::size_t size) {
  std::vector<std::uint32_t> out(raw.size() / size);
  for (std::size_t i = 0; i < raw.size(); ++i) {
    out[i / size] |= std::to_integer<std::uint32_t>(raw[i]) << (8 * (i % size));
  }
  return out;
}

/// Codes [outer, K], each row contiguous: A's rows, or B's columns.
std::vector<std::uint32_t> element_codes(const Instruction& r, const formats::Format& f, const io::TensorFile& file,
                                         const std::string& in, const std::string& name, bool of_a) {
  const std::int64_t outer = of_a ? r.m : r.n, packed = f.bits == 4 ? 2 : 1, inner = r.k / packed;
  const auto raw = matrix(file, in, name, f, of_a ? outer : inner, of_a ? inner : outer);
  const std::vector<std::uint32_t> stored = words(raw, f.bits > 16 ? 4 : f.bits > 8 ? 2 : 1);
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(outer * r.k));
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t k = 0; k < r.k; ++k) {
      const std::int64_t at = of_a ? i * inner + k / packed : k / packed * outer + i;
      std::uint32_t code = stored[static_cast<std::size_t>(at)];
      if (f.bits == 4) code = code >> (4 * (k % 2)) & 0xF;
      if (f.bits > 16) code >>= 13;
      if (f.bits == 6 && code > 0x3F) {
        const std::string place = of_a ? fmt::format("[{}, {}]", i, k) : fmt::format("[{}, {}]", k, i);
        throw Error(in + ": " + name, fmt::format("{} is 0x{:02X}, no code of {}", place, code, f.name),
                    "its codes are 0x00 to 0x3F");
      }
      codes[static_cast<std::size_t>(i * r.k + k)] = code;
    }
  }
  return codes;
}

struct Operands {
  std::vector<std::uint32_t> a, b, c, scale_a, scale_b;
};

Operands read_operands(const Instruction& r, const io::TensorFile& file, const std::string& in,
                       const std::string& prefix) {
  Operands x;
  x.a = element_codes(r, r.a, file, in, prefix + ".A", true);
  x.b = element_codes(r, r.b, file, in, prefix + ".B", false);
  x.c = words(matrix(file, in, prefix + ".C", r.f16_addend ? formats::fp16 : sim::binary32, r.m, r.n),
              r.f16_addend ? 2 : 4);
  if (!r.scaled) {
    for (const char* name : {".SA", ".SB"}) {
      if (!file.find(prefix + name)) continue;
      throw Error(in + ": " + prefix + name, "is there, but the instruction has no scales");
    }
    return x;
  }
  x.scale_a = words(matrix(file, in, prefix + ".SA", r.scale, r.m, r.k / r.block), 1);
  x.scale_b = words(matrix(file, in, prefix + ".SB", r.scale, r.k / r.block, r.n), 1);
  return x;
}

/// D [M, N], two or four bytes each, little-endian.
std::vector<std::byte> product(const Instruction& r, const Operands& x, MmaCount& count) {
  const std::size_t size = r.f16_result() ? 2 : 4;
  const std::int64_t outputs = std::int64_t{r.m} * r.n;
  std::vector<std::byte> out(static_cast<std::size_t>(outputs) * size);
  const int blocks = r.scaled ? r.k / r.block : 0;
  const std::uint32_t infinity = r.f16_result() ? 0x7C00 : 0x7F800000, sign = r.f16_result() ? 0x8000 : 0x80000000;
  std::int64_t nan = 0, infinite = 0;
#pragma omp parallel for schedule(static) reduction(+ : nan, infinite)
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t m = i / r.n, n = i % r.n;
    const std::uint32_t d = sim::multiply_accumulate(r, x.a.data() + m * r.k, 1, x.b.data() + n * r.k, 1,
                                                     x.c[static_cast<std::size_t>(i)], x.scale_a.data() + m * blocks, 1,
                                                     x.scale_b.data() + n, r.n);
    for (std::size_t byte = 0; byte < size; ++byte) {
      out[static_cast<std::size_t>(i) * size + byte] = static_cast<std::byte>(d >> (8 * byte));
    }
    nan += (d & ~sign) > infinity;
    infinite += (d & ~sign) == infinity;
  }
  ++count.products;
  count.outputs += outputs;
  count.nan += nan;
  count.infinite += infinite;
  return out;
}

std::vector<std::string> prefixes(const io::TensorFile& file, const std::string& in) {
  std::vector<std::string> found;
  for (const io::TensorInfo& t : file.tensors()) {
    if (t.name.ends_with(".A")) found.push_back(t.name.substr(0, t.name.size() - 2));
  }
  if (found.empty()) throw Error(in, "has no tensor whose name ends in '.A'", "P.A, P.B and P.C make a product P.D");
  return found;
}

nlohmann::ordered_json exponent_json(int exponent) {
  return exponent == sim::no_exponent ? nlohmann::ordered_json() : nlohmann::ordered_json(exponent);
}

std::string sum_name(const Instruction& r) {
  switch (r.sum) {
    case sim::Sum::aligned: return "aligned and truncated";
    case sim::Sum::two_stage: return "products aligned and truncated, then with C downward";
    case sim::Sum::exact: return "exact";
    case sim::Sum::sequential: return "binary32, one after the other";
    case sim::Sum::pairwise: return "binary32, in a tree";
  }
  return "";
}

}  // namespace

std::vector<std::string> architecture_names() {
  return {std::begin(sim::architecture_names), std::end(sim::architecture_names)};
}

std::vector<Instruction> instructions_of(const std::string& architecture) {
  std::vector<Instruction> rows;
  if (architecture.empty()) return {sim::all_instructions.begin(), sim::all_instructions.end()};
  for (const Architecture a : searched(architecture)) {
    for (const Instruction& r : sim::all_instructions) {
      const bool there = std::any_of(rows.begin(), rows.end(), [&](const Instruction& other) {
        return std::string_view(other.name) == r.name;
      });
      if (r.architecture == a && !there) rows.push_back(r);
    }
  }
  return rows;
}

Instruction find_operation(const std::string& architecture, const std::string& name) {
  const std::string wanted = table_name(name);
  std::vector<std::string> names;
  for (Instruction r : instructions_of(architecture)) {
    names.push_back(r.name);
    if (wanted != r.name) continue;
    if (r.opcode == Opcode::wgmma || r.opcode == Opcode::tcgen05) {
      r.m = dimension(name, 'm').value;
      r.n = dimension(name, 'n').value;
      std::fill(std::begin(r.name), std::end(r.name), '\0');
      sim::write_name(r);
    }
    return r;
  }
  if (wanted.empty()) throw UsageError("--op", "'" + name + "' has no such N", "N is a multiple of 8 from 8 to 256");
  std::vector<std::string> elsewhere;
  for (const Instruction& r : sim::all_instructions) {
    if (wanted == r.name) elsewhere.push_back(architecture_of(r));
  }
  if (!elsewhere.empty()) {
    throw UsageError("--op", "'" + name + "' is no instruction of " + architecture, "it is one of: " + join(elsewhere));
  }
  throw UsageError("--op", "unknown instruction '" + name + "' on " + architecture,
                   "did you mean " + nearest_name(name, names) + "? fp4scope mma --list --arch " + architecture +
                       " has all");
}

std::string instruction_json(const Instruction& r) {
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  std::vector<int> at(static_cast<std::size_t>(r.k));
  for (int k = 0; k < r.k; ++k) at[static_cast<std::size_t>(r.place(k))] = k;
  for (int first = 0; first < r.k; first += r.group) {
    steps.push_back(std::vector<int>(at.begin() + first, at.begin() + first + r.group));
  }
  nlohmann::ordered_json j = {{"name", r.name},
                              {"architecture", architecture_of(r)},
                              {"m", r.m},
                              {"n", r.n},
                              {"k", r.k},
                              {"a", r.a.name},
                              {"b", r.b.name},
                              {"c", r.f16_addend ? "fp16" : "f32"},
                              {"scale", nullptr},
                              {"block", nullptr},
                              {"sum", sum_name(r)},
                              {"steps", steps},
                              {"fraction_bits", nullptr},
                              {"exact_group", nullptr},
                              {"c_enters", r.addend == sim::Addend::first_step ? "first step" : "after all steps"},
                              {"result", result_text(r)},
                              {"least_exponent", exponent_json(r.least_exponent)},
                              {"zero_exponent", exponent_json(r.zero_exponent)},
                              {"flushes_subnormals", r.flushes},
                              {"elements_as_f16", r.as_f16},
                              {"variant", r.variant}};
  if (r.scaled) j["scale"] = r.scale.name;
  if (r.scaled) j["block"] = r.block;
  if (r.fraction_bits > 0) j["fraction_bits"] = r.fraction_bits;
  if (r.exact_group > 0) j["exact_group"] = r.exact_group;
  j["nan"] = fmt::format("0x{:X}", r.nan_bits());
  j["evidence"] = {{"model", r.evidence.model},
                   {"vectors", r.evidence.vectors},
                   {"measured", r.evidence.measured},
                   {"differ", r.evidence.differ},
                   {"device", r.evidence.device}};
  return j.dump();
}

std::string steps_text(const Instruction& r) {
  if (r.steps() == 1) return fmt::format("{}", r.k);
  if (r.run == r.group) return fmt::format("{} x {}", r.steps(), r.group);
  const std::string order = r.run == 1 ? ", interleaved" : fmt::format(", {} of {} k", r.run, r.run * r.steps());
  return fmt::format("{} x {}{}", r.steps(), r.group, order);
}

std::string result_text(const Instruction& r) {
  switch (r.result) {
    case sim::Result::f32_truncated: return "f32, truncated";
    case sim::Result::f32_nearest: return "f32, to nearest";
    case sim::Result::e8m13_truncated: return "e8m13 in f32, truncated";
    case sim::Result::f16_nearest: return "f16, to nearest";
  }
  return "";
}

std::string evidence_text(const Instruction& r) {
  const sim::Evidence& e = r.evidence;
  if (e.measured > 0) return fmt::format("measured: {} of {} outputs differ on an {}", e.differ, e.measured, e.device);
  if (*e.vectors) return std::string("outputs of ") + e.vectors;
  return std::string("model: ") + e.model;
}

MmaCount mma_file(const Instruction& row, const std::string& in, const std::string& out, const std::string& tool,
                  const std::atomic<bool>* stop) {
  const auto file = io::open_tensors(in);
  const std::vector<std::string> found = prefixes(*file, in);
  std::vector<io::SafetensorsWriter::Entry> entries;
  for (const std::string& prefix : found) {
    read_operands(row, *file, in, prefix);
    entries.push_back({prefix + ".D", row.f16_result() ? "F16" : "F32", {row.m, row.n}});
  }
  const nlohmann::ordered_json described = nlohmann::ordered_json::parse(instruction_json(row));
  io::SafetensorsWriter writer(out, entries,
                               {{"tool", tool},
                                {"instruction", row.name},
                                {"architecture", architecture_of(row)},
                                {"row", described.dump()},
                                {"evidence", described["evidence"].dump()}});
  MmaCount count;
  for (const std::string& prefix : found) {
    if (stop && *stop) return count;
    writer.write(prefix + ".D", product(row, read_operands(row, *file, in, prefix), count));
  }
  writer.commit();
  return count;
}

}  // namespace fp4scope::analysis
