#include "search/row_descent.hpp"

#include <algorithm>
#include <cmath>

#include "search/closest_vector.hpp"
#include "search/coordinate.hpp"

namespace fp4scope::search {

namespace {

constexpr std::int64_t batch = 8;  // rows that share one reading of H

/// What all rows share.
struct Problem {
  const SearchSpace& space;
  const FullHessian& hessian;
  const Hessians diagonal;
  const std::vector<double> envelope;  ///< of the whole H
  const float* x;
  const RowDescentOptions& options;
};

constexpr int most_codes = 256;

/// The rows that a thread works on: r and H r of each, [batch][cols].
struct Batch {
  std::int64_t first;
  std::int64_t count;
  std::vector<double> r;
  std::vector<double> hr;
  std::vector<double> own;  ///< RowStep::scales: [batch][blocks][most_codes], see best_scale; negative: not known yet
  double size[batch] = {};  ///< T of the bound
  bool active[batch] = {};
};

/// The code of least r^T H r + 2 g^T r with nearest elements, ties to the lowest. r^T H r, own[code], stays the same
/// from pass to pass.
BlockSolution best_scale(const SearchSpace& space, const BlockProblem& problem, double* own) {
  BlockSolution best;
  best.loss = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    const double step = space.step(code);
    const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
    double r[max_joint_block], shared = 0;
    std::int8_t level[max_joint_block];
    for (int i = 0; i < problem.n; ++i) {
      level[i] = nearest_level(thresholds, problem.target[i]);
      r[i] = problem.target[i] - signed_level(space, level[i]) * step;
      shared += problem.linear[i] * r[i];
    }
    if (own[code] < 0) {
      const BlockProblem alone = {problem.n, problem.target, problem.h, nullptr};
      own[code] = std::max(loss_of(space, alone, code, level), 0.0);
    }
    const double loss = own[code] + 2 * shared;
    if (!(loss < best.loss)) continue;
    best.loss = loss;
    best.code = code;
    std::copy_n(level, problem.n, best.level);
  }
  return best;
}

BlockSolution solve_block(const Problem& p, const BlockProblem& problem, const BlockSolution& here, double* own,
                          ClosestVectorRoom& room) {
  switch (p.options.step) {
    case RowStep::scales: return best_scale(p.space, problem, own);
    case RowStep::coordinate: return coordinate_descent(p.space, problem, here);
    case RowStep::closest: {
      ClosestVectorOptions limits;
      limits.node_limit = p.options.node_limit;
      const BlockSolution found = closest_vector(p.space, problem, limits, room);
      if (found.proved) return found;
      const BlockSolution nearby = coordinate_descent(p.space, problem, here);  // from another start than the search
      return nearby.loss < found.loss ? nearby : found;
    }
  }
  return here;
}

BlockSolution solution_of(const Assignment& assignment, std::int64_t index, int n) {
  BlockSolution s;
  s.code = assignment.scales[static_cast<std::size_t>(index)];
  std::copy_n(assignment.levels.data() + index * n, n, s.level);
  return s;
}

/// What moving block b from one solution to another does.
struct Change {
  double d[max_joint_block];  ///< of r
  double moved = 0;           ///< E of the bound
  bool falls = false;         ///< delta < -bound
};

/// `size` is T of the bound, `hr` the block's part of H r.
Change compare(const Problem& p, double size, const double* hr, std::int64_t b, const BlockSolution& here,
               const BlockSolution& there) {
  const int n = p.diagonal.block;
  const double* const h = p.diagonal.of(static_cast<std::size_t>(b));
  const double old_step = p.space.step(here.code), new_step = p.space.step(there.code);
  Change change;
  for (int i = 0; i < n; ++i) {
    change.d[i] = signed_level(p.space, here.level[i]) * old_step - signed_level(p.space, there.level[i]) * new_step;
    change.moved += p.envelope[static_cast<std::size_t>(b * n + i)] * std::fabs(change.d[i]);
  }
  double delta = 0;
  for (int i = 0; i < n; ++i) {
    double hd = 0;
    for (int j = 0; j < n; ++j) hd += h[i * n + j] * change.d[j];
    delta += change.d[i] * (2 * hr[i] + hd);
  }
  const double terms = static_cast<double>(2 * p.hessian.cols + 2 * n + 12);
  change.falls = delta < -terms * 0x1p-52 * change.moved * (2 * size + change.moved);
  return change;
}

/// Block b of one row of the batch. Whether it changed.
bool improve_block(const Problem& p, Batch& rows, std::int64_t row, std::int64_t b, ClosestVectorRoom& room,
                   Assignment& assignment) {
  const int n = p.diagonal.block;
  const std::int64_t cols = p.hessian.cols, at = b * n, index = (rows.first + row) * (cols / n) + b;
  double* const r = rows.r.data() + row * cols + at;
  double* const hr = rows.hr.data() + row * cols;
  const double* const h = p.diagonal.of(static_cast<std::size_t>(b));
  double target[max_joint_block], linear[max_joint_block];
  for (int i = 0; i < n; ++i) {
    double own = 0;
    for (int j = 0; j < n; ++j) own += h[i * n + j] * r[j];
    linear[i] = hr[at + i] - own;
    target[i] = p.x[index * n + i];
  }
  const BlockProblem problem = {n, target, h, linear};
  BlockSolution here = solution_of(assignment, index, n);
  here.loss = loss_of(p.space, problem, here.code, here.level);
  double* const own = rows.own.empty() ? nullptr : rows.own.data() + (row * (cols / n) + b) * most_codes;
  const BlockSolution there = solve_block(p, problem, here, own, room);

  const Change change = compare(p, rows.size[row], hr + at, b, here, there);
  if (!change.falls) return false;

  rows.size[row] += change.moved;
  const double step = p.space.step(there.code);
  for (int i = 0; i < n; ++i) r[i] = target[i] - signed_level(p.space, there.level[i]) * step;
  add_products(hr, cols, change.d, 1, p.hessian.row(at), cols, 1, cols, n);
  assignment.scales[static_cast<std::size_t>(index)] = static_cast<std::uint8_t>(there.code);
  std::copy_n(there.level, n, assignment.levels.data() + index * n);
  return true;
}

/// H r, T and the loss of every row, afresh.
void refresh(const Problem& p, Batch& rows, std::vector<double>& loss) {
  const std::int64_t cols = p.hessian.cols;
  multiply_rows(p.hessian, rows.r.data(), rows.count, rows.hr.data());
  for (std::int64_t row = 0; row < rows.count; ++row) {
    double sum = 0, size = 0;
    for (std::int64_t i = 0; i < cols; ++i) {
      sum += rows.r[row * cols + i] * rows.hr[row * cols + i];
      size += p.envelope[static_cast<std::size_t>(i)] * std::fabs(rows.r[row * cols + i]);
    }
    rows.size[row] = size;
    loss[static_cast<std::size_t>(rows.first + row)] = sum;
  }
}

/// All passes of one batch. Returns the number of changes.
std::int64_t descend(const Problem& p, Batch& rows, ClosestVectorRoom& room, RowDescent& result) {
  const std::int64_t blocks = p.hessian.cols / p.diagonal.block;
  std::int64_t changes = 0;
  std::fill_n(rows.active, rows.count, true);
  refresh(p, rows, result.loss[0]);
  for (std::size_t pass = 1; pass < result.loss.size(); ++pass) {
    bool changed[batch] = {};
    for (std::int64_t b = 0; b < blocks; ++b) {
      for (std::int64_t row = 0; row < rows.count; ++row) {
        if (!rows.active[row] || !improve_block(p, rows, row, b, room, result.assignment)) continue;
        changed[row] = true;
        ++changes;
      }
    }
    if (std::find(changed, changed + batch, true) != changed + batch) {
      refresh(p, rows, result.loss[pass]);
    } else {  // nothing moved: the losses stand for all later passes
      for (std::size_t q = pass; q < result.loss.size(); ++q) {
        std::copy_n(result.loss[q - 1].begin() + rows.first, rows.count, result.loss[q].begin() + rows.first);
      }
      break;
    }
    std::copy_n(changed, batch, rows.active);
  }
  return changes;
}

}  // namespace

