// Pictures as uint8 RGB, turned as viewers show them, by the rules of rfdetr_repro/data/decoding.py: PGM and PPM always, JPEG and
// PNG with the system's libraries. The pixels of a JPEG are those of the installed libjpeg.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.h"

#if defined(RFDETR_WITH_JPEG)
#include <jpeglib.h>
#include <jerror.h>
#endif
#if defined(RFDETR_WITH_PNG)
#include <png.h>
#endif

namespace rfdetr::deploy {

constexpr int64_t kLargest = int64_t(1) << 29;       // px of one picture
constexpr int64_t kMostSide = int64_t(1) << 24;      // px: positions are float32
constexpr int64_t kReducedAbove = int64_t(1) << 26;  // px: for the antialiased rule, larger pictures become means of blocks

inline void check_size(int64_t height, int64_t width) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
  if (height < 1 || width < 1) throw InputError("an empty image of " + size);
  if (height > kLargest / width) {
    throw InputError("the image has " + size + ", more than " + std::to_string(kLargest), "", "cut the picture into tiles");
  }
  if (std::max(height, width) >= kMostSide) {
    throw InputError("the image has " + size + ", and a side of 2^24 or more", "", "cut the picture into tiles");
  }
}

// The smallest divisor of each side that leaves at most kReducedAbove pixels.
inline int64_t divisor(int64_t height, int64_t width) {
  int64_t factor = 1;
  while (((width + factor - 1) / factor) * ((height + factor - 1) / factor) > kReducedAbove) ++factor;
  return factor;
}

// 8, 4, 2 or 1: how much smaller a JPEG is decoded so that it keeps at least the pixels that `divisor` leaves.
inline unsigned coarser_scale(int64_t height, int64_t width) {
  const int64_t factor = divisor(height, width);
  const int64_t most = std::min(width / std::max<int64_t>(width / factor, 1), height / std::max<int64_t>(height / factor, 1));
  return most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

inline constexpr std::string_view kFormats =
#if defined(RFDETR_WITH_JPEG)
    "JPEG, "
#endif
#if defined(RFDETR_WITH_PNG)
    "PNG, "
#endif
    "PPM or PGM";

struct Picture {
  int64_t height = 0, width = 0;              // px of `pixels`
  int64_t whole_height = 0, whole_width = 0;  // px of the picture, more where it was reduced
  std::vector<uint8_t> pixels;                // RGB, row by row
  int orientation = 1;                        // EXIF, 1 to 8

  void allocate(int64_t h, int64_t w) {
    check_size(h, w);
    height = whole_height = h;
    width = whole_width = w;
    pixels.resize(size_t(3 * h * w));
  }

  uint8_t* row(int64_t y) { return pixels.data() + 3 * y * width; }
};

[[noreturn]] inline void undecodable(const std::string& reason) {
  throw InputError("cannot decode the image: " + reason, "", "replace the file");
}

// 16-bit grey, of which 65535 is white.
inline uint8_t narrowed(double value) { return uint8_t(std::nearbyint(value / 257)); }

// -- PGM and PPM
// -------------------------------------------------------------------------------------------------------------------

class NetpbmReader {
 public:
  explicit NetpbmReader(std::string_view bytes) : bytes_(bytes) {}

  Picture read() {
    const int64_t channels = bytes_[1] == '6' ? 3 : 1;
    at_ = 2;
    const int64_t width = header(), height = header(), white = header();
    if (white < 1 || white > 65535) undecodable("the largest value is not 1 to 65535");
    ++at_;  // one character after the header
    Picture picture;
    check_size(height, width);
    const int64_t bytes = white > 255 ? 2 : 1, needed = width * height * channels * bytes;
    if (int64_t(bytes_.size()) - int64_t(at_) < needed) undecodable("the file is truncated");
    picture.allocate(height, width);
    const uint8_t* from = reinterpret_cast<const uint8_t*>(bytes_.data()) + at_;
    const bool wide = channels == 1 && bytes == 2;  // grey of 16 bits, which is scaled to 65535 first
    for (size_t i = 0; i < picture.pixels.size(); i += size_t(3 / channels)) {
      const double value = bytes == 2 ? from[0] << 8 | from[1] : from[0], most = wide ? 65535 : 255;
      const double scaled = std::min(most, std::nearbyint(value / double(white) * most));
      from += bytes;
      std::fill_n(picture.pixels.begin() + int64_t(i), 3 / channels, wide ? narrowed(scaled) : uint8_t(scaled));
    }
    return picture;
  }

 private:
  // The next number of the header, which white space or a comment precedes.
  int64_t header() {
    const size_t start = at_;
    while (at_ < bytes_.size() && (std::strchr(" \t\r\n\v\f", bytes_[at_]) || bytes_[at_] == '#')) {
      if (bytes_[at_] == '#') at_ = std::min(bytes_.find_first_of("\r\n", at_), bytes_.size() - 1);
      ++at_;
    }
    int64_t number = 0;
    const char* end = bytes_.data() + bytes_.size();
    const auto found = std::from_chars(bytes_.data() + at_, end, number);
    if (at_ == start || found.ec != std::errc() || number < 0 || number > INT32_MAX) undecodable("the header has no number");
    at_ = size_t(found.ptr - bytes_.data());
    return number;
  }

  std::string_view bytes_;
  size_t at_ = 0;
};

// -- orientation
// -------------------------------------------------------------------------------------------------------------------

// The orientation that an EXIF block (a TIFF header and its first directory) states; 0 where none is stated.
inline int exif_orientation(std::string_view block) {
  const bool little = block.starts_with("II");
  const auto number = [&](size_t at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      const size_t place = at + (little ? bytes - 1 - i : i);
      value = value << 8 | (place < block.size() ? uint8_t(block[place]) : 0);
    }
    return value;
  };
  if ((!little && !block.starts_with("MM")) || number(2, 2) != 42) return 0;
  const size_t directory = number(4, 4);
  const size_t entries = number(directory, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > block.size()) return 0;
    if (number(entry, 2) != 0x0112 || number(entry + 4, 4) != 1) continue;
    const uint64_t type = number(entry + 2, 2);
    return type == 3   ? int(number(entry + 8, 2))
           : type == 4 ? int(number(entry + 8, 4) & 0xFF)
           : type == 1 ? uint8_t(block[entry + 8])
                       : 0;
  }
  return 0;
}

