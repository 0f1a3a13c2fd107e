// Two E2M1 codes to the binary16 of their product, exact: magnitudes UQ3.1, product UQ6.2. A zero keeps the exclusive
// or of the signs.
module element_product (
    input  logic [ 3:0] a,
    input  logic [ 3:0] w,
    output logic [15:0] product
);
  function automatic logic [3:0] halves(input logic [2:0] code);
    case (code[2:1])
      2'd0: halves = {3'd0, code[0]};
      2'd1: halves = {2'd0, 1'b1, code[0]};
      2'd2: halves = {1'b0, 1'b1, code[0], 1'b0};
      default: halves = {1'b1, code[0], 2'd0};
    endcase
  endfunction

  logic [7:0] quarters, normal;
  logic [2:0] zeros;
  logic [4:0] exponent;
  assign quarters = {4'd0, halves(a[2:0])} * {4'd0, halves(w[2:0])};
  always_comb begin
    zeros = 3'd0;
    for (int i = 0; i < 8; i++) if (quarters[i]) zeros = 3'(7 - i);
  end
  assign normal   = quarters << zeros;
  assign exponent = 5'd20 - {2'd0, zeros};  // quarters * 2^-2, leading place 7 - zeros, bias 15
  assign product  = quarters == 8'd0 ? {a[3] ^ w[3], 15'd0} : {a[3] ^ w[3], exponent, normal[6:0], 3'd0};

  logic unused_leading_place;
  assign unused_leading_place = normal[7];
endmodule
