// What Hopper's approximate instructions return, bit for bit: rcp.approx.ftz.f32, lg2.approx.ftz.f32, and div.full.f32
// (Triton's `/`), which rests on the first. No document defines them; the constants here are derived from an H200's
// outputs for every significand, and reproduce them for all 2^32 inputs (tests/cuda/facts_on_device_test.cpp).
//
// The unit is a table and a quadratic in fixed point (Oberman and Siu, "A high-performance area-efficient multifunction
// interpolator", ARITH 2005: constants of 26, 16 and 10 bits). With x = 2^e * (1 + m / 2^23), the high bits of m choose
// a segment, X are the low n bits:
//
//   rcp   n = 16, 128 segments   1 / (x / 2^e) = floor(2^24 (C0 2^-26 - C1 X 2^-39 + C2 S 2^-39 + 2023 2^-39)) 2^-24
//   lg2   n = 17,  64 segments   log2 x = e + floor(2^36 (C0 2^-26 + C1 X 2^-38 - C2 S 2^-37 + 837 2^-38)) 2^-36,
//                                cut to 24 bits; a negative sum is one unit of 2^-36 nearer to 0 (a ones' complement)
//   S     X^2 / 2^(2n - 15) without the partial products below one: of bits i > j of X with i + j + 1 < 2n - 15, of
//         bit i with 2i < 2n - 15
//
// All sums fit 64 bits: C0 <= 2^26, C1 < 2^16, C2 < 2^10, S < 2^15. Nothing is known here of other architectures.
#pragma once

#include "formats/dyadic.hpp"

namespace fp4scope::sim {

/// The square of an n-bit number over 2^(2n - 15), as the unit's truncated squarer has it.
FP4SCOPE_HD constexpr std::int64_t truncated_square(std::uint32_t x, int n) noexcept {
  const int lowest = 2 * n - 15;
  std::uint64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    if ((x >> i & 1) == 0) continue;
    const int least = lowest - 1 - i;  // partners below bit `least` are dropped
    const std::uint32_t partners = x & ((1u << i) - 1);
    if (least < i) sum += static_cast<std::uint64_t>(least > 0 ? partners >> least << least : partners) << (i + 1);
    if (2 * i >= lowest) sum += std::uint64_t{1} << (2 * i);
  }
  return static_cast<std::int64_t>(sum >> lowest);
}

/// A segment's quadratic, as magnitudes.
struct Quadratic {
  std::uint32_t constant;
  std::uint16_t slope, curvature;
};