// The orientation that an XMP packet states, which counts where EXIF states none; 0 where none is stated.
inline int xmp_orientation(std::string_view packet) {
  constexpr std::string_view kKey = "tiff:Orientation";
  for (size_t at = packet.find(kKey); at != std::string_view::npos; at = packet.find(kKey, at + 1)) {
    const std::string_view rest = packet.substr(at + kKey.size());
    const size_t skipped = rest.starts_with("=\"") ? 2 : rest.starts_with(">") ? 1 : 0;
    if (skipped && rest.size() > skipped && rest[skipped] >= '0' && rest[skipped] <= '9') return rest[skipped] - '0';
  }
  return 0;
}

// The picture as viewers show it.
inline void turn(Picture& picture) {
  const int how = picture.orientation;
  if (how < 2 || how > 8) return;
  const bool swap = how >= 5, mirror = how == 2 || how == 3 || how == 7 || how == 8,
             upside_down = how == 3 || how == 4 || how == 6 || how == 7;
  const int64_t height = picture.height, width = picture.width, new_width = swap ? height : width;
  std::vector<uint8_t> turned(picture.pixels.size());
  for (int64_t y = 0; y < height; ++y) {
    const int64_t row = upside_down ? height - 1 - y : y;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t column = mirror ? width - 1 - x : x;
      const int64_t to = swap ? column * new_width + row : row * new_width + column;
      std::memcpy(turned.data() + 3 * to, picture.pixels.data() + 3 * (y * width + x), 3);
    }
  }
  picture.pixels = std::move(turned);
  if (swap) std::swap(picture.height, picture.width), std::swap(picture.whole_height, picture.whole_width);
}

// -- JPEG
// --------------------------------------------------------------------------------------------------------------------------

#if defined(RFDETR_WITH_JPEG)

struct JpegErrors : jpeg_error_mgr {
  std::jmp_buf back;
  char reason[JMSG_LENGTH_MAX];
};

[[noreturn]] inline void give_up_jpeg(j_common_ptr info) {
  auto* errors = static_cast<JpegErrors*>(info->err);
  errors->format_message(info, errors->reason);
  std::longjmp(errors->back, 1);
}

// A warning: libjpeg goes on, except behind the end of the file.
inline void warn_jpeg(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) give_up_jpeg(info);
}

