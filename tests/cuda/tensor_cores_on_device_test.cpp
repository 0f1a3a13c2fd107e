// What the tensor cores of this device compute, instruction by instruction, against the rows of sim/instructions.hpp:
// bit for bit on 10^8 outputs each; where no row holds, which variant does (tensor_core_variants.hpp), and by which
// operands that is seen.
//
//   tensor_cores_on_device_test [RECORDS.safetensors] [--only NAME]... [--outputs N] [--seconds S] [--seed N]
//
// --only takes a part of a name. RECORDS gets a few operands and results of each instruction as soon as it is done: CI
// replays them from tests/data/tensor_cores.safetensors (tensor_core_records_test). --seconds bounds an instruction's
// comparison, and again the check of what a search found. Exit code 0: every instruction's first row holds; 1: not; 77:
// skipped, no device.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "cuda/cuda.hpp"
#include "formats/error.hpp"
#include "tests/cuda/tensor_core_records.hpp"

namespace fp4scope::probe {
namespace {

struct Options {
  std::string records;
  std::vector<std::string> only;
  Limits limits;
};

bool parse(int count, char** words, Options& out) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word.rfind("--", 0) != 0) {
      out.records = word;
      continue;
    }
    if (++i == count) return false;
    if (word == "--only") out.only.push_back(words[i]);
    else if (word == "--outputs") out.limits.outputs = static_cast<std::int64_t>(std::atof(words[i]));
    else if (word == "--seconds") out.limits.seconds = std::atof(words[i]);
    else if (word == "--seed") out.limits.seed = std::strtoull(words[i], nullptr, 10);
    else return false;
  }
  return true;
}

/// Device memory for one batch after another.
class Machine {
 public:
  void operator()(const sim::Instruction& r, Batch& x, bool a_in_registers) {
    const std::vector<std::uint8_t>* const in[] = {&x.a, &x.b, &x.c, &x.scale_a, &x.scale_b};
    void* at[5];
    for (int i = 0; i < 5; ++i) at[i] = uploaded(i, *in[i]);
    grow(5, x.d.size());
    cuda::MmaSets sets = {x.count, at[0], at[1], at[2], memory_[5].as<void>()};
    sets.scale_a = static_cast<const std::uint8_t*>(at[3]);
    sets.scale_b = static_cast<const std::uint8_t*>(at[4]);
    sets.operand_a = a_in_registers ? cuda::OperandA::registers : cuda::OperandA::shared;
    stream_.fill(sets.d, 0xFF, static_cast<std::int64_t>(x.d.size()));
    cuda::mma(stream_, r, sets);
    stream_.download(x.d.data(), sets.d, static_cast<std::int64_t>(x.d.size()));
    stream_.wait();
  }

 private:
  cuda::Stream stream_;
  cuda::Memory memory_[6];

  void grow(int i, std::size_t bytes) {
    if (memory_[i].bytes() < static_cast<std::int64_t>(bytes))
      memory_[i] = cuda::Memory(0, static_cast<std::int64_t>(bytes));
  }
  void* uploaded(int i, const std::vector<std::uint8_t>& from) {
    if (from.empty()) return nullptr;
    grow(i, from.size());
    stream_.upload(memory_[i].as<void>(), from.data(), static_cast<std::int64_t>(from.size()));
    return memory_[i].as<void>();
  }
};

struct Line {
  std::string name, best;
  std::int64_t outputs, mismatches;
};

bool selected(const Options& options, const std::string& name) {
  return options.only.empty() || std::any_of(options.only.begin(), options.only.end(), [&](const std::string& part) {
           return name.find(part) != std::string::npos;
         });
}

/// Layout first: a wrong one would make every comparison meaningless. Both ways to hand over A are tried.
bool layout_holds(const sim::Instruction& r, const RunSets& run, Limits& limits) {
  const bool both = r.opcode == sim::Opcode::wgmma;
  const std::string fault = layout_fault(r, run, false), of_registers = both ? layout_fault(r, run, true) : fault;
  if (!fault.empty()) std::printf("  layout%s: %s\n", both ? ", A in shared memory" : "", fault.c_str());
  if (both && !of_registers.empty()) std::printf("  layout, A in registers: %s\n", of_registers.c_str());
  limits.a_in_shared = fault.empty();
  limits.a_in_registers = both && of_registers.empty();
  return fault.empty() || of_registers.empty();
}

