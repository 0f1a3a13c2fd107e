// Matrix instructions as rows of data: what tensor_core.hpp needs to know of each, and why the row is believed.
//
// A family is one line: every pair of its element formats is an instruction. Names are PTX's in the order of MMA-Sim:
// mma.SHAPE[.blockN].D.A.B.C[.SCALE], wgmma and tcgen05 without C, whose type is D's; AMD's MFMA likewise. Where
// publications disagree a second row's name ends in @VARIANT; so do AMD's instructions of the same shape (_1k). What
// was measured is one line a measurement. AMD's xf32 is tf32 here.
//
// Not there: operands of 32 and 64 bits, whose sums are fma after fma and whose products the integers here don't hold;
// CDNA3's FP8, whose formats have no -0 and another bias (fnuz), which formats/ hasn't.
//
// Sources: [S] MMA-Sim, arXiv 2511.10909, github.com/microsoft/MMA-Sim at c785138; [K] Khattak and Mikaitis, arXiv
// 2512.07004, github.com/north-numerical-computing/MATLAB-tensor-core at b12b5a7. Their least exponents are [K]'s where
// it has one: a maximum counts as at least that, zeros don't count. Under block scales, which [K] lacks, [S]'s: a zero
// operand, scale or C has exponent -126. [S] and [K] differ there in nothing but the last bits of tiny numbers.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

#include "sim/tensor_core.hpp"