inline std::string_view marker_text(const jpeg_marker_struct* marker) {
  return {reinterpret_cast<const char*>(marker->data), marker->data_length};
}

inline int jpeg_orientation(const jpeg_decompress_struct& info) {
  constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  int exif = 0, xmp = 0;
  for (const jpeg_marker_struct* marker = info.marker_list; marker; marker = marker->next) {
    const std::string_view text = marker_text(marker);
    if (!exif && text.starts_with(kExif)) exif = exif_orientation(text.substr(kExif.size()));
    if (text.starts_with(kXmp)) xmp = xmp_orientation(text.substr(kXmp.size()));
  }
  return exif ? exif : xmp;
}

// CMYK as Adobe stores it, inverted, to RGB as Pillow converts it.
inline void rgb_of_cmyk(const uint8_t* from, int64_t width, uint8_t* to) {
  for (int64_t x = 0; x < width; ++x, from += 4, to += 3) {
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - from[c]) * from[3] + 128, black = from[3];
      to[c] = uint8_t(std::max(black - ((product >> 8) + product) / 256, 0));
    }
  }
}

inline void read_jpeg_rows(jpeg_decompress_struct& info, Picture& picture, std::vector<uint8_t>& line) {
  while (info.output_scanline < info.output_height) {
    uint8_t* to = picture.row(info.output_scanline);
    JSAMPROW row = info.output_components == 3 ? to : line.data();
    if (jpeg_read_scanlines(&info, &row, 1) != 1) continue;
    if (info.output_components == 4) rgb_of_cmyk(line.data(), picture.width, to);
    for (int64_t x = 0; info.output_components == 1 && x < picture.width; ++x) std::memset(to + 3 * x, line[size_t(x)], 3);
  }
}

// `reduce`: a JPEG of more than kReducedAbove pixels is decoded at one of the file's own coarser scales. `picture` and `line`,
// room for a row, belong to the caller: what lives here may be lost in a jump.
inline void read_jpeg(std::string_view bytes, bool reduce, Picture& picture, std::vector<uint8_t>& line) {
  jpeg_decompress_struct info{};
  JpegErrors errors;
  info.err = jpeg_std_error(&errors);
  errors.error_exit = give_up_jpeg;
  errors.emit_message = warn_jpeg;
  const struct Owner {
    jpeg_decompress_struct* info;
    ~Owner() { jpeg_destroy_decompress(info); }
  } owner{&info};
  if (setjmp(errors.back)) undecodable(errors.reason);
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&info, TRUE);
  check_size(info.image_height, info.image_width);
  if (reduce) info.scale_denom = coarser_scale(info.image_height, info.image_width);
  info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&info);
  picture.allocate(info.output_height, info.output_width);
  picture.whole_height = info.image_height;
  picture.whole_width = info.image_width;
  picture.orientation = jpeg_orientation(info);
  line.resize(size_t(info.output_width) * 4);
  read_jpeg_rows(info, picture, line);
  jpeg_finish_decompress(&info);
}

#endif

// -- PNG
// ---------------------------------------------------------------------------------------------------------------------------

#if defined(RFDETR_WITH_PNG)

struct PngFile {
  std::string_view rest;  // what is not read yet
  png_structp png = nullptr;
  png_infop info = nullptr;
  char reason[256] = "";
  std::vector<uint8_t> samples;
  std::vector<png_bytep> rows;

  ~PngFile() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] inline void give_up_png(png_structp png, png_const_charp reason) {
  auto* file = static_cast<PngFile*>(png_get_error_ptr(png));
  std::snprintf(file->reason, sizeof file->reason, "%s", reason);
  png_longjmp(png, 1);
}

inline void read_png_bytes(png_structp png, png_bytep to, size_t count) {
  auto* file = static_cast<PngFile*>(png_get_io_ptr(png));
  if (file->rest.size() < count) give_up_png(png, "the file is truncated");
  std::memcpy(to, file->rest.data(), count);
  file->rest.remove_prefix(count);
}

