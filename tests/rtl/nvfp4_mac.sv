// A multiply-accumulate unit for NVFP4, bit for bit sim/mac.hpp with MacFirst::loads: 16 lanes a beat.
//
//   beat      enable: a and w, 16 E2M1 codes each, lane 0 in the low nibble; two E4M3 scale bytes, bit 7 ignored
//   stage 1   lane products, binary32
//   stage 2   16 accumulators; a beat with `first` loads the product, and what they held goes to the reducer
//   reducer   the word of the segment, while the next one accumulates
//
// A segment ends when the next one's first beat comes. Segments need 4 beats here, 5 by the published unit's contract;
// a shorter one raises `lost`. `illegal`: the last beat had a code 8 (-0), which the unit isn't made for.
module nvfp4_mac (
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
    output logic        illegal
);
  logic [31:0] scale;
  scale_product scales (
      .a      (a_scale[6:0]),
      .w      (w_scale[6:0]),
      .product(scale)
  );

  logic unused_signs;
  assign unused_signs = a_scale[7] ^ w_scale[7];

  logic [15:0][31:0] products, stage_1, sums, lanes;
  logic [15:0] codes_8;
  for (genvar i = 0; i < 16; i++) begin : g_lane
    logic [15:0] half;
    logic [31:0] element;
    element_product elements (
        .a      (a[4*i+:4]),
        .w      (w[4*i+:4]),
        .product(half)
    );
    // binary16 to binary32: the biases differ by 112; no subnormal comes, the least product is 1/4.
    assign element = half[14:0] == 15'd0 ? {half[15], 31'd0}
                                         : {half[15], 8'd112 + {3'd0, half[14:10]}, half[9:0], 13'd0};
    fp32_mul multiplier (
        .a      (element),
        .b      (scale),
        .product(products[i])
    );
    fp32_add accumulator (
        .a  (lanes[i]),
        .b  (stage_1[i]),
        .sum(sums[i])
    );
    assign codes_8[i] = a[4*i+:4] == 4'h8 || w[4*i+:4] == 4'h8;
  end

  logic valid_1, first_1, open, snapshot;
  assign snapshot = valid_1 && first_1 && open;

  always_ff @(posedge clk) begin
    valid_1 <= enable;
    first_1 <= first;
    stage_1 <= products;
    illegal <= enable && codes_8 != 16'd0;
    if (valid_1) begin
      lanes <= first_1 ? stage_1 : sums;
      open  <= 1'b1;
    end
    if (reset) begin
      valid_1 <= 1'b0;
      open    <= 1'b0;
      illegal <= 1'b0;
    end
  end

  lane_reducer reducer (
      .clk,
      .reset,
      .start(snapshot),
      .lanes,
      .word,
      .done,
      .lost
  );
endmodule
