// Blocks of 3x3 convolutions on AMX tiles: what those of bfloat16 (conv_amx.inl.h) and of bytes
// (conv_quantized_amx.inl.h) share. Included once per instruction set, inside its namespace and target pragma, where
// TileValue is the type of the image and TileSum the type of sums.
//
// Plan. A block is 4 rows of 16 pixels and 16 output channels ("columns"): tiles 0-3 hold its sums, one per row, which
// begin as a value per column (a tile load of stride 0). The three taps of a line are 3 C_in neighbouring values from
// pixel x - 1 on, so that row x of A is the image itself, from there on, and rows of neighbouring pixels overlap: 64
// bytes at a time, whatever C_in. A step loads the weights of those 64 bytes for ky = 0, 1, 2 into tiles 4-6 and lines
// y - 1 to y + 4 into tile 7, one by one; a line takes part in up to three rows. That is 9 loads per 12
// multiplications. Where kLines is 1, rows of A hold all nine taps: a line takes part in one row.
//
//   Order     rows of blocks > blocks of 16 pixels > 16 columns: the six lines of a block stay in the L1 cache while
//             the weights stream from L2. The pixels of the next block are asked for meanwhile.
//   Borders   Blocks that reach over the left or right end of the image, their reading included, read a staged copy of
//             their 18 pixels: a padded copy of the image would be one more pass over memory, and a block's copy is
//             2 % of the work of a block of 64 to 64 channels in bfloat16, for two blocks of a row. Tile rows below the
//             last line are not multiplied; pixels beyond the right end are.
//   Epilogue  Sums are stored to a buffer of 4 KiB, and finished between the multiplications of the next block, a few
//             pixels after each line: all of them before that block stores its own.

constexpr int kTileRows = 4, kTileWidth = 16, kTileColumns = 16;
constexpr int kTileDepth = 64 / static_cast<int>(sizeof(TileValue));  // values of a step
constexpr int64_t kTileSums = kTileRows * kTileWidth * kTileColumns;  // of a block
constexpr int64_t kTileRowBytes = 64, kTileBytes = 16 * kTileRowBytes;
constexpr int kMostLines = kTileRows + 2;