// clang-format off
/// 1 / (1 + m / 2^23), m in [i, i + 1) 2^16.
FP4SCOPE_HD constexpr Quadratic reciprocal_segment(std::uint32_t i) noexcept {
  constexpr Quadratic table[128] = {
      {67108864, 65534, 1013}, {66588642, 64522, 989}, {66076422, 63533, 966}, {65572021, 62567, 945}, {65075262, 61622, 923},
      {64585976, 60699, 902}, {64103992, 59797, 883}, {63629146, 58914, 863}, {63161284, 58051, 845}, {62700254, 57207, 827},
      {62245905, 56381, 809}, {61798091, 55572, 791}, {61356677, 54781, 774}, {60921524, 54007, 758}, {60492499, 53249, 742},
      {60069474, 52507, 727}, {59652325, 51780, 711}, {59240930, 51068, 696}, {58835170, 50371, 682}, {58434930, 49688, 669},
      {58040099, 49019, 656}, {57650569, 48363, 642}, {57266231, 47721, 631}, {56886986, 47091, 618}, {56512729, 46473, 605},
      {56143366, 45868, 594}, {55778798, 45274, 582}, {55418934, 44692, 572}, {55063686, 44121, 561}, {54712961, 43560, 549},
      {54366677, 43011, 540}, {54024747, 42471, 529}, {53687093, 41942, 519}, {53353633, 41423, 510}, {53024288, 40913, 501},
      {52698987, 40412, 490}, {52377651, 39921, 482}, {52060212, 39439, 474}, {51746596, 38965, 465}, {51436737, 38500, 457},
      {51130565, 38043, 449}, {50828017, 37594, 441}, {50529029, 37153, 433}, {50233538, 36720, 426}, {49941482, 36294, 418},
      {49652803, 35876, 412}, {49367442, 35464, 403}, {49085342, 35060, 397}, {48806449, 34663, 390}, {48530705, 34272, 383},
      {48258060, 33888, 377}, {47988464, 33511, 371}, {47721861, 33140, 366}, {47458204, 32774, 358}, {47197444, 32415, 353},
      {46939534, 32062, 348}, {46684429, 31714, 341}, {46432082, 31373, 337}, {46182446, 31036, 331}, {45935480, 30705, 326},
      {45691143, 30379, 320}, {45449392, 30059, 316}, {45210185, 29743, 310}, {44973481, 29432, 305}, {44739244, 29127, 302},
      {44507436, 28826, 297}, {44278016, 28529, 291}, {44050948, 28237, 287}, {43826199, 27950, 283}, {43603730, 27667, 279},
      {43383510, 27388, 274}, {43165503, 27114, 271}, {42949675, 26843, 266}, {42735995, 26577, 263}, {42524430, 26314, 258},
      {42314950, 26056, 256}, {42107525, 25801, 251}, {41902122, 25550, 248}, {41698714, 25302, 243}, {41497270, 25058, 240},
      {41297764, 24818, 237}, {41100168, 24581, 233}, {40904453, 24348, 231}, {40710593, 24117, 226}, {40518561, 23890, 223},
      {40328333, 23667, 222}, {40139883, 23446, 218}, {39953186, 23228, 214}, {39768218, 23014, 212}, {39584955, 22802, 208},
      {39403371, 22593, 205}, {39223448, 22388, 204}, {39045159, 22184, 199}, {38868484, 21984, 197}, {38693401, 21787, 196},
      {38519888, 21592, 193}, {38347924, 21399, 189}, {38177489, 21209, 186}, {38008563, 21022, 184}, {37841123, 20837, 182},
      {37675154, 20655, 180}, {37510633, 20475, 178}, {37347543, 20297, 175}, {37185866, 20122, 173}, {37025582, 19949, 171},
      {36866673, 19778, 169}, {36709124, 19609, 166}, {36552915, 19443, 165}, {36398030, 19278, 161}, {36244452, 19116, 160},
      {36092164, 18956, 159}, {35941151, 18797, 155}, {35791396, 18641, 154}, {35642884, 18487, 153}, {35495599, 18334, 150},
      {35349528, 18184, 149}, {35204652, 18035, 147}, {35060959, 17888, 145}, {34918436, 17743, 143}, {34777064, 17600, 143},
      {34636835, 17458, 140}, {34497732, 17318, 138}, {34359741, 17180, 137}, {34222849, 17043, 135}, {34087044, 16908, 133},
      {33952313, 16775, 132}, {33818641, 16643, 131}, {33686019, 16513, 130},
  };
  return table[i];
}

/// log2(1 + m / 2^23), m in [i, i + 1) 2^17.
FP4SCOPE_HD constexpr Quadratic log2_segment(std::uint32_t i) noexcept {
  constexpr Quadratic table[64] = {
      {7, 47272, 727}, {1501082, 46545, 705}, {2979248, 45840, 685}, {4435178, 45156, 665}, {5869541, 44492, 646},
      {7282962, 43847, 627}, {8676044, 43221, 610}, {10049363, 42612, 592}, {11403483, 42020, 576}, {12738917, 41444, 559},
      {14056184, 40884, 544}, {15355769, 40339, 530}, {16638140, 39809, 518}, {17903743, 39292, 504}, {19153023, 38788, 491},
      {20386388, 38297, 479}, {21604233, 37818, 466}, {22806955, 37351, 455}, {23994917, 36896, 445}, {25168476, 36451, 433},
      {26327983, 36018, 425}, {27473763, 35594, 414}, {28606145, 35180, 404}, {29725438, 34776, 396}, {30831938, 34380, 385},
      {31925933, 33994, 377}, {33007706, 33616, 368}, {34077525, 33247, 361}, {35135650, 32886, 354}, {36182341, 32532, 346},
      {37217834, 32186, 339}, {38242366, 31847, 331}, {39256173, 31516, 326}, {40259472, 31191, 319}, {41252485, 30872, 311},
      {42235415, 30561, 307}, {43208464, 30255, 300}, {44171830, 29955, 293}, {45125709, 29662, 289}, {46070275, 29374, 283},
      {47005716, 29091, 276}, {47932209, 28814, 271}, {48849920, 28542, 266}, {49759008, 28276, 262}, {50659645, 28014, 257},
      {51551985, 27757, 253}, {52436169, 27505, 249}, {53312352, 27257, 244}, {54180676, 27013, 238}, {55041283, 26774, 234},
      {55894308, 26540, 232}, {56739878, 26309, 227}, {57578134, 26082, 223}, {58409191, 25859, 219}, {59233179, 25640, 216},
      {60050209, 25424, 211}, {60860399, 25213, 209}, {61663869, 25004, 204}, {62460730, 24799, 201}, {63251080, 24598, 199},
      {64035037, 24399, 195}, {64812691, 24204, 192}, {65584149, 24012, 189}, {66349508, 23823, 186},
  };
  return table[i];
}
// clang-format on

