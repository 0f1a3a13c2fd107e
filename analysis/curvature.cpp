#include "analysis/curvature.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

Curvature certified(std::int64_t cols, search::Hessians blocks) {
  Curvature c;
  c.cols = cols;
  c.blocks = std::move(blocks);
  c.psd = search::certify(c.blocks);
  return c;
}

/// F32 or F64 as binary64.
std::vector<double> read_values(const io::TensorFile& file, const io::TensorInfo& info, const std::string& where) {
  const std::span<const std::byte> raw = file.raw(info);
  std::vector<double> values(static_cast<std::size_t>(info.elements()));
  if (info.dtype.name == "F64") {
    std::memcpy(values.data(), raw.data(), raw.size());
  } else if (info.dtype.name == "F32") {
    const io::Values narrow = file.read(info);
    values.assign(narrow.data.begin(), narrow.data.end());
  } else {
    throw Error(where, "H is F32 or F64, not " + info.dtype.name);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) throw Error(where, fmt::format("entry {} of H is {}", i, values[i]));
  }
  return values;
}

/// h [n, n] is symmetric with no negative diagonal.
void check_square(const double* h, std::int64_t n, const std::string& where) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (h[i * n + i] < 0) throw Error(where, fmt::format("H[{0}, {0}] is negative: {1}", i, h[i * n + i]));
    for (std::int64_t j = 0; j < i; ++j) {
      if (h[i * n + j] == h[j * n + i]) continue;
      throw Error(where, fmt::format("H[{}, {}] is {}, H[{}, {}] is {}", i, j, h[i * n + j], j, i, h[j * n + i]),
                  "H has to be symmetric, bit for bit");
    }
  }
}

search::FullHessian read_full(std::vector<double> values, std::int64_t cols, int block, const std::string& where) {
  check_square(values.data(), cols, where);
  search::FullHessian full = {padded(cols, block), {}};
  if (full.cols == cols) {
    full.h = std::move(values);
    return full;
  }
  full.h.assign(static_cast<std::size_t>(full.cols * full.cols), 0.0);
  for (std::int64_t i = 0; i < cols; ++i) {
    std::copy_n(values.begin() + i * cols, cols, full.h.begin() + i * full.cols);
  }
  return full;
}

search::Hessians read_blocks(std::vector<double> values, std::int64_t count, int block, const std::string& where) {
  search::Hessians h;
  h.block = block;
  h.h = std::move(values);
  h.envelope.resize(static_cast<std::size_t>(count * block));
  for (std::int64_t b = 0; b < count; ++b) {
    double* const of = h.of(static_cast<std::size_t>(b));
    check_square(of, block, where + fmt::format(", block {}", b));
    search::set_envelope(of, block, h.envelope.data() + b * block);
  }
  return h;
}

search::Hessians read_diagonal(const std::vector<double>& values, int block, const std::string& where) {
  const auto cols = static_cast<std::int64_t>(values.size());
  const std::int64_t count = padded(cols, block) / block;
  std::vector<double> h(static_cast<std::size_t>(count * block * block), 0.0);
  for (std::int64_t c = 0; c < cols; ++c) {
    h[static_cast<std::size_t>((c / block * block + c % block) * block + c % block)] =
        values[static_cast<std::size_t>(c)];
  }
  return read_blocks(std::move(h), count, block, where);
}

}  // namespace

Curvature curvature_of(const Matrix& x, int block, bool full) {
  const bool whole = x.cols % block == 0;
  const Matrix wide = whole ? Matrix{} : pad_columns(x, block);
  const Matrix& inputs = whole ? x : wide;
  Curvature c = certified(x.cols, search::make_hessians(inputs.data.data(), inputs.rows, inputs.cols, block));
  if (full) c.full = search::make_full_hessian(inputs.data.data(), inputs.rows, inputs.cols);
  return c;
}

Curvature read_curvature(const std::string& path, const std::string& tensor, int block, bool full) {
  const auto file = io::open_tensors(path);
  const io::TensorInfo& info = find_tensor(*file, path, tensor, "H");
  const std::string where = path + ":" + info.name;
  const std::vector<std::int64_t>& shape = info.shape;
  const bool square = shape.size() == 2 && shape[0] == shape[1];
  const bool blocks = shape.size() == 3 && shape[1] == shape[2];
  if (!square && !blocks && shape.size() != 1) {
    throw Error(where, "is " + info.shape_text(), "H is [cols, cols], [cols / block, block, block] or [cols]");
  }
  if (blocks && shape[1] != block) {
    throw Error(where, fmt::format("has blocks of {}, not {}", shape[1], block), fmt::format("--block {}", shape[1]));
  }
  if (full && !square) {
    throw Error(where, "is " + info.shape_text() + ", and the method needs H of a whole row", "H [cols, cols]");
  }
  std::vector<double> values = read_values(*file, info, where);
  if (blocks) return certified(shape[0] * block, read_blocks(std::move(values), shape[0], block, where));
  if (!square) return certified(shape[0], read_diagonal(values, block, where));
  search::FullHessian whole = read_full(std::move(values), shape[0], block, where);
  Curvature c = certified(shape[0], search::diagonal_blocks(whole, block));
  c.full = std::move(whole);
  return c;
}

}  // namespace fp4scope::analysis