RowDescent row_descent(const SearchSpace& space, const FullHessian& hessian, int block, const float* x,
                       std::int64_t rows, const Assignment& start, const RowDescentOptions& options) {
  const std::int64_t cols = hessian.cols;
  std::vector<double> envelope(static_cast<std::size_t>(cols));
  set_envelope(hessian.h.data(), static_cast<int>(cols), envelope.data());
  const Problem p = {space, hessian, diagonal_blocks(hessian, block), envelope, x, options};
  RowDescent result = {start, {}, 0};
  result.loss.assign(static_cast<std::size_t>(options.passes + 1), std::vector<double>(static_cast<std::size_t>(rows)));
  const std::vector<double> r = residuals(space, block, start, x, rows, cols);
  std::int64_t changes = 0;
#pragma omp parallel reduction(+ : changes) if (rows > batch)
  {
    ClosestVectorRoom room;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t first = 0; first < rows; first += batch) {
      const std::int64_t count = std::min(batch, rows - first);
      Batch some = {first, count, {r.begin() + first * cols, r.begin() + (first + count) * cols}, {}, {}, {}, {}};
      some.hr.resize(some.r.size());
      if (options.step == RowStep::scales) some.own.assign(some.r.size() / block * most_codes, -1.0);
      changes += descend(p, some, room, result);
    }
  }
  result.changes = changes;
  while (result.loss.size() > 2 && result.loss.back() == result.loss[result.loss.size() - 2]) result.loss.pop_back();
  return result;
}

}  // namespace fp4scope::search
