// Gowin's multipliers, which yosys knows as black boxes only, as far as hw/multiplier.py uses them.

// 9x9 and 18x18 multipliers (UG287): one clock and one enable for all registers, of which each can
// be left out. The inputs of a chain (SIA, SIB) are not modelled.
module gowin_multiplier #(
    parameter WIDTH = 9, AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0
) (
    input [WIDTH-1:0] A, B,
    input ASIGN, BSIGN, CE, CLK, RESET,
    output [2*WIDTH-1:0] DOUT
);
    reg [WIDTH-1:0] a_kept = 0, b_kept = 0;
    reg [2*WIDTH-1:0] kept = 0;
    wire [WIDTH-1:0] a = AREG ? a_kept : A;
    wire [WIDTH-1:0] b = BREG ? b_kept : B;
    wire signed [2*WIDTH-1:0] a_wide = {{WIDTH{ASIGN & a[WIDTH-1]}}, a};
    wire signed [2*WIDTH-1:0] b_wide = {{WIDTH{BSIGN & b[WIDTH-1]}}, b};
    wire [2*WIDTH-1:0] product = a_wide * b_wide;
    assign DOUT = OUT_REG ? kept : product;

    always @(posedge CLK) begin
        if (RESET) begin
            a_kept <= 0;
            b_kept <= 0;
            kept <= 0;
        end else if (CE) begin
            a_kept <= A;
            b_kept <= B;
            kept <= product;
        end
    end
endmodule

module MULT9X9 #(
    parameter AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0, PIPE_REG = 1'b0, ASIGN_REG = 1'b0,
    BSIGN_REG = 1'b0, SOA_REG = 1'b0, MULT_RESET_MODE = "SYNC"
) (
    input [8:0] A, B, SIA, SIB,
    input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
    output [17:0] DOUT
);
    gowin_multiplier #(.WIDTH(9), .AREG(AREG), .BREG(BREG), .OUT_REG(OUT_REG)) multiplier(
        .A(A), .B(B), .ASIGN(ASIGN), .BSIGN(BSIGN), .CE(CE), .CLK(CLK), .RESET(RESET),
        .DOUT(DOUT));
endmodule

module MULT18X18 #(
    parameter AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0, PIPE_REG = 1'b0, ASIGN_REG = 1'b0,
    BSIGN_REG = 1'b0, SOA_REG = 1'b0, MULT_RESET_MODE = "SYNC"
) (
    input [17:0] A, B, SIA, SIB,
    input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
    output [35:0] DOUT
);
    gowin_multiplier #(.WIDTH(18), .AREG(AREG), .BREG(BREG), .OUT_REG(OUT_REG)) multiplier(
        .A(A), .B(B), .ASIGN(ASIGN), .BSIGN(BSIGN), .CE(CE), .CLK(CLK), .RESET(RESET),
        .DOUT(DOUT));
endmodule