constexpr TileConfig kWholeTiles{
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Steps that take a line's three taps.
inline int64_t line_steps(int64_t c_in) { return (3 * c_in + kTileDepth - 1) / kTileDepth; }

// Pixels of a line that a block reads: its own, their neighbours, and what the last step reads beyond them.
inline int64_t block_pixels(int64_t c_in) {
  const int64_t beyond = line_steps(c_in) * kTileDepth - 3 * c_in;
  return kTileWidth + 2 + (beyond + c_in - 1) / c_in;
}

// Of `steps` steps, so many bytes of each line are to be asked for in each that they ask for the next block.
inline int64_t bytes_ahead(int64_t c_in, int64_t steps) {
  const int64_t bytes = kTileWidth * c_in * static_cast<int64_t>(sizeof(TileValue));
  return round_up((bytes + steps - 1) / steps, 64);
}

// The lines that the rows of A come from, at the first pixel, and the elements between pixels.
struct TileSource {
  const TileValue* line[kMostLines];
  int64_t step;
  bool in_place;  // not copies: what is to the right of it comes next
};

// An image, and memory for copies of its lines.
struct TileImage {
  const TileValue* values;  // (H, W, C)
  int64_t h, w, c;
  bool direct;               // whether A may be read there
  int64_t pixels;            // of a line that a block reads
  int64_t line;              // values of a copy
  TileValue* copies;         // kMostLines of them
  const TileValue* outside;  // likewise: what is above and below the image
};

// Lines y - 1 to y + rows for the block whose first pixel is x. copy(line, to) copies the pixels from x - 1 on.
template <class Copy>
inline TileSource block_lines(const TileImage& from, int64_t y, int64_t x, int rows, Copy copy) {
  TileSource a{.step = from.c, .in_place = from.direct && x > 0 && x - 1 + from.pixels <= from.w};
  for (int i = 0; i < rows + 2; ++i) {
    const int64_t line = y - 1 + i;
    TileValue* to = from.copies + i * from.line;
    if (line < 0 || line >= from.h) {
      a.line[i] = from.outside;
    } else if (a.in_place) {
      a.line[i] = from.values + (line * from.w + x - 1) * from.c;
    } else {
      copy(line, to);
      a.line[i] = to;
    }
  }
  return a;
}

// What is needed to finish sums: the kernel's own.
struct Finishing;

// The sums of a block that wait for their epilogue, from the next pixel on.
struct WaitingSums {
  void (*finish)(const Finishing&, WaitingSums&, int pixels);  // some of them
  TileSum* z;                                                  // [row][pixel][column]
  int64_t at;           // where the pixel goes: its columns, or the first of its sub-rows
  int64_t row, column;  // of N * H image rows; the first of 16
  int end, width;       // of the block in its image row
  int left, rows;       // pixels of this row, and rows
  int pixel;            // of the block, 16 to a row
};

// finish(number) for up to `count` pixels, those of one row at a time. Some are left. The steps lead from a pixel to
// the next one in the output and from a row of the block to the next one.
template <class F>
inline void each_waiting_run(WaitingSums& s, int64_t pixel_step, int64_t row_step, int count, F finish) {
  do {
    const int run = s.left < count ? s.left : count;
    finish(run);
    count -= run;
    s.left -= run;
    s.pixel += run;
    s.z += run * kTileColumns;
    s.at += run * pixel_step;
    if (s.left == 0) {
      s.left = s.width;
      s.pixel += kTileWidth - s.width;
      s.z += (kTileWidth - s.width) * kTileColumns;
      s.at += row_step - s.width * pixel_step;
      ++s.row;
      --s.rows;
    }
  } while (count > 0 && s.rows > 0);
}

// What one block has to do.
struct TileWork {
  const char* weights;                           // of its columns
  int64_t weight_row, weight_line, weight_step;  // bytes between rows of B, from one ky to the next, and to a step's
  const TileSum* first;                          // what sums begin with, per column
  int steps, rows;
  TileSum* z;
  int64_t ahead, ahead_bytes;  // what to ask for: from a line's first pixel on, and how much of it in each step
};

// Line kLine of a step: its part of every row it belongs to, then some of the waiting sums.
template <int kLine, int kLines, bool kWhole>
inline void multiply_lines(const TileSource& a, const TileWork& work, int step, const Finishing& f, WaitingSums& s,
                           int share) {
  if constexpr (kLine < kTileRows + kLines - 1) {
    if (kWhole || kLine < work.rows + kLines - 1) {
      load_tile<7>(a.line[kLine] + step * kTileDepth, a.step * static_cast<int64_t>(sizeof(TileValue)));
      if constexpr (kLine < kTileRows)
        if (kWhole || kLine < work.rows) multiply_tiles<kLine, 7, 4>();
      if constexpr (kLines == 3 && kLine >= 1 && kLine - 1 < kTileRows)
        if (kWhole || kLine - 1 < work.rows) multiply_tiles<kLine - 1, 7, 5>();
      if constexpr (kLines == 3 && kLine >= 2) multiply_tiles<kLine - 2, 7, 6>();
      const char* ahead = reinterpret_cast<const char*>(a.line[kLine]) + work.ahead + step * work.ahead_bytes;
      for (const char* end = ahead + work.ahead_bytes; ahead < end; ahead += 64) __builtin_prefetch(ahead);
      if (s.rows > 0) s.finish(f, s, share);
      multiply_lines<kLine + 1, kLines, kWhole>(a, work, step, f, s, share);
    }
  }
}

// The sums of a block, and the epilogue of the one before.
template <int kLines, bool kWhole>
void multiply_rows(const TileSource& a, const TileWork& work, const Finishing& f, WaitingSums& s) {
  const int slots = work.steps * (work.rows + kLines - 1);  // each finishes a share: together, all that wait
  const int share = (kTileRows * kTileWidth + slots - 1) / slots;
  load_tile<0>(work.first, 0);
  if (kWhole || work.rows > 1) load_tile<1>(work.first, 0);
  if (kWhole || work.rows > 2) load_tile<2>(work.first, 0);
  if (kWhole) load_tile<3>(work.first, 0);
  const char* b = work.weights;
  for (int step = 0; step < work.steps; ++step, b += work.weight_step) {
    load_tile<4>(b, work.weight_row);
    if constexpr (kLines == 3) {
      load_tile<5>(b + work.weight_line, work.weight_row);
      load_tile<6>(b + 2 * work.weight_line, work.weight_row);
    }
    multiply_lines<0, kLines, kWhole>(a, work, step, f, s, share);
  }
  constexpr int64_t kRowSums = kTileWidth * kTileColumns;
  store_tile<0>(work.z, kTileRowBytes);
  if (kWhole || work.rows > 1) store_tile<1>(work.z + kRowSums, kTileRowBytes);
  if (kWhole || work.rows > 2) store_tile<2>(work.z + 2 * kRowSums, kTileRowBytes);
  if (kWhole) store_tile<3>(work.z + 3 * kRowSums, kTileRowBytes);
}

template <int kLines>
inline void multiply_block(const TileSource& a, const TileWork& work, const Finishing& f, WaitingSums& s) {
  work.rows == kTileRows ? multiply_rows<kLines, true>(a, work, f, s) : multiply_rows<kLines, false>(a, work, f, s);
}
