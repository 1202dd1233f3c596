// Gowin cells that yosys knows as black boxes only, as far as our netlists use them; and IOBUF, whose
// model there drives its own input.

module IOBUF(input I, OEN, output O, inout IO);
    assign IO = OEN ? 1'bz : I;
    assign O = IO;
endmodule

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

// Block RAM (UG285) of 512 words of 36 bits, which ports share out: a byte has 9 bits, of which
// widths below 9 use 8. Only for memories of one clock, which both ports are given. Without output
// registers and resets.
//
// What a port reads while the other one writes it is undefined on the chip, and random here.
module gowin_block_ram #(
    parameter WIDTH_A = 36, WIDTH_B = 36, MODE_A = 0, MODE_B = 0, parameter [18431:0] INIT = 0
) (
    input CLK,
    input CEA, WREA,
    input [13:0] ADA,
    input [35:0] DIA,
    output reg [35:0] DOA,
    input CEB, WREB,
    input [13:0] ADB,
    input [35:0] DIB,
    output reg [35:0] DOB
);
    reg [35:0] words[0:511];
    integer i;
    initial begin
        for (i = 0; i < 512; i = i + 1) words[i] = INIT[36*i +: 36];
        DOA = 0;
        DOB = 0;
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

    // The bits that it writes: address pins that a width leaves over are enables of its bytes.
    function [35:0] mask(input integer width, input [13:0] address);
        case (width)
            36: mask = {{9{address[3]}}, {9{address[2]}}, {9{address[1]}}, {9{address[0]}}};
            18: mask = {18'b0, {9{address[1]}}, {9{address[0]}}} << place(width, address[4:0]);
            default: mask = ((36'd1 << width) - 1) << place(width, address[4:0]);
        endcase
    endfunction
    localparam [35:0] BITS_A = (37'd1 << WIDTH_A) - 1, BITS_B = (37'd1 << WIDTH_B) - 1;

    wire [8:0] word_a = ADA[13:5], word_b = ADB[13:5];
    wire [5:0] place_a = place(WIDTH_A, ADA[4:0]), place_b = place(WIDTH_B, ADB[4:0]);
    wire [35:0] mask_a = CEA & WREA ? mask(WIDTH_A, ADA) : 0;
    wire [35:0] mask_b = CEB & WREB ? mask(WIDTH_B, ADB) : 0;
    wire [35:0] written_a = (words[word_a] & ~mask_a) | ((DIA << place_a) & mask_a);
    wire [35:0] written_b = (words[word_b] & ~mask_b) | ((DIB << place_b) & mask_b);

    // What a port sees of a word, in which `other` is being written by the other port.
    function [35:0] seen(input [35:0] now, written, input [1:0] mode, input [35:0] other);
        seen = (mode == 1 ? written : now) ^ ({4'($urandom), $urandom} & other);
    endfunction

    always @(posedge CLK) begin
        if (CEA & WREA) words[word_a] <= written_a;
        if (CEB & WREB) words[word_b] <= written_b;
        if (CEA & (!WREA | MODE_A != 0)) DOA <= (seen(words[word_a], written_a, 2'(MODE_A),
            word_a == word_b ? mask_b : 0) >> place_a) & BITS_A;
        if (CEB & (!WREB | MODE_B != 0)) DOB <= (seen(words[word_b], written_b, 2'(MODE_B),
            word_a == word_b ? mask_a : 0) >> place_b) & BITS_B;
    end
endmodule

module SPX9 #(
    parameter BIT_WIDTH = 36, READ_MODE = 1'b0, WRITE_MODE = 2'b0, BLK_SEL = 3'b0,
    RESET_MODE = "SYNC", parameter [18431:0] INIT = 0
) (
    input CLK, CE, OCE, RESET, WRE,
    input [2:0] BLKSEL,
    input [13:0] AD,
    input [35:0] DI,
    output [35:0] DO
);
    gowin_block_ram #(.WIDTH_A(BIT_WIDTH), .MODE_A(WRITE_MODE), .INIT(INIT)) ram(
        .CLK(CLK), .CEA(CE), .WREA(WRE), .ADA(AD), .DIA(DI), .DOA(DO),
        .CEB(1'b0), .WREB(1'b0), .ADB(14'b0), .DIB(36'b0), .DOB());
endmodule

// Port A writes, port B reads.
module SDPX9B #(
    parameter BIT_WIDTH_0 = 36, BIT_WIDTH_1 = 36, READ_MODE = 1'b0, BLK_SEL_0 = 3'b0,
    BLK_SEL_1 = 3'b0, RESET_MODE = "SYNC", parameter [18431:0] INIT = 0
) (
    input CLKA, CEA, RESETA, CLKB, CEB, OCE, RESETB,
    input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB,
    input [35:0] DI,
    output [35:0] DO
);
    gowin_block_ram #(.WIDTH_A(BIT_WIDTH_0), .WIDTH_B(BIT_WIDTH_1), .INIT(INIT)) ram(
        .CLK(CLKA), .CEA(CEA), .WREA(1'b1), .ADA(ADA), .DIA(DI), .DOA(),
        .CEB(CEB), .WREB(1'b0), .ADB(ADB), .DIB(36'b0), .DOB(DO));
endmodule

module DPX9B #(
    parameter BIT_WIDTH_0 = 18, BIT_WIDTH_1 = 18, READ_MODE0 = 1'b0, READ_MODE1 = 1'b0,
    WRITE_MODE0 = 2'b0, WRITE_MODE1 = 2'b0, BLK_SEL_0 = 3'b0, BLK_SEL_1 = 3'b0,
    RESET_MODE = "SYNC", parameter [18431:0] INIT = 0
) (
    input CLKA, CEA, OCEA, RESETA, WREA, CLKB, CEB, OCEB, RESETB, WREB,
    input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB,
    input [17:0] DIA, DIB,
    output [17:0] DOA, DOB
);
    wire [35:0] wide_a, wide_b;
    assign DOA = wide_a[17:0];
    assign DOB = wide_b[17:0];
    gowin_block_ram #(.WIDTH_A(BIT_WIDTH_0), .WIDTH_B(BIT_WIDTH_1), .MODE_A(WRITE_MODE0),
                      .MODE_B(WRITE_MODE1), .INIT(INIT)) ram(
        .CLK(CLKA), .CEA(CEA), .WREA(WREA), .ADA(ADA), .DIA({18'b0, DIA}), .DOA(wide_a),
        .CEB(CEB), .WREB(WREB), .ADB(ADB), .DIB({18'b0, DIB}), .DOB(wide_b));
endmodule

// Widths up to 4.
module DPB #(
    parameter BIT_WIDTH_0 = 4, BIT_WIDTH_1 = 4, READ_MODE0 = 1'b0, READ_MODE1 = 1'b0,
    WRITE_MODE0 = 2'b0, WRITE_MODE1 = 2'b0, BLK_SEL_0 = 3'b0, BLK_SEL_1 = 3'b0,
    RESET_MODE = "SYNC", parameter [18431:0] INIT = 0
) (
    input CLKA, CEA, OCEA, RESETA, WREA, CLKB, CEB, OCEB, RESETB, WREB,
    input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB,
    input [15:0] DIA, DIB,
    output [15:0] DOA, DOB
);
    wire [35:0] wide_a, wide_b;
    assign DOA = wide_a[15:0];
    assign DOB = wide_b[15:0];
    gowin_block_ram #(.WIDTH_A(BIT_WIDTH_0), .WIDTH_B(BIT_WIDTH_1), .MODE_A(WRITE_MODE0),
                      .MODE_B(WRITE_MODE1), .INIT(INIT)) ram(
        .CLK(CLKA), .CEA(CEA), .WREA(WREA), .ADA(ADA), .DIA({20'b0, DIA}), .DOA(wide_a),
        .CEB(CEB), .WREB(WREB), .ADB(ADB), .DIB({20'b0, DIB}), .DOB(wide_b));
endmodule

// The loop (UG286), whose clocks come from the simulation: the netlist stands in a module `board`.
module rPLL #(
    parameter FCLKIN = "", DEVICE = "", DYN_IDIV_SEL = "", DYN_FBDIV_SEL = "", DYN_ODIV_SEL = "",
    PSDA_SEL = "", DYN_DA_EN = "", DUTYDA_SEL = "", CLKFB_SEL = "", CLKOUT_BYPASS = "",
    CLKOUTP_BYPASS = "", CLKOUTD_BYPASS = "", CLKOUTD_SRC = "", CLKOUTD3_SRC = "",
    IDIV_SEL = 0, FBDIV_SEL = 0, ODIV_SEL = 0, CLKOUT_FT_DIR = 0, CLKOUTP_FT_DIR = 0,
    CLKOUT_DLY_STEP = 0, CLKOUTP_DLY_STEP = 0, DYN_SDIV_SEL = 0
) (
    input CLKIN, CLKFB, RESET, RESET_P,
    input [5:0] FBDSEL, IDSEL, ODSEL,
    input [3:0] PSDA, FDLY, DUTYDA,
    output CLKOUT, LOCK, CLKOUTP, CLKOUTD, CLKOUTD3
);
    assign LOCK = board.pll_locked;
    assign CLKOUT = board.pll_clock;
    assign CLKOUTP = board.turned_clock;
endmodule