namespace fp4scope::sim {

/// Sets of element formats; a family takes A from one and B from another.
enum ElementSet : std::uint16_t {
  with_f16 = 1,
  with_bf16 = 2,
  with_tf32 = 4,
  with_e4m3 = 8,
  with_e5m2 = 16,
  with_e2m3 = 32,
  with_e3m2 = 64,
  with_e2m1 = 128,
  fp8 = with_e4m3 | with_e5m2,
  f8f6f4 = fp8 | with_e2m3 | with_e3m2 | with_e2m1,
};

inline constexpr formats::Format element_of_bit[] = {formats::fp16, formats::bf16, tf32,          formats::e4m3,
                                                     formats::e5m2, formats::e2m3, formats::e3m2, formats::e2m1};

enum class Scales : std::uint8_t { none, ue8m0, ue4m3 };

struct Family {
  Opcode opcode;
  Architecture architecture;
  std::uint16_t elements;  ///< of A and of B
  bool mixed;              ///< whether A and B may differ
  int m, n, k;
  int group, run, fraction_bits;
  Result result;
  Addend addend;
  bool f16_addend;
  int least_exponent, zero_exponent;
  const char* model;
  const char* vectors = "";  ///< of the pairs of one format
  const char* variant = "";
  Scales scales = Scales::none;
  int block = 0;
  int exact_group = 0;
  Sum sum = Sum::aligned;
  bool flushes = false;
  bool as_f16 = false;
};

namespace families {

inline constexpr const char* both = "MMA-Sim (arXiv 2511.10909); Khattak and Mikaitis (arXiv 2512.07004)";
inline constexpr const char* mma_sim = "MMA-Sim (arXiv 2511.10909)";
inline constexpr const char* without_fp6 = "MMA-Sim's for FP8 and FP4 (arXiv 2511.10909); it has no FP6";
inline constexpr const char* khattak = "Khattak and Mikaitis (arXiv 2512.07004)";
inline constexpr const char* unpacked =
    "the machine code is two f16 instructions and an addition; neither MMA-Sim nor Khattak and Mikaitis has it";
inline constexpr const char* reading =
    "what Khattak and Mikaitis (arXiv 2512.07004) say of two vectors of 16; their program has one sum of 32";
inline constexpr const char* refused = "MMA-Sim (arXiv 2511.10909); ptxas 13.0 refuses it";
// Khattak and Mikaitis's inputs and outputs of the hardware (their model_validation/), 5000 a device and format, A's
// format B's.
inline constexpr const char* of_v100 = "Khattak and Mikaitis, V100: 0 of 5000 differ";
inline constexpr const char* of_ampere = "Khattak and Mikaitis, A100 and A2: 0 of 5000 differ each, half of k zeros";
inline constexpr const char* of_ada = "Khattak and Mikaitis, Ada and L40S: 0 of 5000 differ each";
inline constexpr const char* of_ada_half = "Khattak and Mikaitis, Ada and L40S: 0 of 5000 differ each, half of k zeros";
inline constexpr const char* of_ada_alone = "Khattak and Mikaitis, Ada: 0 of 5000 differ";
inline constexpr const char* of_hopper = "Khattak and Mikaitis, H100 and H200: 0 of 5000 differ each";
inline constexpr const char* of_hopper_half = "Khattak and Mikaitis, H100 and H200: 0 of 5000 differ each, half of k zeros";
inline constexpr const char* of_b200 = "Khattak and Mikaitis, B200: 0 of 5000 differ";
inline constexpr const char* of_b200_half = "Khattak and Mikaitis, B200: 0 of 5000 differ, half of k zeros";
inline constexpr const char* of_three = "Khattak and Mikaitis, H100, H200 and B200: 0 of 5000 differ each";
inline constexpr const char* of_wgmma = "Khattak and Mikaitis, H100 and H200: 0 of 5000 differ each, all with C = 0";
inline constexpr const char* against_interleaving =
    "Khattak and Mikaitis, H100 and H200: 820 of 5000 differ each for e4m3, 354 for e5m2, all with C = 0";

inline constexpr auto f32 = Result::f32_truncated;
inline constexpr auto f16 = Result::f16_nearest;
inline constexpr auto e8m13 = Result::e8m13_truncated;
inline constexpr auto near = Result::f32_nearest;
inline constexpr auto first = Addend::first_step;
inline constexpr auto after = Addend::last;
inline constexpr int none = no_exponent;
using enum Architecture;
using enum Opcode;

// clang-format off
inline constexpr Family all[] = {
    // opcode architecture   elements   mixed    m   n   k group run F result addend f16 C least zero model
    {mma,     volta,         with_f16,  false,   8,  8,  4,  4,  4, 23, f32,   first, false, none, none, both, of_v100},
    {mma,     volta,         with_f16,  false,   8,  8,  4,  4,  4, 23, f32,   first, true,  none, none, mma_sim},
    {mma,     volta,         with_f16,  false,   8,  8,  4,  4,  4, 23, f16,   first, true,   -19, none, both, of_v100},
    {mma,     turing,        with_f16,  false,  16,  8,  8,  8,  8, 24, f32,   first, false, none, -126, mma_sim},
    {mma,     turing,        with_f16,  false,  16,  8,  8,  8,  8, 24, f16,   first, true,  none, -126, mma_sim},

    {mma,     ampere,        with_f16,  false,  16,  8, 16,  8,  8, 24, f32,   first, false, -132, none, both, of_ampere},
    {mma,     ampere,        with_f16,  false,  16,  8, 16,  8,  8, 24, f16,   first, true,   -20, none, both, of_ampere},
    {mma,     ampere,        with_bf16, false,  16,  8, 16,  8,  8, 24, f32,   first, false, -132, none, both, of_ampere},
    {mma,     ampere,        with_f16 | with_bf16, false,  16,  8,  8,  8,  8, 24, f32,   first, false, -132, none, both},
    {mma,     ampere,        with_f16,  false,  16,  8,  8,  8,  8, 24, f16,   first, true,   -20, none, both},
    {mma,     ampere,        with_tf32, false,  16,  8,  8,  4,  4, 24, f32,   first, false, -132, none, both, of_ampere},
    {mma,     ampere,        with_tf32, false,  16,  8,  4,  4,  4, 24, f32,   first, false, -132, none, both},

    {mma,     ada,           with_f16,  false,  16,  8, 16,  8,  8, 24, f32,   first, false, -132, none, both, of_ada_half},
    {mma,     ada,           with_f16,  false,  16,  8, 16,  8,  8, 24, f16,   first, true,   -20, none, both, of_ada_half},
    {mma,     ada,           with_bf16, false,  16,  8, 16,  8,  8, 24, f32,   first, false, -132, none, both, of_ada_half},
    {mma,     ada,           with_f16 | with_bf16, false,  16,  8,  8,  8,  8, 24, f32,   first, false, -132, none, both},
    {mma,     ada,           with_f16,  false,  16,  8,  8,  8,  8, 24, f16,   first, true,   -20, none, both},
    {mma,     ada,           with_tf32, false,  16,  8,  8,  4,  4, 24, f32,   first, false, -132, none, both, of_ada_half},
    {mma,     ada,           with_tf32, false,  16,  8,  4,  4,  4, 24, f32,   first, false, -132, none, both},
    {mma,     ada,           fp8,       true,   16,  8, 32, 16, 16, 13, e8m13, first, false, -132, none, both, of_ada},
    {mma,     ada,           fp8,       true,   16,  8, 16, 16, 16, 13, e8m13, first, false, -132, none, both},
    {mma,     ada,           fp8,       true,   16,  8, 32, 16, 16, 13, f16,   first, true,  -132, none, mma_sim, of_ada_alone},
    {mma,     ada,           fp8,       true,   16,  8, 16, 16, 16, 13, f16,   first, true,  -132, none, mma_sim},

    {mma,     hopper,        with_f16,  false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both, of_hopper},
    {mma,     hopper,        with_f16,  false,  16,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, both, of_hopper},
    {mma,     hopper,        with_bf16, false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both, of_hopper},
    {mma,     hopper,        with_f16 | with_bf16, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both},
    {mma,     hopper,        with_f16,  false,  16,  8,  8,  8,  8, 25, f16,   first, true,   -21, none, both},
    {mma,     hopper,        with_tf32, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both, of_hopper_half},
    {mma,     hopper,        with_tf32, false,  16,  8,  4,  4,  4, 25, f32,   first, false, -133, none, both},
    {mma,     hopper,        fp8,       true,   16,  8, 32, 16,  2, 25, f32,   after, false, -133, none, unpacked, "", "", Scales::none, 0, 0, Sum::aligned, false, true},
    {mma,     hopper,        fp8,       true,   16,  8, 32, 16,  2, 25, f16,   after, true,   -21, none, unpacked, of_three, "", Scales::none, 0, 0, Sum::aligned, false, true},
    {wgmma,   hopper,        with_f16,  false,  64,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both},
    {wgmma,   hopper,        with_f16,  false,  64,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, both},
    {wgmma,   hopper,        with_bf16, false,  64,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both},
    {wgmma,   hopper,        with_tf32, false,  64,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both},
    {wgmma,   hopper,        fp8,       true,   64,  8, 32, 32, 32, 13, e8m13, first, false, -133, none, both, of_wgmma},
    {wgmma,   hopper,        fp8,       true,   64,  8, 32, 32, 32, 13, f16,   first, true,  -133, none, mma_sim},
    {wgmma,   hopper,        fp8,       true,   64,  8, 32, 16,  1, 13, e8m13, first, false, -133, none, reading, against_interleaving, "interleaved"},
    {wgmma,   hopper,        fp8,       true,   64,  8, 32, 16,  1, 13, f16,   first, true,  -133, none, reading, "", "interleaved"},

    {mma,     blackwell,     with_f16,  false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both, of_b200},
    {mma,     blackwell,     with_f16,  false,  16,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, both, of_b200},
    {mma,     blackwell,     with_bf16, false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both, of_b200},
    {mma,     blackwell,     with_f16 | with_bf16, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both},
    {mma,     blackwell,     with_f16,  false,  16,  8,  8,  8,  8, 25, f16,   first, true,   -21, none, both},
    {mma,     blackwell,     with_tf32, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both, of_b200_half},
    {mma,     blackwell,     with_tf32, false,  16,  8,  4,  4,  4, 25, f32,   first, false, -133, none, both},
    {mma,     blackwell,     fp8,       true,   16,  8, 32, 16,  2, 25, f32,   after, false, -133, none, unpacked, of_b200, "", Scales::none, 0, 0, Sum::aligned, false, true},
    {mma,     blackwell,     fp8,       true,   16,  8, 32, 16,  2, 25, f16,   after, true,   -21, none, unpacked, of_three, "", Scales::none, 0, 0, Sum::aligned, false, true},
    {tcgen05, blackwell,     with_f16 | with_bf16, true,  128,  8, 16, 16, 16, 25, f32,   first, false, -133, none, mma_sim},
    {tcgen05, blackwell,     with_f16,  false, 128,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, mma_sim},
    {tcgen05, blackwell,     with_tf32, false, 128,  8,  8,  8,  8, 25, f32,   first, false, -133, none, mma_sim},
    {tcgen05, blackwell,     f8f6f4,    true,  128,  8, 32, 32, 32, 25, f32,   first, false, -133, none, mma_sim},
    {tcgen05, blackwell,     f8f6f4,    true,  128,  8, 32, 32, 32, 25, f16,   first, true,   -21, none, mma_sim},
    {tcgen05, blackwell,     f8f6f4,    true,  128,  8, 32, 32, 32, 25, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue8m0, 32},
    {tcgen05, blackwell,     with_e2m1, false, 128,  8, 64, 64, 64, 35, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue8m0, 32, 16},
    {tcgen05, blackwell,     with_e2m1, false, 128,  8, 64, 64, 64, 35, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue8m0, 16, 16},
    {tcgen05, blackwell,     with_e2m1, false, 128,  8, 64, 64, 64, 35, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue4m3, 16, 16},

    {mma,     rtx_blackwell, with_f16,  false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both},
    {mma,     rtx_blackwell, with_f16,  false,  16,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, both},
    {mma,     rtx_blackwell, with_bf16, false,  16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, both},
    {mma,     rtx_blackwell, with_f16 | with_bf16, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both},
    {mma,     rtx_blackwell, with_f16,  false,  16,  8,  8,  8,  8, 25, f16,   first, true,   -21, none, both},
    {mma,     rtx_blackwell, with_tf32, false,  16,  8,  8,  8,  8, 25, f32,   first, false, -133, none, both},
    {mma,     rtx_blackwell, with_tf32, false,  16,  8,  4,  4,  4, 25, f32,   first, false, -133, none, both},
    {mma,     rtx_blackwell, fp8,       true,   16,  8, 16, 16, 16, 25, f32,   first, false, -133, none, mma_sim},
    {mma,     rtx_blackwell, fp8,       true,   16,  8, 16, 16, 16, 25, f16,   first, true,   -21, none, mma_sim},
    {mma,     rtx_blackwell, f8f6f4,    true,   16,  8, 32, 32, 32, 25, f32,   first, false, -133, none, mma_sim},
    {mma,     rtx_blackwell, f8f6f4,    true,   16,  8, 32, 32, 32, 25, f16,   first, true,   -21, none, mma_sim},
    {mma,     rtx_blackwell, f8f6f4,    true,   16,  8, 32, 32, 32, 25, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue8m0, 32},
    {mma,     rtx_blackwell, with_e2m1, false,  16,  8, 64, 64, 64, 35, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue8m0, 32, 16},
    {mma,     rtx_blackwell, with_e2m1, false,  16,  8, 64, 64, 64, 35, f32,   first, false, none, -126, refused, "", "", Scales::ue8m0, 16, 16},
    {mma,     rtx_blackwell, with_e2m1, false,  16,  8, 64, 64, 64, 35, f32,   first, false, none, -126, refused, "", "", Scales::ue4m3, 32, 16},
    {mma,     rtx_blackwell, with_e2m1, false,  16,  8, 64, 64, 64, 35, f32,   first, false, none, -126, mma_sim, "", "", Scales::ue4m3, 16, 16},

    {mfma,    cdna1,         with_f16,  false,  32, 32,  8,  4,  4,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_f16,  false,  32, 32,  4,  4,  4,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_f16,  false,  16, 16, 16,  4,  4,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_f16,  false,  16, 16,  4,  4,  4,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_f16,  false,   4,  4,  4,  4,  4,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_bf16, false,  32, 32,  4,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_bf16, false,  32, 32,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_bf16, false,  16, 16,  8,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_bf16, false,  16, 16,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_bf16, false,   4,  4,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, false},
    {mfma,    cdna1,         with_f16,  false,  32, 32,  8,  4,  4,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_f16,  false,  32, 32,  4,  4,  4,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_f16,  false,  16, 16, 16,  4,  4,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_f16,  false,  16, 16,  4,  4,  4,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_f16,  false,   4,  4,  4,  4,  4,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_bf16, false,  32, 32,  4,  2,  2,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_bf16, false,  32, 32,  2,  2,  2,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_bf16, false,  16, 16,  8,  2,  2,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_bf16, false,  16, 16,  2,  2,  2,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},
    {mfma,    cdna1,         with_bf16, false,   4,  4,  2,  2,  2,  0, near,  first, false, none, none, khattak, "", "exact", Scales::none, 0, 0, Sum::exact, false},

    {mfma,    cdna2,         with_f16,  false,  32, 32,  8,  4,  4,  0, near,  first, false, none, none, both, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_f16,  false,  32, 32,  4,  4,  4,  0, near,  first, false, none, none, both, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_f16,  false,  16, 16, 16,  4,  4,  0, near,  first, false, none, none, both, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_f16,  false,  16, 16,  4,  4,  4,  0, near,  first, false, none, none, both, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_f16,  false,   4,  4,  4,  4,  4,  0, near,  first, false, none, none, both, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  32, 32,  4,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  32, 32,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  16, 16,  8,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  16, 16,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,   4,  4,  2,  2,  2,  0, near,  first, false, none, none, mma_sim, "", "", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  32, 32,  8,  4,  4,  0, near,  first, false, none, none, both, "", "1k", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  32, 32,  4,  4,  4,  0, near,  first, false, none, none, both, "", "1k", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  16, 16, 16,  4,  4,  0, near,  first, false, none, none, both, "", "1k", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,  16, 16,  4,  4,  4,  0, near,  first, false, none, none, both, "", "1k", Scales::none, 0, 0, Sum::pairwise, true},
    {mfma,    cdna2,         with_bf16, false,   4,  4,  4,  4,  4,  0, near,  first, false, none, none, both, "", "1k", Scales::none, 0, 0, Sum::pairwise, true},

    {mfma,    cdna3,         with_f16 | with_bf16, false, 32, 32,  8,  8,  8, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_f16 | with_bf16, false, 32, 32,  4,  4,  4, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_f16 | with_bf16, false, 16, 16, 16,  8,  8, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_f16 | with_bf16, false, 16, 16,  4,  4,  4, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_f16 | with_bf16, false,  4,  4,  4,  4,  4, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_tf32, false,  32, 32,  4,  4,  4, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
    {mfma,    cdna3,         with_tf32, false,  16, 16,  8,  4,  4, 24, near,  first, false, -126, none, both, "", "", Scales::none, 0, 0, Sum::two_stage},
};
// clang-format on

}  // namespace families

/// One line a measurement of the hardware.
struct Measurement {
  const char* name;
  Architecture architecture;
  std::int64_t outputs, differ;
  const char* device;
};

inline constexpr const char* h200 = "NVIDIA H200";

// tests/cuda/tensor_cores_on_device_test.cpp; its records are tests/data/tensor_cores.safetensors.
inline constexpr Measurement measurements[] = {
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k16.f16.f16.f16.f16", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k16.f32.bf16.bf16.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k8.f32.f16.f16.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k8.f32.bf16.bf16.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k8.f16.f16.f16.f16", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k8.f32.tf32.tf32.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k4.f32.tf32.tf32.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f32.e4m3.e4m3.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f32.e4m3.e5m2.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f32.e5m2.e4m3.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f32.e5m2.e5m2.f32", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f16.e4m3.e4m3.f16", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f16.e4m3.e5m2.f16", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f16.e5m2.e4m3.f16", Architecture::hopper, 100663296, 0, h200},
    {"mma.m16n8k32.f16.e5m2.e5m2.f16", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k16.f32.f16.f16", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k16.f16.f16.f16", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k16.f32.bf16.bf16", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k8.f32.tf32.tf32", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f32.e4m3.e4m3", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f32.e4m3.e4m3@interleaved", Architecture::hopper, 100663296, 14386106, h200},
    {"wgmma.m64n8k32.f32.e4m3.e5m2", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f32.e4m3.e5m2@interleaved", Architecture::hopper, 100663296, 12586673, h200},
    {"wgmma.m64n8k32.f32.e5m2.e4m3", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f32.e5m2.e4m3@interleaved", Architecture::hopper, 100663296, 12615718, h200},
    {"wgmma.m64n8k32.f32.e5m2.e5m2", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f32.e5m2.e5m2@interleaved", Architecture::hopper, 100663296, 10723437, h200},
    {"wgmma.m64n8k32.f16.e4m3.e4m3", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f16.e4m3.e4m3@interleaved", Architecture::hopper, 100663296, 20089383, h200},
    {"wgmma.m64n8k32.f16.e4m3.e5m2", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f16.e4m3.e5m2@interleaved", Architecture::hopper, 100663296, 21961077, h200},
    {"wgmma.m64n8k32.f16.e5m2.e4m3", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f16.e5m2.e4m3@interleaved", Architecture::hopper, 100663296, 21997872, h200},
    {"wgmma.m64n8k32.f16.e5m2.e5m2", Architecture::hopper, 100663296, 0, h200},
    {"wgmma.m64n8k32.f16.e5m2.e5m2@interleaved", Architecture::hopper, 100663296, 22857098, h200},
};

inline constexpr const char* architecture_names[] = {"volta",     "turing",        "ampere", "ada",  "hopper",
                                                     "blackwell", "rtx_blackwell", "cdna1",  "cdna2", "cdna3"};
inline constexpr const char* opcode_names[] = {"mma", "wgmma", "tcgen05", "mfma"};

/// Writes an instruction's name piece by piece.
class NameWriter {
 public:
  constexpr explicit NameWriter(char (&to)[64]) noexcept : to_(to) {}
  constexpr NameWriter& operator<<(std::string_view text) noexcept {
    for (const char c : text) to_[at_++] = c;
    return *this;
  }
  constexpr NameWriter& operator<<(int n) noexcept {
    if (n >= 10) *this << n / 10;
    to_[at_++] = static_cast<char>('0' + n % 10);
    return *this;
  }

 private:
  char (&to_)[64];
  int at_ = 0;
};

constexpr std::string_view element_name(const formats::Format& f) noexcept {
  return formats::same_format(f, formats::fp16) ? "f16" : f.name;
}

constexpr void write_name(Instruction& r) noexcept {
  NameWriter out(r.name);
  out << opcode_names[static_cast<int>(r.opcode)] << ".m" << r.m << "n" << r.n << "k" << r.k;
  if (r.scaled) out << ".block" << r.block;
  out << (r.f16_result() ? ".f16." : ".f32.") << element_name(r.a) << "." << element_name(r.b);
  if (r.opcode == Opcode::mma) out << (r.f16_addend ? ".f16" : ".f32");
  if (r.scaled) out << "." << r.scale.name;
  if (*r.variant) out << "@" << r.variant;
}

constexpr Instruction make_instruction(const Family& f, const formats::Format& a, const formats::Format& b) noexcept {
  Instruction r = {f.opcode, f.architecture, a,     b,     f.m,           f.n,      f.k,     f.f16_addend,
                   f.sum,    f.group,        f.run, f.fraction_bits, f.addend, f.result};
  r.zero_exponent = r.zero_addend = f.zero_exponent;
  r.least_exponent = f.least_exponent;
  r.scaled = f.scales != Scales::none;
  r.scale = f.scales == Scales::ue4m3 ? formats::ue4m3 : formats::ue8m0;
  r.block = f.block;
  r.exact_group = f.exact_group;
  r.flushes = f.flushes;
  r.as_f16 = f.as_f16;
  r.variant = f.variant;
  const bool fp6 = a.bits == 6 || b.bits == 6;
  r.evidence = {fp6 ? families::without_fp6 : f.model, formats::same_format(a, b) ? f.vectors : "", 0, 0, ""};
  write_name(r);
  for (const Measurement& m : measurements) {
    if (m.architecture != r.architecture || std::string_view(m.name) != r.name) continue;
    r.evidence.measured = m.outputs;
    r.evidence.differ = m.differ;
    r.evidence.device = m.device;
  }
  return r;
}

/// Calls f(family, A's format, B's format) for every instruction.
template <class F>
constexpr void for_each_pair(F f) noexcept {
  for (const Family& family : families::all) {
    for (int a = 0; a < 8; ++a) {
      for (int b = 0; b < 8; ++b) {
        const bool there = (family.elements >> a & 1) != 0 && (family.elements >> b & 1) != 0;
        if (there && (family.mixed || a == b)) f(family, element_of_bit[a], element_of_bit[b]);
      }
    }
  }
}

constexpr int count_instructions() noexcept {
  int count = 0;
  for_each_pair([&count](const Family&, const formats::Format&, const formats::Format&) { ++count; });
  return count;
}

struct InstructionTable {
  static constexpr int count = count_instructions();
  Instruction rows[count];

  constexpr const Instruction* begin() const noexcept { return rows; }
  constexpr const Instruction* end() const noexcept { return rows + count; }
};

constexpr Instruction blank_instruction() noexcept {
  return {Opcode::mma, Architecture::volta, formats::e2m1, formats::e2m1, 0, 0, 0, false, Sum::exact, 1, 1, 0,
          Addend::first_step, Result::f32_truncated};
}

namespace detail {
template <std::size_t... I>
constexpr InstructionTable blank_table(std::index_sequence<I...>) noexcept {
  return {{(static_cast<void>(I), blank_instruction())...}};
}
}  // namespace detail

constexpr InstructionTable make_instructions() noexcept {
  InstructionTable table = detail::blank_table(std::make_index_sequence<InstructionTable::count>());
  int at = 0;
  for_each_pair([&](const Family& f, const formats::Format& a, const formats::Format& b) {
    table.rows[at++] = make_instruction(f, a, b);
  });
  return table;
}

inline constexpr InstructionTable all_instructions = make_instructions();

/// The integers of tensor_core.hpp hold what this row makes of any operands.
constexpr bool budget_holds(const Instruction& r) noexcept {
  const int product = r.a.mantissa_bits + 1 + r.b.mantissa_bits + 1;       // bits of a product's significand
  const int scaled = product + (r.scaled ? 2 * (r.scale.mantissa_bits + 1) : 0);
  const bool shape = r.k % r.group == 0 && r.k <= 64 && r.k % (r.run * r.steps()) == 0 && r.group % r.run == 0;
  const bool blocks = !r.scaled || (r.k % r.block == 0 && r.k / r.block <= 4);
  // add_nearest takes 24 bits.
  const bool fits = shape && blocks && scaled <= 24;
  if (r.sum == Sum::pairwise) return fits && (r.group & (r.group - 1)) == 0;
  const int spare = r.fraction_bits - r.a.mantissa_bits - r.b.mantissa_bits;
  // An addend of 24 bits, 8 places to the left.
  if (r.sum == Sum::two_stage) return fits && spare >= 0 && product + spare <= 31 && !r.scaled && r.fraction_bits <= 31;
  if (r.sum != Sum::aligned) return fits;
  const int terms = formats::bit_length(static_cast<std::uint64_t>(r.group));  // 2^terms > group: the addend too
  if (r.exact_group == 0) {
    // A shifted product in 31 bits, one scale for all of K, and the sum in 62.
    return fits && spare >= 0 && product + spare <= 31 && r.fraction_bits + 2 + terms <= 62 &&
           (!r.scaled || r.block == r.k);
  }
  // Halves below 2^4 each, exact_group products, two scales, and the places to the left of the term's last.
  const int group = formats::bit_length(static_cast<std::uint64_t>(r.exact_group) * 12 * 12);
  const int term = group + 2 * (r.scale.mantissa_bits + 1) + r.fraction_bits - 2 - 2 * r.scale.mantissa_bits;
  return fits && r.a.bits == 4 && r.b.bits == 4 && r.block % r.exact_group == 0 && r.steps() == 1 && term + 3 <= 62;
}

constexpr bool every_budget_holds() noexcept {
  for (const Instruction& r : all_instructions) {
    if (!budget_holds(r)) return false;
  }
  return true;
}
static_assert(every_budget_holds());

/// No instruction, but what others are compared with: k products and C (binary32) in real numbers rounded once to
/// nearest even, or in binary32 one fma after the other, or as a balanced tree (k a power of two up to 64). Operands
/// as an instruction has them; `scale` of `block` k's, or none for block 0.
constexpr Instruction reference_accumulator(Sum sum, const formats::Format& a, const formats::Format& b, int k,
                                            const formats::Format& scale = formats::ue8m0, int block = 0) noexcept {
  Instruction r = {Opcode::mma, Architecture::volta, a, b, 1, 1, k, false, sum, k, k, 0, Addend::first_step,
                   Result::f32_nearest};
  r.scaled = block > 0;
  r.scale = scale;
  r.block = block;
  return r;
}

/// The row of that name on that architecture, or nullptr.
constexpr const Instruction* find_instruction(std::string_view name, Architecture architecture) noexcept {
  for (const Instruction& r : all_instructions) {
    if (r.architecture == architecture && name == r.name) return &r;
  }
  return nullptr;
}

}  // namespace fp4scope::sim
