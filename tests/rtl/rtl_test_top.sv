// What the tests drive: the unit, and one of each of its binary32 operators.
module rtl_test_top (
    input  logic        clk,
    input  logic        reset,
    input  logic        enable,
    input  logic        first,
    input  logic [63:0] a,
    input  logic [63:0] w,
    input  logic [ 7:0] a_scale,
    input  logic [ 7:0] w_scale,
    output logic [31:0] word,
    output logic        done,
    output logic        lost,
    output logic        illegal,
    input  logic [31:0] x,
    input  logic [31:0] y,
    output logic [31:0] sum,
    output logic [31:0] product
);
  nvfp4_mac mac (.*);
  fp32_add adder (
      .a  (x),
      .b  (y),
      .sum
  );
  fp32_mul multiplier (
      .a(x),
      .b(y),
      .product
  );
endmodule
