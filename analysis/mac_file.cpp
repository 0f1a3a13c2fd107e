#include "analysis/mac_file.hpp"

#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "analysis/mac_beats.hpp"
#include "formats/error.hpp"
#include "formats/pack.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {
namespace {

constexpr int lanes = sim::mac_lanes;
using Place = std::function<std::string(std::size_t block, std::size_t lane)>;

/// Blocks of 16 codes, one a byte, and their scale bytes.
struct Operand {
  std::vector<std::uint8_t> codes, scales;
};

/// Refuses what the unit doesn't take, or makes it 0.
void make_legal(const MacOptions& o, Operand& operand, const Place& place, MacCount& count) {
  for (std::size_t i = 0; i < operand.codes.size(); ++i) {
    std::uint8_t& code = operand.codes[i];
    const std::size_t block = i / lanes, lane = i % lanes;
    if (code > 0xF) throw Error(place(block, lane), fmt::format("{:#04x} is no code of 4 bits", code));
    if (sim::mac_legal(code)) continue;
    if (sim::mac_scale(o.format, operand.scales[block]).integer) {
      throw Error(place(block, lane), "code 0x8 (-8), which the unit does not take", "its integers are -7 .. 7");
    }
    if (!o.canonicalize) {
      throw Error(place(block, lane), "code 0x8 (-0), which the unit does not take", "--canonicalize makes it 0");
    }
    code = 0;
    ++count.canonicalized;
  }
}

/// The bytes of a U8 tensor [beats] or [beats, width].
std::vector<std::uint8_t> bytes_of(const io::TensorFile& file, const std::string& in, const std::string& name,
                                   std::int64_t beats, std::int64_t width) {
  const char* const layout = "beats are a, w U8 [beats, 16] and a_sf, w_sf, first U8 [beats]";
  const io::TensorInfo* t = file.find(name);
  if (!t) throw Error(in, "has no tensor '" + name + "'", layout);
  std::vector<std::int64_t> shape = {beats};
  if (width > 1) shape.push_back(width);
  if (beats < 0 && !t->shape.empty()) shape[0] = t->shape[0];
  if (t->dtype.name != "U8" || t->shape != shape) {
    throw Error(in + ": " + name, fmt::format("is {} {}", t->dtype.name, t->shape_text()), layout);
  }
  const std::span<const std::byte> raw = file.raw(*t);
  std::vector<std::uint8_t> bytes(raw.size());
  if (!raw.empty()) std::memcpy(bytes.data(), raw.data(), raw.size());
  return bytes;
}

MacBeats read_beats(const MacOptions& o, const std::string& in, MacCount& count) {
  const auto file = io::open_tensors(in);
  MacBeats beats;
  beats.first = bytes_of(*file, in, "first", -1, 1);
  const auto n = static_cast<std::int64_t>(beats.size());
  if (n == 0) throw Error(in, "has no beats");
  for (std::size_t i = 0; i < beats.size(); ++i) {
    if (beats.first[i] <= 1) continue;
    throw Error(fmt::format("{}: first, beat {}", in, i), fmt::format("is {}", beats.first[i]), "it is 0 or 1");
  }
  if (beats.first[0] == 0) throw Error(in + ": first, beat 0", "is 0", "the first beat begins a segment");
  const auto operand = [&](const std::string& name) {
    Operand read = {bytes_of(*file, in, name, n, lanes), bytes_of(*file, in, name + "_sf", n, 1)};
    const Place place = [&](std::size_t beat, std::size_t lane) {
      return fmt::format("{}: {}, beat {}, lane {}", in, name, beat, lane);
    };
    make_legal(o, read, place, count);
    return read;
  };
  Operand a = operand("a"), w = operand("w");
  beats.a = std::move(a.codes);
  beats.a_scale = std::move(a.scales);
  beats.w = std::move(w.codes);
  beats.w_scale = std::move(w.scales);
  return beats;
}

std::int64_t short_segments(const std::vector<std::uint8_t>& first) {
  std::int64_t found = 0, length = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    ++length;
    if (i + 1 < first.size() && first[i + 1] == 0) continue;
    found += length < sim::mac_least_segment;
    length = 0;
  }
  return found;
}

void notice_short(const MacOptions& o, const MacCount& count) {
  if (count.short_segments == 0) return;
  o.notice(fmt::format("{} of {} segments have less than {} beats: the published unit would lose their words",
                       count.short_segments, count.segments, sim::mac_least_segment));
}

std::map<std::string, std::string> metadata(const MacOptions& o) {
  return {{"tool", o.tool},
          {"format", o.format == sim::MacFormat::if4 ? "if4" : "nvfp4"},
          {"first", o.first == sim::MacFirst::loads ? "loads" : "adds"}};
}

/// A quantized tensor's rows.
struct Rows {
  std::string where;
  std::int64_t rows = 0, blocks = 0;  ///< blocks of 16 a row
  Operand operand;
};

/// The format that a file of `quantize` records; "" elsewhere.
std::string recorded_format(const io::TensorFile& file) {
  const auto record = file.metadata().find("fp4scope");
  if (record == file.metadata().end()) return "";
  const nlohmann::json j = nlohmann::json::parse(record->second, nullptr, false);
  return j.is_object() && j.contains("format") && j["format"].is_string() ? j["format"].get<std::string>() : "";
}

