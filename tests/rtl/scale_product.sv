// Two E4M3 block scales, signs ignored, to the binary32 of their product, exact: significands UQ1.3, product UQ2.6.
// Exponent field 0 counts as 1 without the hidden bit; 7F, the NaN, is read as 7E, 448.
module scale_product (
    input  logic [ 6:0] a,
    input  logic [ 6:0] w,
    output logic [31:0] product
);
  logic [3:0] a_significand, w_significand, a_exponent, w_exponent;
  assign a_significand = {|a[6:3], a == 7'h7F ? 3'd6 : a[2:0]};
  assign w_significand = {|w[6:3], w == 7'h7F ? 3'd6 : w[2:0]};
  assign a_exponent    = |a[6:3] ? a[6:3] : 4'd1;
  assign w_exponent    = |w[6:3] ? w[6:3] : 4'd1;

  logic [7:0] integer_product, normal, exponent;
  logic [2:0] zeros;
  assign integer_product = {4'd0, a_significand} * {4'd0, w_significand};
  always_comb begin
    zeros = 3'd0;
    for (int i = 0; i < 8; i++) if (integer_product[i]) zeros = 3'(7 - i);
  end
  assign normal   = integer_product << zeros;
  // integer * 2^(a + w - 2 * 7 - 2 * 3), leading place 7 - zeros
  assign exponent = 8'd114 + {4'd0, a_exponent} + {4'd0, w_exponent} - {5'd0, zeros};
  assign product  = integer_product == 8'd0 ? 32'd0 : {1'b0, exponent, normal[6:0], 16'd0};

  logic unused_leading_place;
  assign unused_leading_place = normal[7];
endmodule
