// IEEE 754 binary32 addition, round to nearest even, combinational. Subnormal operands count as zeros with their signs,
// results below 2^-126 become such zeros; every NaN is 7FC00000.
//
// The smaller significand is shifted right into 3 more places, the last of them sticky: where it is shifted by 2 or
// more, the sum loses at most one leading place, so guard and sticky places remain; by less, nothing is lost.
module fp32_add (
    input  logic [31:0] a,
    input  logic [31:0] b,
    output logic [31:0] sum
);
  logic a_zero, b_zero, a_special, b_special;
  assign a_zero    = a[30:23] == 8'd0;
  assign b_zero    = b[30:23] == 8'd0;
  assign a_special = a[30:23] == 8'hFF;
  assign b_special = b[30:23] == 8'hFF;

  // Ordered by magnitude.
  logic swap, subtract;
  logic [31:0] larger;
  logic [30:0] smaller;
  assign swap     = b[30:0] > a[30:0];
  assign larger      = swap ? b : a;
  assign smaller    = swap ? a[30:0] : b[30:0];
  assign subtract = a[31] ^ b[31];

  // Aligned: 24 bits and guard, round, sticky.
  logic [ 7:0] distance;
  logic [26:0] larger_significand, aligned, shifted;
  logic [49:0] wide;
  assign distance        = larger[30:23] - smaller[30:23];
  assign larger_significand = {1'b1, larger[22:0], 3'b000};
  assign wide            = {1'b1, smaller[22:0], 26'd0} >> distance;
  assign shifted         = {wide[49:24], |wide[23:0]};
  assign aligned         = distance > 8'd26 ? 27'd1 : shifted;

  logic [27:0] total;
  assign total = subtract ? {1'b0, larger_significand} - {1'b0, aligned} : {1'b0, larger_significand} + {1'b0, aligned};

  // The leading place goes to bit 26.
  logic [ 4:0] zeros;
  logic [26:0] normal;
  logic signed [9:0] exponent;
  always_comb begin
    zeros = 5'd0;
    for (int i = 0; i < 27; i++) if (total[i]) zeros = 5'(26 - i);
  end
  assign normal   = total[27] ? {total[27:2], |total[1:0]} : total[26:0] << zeros;
  assign exponent = $signed({2'b00, larger[30:23]}) + (total[27] ? 10'sd1 : -$signed({5'd0, zeros}));

  // To nearest even; a carry out of the fraction leaves it 0 and moves the exponent.
  logic round_up, carry, unused_leading_place;
  logic [22:0] fraction;
  logic signed [9:0] final_exponent;
  assign unused_leading_place = normal[26];
  assign round_up       = normal[2] & (normal[3] | normal[1] | normal[0]);
  assign {carry, fraction} = {1'b0, normal[25:3]} + {23'd0, round_up};
  assign final_exponent = exponent + $signed({9'd0, carry});

  always_comb begin
    if (a_special || b_special) begin
      if ((a_special && a[22:0] != 23'd0) || (b_special && b[22:0] != 23'd0) || (a_special && b_special && subtract))
        sum = 32'h7FC0_0000;
      else sum = a_special ? a : b;
    end else if (a_zero && b_zero) sum = {a[31] & b[31], 31'd0};
    else if (a_zero) sum = b;
    else if (b_zero) sum = a;
    else if (total == 28'd0) sum = 32'd0;
    else if (final_exponent >= 10'sd255) sum = {larger[31], 8'hFF, 23'd0};
    else if (final_exponent <= 10'sd0) sum = {larger[31], 31'd0};
    else sum = {larger[31], final_exponent[7:0], fraction};
  end
endmodule