bool examine_one(const Rows& rows, const RunSets& run, Limits limits, std::vector<Line>& table,
                 std::vector<Record>& records) {
  const sim::Instruction& r = *rows[0];
  if (!layout_holds(r, run, limits)) {
    table.push_back({r.name, "not compared: the layout is wrong", 0, 0});
    return false;
  }
  const bool registers_alone = !limits.a_in_shared;
  const double start = seconds_now();
  const Verdict x = examine(rows, run, limits);
  const double seconds = seconds_now() - start;
  const RunSets one = [&](const sim::Instruction& row, Batch& batch, bool) { run(row, batch, registers_alone); };
  report(rows, x, one);
  if (r.a.bits == 19) {
    std::printf("  the lowest 13 bits of a tf32 %s\n", low_bits_are_ignored(r, one) ? "are ignored" : "COUNT");
  }
  std::printf("  %.1f s\n", seconds);
  std::fflush(stdout);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Tally& t = x.tallies[i];
    const char* const nearly = t.mismatches == 0 ? "the row but for signs of zeros or bits of NaNs" : "";
    table.push_back({rows[i]->name, t.clean() ? "the row" : nearly, t.outputs, t.mismatches});
  }
  if (x.searched) {
    table.push_back({"  search", describe(x.variants[0].variant), x.verified.outputs, x.verified.mismatches});
  }
  records.push_back({&r, record_sets(r, limits.seed)});
  one(r, records.back().batch, false);
  return x.tallies[0].clean();
}

int run(const Options& options) {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  const cuda::Device& device = cuda::devices()[0];
  if (device.major != 9 && device.major != 10 && device.major != 12) {
    std::printf("skipped: %s is neither Hopper nor Blackwell\n", device.name.c_str());
    return 77;
  }
  const auto architecture = device.major == 9    ? sim::Architecture::hopper
                            : device.major == 10 ? sim::Architecture::blackwell
                                                 : sim::Architecture::rtx_blackwell;
  std::printf("%s, compute capability %d.%d\n", device.name.c_str(), device.major, device.minor);
  Machine machine;
  const RunSets run_sets = [&](const sim::Instruction& r, Batch& x, bool registers) { machine(r, x, registers); };
  std::vector<Line> table;
  std::vector<Record> records;
  const auto save = [&] {
    if (options.records.empty()) return;
    write_records(options.records, records,
                  {{"device", device.name}, {"architecture", sim::architecture_names[static_cast<int>(architecture)]}});
  };
  bool ok = true;
  for (const Rows& rows : instructions_of(architecture)) {
    if (!selected(options, rows[0]->name)) continue;
    const std::string why = cuda::why_no_mma(0, *rows[0]);
    if (!why.empty()) {
      std::printf("%s: not run: %s\n", rows[0]->name, why.c_str());
      continue;
    }
    try {
      ok = examine_one(rows, run_sets, options.limits, table, records) && ok;
      save();  // whoever stops the program keeps these
    } catch (const Error& error) {  // the device is lost: what was found until now is still told
      std::printf("%s: %s\n", rows[0]->name, error.what());
      ok = false;
      break;
    }
  }
  std::printf("\n%-46s %11s %11s  best\n", "instruction", "outputs", "differ");
  for (const Line& x : table) {
    std::printf("%-46s %11lld %11lld  %s\n", x.name.c_str(), static_cast<long long>(x.outputs),
        static_cast<long long>(x.mismatches), x.best.c_str());
  }
  if (!options.records.empty()) std::printf("%s: %zu instructions\n", options.records.c_str(), records.size());
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope::probe

int main(int count, char** words) {
  fp4scope::probe::Options options;
  if (!fp4scope::probe::parse(count, words, options)) {
    std::fprintf(stderr, "usage: tensor_cores_on_device_test [RECORDS.safetensors] [--only NAME]... [--outputs N] "
                         "[--seconds S] [--seed N]\n");
    return 2;
  }
  try {
    return fp4scope::probe::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
