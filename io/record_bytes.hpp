// One record as bytes, and back, to the bit.
//
//   "fp4scope record\n"   version u32   checksum u64 of the payload   payload bytes u64   payload: CBOR (RFC 8949)
//
// The payload is {"row": [cell...], "datasets": [{path, shape, type, data, attributes}...]}; numbers in binary64 and
// arrays are byte strings, so that every NaN keeps its bits. All little-endian.
#pragma once

#include <string>
#include <string_view>

#include "io/results.hpp"

namespace fp4scope::io {

std::string record_to_bytes(const Record& record);

/// Are these the bytes of a whole record of this version?
bool is_whole_record(std::string_view bytes);

/// Throws Error, at `where`, if they are not.
Record record_from_bytes(std::string_view bytes, const std::string& where);

}  // namespace fp4scope::io
