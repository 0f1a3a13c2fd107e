#include "search/psd.hpp"

#include <gmpxx.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace fp4scope::search {

namespace {

constexpr double infinity = __builtin_inf();

double at(const double* d, int i) { return d ? d[i] : 0; }

bool row_is_zero(const double* h, int n, int i) {
  return std::all_of(h + i * n, h + (i + 1) * n, [](double entry) { return entry == 0; });
}

/// h_ii - d_i, rounded down.
double diagonal_below(const double* h, int n, const double* d, int i) {
  const double difference = h[i * n + i] - at(d, i);
  return d ? std::nextafter(difference, -infinity) : difference;
}

/// Cholesky of a[n][n] in place, lower triangle, row by row; false at a pivot that is not positive.
bool cholesky(std::vector<double>& a, int n) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = a[i * n + j];
      for (int k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      if (i == j && !(sum > 0)) return false;
      a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
    }
  }
  return true;
}

/// The exponent of the lowest set bit; 0 and above for 0.
int lowest_exponent(double x) {
  if (x == 0) return 1 << 12;
  const formats::Unpacked u = formats::unpack(x);
  return u.exponent + std::countr_zero(u.significand);
}

/// x / 2^unit, a whole number.
mpz_class whole(double x, int unit) {
  if (x == 0) return 0;
  const formats::Unpacked u = formats::unpack(x);
  const int zeros = std::countr_zero(u.significand);
  mpz_class out = mpz_class(static_cast<unsigned long>(u.significand >> zeros)) << (u.exponent + zeros - unit);
  if (u.negative) out = -out;
  return out;
}

std::vector<mpz_class> whole_matrix(const double* h, int n, const double* d) {
  int unit = 1 << 12;
  for (int i = 0; i < n * n; ++i) unit = std::min(unit, lowest_exponent(h[i]));
  for (int i = 0; i < n; ++i) unit = std::min(unit, lowest_exponent(at(d, i)));
  std::vector<mpz_class> a(static_cast<std::size_t>(n * n));
  for (int i = 0; i < n * n; ++i) a[i] = whole(h[i], unit);
  for (int i = 0; i < n; ++i) a[i * n + i] -= whole(at(d, i), unit);
  return a;
}

double largest_entry(const double* h, int n) {
  double largest = 0;
  for (int i = 0; i < n * n; ++i) largest = std::max(largest, std::fabs(h[i]));
  return largest;
}

bool has_floor(const double* h, int n, double lambda) {
  const std::vector<double> d(static_cast<std::size_t>(n), lambda);
  return is_psd_quick(h, n, d.data());
}

}  // namespace

bool is_psd_quick(const double* h, int n, const double* d) {
  std::vector<int> kept, exponent;
  for (int i = 0; i < n; ++i) {
    const double diagonal = diagonal_below(h, n, d, i);
    if (row_is_zero(h, n, i) && at(d, i) <= 0) continue;  // it stands alone, with -d_i >= 0 on the diagonal
    if (!(diagonal > 0)) return false;
    int e = 0;
    std::frexp(diagonal, &e);
    kept.push_back(i);
    exponent.push_back((e - 1) >> 1);
  }
  const auto m = static_cast<int>(kept.size());
  std::vector<double> a(static_cast<std::size_t>(m * m));
  double trace = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < i; ++j) a[i * m + j] = std::ldexp(h[kept[i] * n + kept[j]], -exponent[i] - exponent[j]);
    a[i * m + i] = std::ldexp(diagonal_below(h, n, d, kept[i]), -2 * exponent[i]);
    trace += a[i * m + i];
  }
  const double margin = 4 * (m + 2) * 0x1p-53 * trace;
  for (int i = 0; i < m; ++i) a[i * m + i] = std::nextafter(a[i * m + i] - margin, -infinity);
  return cholesky(a, m);
}

bool is_psd_exact(const double* h, int n, const double* d) {
  std::vector<mpz_class> a = whole_matrix(h, n, d);
  mpz_class last = 1;
  for (int k = 0; k < n; ++k) {
    const mpz_class& pivot = a[k * n + k];
    if (pivot < 0) return false;
    if (pivot == 0) {  // x = t e_k + e_i makes 2 t a_ik + a_ii negative for some t, unless a_ik = 0
      for (int i = k + 1; i < n; ++i) {
        if (a[i * n + k] != 0) return false;
      }
      continue;
    }
    for (int i = k + 1; i < n; ++i) {
      for (int j = k + 1; j <= i; ++j) {
        mpz_class next = pivot * a[i * n + j] - a[i * n + k] * a[j * n + k];
        mpz_divexact(a[i * n + j].get_mpz_t(), next.get_mpz_t(), last.get_mpz_t());
      }
    }
    last = pivot;
  }
  return true;
}

bool is_psd(const double* h, int n, const double* d) {
  return is_psd_quick(h, n, d) || (n <= max_exact_psd && is_psd_exact(h, n, d));
}

double psd_shift(const double* h, int n) {
  if (is_psd(h, n)) return 0;
  const double largest = largest_entry(h, n);
  std::vector<double> shifted(h, h + n * n);
  for (int k = -52;; ++k) {  // n * largest is enough (Gershgorin)
    const double shift = std::ldexp(largest, k);
    for (int i = 0; i < n; ++i) shifted[i * n + i] = h[i * n + i] + shift;
    if (is_psd(shifted.data(), n)) return shift;
  }
}

double eigenvalue_floor(const double* h, int n) {
  if (!is_psd(h, n)) {
    double floor = -std::ldexp(largest_entry(h, n), -52);
    while (!has_floor(h, n, floor)) floor *= 2;
    return floor;
  }
  double least = infinity;
  for (int i = 0; i < n; ++i) least = std::min(least, h[i * n + i]);
  double below = least / 2;  // the least eigenvalue is at most the least diagonal entry
  while (below > least * 0x1p-60 && !has_floor(h, n, below)) below /= 2;
  if (!(below > least * 0x1p-60)) return 0;
  for (double step = below / 2; step > below / 64; step /= 2) {
    if (has_floor(h, n, below + step)) below += step;
  }
  return below;
}

PsdReport certify(Hessians& hessians) {
  const int n = hessians.block;
  const auto blocks = static_cast<std::int64_t>(hessians.count());
  PsdReport report;
  report.shift.assign(static_cast<std::size_t>(blocks), 0.0);
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t b = 0; b < blocks; ++b) {
    double* const h = hessians.of(static_cast<std::size_t>(b));
    double* const envelope = hessians.envelope.data() + b * n;
    const double shift = psd_shift(h, n);
    report.shift[static_cast<std::size_t>(b)] = shift;
    if (shift == 0) continue;
    for (int i = 0; i < n; ++i) {
      h[i * n + i] += shift;
      envelope[i] = std::max(envelope[i], std::sqrt(h[i * n + i]) * (1 + 0x1p-40));
    }
  }
  for (const double shift : report.shift) {
    report.shifted += shift != 0;
    report.largest_shift = std::max(report.largest_shift, shift);
  }
  report.hash = content_hash(hessians);
  return report;
}

std::uint64_t content_hash(const Hessians& hessians) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto mix = [&hash](std::uint64_t word) { hash = (hash ^ word) * 0x100000001B3u; };
  mix(static_cast<std::uint64_t>(hessians.block));
  mix(hessians.count());
  for (const double entry : hessians.h) mix(std::bit_cast<std::uint64_t>(entry));
  return hash;
}

}  // namespace fp4scope::search
