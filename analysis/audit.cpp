#include "analysis/audit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "analysis/original_rows.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t piece_elements = 1 << 23;   // some 100 MiB with what is made of them
constexpr std::int64_t sample_elements = 1 << 16;   // of a fingerprint; every recipe of the format runs on them
constexpr std::int64_t least_sample_rows = 16;

double root_ratio(double sse, double energy) {
  if (energy > 0) return std::sqrt(sse / energy);
  return sse > 0 ? std::numeric_limits<double>::infinity() : sse == 0 ? 0 : none;
}

std::int64_t rows_a_piece(std::int64_t cols) {
  return std::max<std::int64_t>(1, piece_elements / std::max<std::int64_t>(cols, 1));
}

/// Rows spread evenly over the tensor, the first and the last among them.
std::vector<std::int64_t> sample_rows(std::int64_t rows, std::int64_t cols) {
  const std::int64_t wanted = std::max(least_sample_rows, sample_elements / std::max<std::int64_t>(cols, 1));
  const std::int64_t count = std::min(rows, wanted);
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(count == 1 ? 0 : i * (rows - 1) / (count - 1));
  return out;
}

/// One weight beside its original.
class Comparison {
 public:
  Comparison(const Checkpoint& checkpoint, const StoredWeight& weight, OriginalRows& rows, const AuditOptions& options)
      : checkpoint_(checkpoint), weight_(weight), rows_(rows), survey_(rows.cols()) {
    const std::int64_t step = rows_a_piece(weight.cols);
    for (std::int64_t r = 0; r < rows.rows() && !stopped(options); r += step) {
      survey_.add(rows.read(r, std::min(step, rows.rows() - r)));
    }
    if (!stopped(options)) sample(options);
  }

  void add(const Quantized& theirs) {
    const Matrix m = pad_columns(rows_.read(theirs.first_row, theirs.rows), weight_.block);
    add_optimum(result_.sums, m, theirs, rows_.cols(), survey_);
    match_->add({m, theirs, rows_.cols()});
    result_.dtype = m.dtype;
  }

  AgainstOriginal result() const {
    AgainstOriginal out = result_;
    out.fingerprint = match_->result();
    return out;
  }

 private:
  static bool stopped(const AuditOptions& options) { return options.stop && *options.stop; }

  void sample(const AuditOptions& options) {
    Matrix m = {0, rows_.cols(), {}, "F32"};
    Quantized theirs = checkpoint_.read(weight_, 0, 1);
    theirs.codes.clear();
    theirs.scales.clear();
    for (const std::int64_t r : sample_rows(weight_.rows, weight_.cols)) {
      const Matrix row = rows_.read(r, 1);
      const Quantized q = checkpoint_.read(weight_, r, 1);
      m.data.insert(m.data.end(), row.data.begin(), row.data.end());
      theirs.codes.insert(theirs.codes.end(), q.codes.begin(), q.codes.end());
      theirs.scales.insert(theirs.scales.end(), q.scales.begin(), q.scales.end());
      m.dtype = row.dtype;
      ++m.rows;
    }
    theirs.rows = m.rows;
    const TheirTensorScale scale = {weight_.stored_tensor_scale, weight_.reciprocal};
    match_.emplace(RowsPair{pad_columns(m, weight_.block), theirs, rows_.cols()}, survey_, scale, options.stop);
  }

  const Checkpoint& checkpoint_;
  const StoredWeight& weight_;
  OriginalRows& rows_;
  Survey survey_;
  std::optional<RecipeMatch> match_;
  AgainstOriginal result_;
};

/// The original of a weight, or a word why there is none.
std::optional<OriginalRows> find_original(const io::TensorFile* originals, const StoredWeight& w,
                                          const Notice& notice) {
  if (!originals) return std::nullopt;
  const auto say = [&](const std::string& why) {
    if (notice) notice(w.name + ": audited without its original: " + why);
  };
  if (w.rotated) {
    say("it is of the rotated weight");
    return std::nullopt;
  }
  const io::TensorInfo* const tensor = originals->find(w.name);
  if (!tensor) {
    say("there is no tensor of that name");
    return std::nullopt;
  }
  try {
    return OriginalRows(*originals, *tensor, w.rows, w.cols, w.block);
  } catch (const Error& e) {
    say(e.problem);
    return std::nullopt;
  }
}

bool plain_mxfp4(const StoredWeight& w) {
  return w.format->name == std::string_view("mxfp4") && (w.block == 16 || w.block == 32);
}

/// What is done of all weights, in elements.
struct Done {
  std::int64_t all = 0, done = 0;
};

