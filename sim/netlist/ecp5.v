// ECP5 cells that yosys knows as black boxes only, as far as our netlists use them.
//
// `cells.py` refuses every setting, and every pin that is in use, that a model here lacks. Pins
// of one name that differ in their numbers are one vector here.

// 18x18 multiplier (FPGA-TN-02205), signed, in the first of its clocks. Inputs go through registers
// or straight in; the product goes through one.
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0",
    parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0",
    parameter REG_OUTPUT_CE = "CE0"
) (
    input signed [17:0] A, B,
    input CLK0,
    input [3:0] CE,
    output reg [35:0] P
);
    wire ce_a = REG_INPUTA_CE == "CE1" ? CE[1] : CE[0];
    wire ce_b = REG_INPUTB_CE == "CE1" ? CE[1] : CE[0];
    wire ce_p = REG_OUTPUT_CE == "CE1" ? CE[1] : CE[0];
    reg signed [17:0] a_kept = 0, b_kept = 0;
    wire signed [17:0] a = REG_INPUTA_CLK == "NONE" ? A : a_kept;
    wire signed [17:0] b = REG_INPUTB_CLK == "NONE" ? B : b_kept;

    initial P = 0;
    always @(posedge CLK0) begin
        if (ce_a) a_kept <= A;
        if (ce_b) b_kept <= B;
        if (ce_p) P <= a * b;
    end
endmodule

// Block RAM (FPGA-TN-02204) of 512 words of 36 bits, which the ports share out: a byte has 9 bits,
// of which widths below 9 use 8. Port A writes and reads, port B reads. Where B is 36 wide, the lower
// half of what it reads is at A's outputs; where A is, B's inputs are the upper half of what it
// writes. What B reads may pass a register, which is always enabled.
//
// What B reads while A writes it is undefined on the chip, and random here.
module DP16KD #(
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, WRITEMODE_A = "NORMAL", REGMODE_B = "NOREG",
    parameter [20479:0] INITVAL = 0  // from 3F down to 00: words of 18 bits in 20
) (
    input CLKA, CEA, WEA,
    input [13:0] ADA,
    input [17:0] DIA,
    output [17:0] DOA,
    input CLKB, CEB,
    input [13:0] ADB,
    input [17:0] DIB,
    output [17:0] DOB
);
    reg [35:0] words[0:511];
    integer i;
    initial for (i = 0; i < 512; i = i + 1) begin
        words[i] = {INITVAL[40*i+20 +: 18], INITVAL[40*i +: 18]};
    end

    // The place of an access inside of its word.
    function [5:0] place(input integer width, input [4:0] address);
        case (width)
            36: place = 0;
            18: place = 18 * address[4];
            9: place = 9 * address[4:3];
            4: place = 9 * address[4:3] + 4 * address[2];
            2: place = 9 * address[4:3] + 2 * address[2:1];
            default: place = 9 * address[4:3] + address[2:0];
        endcase
    endfunction
    wire [5:0] place_a = place(DATA_WIDTH_A, ADA[4:0]), place_b = place(DATA_WIDTH_B, ADB[4:0]);
    localparam [35:0] BITS_A = (37'd1 << DATA_WIDTH_A) - 1, BITS_B = (37'd1 << DATA_WIDTH_B) - 1;

    // The address pins that a width leaves over are enables of its bytes.
    wire [35:0] enables = {{9{ADA[3]}}, {9{ADA[2]}}, {9{ADA[1]}}, {9{ADA[0]}}};
    wire [35:0] mask = ((DATA_WIDTH_A >= 18 ? enables : '1) & BITS_A) << place_a;
    wire [35:0] data = DATA_WIDTH_A == 36 ? {DIB, DIA} : {18'b0, DIA} << place_a;
    wire writes = CEA && WEA;
    wire [35:0] kept = words[ADA[13:5]];
    wire [35:0] written = (kept & ~mask) | (data & mask);
    always @(posedge CLKA) if (writes) words[ADA[13:5]] <= written;

    reg [35:0] read_a = 0, read_b = 0;
    always @(posedge CLKA) if (CEA) begin
        if (!WEA || WRITEMODE_A == "READBEFOREWRITE") read_a <= (kept >> place_a) & BITS_A;
        else if (WRITEMODE_A == "WRITETHROUGH") read_a <= (written >> place_a) & BITS_A;
    end
    always @(posedge CLKB) if (CEB) begin
        // With another clock the half period after A's edge counts as well.
        if (writes && CLKA && ADA[13:5] == ADB[13:5]) begin
            read_b <= ((kept ^ ({4'($urandom), $urandom} & mask)) >> place_b) & BITS_B;
        end else begin
            read_b <= (words[ADB[13:5]] >> place_b) & BITS_B;
        end
    end
    reg [35:0] passed_b = 0;
    always @(posedge CLKB) passed_b <= read_b;
    wire [35:0] output_b = REGMODE_B == "OUTREG" ? passed_b : read_b;
    assign DOA = DATA_WIDTH_B == 36 ? output_b[17:0] : read_a[17:0];
    assign DOB = DATA_WIDTH_B == 36 ? output_b[35:18] : output_b[17:0];
endmodule

// Output register for both halves of a clock's period (FPGA-TN-02035), two cycles deeper than a
// plain one.
module ODDRX1F (
    input SCLK, D0, D1,
    output Q
);
    reg [1:0] first = 0, second = 0, third = 0;
    always @(posedge SCLK) {third, second, first} <= {second, first, {D1, D0}};
    assign Q = SCLK ? third[0] : third[1];
endmodule

// Phase-locked loop (FPGA-TN-02200) with its feedback from CLKOP. The clocks themselves are made
// outside, in a module `board`, by the dividers and phases of the netlist, since nothing here takes
// time; they run before it is locked.
module EHXPLLL (
    input CLKI,
    output CLKOP, CLKOS, LOCK
);
    assign LOCK = board.pll_locked;
    assign CLKOP = board.pll_clock;
    assign CLKOS = board.turned_clock;
endmodule