/// What these instructions return for NaN and where there is no value.
inline constexpr std::uint32_t hopper_nan = 0x7FFFFFFFu;

/// rcp.approx.ftz.f32 on sm_90 (MUFU.RCP): subnormals count as zero, and a result below 2^-126 is zero.
FP4SCOPE_HD constexpr float reciprocal_hopper(float x) noexcept {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t sign = bits & 0x80000000u, mantissa = bits & 0x7FFFFFu;
  const int exponent = static_cast<int>(bits >> 23 & 0xFF);
  if (exponent == 255) return __builtin_bit_cast(float, mantissa != 0 ? hopper_nan : sign);
  if (exponent == 0) return __builtin_bit_cast(float, sign | 0x7F800000u);
  const Quadratic q = reciprocal_segment(mantissa >> 16);
  const std::int64_t low = mantissa & 0xFFFF;
  const std::int64_t sum = (static_cast<std::int64_t>(q.constant) << 13) - q.slope * low +
                           q.curvature * truncated_square(static_cast<std::uint32_t>(low), 16) + 2023;
  const auto significand = static_cast<std::uint32_t>(sum >> 15);  // [2^23, 2^24], 2^24 for a power of two alone
  const int result = 253 - exponent + static_cast<int>(significand >> 24);
  if (result <= 0) return __builtin_bit_cast(float, sign);
  return __builtin_bit_cast(float, sign | static_cast<std::uint32_t>(result) << 23 | (significand & 0x7FFFFFu));
}

/// lg2.approx.ftz.f32 on sm_90 (MUFU.LG2): subnormals of either sign count as zero, whose logarithm is -Inf; a power of
/// two below 1 falls short of its exponent by a unit in the last place (1/2 by two).
FP4SCOPE_HD constexpr float log2_hopper(float x) noexcept {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x), mantissa = bits & 0x7FFFFFu;
  const int exponent = static_cast<int>(bits >> 23 & 0xFF);
  if (exponent == 0) return __builtin_bit_cast(float, 0xFF800000u);
  if (bits == 0x7F800000u) return x;
  if (bits > 0x7F800000u) return __builtin_bit_cast(float, hopper_nan);
  if (bits == 0x3F800000u) return 0;
  const Quadratic q = log2_segment(mantissa >> 17);
  const std::int64_t low = mantissa & 0x1FFFF;
  const std::int64_t sum = (static_cast<std::int64_t>(q.constant) << 12) + q.slope * low -
                           2 * q.curvature * truncated_square(static_cast<std::uint32_t>(low), 17) + 837;
  const std::int64_t value = exponent * (std::int64_t{1} << 36) - 127 * (std::int64_t{1} << 36) + (sum >> 2);
  const auto magnitude = static_cast<std::uint64_t>(value < 0 ? ~value : value);
  const int length = formats::bit_length(magnitude);
  const auto significand =
      static_cast<std::uint32_t>(length > 24 ? magnitude >> (length - 24) : magnitude << (24 - length));
  return __builtin_bit_cast(float, (value < 0 ? 0x80000000u : 0u) | static_cast<std::uint32_t>(length + 90) << 23 |
                                       (significand & 0x7FFFFFu));
}

/// By what div.full.f32 multiplies both operands, so that the divisor's reciprocal neither overflows nor vanishes.
FP4SCOPE_HD constexpr float full_division_scale(float divisor) noexcept {
  const float magnitude = divisor < 0 ? -divisor : divisor;
  return magnitude > 0x1p126f ? 0.25f : magnitude < 0x1p-126f ? 0x1p24f : 1.0f;
}

/// a * f * rcp(b f), with the one NaN that a GPU writes.
FP4SCOPE_HD constexpr float scaled_quotient(float a, float b, float f) noexcept {
  const float quotient = a * f * reciprocal_hopper(b * f);
  return quotient == quotient ? quotient : __builtin_bit_cast(float, hopper_nan);
}

/// div.full.f32 on sm_90: three IEEE products around one reciprocal. Where b is a constant the assembler multiplies by
/// its reciprocal instead: for 6 by fl(1/6), which is rcp's too.
FP4SCOPE_HD constexpr float divide_full_hopper(float a, float b) noexcept {
  return scaled_quotient(a, b, full_division_scale(b));
}

/// div.approx.f32 and __fdividef on sm_90: as div.full.f32, but a divisor above 2^126 has the reciprocal 0.
FP4SCOPE_HD constexpr float divide_approximate_hopper(float a, float b) noexcept {
  return scaled_quotient(a, b, full_division_scale(b) == 0x1p24f ? 0x1p24f : 1.0f);
}

static_assert(reciprocal_hopper(6) == 1 / 6.0f && reciprocal_hopper(-0.0f) == -__builtin_inff());

}  // namespace fp4scope::sim