AuditedTensor audit_weight(const Checkpoint& checkpoint, const StoredWeight& w, const io::TensorFile* originals,
                           const AuditOptions& options, Done& done) {
  AuditedTensor t;
  t.name = w.name;
  t.layout = w.layout;
  t.format = w.format;
  t.block = w.block;
  t.rows = w.rows;
  t.cols = w.cols;
  t.tensor_scale = w.decode_scale;
  t.scaled = w.tensor_scale != nullptr;
  t.reciprocal = w.reciprocal;
  std::optional<OriginalRows> rows = find_original(originals, w, options.notice);
  std::optional<Comparison> comparison;
  if (rows) comparison.emplace(checkpoint, w, *rows, options);
  LosslessCount lossless;
  const std::int64_t step = rows_a_piece(w.cols);
  for (std::int64_t r = 0; r < w.rows; r += step) {
    if (options.stop && *options.stop) return t;
    Quantized theirs = checkpoint.read(w, r, std::min(step, w.rows - r));
    theirs.first_row = r;
    t.counts.add(theirs);
    if (plain_mxfp4(w)) lossless.add(theirs);
    if (comparison) comparison->add(theirs);
    done.done += theirs.rows * theirs.cols;
    if (options.progress) options.progress(static_cast<double>(done.done) / static_cast<double>(done.all), w.name);
  }
  checkpoint.file().release(*w.codes);
  t.evidence = evidence(t.counts);
  if (plain_mxfp4(w)) t.lossless = lossless.result();
  if (comparison) t.original = comparison->result();
  return t;
}

}  // namespace

double AgainstOriginal::weight_error() const { return root_ratio(sums.sse, sums.energy); }

double AgainstOriginal::sqnr_db() const { return -20 * std::log10(weight_error()); }

double AgainstOriginal::optimal_error() const { return sums.searched ? root_ratio(sums.best_sse, sums.energy) : none; }

double AgainstOriginal::gap() const {
  if (!sums.searched) return none;
  if (sums.best_sse > 0) return std::sqrt(sums.sse / sums.best_sse) - 1;
  return sums.sse == 0 ? 0 : std::numeric_limits<double>::infinity();
}

double AgainstOriginal::optimal_share() const {
  return sums.searched && sums.blocks > 0 ? static_cast<double>(sums.optimal) / static_cast<double>(sums.blocks) : none;
}

std::int64_t Audit::with_original() const {
  return std::count_if(tensors.begin(), tensors.end(), [](const AuditedTensor& t) { return t.original.has_value(); });
}

CodeCounts Audit::counts() const {
  CodeCounts all;
  for (const AuditedTensor& t : tensors) all.add(t.counts);
  return all;
}

std::optional<AgainstOriginal> Audit::total() const {
  std::optional<AgainstOriginal> all;
  for (const AuditedTensor& t : tensors) {
    if (!t.original) continue;
    if (!all) {
      all.emplace();
      all->sums.searched = true;
    }
    const OptimumSums& s = t.original->sums;
    all->sums.energy += s.energy;
    all->sums.sse += s.sse;
    all->sums.best_sse += s.best_sse;
    all->sums.blocks += s.blocks;
    all->sums.optimal += s.optimal;
    all->sums.uncomparable += s.uncomparable;
    all->sums.searched = all->sums.searched && s.searched;
  }
  return all;
}

std::vector<RecipeBlocks> Audit::recipes() const {
  std::map<std::string, RecipeBlocks> found;
  const auto add = [&](const std::string& name, std::int64_t blocks) {
    if (blocks == 0) return;
    RecipeBlocks& r = found[name];
    r.name = name;
    r.blocks += blocks;
    ++r.tensors;
  };
  for (const AuditedTensor& t : tensors) {
    if (!t.original) continue;
    const Fingerprint& f = t.original->fingerprint;
    const bool first = f.verdict != "none", second = f.verdict == "mixture";
    if (first) add(f.first.name, f.first.blocks);
    if (second) add(f.second.name, f.second.blocks);
    add("", f.blocks - (first ? f.first.blocks : 0) - (second ? f.second.blocks : 0));
  }
  std::vector<RecipeBlocks> out;
  for (const auto& [name, r] : found) out.push_back(r);
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.blocks > b.blocks; });
  return out;
}

Audit audit(const AuditOptions& options) {
  const Checkpoint checkpoint(options.checkpoint);
  notice_unread(checkpoint, options.notice);
  std::unique_ptr<io::TensorFile> originals;
  if (!options.original.empty()) originals = io::open_tensors(options.original);
  std::vector<const StoredWeight*> wanted;
  Done done;
  for (const StoredWeight& w : checkpoint.weights()) {
    if (!selected(w.name, options.tensors, options.exclude)) continue;
    wanted.push_back(&w);
    done.all += w.rows * w.cols;
  }
  if (wanted.empty()) {
    throw Error(options.checkpoint, checkpoint.weights().empty() ? "holds no quantized weights"
                                                                 : "--tensor and --exclude leave no weight");
  }
  Audit result = {options.checkpoint, options.original, {}};
  for (const StoredWeight* w : wanted) {
    result.tensors.push_back(audit_weight(checkpoint, *w, originals.get(), options, done));
    if (options.stop && *options.stop) return {options.checkpoint, options.original, {}};
  }
  return result;
}

}  // namespace fp4scope::analysis
