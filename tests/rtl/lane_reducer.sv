// Adds 16 lanes in adjacent pairs, 16 -> 8 -> 4 -> 2 -> 1, one level a cycle on 8 shared adders.
// `start` takes the lanes into the shadow registers; 4 cycles later `done` is high for one cycle and `word` holds the
// sum. A start that comes before the last level overwrites a sum that isn't finished: `lost` is high for one cycle.
module lane_reducer (
    input  logic              clk,
    input  logic              reset,
    input  logic              start,
    input  logic [15:0][31:0] lanes,
    output logic [31:0]       word,
    output logic              done,
    output logic              lost
);
  logic [15:0][31:0] shadow;
  logic [7:0][31:0] sums;
  logic [2:0] levels_left;

  for (genvar i = 0; i < 8; i++) begin : g_adder
    fp32_add adder (
        .a  (shadow[2*i]),
        .b  (shadow[2*i+1]),
        .sum(sums[i])
    );
  end

  always_ff @(posedge clk) begin
    done <= 1'b0;
    lost <= 1'b0;
    if (levels_left != 3'd0) begin
      shadow[7:0] <= sums;
      levels_left <= levels_left - 3'd1;
      if (levels_left == 3'd1) begin
        word <= sums[0];
        done <= 1'b1;
      end
    end
    if (start) begin
      shadow      <= lanes;
      levels_left <= 3'd4;
      lost        <= levels_left > 3'd1;
    end
    if (reset) begin
      levels_left <= 3'd0;
      done        <= 1'b0;
      lost        <= 1'b0;
    end
  end
endmodule
