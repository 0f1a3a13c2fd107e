// JSON from files that nobody vouches for, as a stream of events: no tree is built, doubled keys and deep nesting are
// refused, and the visitor may refuse a value the moment that it appears.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace fp4scope::io {

struct JsonEvent {
  enum Kind : std::uint8_t {
    object,   ///< begins; its members follow
    array,    ///< begins; its items follow
    integer,  ///< 0 to 2^64-1
    text,
    other,  ///< a negative number, a fraction, true, false or null
  };
  Kind kind;
  std::span<const std::string> keys;  ///< the member names that lead here
  bool in_array;                      ///< an item of an array, not a member itself
  std::uint64_t number;               ///< of an integer
  std::string_view string;            ///< of a text
};

using JsonVisitor = std::function<void(const JsonEvent&)>;

/// Visits every value in the order of the text. Throws Error, at `where`, if it is not strict JSON in UTF-8, an object
/// names a member twice, or values nest deeper than `max_depth`.
void visit_json(std::string_view text, const std::string& where, int max_depth, const JsonVisitor& visitor);

}  // namespace fp4scope::io