/// The name T of the only T.codes.
std::string only_name(const io::TensorFile& file, const std::string& path) {
  std::vector<std::string> names;
  const std::string suffix = ".codes";
  for (const io::TensorInfo& t : file.tensors()) {
    if (t.name.ends_with(suffix)) names.push_back(t.name.substr(0, t.name.size() - suffix.size()));
  }
  if (names.size() != 1) {
    throw Error(path, fmt::format("holds {} quantized tensors", names.size()), "name one: " + path + ":NAME");
  }
  return names[0];
}

const io::TensorInfo& part(const io::TensorFile& file, const std::string& path, const std::string& name) {
  const io::TensorInfo& t = find_tensor(file, path, name, "the operand");
  if (t.dtype.name == "U8" && t.shape.size() == 2) return t;
  throw Error(path + ": " + name, fmt::format("is {} {}", t.dtype.name, t.shape_text()), "U8 [rows, n] is needed");
}

Rows read_rows(const MacOptions& o, const std::string& text, MacCount& count) {
  const auto [path, given] = split_name(text);
  const auto file = io::open_tensors(path);
  const std::string format = recorded_format(*file);
  if (format != "nvfp4" && (format != "if4" || o.format != sim::MacFormat::if4)) {
    throw Error(path, format.empty() ? "is no output of fp4scope quantize" : "its format is " + format,
                o.format == sim::MacFormat::if4 ? "the unit takes if4 and nvfp4" : "the unit takes nvfp4");
  }
  const std::string name = given.empty() ? only_name(*file, path) : given;
  const io::TensorInfo& codes = part(*file, path, name + ".codes");
  const io::TensorInfo& scales = part(*file, path, name + ".scales");
  Rows rows = {path + ": " + name, codes.shape[0], scales.shape[1], {}};
  if (scales.shape[0] != rows.rows || codes.shape[1] != rows.blocks * lanes / 2) {
    throw Error(rows.where, fmt::format("codes {} under scales {}", codes.shape_text(), scales.shape_text()),
                "the unit's blocks have 16 elements: --block 16");
  }
  const auto bytes = [&](const io::TensorInfo& t) {
    return reinterpret_cast<const std::uint8_t*>(file->raw(t).data());
  };
  const std::int64_t n = codes.elements() * 2;
  for (std::int64_t i = 0; i < n; ++i) {
    rows.operand.codes.push_back(static_cast<std::uint8_t>(formats::unpack_nibble(bytes(codes), i)));
  }
  rows.operand.scales.assign(bytes(scales), bytes(scales) + scales.elements());
  make_legal(o, rows.operand, [&](std::size_t block, std::size_t lane) {
    const auto in_row = static_cast<std::size_t>(rows.blocks);
    return fmt::format("{}, row {}, column {}", rows.where, block / in_row, block % in_row * lanes + lane);
  }, count);
  return rows;
}

float word_of(const MacOptions& o, const Rows& a, std::int64_t i, const Rows& w, std::int64_t j) {
  float sums[lanes] = {};
  for (std::int64_t b = 0; b < a.blocks; ++b) {
    const std::int64_t x = i * a.blocks + b, y = j * w.blocks + b;
    sim::mac_beat(o.format, o.first, b == 0, &a.operand.codes[x * lanes], &w.operand.codes[y * lanes],
                  a.operand.scales[x], w.operand.scales[y], sums);
  }
  return sim::mac_reduce(sums);
}

}  // namespace

MacCount mac_file(const MacOptions& o, const std::string& in, const std::string& out) {
  MacCount count;
  const MacBeats beats = read_beats(o, in, count);
  const MacRun run = run_mac(o.format, o.first, beats, o.trace);
  count.beats = static_cast<std::int64_t>(beats.size());
  count.segments = static_cast<std::int64_t>(run.words.size());
  count.short_segments = short_segments(beats.first);
  notice_short(o, count);
  std::vector<io::SafetensorsWriter::Entry> entries = {{"acc", "F32", {count.segments}}};
  if (o.trace) entries.push_back({"lanes", "F32", {count.beats, lanes}});
  io::SafetensorsWriter writer(out, entries, metadata(o));
  writer.write("acc", std::as_bytes(std::span(run.words)));
  if (o.trace) writer.write("lanes", std::as_bytes(std::span(run.lanes)));
  writer.commit();
  return count;
}

MacCount mac_operands(const MacOptions& o, const std::string& a_text, const std::string& w_text,
                      const std::string& out) {
  MacCount count;
  const Rows a = read_rows(o, a_text, count), w = read_rows(o, w_text, count);
  if (a.blocks != w.blocks) {
    throw Error(w.where, fmt::format("has {} blocks a row, {} has {}", w.blocks, a.where, a.blocks),
                "both operands have the dot product's columns");
  }
  count.segments = a.rows * w.rows;
  count.beats = count.segments * a.blocks;
  if (a.blocks < sim::mac_least_segment) count.short_segments = count.segments;
  notice_short(o, count);
  io::SafetensorsWriter writer(out, {{"acc", "F32", {a.rows, w.rows}}}, metadata(o));
  std::vector<float> words(static_cast<std::size_t>(count.segments));
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < a.rows; ++i) {
    if (o.stop && *o.stop) continue;
    for (std::int64_t j = 0; j < w.rows; ++j) words[i * w.rows + j] = word_of(o, a, i, w, j);
  }
  if (o.stop && *o.stop) return count;
  writer.write("acc", std::as_bytes(std::span(words)));
  writer.commit();
  return count;
}

}  // namespace fp4scope::analysis