// Colours of the palette; grey of fewer than 8 bits, widened; the upper 8 bits of 16-bit colours; no alpha. Only grey of 16 bits
// without alpha keeps 16 bits.
inline void choose_png_form(png_structp png, png_infop info) {
  const int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (colour == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (depth == 16 && colour != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png);
  png_set_strip_alpha(png);  // a palette may bring one
  if (colour == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
  if (colour == PNG_COLOR_TYPE_GRAY && depth <= 8) png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
}

// As in read_jpeg, what is made here belongs to the caller.
inline void read_png(PngFile& file, Picture& picture) {
  file.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &file, give_up_png, [](png_structp, png_const_charp) {});
  file.info = file.png ? png_create_info_struct(file.png) : nullptr;
  if (!file.info) throw std::bad_alloc();
  if (setjmp(png_jmpbuf(file.png))) undecodable(file.reason);
  png_set_read_fn(file.png, &file, read_png_bytes);
  png_read_info(file.png, file.info);
  const int64_t height = png_get_image_height(file.png, file.info), width = png_get_image_width(file.png, file.info);
  picture.allocate(height, width);
#if defined(PNG_eXIf_SUPPORTED)
  png_bytep exif = nullptr;
  png_uint_32 bytes = 0;
  if (png_get_eXIf_1(file.png, file.info, &bytes, &exif)) {
    picture.orientation = exif_orientation({reinterpret_cast<const char*>(exif), bytes});
  }
#endif
  choose_png_form(file.png, file.info);
  const bool wide = png_get_bit_depth(file.png, file.info) == 16;
  const int64_t row_bytes = int64_t(png_get_rowbytes(file.png, file.info));
  if (row_bytes != (wide ? 2 : 3) * width) give_up_png(file.png, "an unknown form of pixels");
  if (wide) file.samples.resize(size_t(height * row_bytes));
  for (int64_t y = 0; y < height; ++y) file.rows.push_back(wide ? file.samples.data() + y * row_bytes : picture.row(y));
  png_read_image(file.png, file.rows.data());
  for (int64_t i = 0; wide && i < height * width; ++i) {
    std::memset(picture.pixels.data() + 3 * i, narrowed(file.samples[size_t(2 * i)] << 8 | file.samples[size_t(2 * i + 1)]), 3);
  }
}

#endif

// -- any file
// ----------------------------------------------------------------------------------------------------------------------

// Means of whole blocks of `factor` x `factor` pixels, smaller at the right and lower border, as Pillow's reduce rounds them.
inline void take_means(Picture& picture, int64_t factor) {
  const int64_t height = (picture.height + factor - 1) / factor, width = (picture.width + factor - 1) / factor;
  std::vector<uint8_t> means(size_t(3 * height * width));
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int64_t bottom = std::min((y + 1) * factor, picture.height), right = std::min((x + 1) * factor, picture.width);
      const uint32_t count = uint32_t((bottom - y * factor) * (right - x * factor));
      uint32_t sums[3] = {count / 2, count / 2, count / 2};
      for (int64_t row = y * factor; row < bottom; ++row) {
        const uint8_t* from = picture.row(row);
        for (int64_t i = 3 * x * factor; i < 3 * right; ++i) sums[i % 3] += from[i];
      }
      const uint32_t reciprocal = uint32_t(4294967296.0 / (256.0 * count));
      for (int c = 0; c < 3; ++c) means[size_t(3 * (y * width + x) + c)] = uint8_t((sums[c] * reciprocal) >> 24);
    }
  }
  picture.pixels = std::move(means);
  picture.height = height;
  picture.width = width;
}

// `reduce`: a picture of more than kReducedAbove pixels becomes means of blocks. Raises InputError for what is not a picture.
inline Picture decode(std::string_view bytes, bool reduce) {
  Picture picture;
  if (bytes.starts_with("P5") || bytes.starts_with("P6")) {
    picture = NetpbmReader(bytes).read();
#if defined(RFDETR_WITH_JPEG)
  } else if (bytes.starts_with("\xFF\xD8\xFF")) {
    std::vector<uint8_t> line;
    read_jpeg(bytes, reduce, picture, line);
#endif
#if defined(RFDETR_WITH_PNG)
  } else if (bytes.starts_with("\x89PNG\r\n\x1A\n")) {
    PngFile file;
    file.rest = bytes;
    read_png(file, picture);
#endif
  } else {
    const std::string hint =
        bytes.empty() ? "the file is empty; replace the file" : "save the picture as " + std::string(kFormats);
    throw InputError("cannot decode the image: the format is unknown", "", hint);
  }
  const int64_t factor = divisor(picture.height, picture.width);
  if (reduce && factor > 1) take_means(picture, factor);
  turn(picture);
  return picture;
}

}  // namespace rfdetr::deploy
