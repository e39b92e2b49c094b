// The weight memory of a simulation: as large as need be, without initial values in the generated Verilog.
// +weights=FILE fills it from hexadecimal words.
module simulation_ram #(parameter WIDTH = 64, parameter DEPTH = 1024) (
    input clk,
    input w_en, input [$clog2(DEPTH)-1:0] w_addr, input [WIDTH-1:0] w_data,
    input r_en, input [$clog2(DEPTH)-1:0] r_addr, output reg [WIDTH-1:0] r_data
);
    reg [WIDTH-1:0] words [0:DEPTH-1] /* verilator public_flat_rw */;
    reg [8*256-1:0] file;
    initial if ($value$plusargs("weights=%s", file)) $readmemh(file, words);
    always @(posedge clk) begin
        if (w_en) words[w_addr] <= w_data;
        if (r_en) r_data <= words[r_addr];
    end
endmodule
