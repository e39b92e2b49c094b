// An SDR SDRAM chip with 16 data pins, as the FPGA sees it: cycle-based, one clock, for Verilator.
//
// The inputs are what is on the FPGA's pins after its output registers; the chip takes them at the next clock edge.
// `dq_i` is what the FPGA's input registers take at an edge. Where in the cycle the chip's clock lies (`phase_ps`, after
// the FPGA's clock) and how long data need from there to the FPGA's registers (`loop_ps`, access time
// included) only decide at which edge a word is there, and whether it is stable there.
//
// Every timing and rule is checked. The code of the first violation stays in `violation` (codes below; sentences in
// sim/sdram.py); `violations` counts the cycles with one. Poison, 16'hDEAD, is what is read when the chip does not
// drive the pins, before it is initialised, while data change, from cells that were never written, and from rows
// that were not refreshed in time; `poisoned` counts such words, if a command asked for them.
//
// Bursts have length 1. A REFRESH refreshes one row of each bank, in order; so does an ACTIVATE for its row.
module sdram_chip #(
    parameter BANK_BITS = 2, parameter ROW_BITS = 13, parameter COLUMN_BITS = 9, parameter ADDRESS_BITS = 13,
    parameter CLOCK_PS = 10000,                     // the clock's period; all times are in ps
    parameter CL2_PS = 10000, parameter CL3_PS = 7500,      // shortest period for this CAS latency
    parameter RCD_PS = 20000, parameter RP_PS = 20000, parameter RAS_PS = 44000, parameter RC_PS = 66000,
    parameter RFC_PS = 66000, parameter RRD_PS = 15000, parameter WR_PS = 15000, parameter MRD_PS = 0,
    parameter RAS_MAX_PS = 100000000, parameter SETUP_PS = 1500, parameter HOLD_PS = 800,
    parameter CHANGING2_PS = 3300, parameter CHANGING3_PS = 2700,   // access time less output hold time
    parameter [63:0] POWER_UP_PS = 64'd200000000, parameter [63:0] RETENTION_PS = 64'd64000000000,
    parameter REFRESH_ROWS = 8192                   // refreshes wanted in a retention time
) (
    input clk, input [31:0] phase_ps, input [31:0] loop_ps,
    input cke, input cs_n, input ras_n, input cas_n, input we_n,
    input [BANK_BITS-1:0] bank, input [ADDRESS_BITS-1:0] address, input [1:0] dqm,
    input [15:0] dq_o, input dq_oe, output [15:0] dq_i,
    output reg [7:0] violation, output reg [31:0] violations,
    output reg [31:0] refreshes, output reg [31:0] activations, output reg [31:0] poisoned
);
    localparam [4:0] RCD = 1, RP = 2, RAS = 3, RC = 4, RFC = 5, RRD = 6, WR = 7, MRD = 8, REFRESH_LATE = 9,
        NOT_OPEN = 10, ALREADY_OPEN = 11, BANKS_OPEN = 12, NOT_INITIALISED = 13, BAD_MODE = 14, CONTENTION = 15,
        RAS_MAX = 16, NO_DATA = 17, MASKED_READ = 18, PINS_EARLY = 19, UNSUPPORTED = 20;
    localparam [15:0] POISON = 16'hDEAD;
    localparam BANKS = 1 << BANK_BITS, ROWS = 1 << ROW_BITS, WORD_BITS = BANK_BITS + ROW_BITS + COLUMN_BITS;
    localparam POSTPONED = 8;

    // Shortest distances in cycles.
    localparam C_RCD = (RCD_PS + CLOCK_PS - 1) / CLOCK_PS, C_RP = (RP_PS + CLOCK_PS - 1) / CLOCK_PS;
    localparam C_RAS = (RAS_PS + CLOCK_PS - 1) / CLOCK_PS, C_RC = (RC_PS + CLOCK_PS - 1) / CLOCK_PS;
    localparam C_RFC = (RFC_PS + CLOCK_PS - 1) / CLOCK_PS, C_RRD = (RRD_PS + CLOCK_PS - 1) / CLOCK_PS;
    localparam N_WR = (WR_PS + CLOCK_PS - 1) / CLOCK_PS, C_WR = N_WR < 2 ? 2 : N_WR;
    localparam N_MRD = (MRD_PS + CLOCK_PS - 1) / CLOCK_PS, C_MRD = N_MRD < 2 ? 2 : N_MRD;
    localparam C_RAS_MAX = RAS_MAX_PS / CLOCK_PS;
    localparam [63:0] C_POWER_UP = (POWER_UP_PS + CLOCK_PS - 1) / CLOCK_PS, C_RETENTION = RETENTION_PS / CLOCK_PS;
    localparam [63:0] INTERVAL_PS = RETENTION_PS / REFRESH_ROWS;

    // A word's place is its address in the controller: row, bank, column.
    reg [15:0] words [0:(1 << WORD_BITS) - 1] /* verilator public_flat_rw */;
    reg [31:0] known [0:(1 << (WORD_BITS - 5)) - 1] /* verilator public_flat_rw */;    // a bit for each word
    reg [63:0] refreshed [0:BANKS * ROWS - 1];      // when

    reg [63:0] now, refreshed_at, mode_at;
    reg [BANKS-1:0] open, by_write;                 // by_write: closed after a write, by its auto-precharge
    reg [ROW_BITS-1:0] row [0:BANKS-1];
    reg [63:0] activated_at [0:BANKS-1], closed_at [0:BANKS-1], written_at [0:BANKS-1];
    reg [63:0] any_activated_at;
    reg [ROW_BITS-1:0] next_row;
    reg [1:0] cas;                                  // latency; 0 before the mode register is set
    reg precharged; reg [3:0] power_up_refreshes;
    reg [63:0] refresh_timer; reg [7:0] debt;       // refreshes that are due

    // Words on their way: stage 0 is at the FPGA's pins. 16: driven by the chip.
    reg [16:0] line [0:7];
    reg [7:0] driving;                              // bit 0: the chip drives for the coming chip edge; bit 7: the one before
    integer i;

    initial begin
        violation = 0; violations = 0; refreshes = 0; activations = 0; poisoned = 0;
        now = 64'd1000; refreshed_at = 0; mode_at = 0; open = 0; by_write = 0; next_row = 0; cas = 0; precharged = 0;
        power_up_refreshes = 0; refresh_timer = 0; debt = 0; any_activated_at = 0; driving = 0;
        for (i = 0; i < BANKS; i = i + 1) begin
            activated_at[i] = 0; closed_at[i] = 0; written_at[i] = 0; row[i] = 0;
        end
        for (i = 0; i < 8; i = i + 1) line[i] = {1'b0, POISON};
        for (i = 0; i < (1 << (WORD_BITS - 5)); i = i + 1) known[i] = 0;
        for (i = 0; i < BANKS * ROWS; i = i + 1) refreshed[i] = 0;
    end

    // Edges of the FPGA's clock from a command on its pins until data are there, after the CAS latency less one, and
    // whether they are stable at that edge.
    wire [31:0] total_ps = phase_ps + loop_ps;
    wire [2:0] edges = total_ps <= CLOCK_PS ? 1 : total_ps <= 2 * CLOCK_PS ? 2 : total_ps <= 3 * CLOCK_PS ? 3 : 4;
    wire [31:0] changing_ps = cas == 3 ? CHANGING3_PS : CHANGING2_PS;
    wire stable = total_ps <= 4 * CLOCK_PS && (total_ps >= (edges - 1) * CLOCK_PS + changing_ps);
    wire pins_early = phase_ps < SETUP_PS || phase_ps + HOLD_PS > CLOCK_PS;
    wire [3:0] place = {2'b0, cas} + {1'b0, edges} - 4'd3;      // stage at which a word enters the line

    // Blocking assignments but for what the FPGA takes at the same edge: nothing else reads the rest.
    assign dq_i = line[0][15:0];

    reg [31:0] wrong;       // in this cycle, a bit for each code
    // Banks to close: auto-precharge at edge `when`, or PRECHARGE now.
    task close(input [BANK_BITS-1:0] which, input [63:0] when, input after_write);
        begin
            if (when - activated_at[which] < C_RAS) wrong[RAS] = 1;
            if (when - activated_at[which] > C_RAS_MAX) wrong[RAS_MAX] = 1;
            open[which] = 0; closed_at[which] = when; by_write[which] = after_write;
        end
    endtask

    reg [WORD_BITS-1:0] cell_address; reg [15:0] value; reg good;
    reg [31:0] slot;

    task check_ready;       // no command may come too early after REFRESH or MODE REGISTER SET
        begin
            if (now - refreshed_at < C_RFC) wrong[RFC] = 1;
            if (mode_at != 0 && now - mode_at < C_MRD) wrong[MRD] = 1;
            if (now < C_POWER_UP + 1000) wrong[NOT_INITIALISED] = 1;
        end
    endtask

    always @(posedge clk) begin
        wrong = 0;
        for (i = 0; i < 7; i = i + 1) line[i] <= line[i + 1];
        line[7] <= {1'b0, POISON};
        driving <= {driving[0], 1'b0, driving[6:1]};

        if (cas != 0) begin
            refresh_timer = refresh_timer + CLOCK_PS;
            if (refresh_timer >= INTERVAL_PS) begin
                refresh_timer = refresh_timer - INTERVAL_PS;
                if (debt == POSTPONED) wrong[REFRESH_LATE] = 1; else debt = debt + 1;
            end
        end

        if (dq_oe && (driving[0] || driving[7])) wrong[CONTENTION] = 1;
        if (!cs_n) begin
            if (!cke) wrong[UNSUPPORTED] = 1;
            if (pins_early) wrong[PINS_EARLY] = 1;
            case ({ras_n, cas_n, we_n})
                3'b111: ;
                3'b011: begin                       // ACTIVATE
                    check_ready;
                    if (cas == 0) wrong[NOT_INITIALISED] = 1;
                    if (open[bank]) wrong[ALREADY_OPEN] = 1;
                    if (now < closed_at[bank] + C_RP) wrong[by_write[bank] ? WR : RP] = 1;
                    if (now - activated_at[bank] < C_RC) wrong[RC] = 1;
                    if (now - any_activated_at < C_RRD) wrong[RRD] = 1;
                    slot = {address[ROW_BITS-1:0], bank};
                    if (now - refreshed[slot] > C_RETENTION)        // lost for ever
                        for (i = 0; i < (1 << (COLUMN_BITS - 5)); i = i + 1)
                            known[(slot << (COLUMN_BITS - 5)) + i] = 0;
                    refreshed[slot] = now;
                    open[bank] = 1; row[bank] = address[ROW_BITS-1:0];
                    activated_at[bank] = now; any_activated_at = now; activations = activations + 1;
                end
                3'b101, 3'b100: begin               // READ, WRITE
                    check_ready;
                    if (cas == 0) wrong[NOT_INITIALISED] = 1;
                    if (!open[bank]) wrong[NOT_OPEN] = 1;
                    if (now - activated_at[bank] < C_RCD) wrong[RCD] = 1;
                    cell_address = {row[bank], bank, address[COLUMN_BITS-1:0]};
                    if (we_n) begin
                        good = open[bank] && cas != 0 && stable && dqm == 0
                            && known[cell_address >> 5][cell_address[4:0]];
                        if (!good) poisoned = poisoned + 1;
                        if (dqm != 0) wrong[MASKED_READ] = 1;
                        if (cas != 0) begin
                            line[place[2:0]] <= {1'b1, good ? words[cell_address] : POISON};
                            driving[cas - 1] <= 1;
                        end
                        if (address[10]) close(bank, now + 1, 0);
                    end else begin
                        if (!dq_oe) wrong[NO_DATA] = 1;
                        value = words[cell_address];
                        if (!dqm[0]) value[7:0] = dq_o[7:0];
                        if (!dqm[1]) value[15:8] = dq_o[15:8];
                        if (open[bank] && cas != 0) begin
                            words[cell_address] = value;
                            if (dqm == 0) known[cell_address >> 5][cell_address[4:0]] = 1;
                        end
                        written_at[bank] = now;
                        if (address[10]) close(bank, now + C_WR, 1);
                    end
                end
                3'b010: begin                       // PRECHARGE, of one bank or of all
                    check_ready;
                    for (i = 0; i < BANKS; i = i + 1)
                        if (address[10] || i == bank) begin
                            if (open[i]) begin
                                if (now - written_at[i] < C_WR) wrong[WR] = 1;
                                close(i[BANK_BITS-1:0], now, 0);
                            end else if (now > closed_at[i]) begin
                                closed_at[i] = now; by_write[i] = 0;
                            end
                        end
                    if (address[10]) precharged = 1;
                end
                3'b001: begin                       // REFRESH
                    check_ready;
                    if (!precharged) wrong[NOT_INITIALISED] = 1;
                    if (open != 0) wrong[BANKS_OPEN] = 1;
                    for (i = 0; i < BANKS; i = i + 1) begin
                        if (now < closed_at[i] + C_RP) wrong[by_write[i] ? WR : RP] = 1;
                        if (now - activated_at[i] < C_RC) wrong[RC] = 1;
                        refreshed[next_row * BANKS + i] = now;
                    end
                    next_row = next_row + 1; refreshed_at = now; refreshes = refreshes + 1;
                    if (debt != 0) debt = debt - 1;
                    if (power_up_refreshes != 8) power_up_refreshes = power_up_refreshes + 1;
                end
                3'b000: begin                       // MODE REGISTER SET
                    check_ready;
                    if (!precharged || power_up_refreshes != 8) wrong[NOT_INITIALISED] = 1;
                    if (open != 0) wrong[BANKS_OPEN] = 1;
                    for (i = 0; i < BANKS; i = i + 1)
                        if (now < closed_at[i] + C_RP) wrong[by_write[i] ? WR : RP] = 1;
                    // Only burst length 1, sequential, CAS latency 2 or 3, and that no shorter than the clock allows.
                    if (address[3:0] != 0 || (address >> 7) != 0 || bank != 0
                        || !(address[6:4] == 2 && CLOCK_PS >= CL2_PS || address[6:4] == 3 && CLOCK_PS >= CL3_PS))
                        wrong[BAD_MODE] = 1;
                    cas = address[5:4]; mode_at = now;
                end
                default: wrong[UNSUPPORTED] = 1;      // burst termination
            endcase
        end
        if (wrong != 0) begin
            violations = violations + 1;
            for (i = 31; i > 0; i = i - 1) if (violations == 1 && wrong[i]) violation = i[7:0];
        end
        now = now + 1;
    end
endmodule
