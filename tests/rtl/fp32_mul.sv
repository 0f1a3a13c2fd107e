// IEEE 754 binary32 multiplication, round to nearest even, combinational. Subnormal operands count as zeros with their
// signs, results that are below 2^-126 after rounding become such zeros; every NaN is 7FC00000.
module fp32_mul (
    input  logic [31:0] a,
    input  logic [31:0] b,
    output logic [31:0] product
);
  logic sign, a_zero, b_zero, a_special, b_special;
  assign sign      = a[31] ^ b[31];
  assign a_zero    = a[30:23] == 8'd0;
  assign b_zero    = b[30:23] == 8'd0;
  assign a_special = a[30:23] == 8'hFF;
  assign b_special = b[30:23] == 8'hFF;

  // 24 x 24 bits: the leading place is bit 47 or 46.
  logic [47:0] wide, normal;
  assign wide   = {25'd1, a[22:0]} * {25'd1, b[22:0]};
  assign normal = wide[47] ? wide : wide << 1;

  logic round_up, carry, unused_leading_place;
  logic [22:0] fraction;
  logic signed [9:0] exponent;
  assign unused_leading_place = normal[47];
  assign round_up = normal[23] & (normal[24] | (|normal[22:0]));
  assign {carry, fraction} = {1'b0, normal[46:24]} + {23'd0, round_up};
  assign exponent = $signed({2'b00, a[30:23]}) + $signed({2'b00, b[30:23]}) - 10'sd127 +
                    $signed({9'd0, wide[47]}) + $signed({9'd0, carry});

  always_comb begin
    if (a_special || b_special) begin
      if ((a_special && a[22:0] != 23'd0) || (b_special && b[22:0] != 23'd0) || a_zero || b_zero)
        product = 32'h7FC0_0000;
      else product = {sign, 8'hFF, 23'd0};
    end else if (a_zero || b_zero) product = {sign, 31'd0};
    else if (exponent >= 10'sd255) product = {sign, 8'hFF, 23'd0};
    else if (exponent <= 10'sd0) product = {sign, 31'd0};
    else product = {sign, exponent[7:0], fraction};
  end
endmodule
