#include "io/strict_json.hpp"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/complain.hpp"

namespace fp4scope::io {
namespace {

using nlohmann::json;

/// nlohmann's callbacks, with the keys that lead to the current value.
class Walker : public nlohmann::json_sax<json> {
 public:
  Walker(const std::string& where, int max_depth, const JsonVisitor& visitor)
      : where_(where), max_depth_(max_depth), visitor_(visitor) {}

  bool null() override { return leaf(JsonEvent::other); }
  bool boolean(bool) override { return leaf(JsonEvent::other); }
  bool number_integer(number_integer_t) override { return leaf(JsonEvent::other); }
  bool number_unsigned(number_unsigned_t value) override { return leaf(JsonEvent::integer, value); }
  bool number_float(number_float_t, const string_t&) override { return leaf(JsonEvent::other); }
  bool string(string_t& value) override { return leaf(JsonEvent::text, 0, value); }
  bool binary(binary_t&) override { return leaf(JsonEvent::other); }

  bool start_object(std::size_t) override { return open(JsonEvent::object); }
  bool start_array(std::size_t) override { return open(JsonEvent::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (level.has_key) keys_.pop_back();
    if (!level.seen.insert(name).second) throw Error(where_, "JSON names " + in_quotes(name) + " twice in one object");
    keys_.push_back(std::move(name));
    level.has_key = true;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw Error(where_, "not JSON at byte " + std::to_string(position), "the file is damaged or of another kind");
  }

 private:
  struct Level {
    bool is_array;
    bool has_key = false;  ///< an object with its current member's name on keys_
    std::unordered_set<std::string> seen = {};
  };

  bool leaf(JsonEvent::Kind kind, std::uint64_t number = 0, std::string_view text = {}) {
    const bool in_array = !levels_.empty() && levels_.back().is_array;
    visitor_({kind, keys_, in_array, number, text});
    return true;
  }

  bool open(JsonEvent::Kind kind) {
    if (levels_.size() >= static_cast<std::size_t>(max_depth_)) {
      throw Error(where_, "JSON nests deeper than " + std::to_string(max_depth_) + " levels");
    }
    leaf(kind);
    levels_.push_back({kind == JsonEvent::array});
    return true;
  }

  bool close() {
    if (levels_.back().has_key) keys_.pop_back();
    levels_.pop_back();
    return true;
  }

  const std::string& where_;
  const int max_depth_;
  const JsonVisitor& visitor_;
  std::vector<std::string> keys_;
  std::vector<Level> levels_;
};

}  // namespace

void visit_json(std::string_view text, const std::string& where, int max_depth, const JsonVisitor& visitor) {
  // The parser takes a NUL for the end of its input and skips a byte order mark; neither is JSON.
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) throw Error(where, "not JSON at byte " + std::to_string(nul + 1));
  if (text.starts_with("\xEF\xBB\xBF")) throw Error(where, "JSON starts with a byte order mark", "remove it");
  Walker walker(where, max_depth, visitor);
  json::sax_parse(text.begin(), text.end(), &walker);
}

}  // namespace fp4scope::io
